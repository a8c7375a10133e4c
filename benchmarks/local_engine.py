"""Speed of the local engine, beside `generate` and other servers.

    python benchmarks/local_engine.py --model SMOLLM2            # a folder; some minutes
    python benchmarks/local_engine.py --model SMOLLM2 --serve --vllm-python .venv-vllm/bin/python \\
        --llama-python .venv-live/bin/python --gguf SmolLM2-135M-Instruct.Q4_1.gguf

throughput  1, 4 and 16 requests at once: `generate` (a padded batch) in float32 and bfloat16, transformers' continuous batching,
            and `LocalEngine.generate` with every processor on (repetition, presence and frequency penalty, no_repeat_ngram_size,
            DRY, LZ penalty, top_k, top_p, min_p), greedy in float32, greedy and sampled in the data type that it chooses. By HTTP,
            streamed: `dedup serve` (every processor, its filter too) and, with --serve and the like, `transformers serve`, vLLM and
            llama.cpp's server, which are greedy and have none. And the time to a first token, of one request.
reading     the gaps between the tokens of 1, 4 and 15 requests, once all have begun, before and while a prompt of 2,000 tokens is read.
isolation   24 requests of 8 settings, one after the other and 16 at once: is each text the same?

All sides have the same number of threads and take turns; tokens/s are medians of the rounds, ratios medians of each round's ratio.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import torch
from _proxy_rig import free_port, prose, running
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    LogitsProcessor,
)

from dedup_server.endpoints import COMPLETIONS
from dedup_server.engines.base import Call, Frames
from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
from dedup_server.requests.base import parse

LEVELS = (1, 4, 16)
LEAST = 0.97  # of the best of `generate` and continuous batching, in float32
LONG_PROMPT = 2000  # tokens
NUM_BEFORE = 200  # tokens of each before it is read: about as many as while, since a 99th percentile of few is lower
PROMPT_WORDS = 40
START_SECONDS = 600  # vLLM compiles the model

CUTS = {"top_k": 50, "top_p": 0.95, "min_p": 0.02}
PENALTIES = {
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.2,
    "no_repeat_ngram_size": 3,
}
LOOPS = {"dry_multiplier": 0.8, "lz_penalty": 0.5}
ALL = {**CUTS, **PENALTIES, **LOOPS}
GREEDY, WARM = {"temperature": 0, "seed": 1}, {"temperature": 0.8, "seed": 1}
SETTINGS = [
    {**temperature, **methods}
    for temperature in (GREEDY, WARM)
    for methods in (CUTS, PENALTIES, LOOPS, ALL)
]
LLAMA = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
params.n_parallel, params.n_ctx, params.n_gpu_layers, params.verbosity = 16, 16 * 1024, 0, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(params)
signal.pause()
"""
TRANSFORMERS = "import sys; from transformers.cli.transformers import main; sys.exit(main())"


@dataclass(frozen=True)
class Answers:
    """Result of one run of a side: tokens of all answers, and seconds to the first."""

    num_tokens: int
    first_seconds: float


# Takes prompts and the tokens that each answer shall have.
Side = Callable[[list[str], int], Awaitable[Answers]]


def make_prompts(number: int) -> list[str]:
    words = prose(PROMPT_WORDS * number)
    starts = range(0, len(words), PROMPT_WORDS)
    return ["".join(words[start : start + PROMPT_WORDS]).strip() for start in starts]


async def gathered(answers: list[Awaitable[Answers]]) -> Answers:
    all_of = await asyncio.gather(*answers)
    first = min(each.first_seconds for each in all_of)
    return Answers(sum(each.num_tokens for each in all_of), first)


class _FirstToken(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that notes when scores first come."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.seconds: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seconds = self.seconds or time.perf_counter() - self.begun
        return scores


def by_generate(path: str, dtype: torch.dtype) -> Side:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    async def side(prompts: list[str], num_tokens: int) -> Answers:
        inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        first = _FirstToken()
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
        rows = model.generate(**inputs, generation_config=config, logits_processor=[first])
        count = rows.shape[0] * (rows.shape[1] - inputs["input_ids"].shape[1])
        return Answers(int(count), first.seconds or 0)

    return side


def by_batching(path: str) -> tuple[Side, Any]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model.set_attn_implementation("paged|eager")
    options = ContinuousBatchingConfig(
        num_blocks=64, max_batch_tokens=512, max_requests_per_batch=16, use_cuda_graph=False
    )
    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1), options
    )
    manager.start()
    numbers = itertools.count()

    async def one(prompt: str, num_tokens: int) -> Answers:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        name = str(next(numbers))
        manager.register_result_handler(name, done.set_result)
        manager.add_request(
            tokenizer(prompt)["input_ids"], request_id=name, max_new_tokens=num_tokens
        )
        return Answers(len((await done).generated_tokens), float("nan"))

    async def side(prompts: list[str], num_tokens: int) -> Answers:
        return await gathered([one(prompt, num_tokens) for prompt in prompts])

    return side, manager


async def answer(
    engine: LocalEngine,
    prompt: str | list[int],
    num_tokens: int,
    settings: dict[str, Any],
    times: list[float],
) -> str:
    """Return the text. `times`: when each frame with text came."""
    body = {"prompt": prompt, "max_tokens": num_tokens, "min_tokens": num_tokens, **settings}
    request = parse(COMPLETIONS.sampled, body)
    engine.validate(request)
    text = ""

    def take(frames: Frames) -> None:
        nonlocal text
        new = "".join(delta.text for frame in frames for delta in frame.deltas)
        if new:
            times.append(time.perf_counter())
            text += new

    await engine.generate(Call(request, COMPLETIONS.path, COMPLETIONS.reader()), take)
    return text


def by_engine(engine: LocalEngine, settings: dict[str, Any]) -> Side:
    async def one(prompt: str, num_tokens: int) -> Answers:
        begun, times = time.perf_counter(), list[float]()
        await answer(engine, prompt, num_tokens, settings, times)
        return Answers(num_tokens, times[0] - begun)

    async def side(prompts: list[str], num_tokens: int) -> Answers:
        return await gathered([one(prompt, num_tokens) for prompt in prompts])

    return side


def by_http(session: aiohttp.ClientSession, port: int, settings: dict[str, Any]) -> Side:
    async def one(prompt: str, num_tokens: int) -> Answers:
        body = {"prompt": prompt, "max_tokens": num_tokens, "stream": True, **settings}
        if "min_tokens" in settings:
            body["min_tokens"] = num_tokens
        begun, first, told, num_pieces = time.perf_counter(), 0.0, 0, 0
        async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as response:
            if response.status != 200:
                sys.exit(f"FAILED: {response.status} {await response.text()}")
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                told = (event.get("usage") or {}).get("completion_tokens", told)
                if any(choice.get("text") for choice in event.get("choices", ())):
                    first = first or time.perf_counter() - begun
                    num_pieces += 1
        count = told or num_pieces  # `transformers serve` tells no usage: a piece is a token
        return Answers(int(count), first)

    async def side(prompts: list[str], num_tokens: int) -> Answers:
        return await gathered([one(prompt, num_tokens) for prompt in prompts])

    return side


async def start_servers(stack: AsyncExitStack, args: argparse.Namespace) -> dict[str, Side]:
    """Start the servers that the options name, and this project's own."""
    usage = {"stream_options": {"include_usage": True}}
    greedy = {"temperature": 0, **usage}
    ends_never = {**greedy, "ignore_eos": True}
    python, cores = sys.executable, os.sched_getaffinity(0)
    kinds = [
        (
            "dedup serve",
            [python, "-m", "dedup", "serve", "--model", args.model],
            "/health/ready",
            {**WARM, **ALL, **usage, "min_tokens": 1},
        )
    ]
    if args.serve:
        command = [python, "-c", TRANSFORMERS, "serve", args.model, "--continuous-batching"]
        command += ["--cb-num-blocks", "64", "--cb-max-batch-tokens", "512"]
        kinds.append(("transformers serve", command, "/health", greedy))
    if args.vllm_python:
        command = [args.vllm_python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", args.model, "--served-model-name", "m", "--max-model-len", "2048"]
        kinds.append(("vLLM", command, "/v1/models", {**ends_never, "model": "m"}))
    if args.llama_python:
        command = [args.llama_python, "-c", LLAMA, args.gguf]
        kinds.append(("llama.cpp (Q4)", command, "/health", ends_never))
    sides = {}
    session = await stack.enter_async_context(aiohttp.ClientSession())
    for name, command, ready, settings in kinds:
        port = free_port()
        flags = [str(port), str(args.threads)] if "llama" in name else ["--port", str(port)]
        stack.enter_context(running([*command, *flags], port, ready, cores, START_SECONDS))
        sides[name] = by_http(session, port, settings)
    return sides


async def throughput(args: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        engines = {dtype: LocalEngine(args.model, dtype=dtype) for dtype in ("float32", None)}
        for engine in engines.values():
            await engine.start()
            stack.push_async_callback(engine.stop)
        own = engines[None].loaded.model.dtype
        chosen = str(own).removeprefix("torch.")
        batching, manager = by_batching(args.model)
        stack.callback(manager.stop, block=True, timeout=10)
        sides: dict[str, Side] = {"generate": by_generate(args.model, torch.float32)}
        sides["continuous batching"] = batching
        sides["dedup, float32, greedy"] = by_engine(engines["float32"], {**GREEDY, **ALL})
        if own != torch.float32:
            sides[f"generate, {chosen}"] = by_generate(args.model, own)
        sides[f"dedup, {chosen}, greedy"] = by_engine(engines[None], {**GREEDY, **ALL})
        sides[f"dedup, {chosen}, sampled"] = by_engine(engines[None], {**WARM, **ALL})
        if not args.cpu_seconds:
            sides |= await start_servers(stack, args)
        clock = time.process_time if args.cpu_seconds else time.perf_counter
        for side in sides.values():
            await side(make_prompts(4), 4)
        rates: dict[tuple[str, int], list[float]] = {}
        firsts: dict[str, list[float]] = {}
        runs = list(itertools.product(range(args.rounds), LEVELS, sides))
        all_prompts = make_prompts(16 * len(LEVELS) * (1 + args.rounds))[16 * len(LEVELS) :]
        for turn, number, name in tqdm(runs, unit="run", desc="throughput"):
            # New ones for each side: two of them share an engine, which keeps prompts.
            place = 16 * (len(LEVELS) * turn + LEVELS.index(number))
            serial = list(sides).index(name)
            prompts = [f"{serial} {each}" for each in all_prompts[place : place + number]]
            begun = clock()
            found = await sides[name](prompts, args.tokens)
            rate = found.num_tokens / (clock() - begun)
            rates.setdefault((name, number), []).append(rate)
            if number == 1:
                firsts.setdefault(name, []).append(found.first_seconds)
    unit = "tokens per CPU second" if args.cpu_seconds else "tokens/s"
    rows = [[unit, *(f"{number} at once" for number in LEVELS), "first token, ms"]]
    for name in sides:
        cells = [
            f"{statistics.median(rates[name, number]):.0f} ({ratio(rates, name, number):.2f}x)"
            for number in LEVELS
        ]
        rows.append([name, *cells, f"{1e3 * statistics.median(firsts[name]):.0f}"])
    table(*rows)
    print("(x: of the better of generate and continuous batching, both in float32)")
    for name, number in itertools.product(sides, LEVELS):
        if name.startswith("dedup,") and ratio(rates, name, number) < LEAST:
            print(f"short of {LEAST}x: {name}, {number} at once")


def ratio(rates: dict[tuple[str, int], list[float]], name: str, number: int) -> float:
    """Return the median of each round's ratio to the better baseline."""
    names = ("generate", "continuous batching") if number > 1 else ("generate",)
    baselines = zip(*(rates[each, number] for each in names), strict=True)
    pairs = zip(rates[name, number], baselines, strict=True)
    return statistics.median(one / max(others) for one, others in pairs)


async def reading(args: argparse.Namespace) -> None:
    engine = LocalEngine(args.model)
    await engine.start()
    settings = {**WARM, **ALL, "repetition": {"policy": "off"}}
    size = engine.loaded.context
    long = engine.loaded.tokenizer("".join(prose(LONG_PROMPT)))["input_ids"]
    long = long[: min(LONG_PROMPT, size - 64)]
    rows = [["others", "gap before, p50 / p99", "while it is read, p50 / p99", "p99", "read in"]]
    num_tokens = min(1000, size - 2 * PROMPT_WORDS * 4)
    for number in (0, 1, 4, 15):
        all_times: list[list[float]] = [[] for _ in range(number)]
        tasks = [
            asyncio.create_task(answer(engine, prompt, num_tokens, settings, times))
            for prompt, times in zip(make_prompts(15), all_times, strict=False)
        ]
        while any(len(times) < NUM_BEFORE for times in all_times):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        begun, first = time.perf_counter(), list[float]()
        await answer(engine, [*long[-number - 1 :], *long], 1, settings, first)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        seconds = f"{time.perf_counter() - begun:.1f} s"
        if not number:
            rows.append(["0", "", "", "", seconds])
            continue
        before, during = list[float](), list[float]()
        all_begun = max(times[2] for times in all_times)
        for one, other in itertools.chain(*map(itertools.pairwise, all_times)):
            if one >= all_begun:
                (during if other > begun else before).append(1e3 * (other - one))
        least, most = np.percentile(before, [50, 99]), np.percentile(during, [50, 99])
        shown = [f"{each[0]:.0f} / {each[1]:.0f} ms" for each in (least, most)]
        rows.append([str(number), *shown, f"{most[1] / least[1]:.2f}x", seconds])
    await engine.stop()
    table(*rows)


async def isolation(args: argparse.Namespace) -> None:
    engine = LocalEngine(args.model)
    await engine.start()
    asked = list(zip(make_prompts(24), itertools.cycle(SETTINGS), strict=False))
    places = asyncio.Semaphore(16)

    async def one(prompt: str, settings: dict[str, Any]) -> str:
        async with places:
            return await answer(engine, prompt, args.tokens, settings, [])

    alone = [await one(*each) for each in asked]
    together = await asyncio.gather(*(one(*each) for each in asked))
    dtype = engine.loaded.model.dtype
    await engine.stop()
    num_same = sum(one == other for one, other in zip(alone, together, strict=True))
    print(f"\nisolation, {dtype}: the same text alone and among others: {num_same} of {len(asked)}")
    if num_same < len(asked):
        sys.exit("FAILED: what a request is answered depends on its neighbours")


def table(*rows: list[str]) -> None:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)


PARTS = {"throughput": throughput, "reading": reading, "isolation": isolation}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(DEMO_MODEL), help="a folder (default: the demo's)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="in each process")
    how = "count seconds of CPU, where others use the machine too; without servers, --threads 1"
    parser.add_argument("--cpu-seconds", action="store_true", help=how)
    parser.add_argument("--serve", action="store_true", help="needs transformers[serving]")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="of an environment with vLLM")
    parser.add_argument("--llama-python", metavar="PYTHON", help="with xllamacpp; needs --gguf")
    parser.add_argument("--gguf", metavar="FILE", help="for llama.cpp's server")
    args = parser.parse_args()
    if args.llama_python and not args.gguf:
        parser.error("--llama-python needs --gguf")
    threads = str(args.threads)
    os.environ.update(OMP_NUM_THREADS=threads, HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1")
    # vLLM keeps a core free for its front end, if it is not told otherwise.
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{args.threads - 1}"
    torch.set_num_threads(args.threads)
    for part in args.parts:
        try:
            asyncio.run(PARTS[part](args))
        except RuntimeError as error:
            sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main()
