"""How fast is the local engine, beside transformers?

    python benchmarks/local_engine.py                              # three parts; some minutes
    python benchmarks/local_engine.py --parts process --rounds 9

process    one process, 1, 4 and 16 requests at once: transformers' continuous batching (greedy, nothing done to the scores; eager
           attention, which is its faster one here) and `LocalEngine.generate` with every processor on: repetition, presence and frequency
           penalty, no_repeat_ngram_size, DRY, LZ penalty, top_k, top_p, min_p; greedy, and sampled. And `generate` for one after the other.
http       `transformers serve --continuous-batching` (greedy, for it knows none of these) beside `dedup serve` (every processor on,
           sampled, its filter too), not streamed and streamed, by 1, 4 and 16 clients.
isolation  24 requests of 8 settings, one after the other and 16 at once: is each text the same, and how many times faster is it?

The first two with a Llama of 21M random parameters (float32), which is made for it; all answers have the same number of tokens. The last
with the demo model. The sides take turns; tokens/s are medians of the rounds, ratios medians of each round's ratio. Fails if a text
differs.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import aiohttp
import torch
from _proxy_rig import free_port, prose, running
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
)

from dedup_server.endpoints import COMPLETIONS
from dedup_server.engines.base import Call, Frames
from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
from dedup_server.requests.base import parse

LEVELS = (1, 4, 16)
NUM_TOKENS = 40  # of each answer
OF_BATCHING, OF_GENERATE_AT_16, OF_TRANSFORMERS_SERVE, OF_ALONE = (
    0.9,
    3.5,
    1.0,
    2.0,
)  # what is to be reached

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

Ask = Callable[[str], Awaitable[int]]  # a prompt: the tokens of its answer


def make_model(directory: str) -> None:
    """Random weights, a vocabulary of made-up words, and nothing that ends an answer but its length."""
    rng = random.Random(0)
    syllables = [first + vowel for first in "bcdfghjklmnprstvwz" for vowel in "aeiouy"]
    texts = (
        " ".join("".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(1000))
        for _ in range(60)
    )
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL).train_new_from_iterator(
        texts, 16_384, show_progress=False
    )
    tokenizer.save_pretrained(directory)
    sizes = {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
    }
    ends = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 2}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **sizes,
        **ends,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)


def make_prompts(number: int) -> list[str]:
    words = prose(20 * number)
    return ["".join(words[start : start + 20]).strip() for start in range(0, len(words), 20)]


async def at_once(number: int, jobs: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    places = asyncio.Semaphore(number)

    async def one(job: Callable[[], Awaitable[Any]]) -> Any:
        async with places:
            return await job()

    return await asyncio.gather(*map(one, jobs))


class Rates:
    """Tokens a second of each side, by round."""

    def __init__(self, name: str, num_runs: int) -> None:
        self.bar = tqdm(total=num_runs, unit="run", desc=name)
        self._rates: dict[tuple[Any, ...], list[float]] = {}

    async def measure(self, ask: Ask, number: int, *side: Any) -> None:
        prompts = make_prompts(max(2, number))
        begun = time.perf_counter()
        counts = await at_once(number, [lambda prompt=prompt: ask(prompt) for prompt in prompts])
        seconds = time.perf_counter() - begun
        if set(counts) != {NUM_TOKENS}:
            sys.exit(f"FAILED: answers of {counts} tokens instead of {NUM_TOKENS}")
        self._rates.setdefault(side, []).append(sum(counts) / seconds)
        self.bar.update()

    def shown(self, *side: Any) -> str:
        return f"{statistics.median(self._rates[side]):.0f}"

    def ratio(self, side: tuple[Any, ...], of: tuple[Any, ...]) -> float:
        return statistics.median(
            one / other for one, other in zip(self._rates[side], self._rates[of], strict=True)
        )


def table(*rows: list[str]) -> None:
    print(
        "\n"
        + "\n".join(
            f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        ),
        flush=True,
    )


def judged(value: float, least: float) -> str:
    return f"{value:.2f}x" + (f" (short of {least}x)" if value < least else "")


def by_generate(path: str) -> Ask:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path).eval(),
        AutoTokenizer.from_pretrained(path),
    )
    config = GenerationConfig(do_sample=False, max_new_tokens=NUM_TOKENS, pad_token_id=2)

    async def ask(prompt: str) -> int:
        inputs = tokenizer(prompt, return_tensors="pt")
        return int(
            model.generate(**inputs, generation_config=config).shape[1]
            - inputs["input_ids"].shape[1]
        )

    return ask


def by_batching(path: str) -> tuple[Ask, Any]:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path).eval(),
        AutoTokenizer.from_pretrained(path),
    )
    model.set_attn_implementation("paged|eager")
    options = ContinuousBatchingConfig(
        num_blocks=64, max_batch_tokens=512, max_requests_per_batch=16, use_cuda_graph=False
    )
    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1), options
    )
    manager.start()
    numbers = itertools.count()

    async def ask(prompt: str) -> int:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        name = str(next(numbers))
        manager.register_result_handler(name, done.set_result)
        manager.add_request(
            tokenizer(prompt)["input_ids"], request_id=name, max_new_tokens=NUM_TOKENS
        )
        return len((await done).generated_tokens)

    return ask, manager


async def answer(engine: LocalEngine, prompt: str, settings: dict[str, Any]) -> tuple[str, int]:
    """Text and tokens."""
    body = {"prompt": prompt, "max_tokens": NUM_TOKENS, "min_tokens": NUM_TOKENS, **settings}
    request = parse(COMPLETIONS.sampled, body)
    engine.validate(request)
    frames: Frames = []
    await engine.generate(Call(request, COMPLETIONS.path, COMPLETIONS.reader()), frames.extend)
    text = "".join(delta.text for frame in frames for delta in frame.deltas)
    return text, max(frame.output_tokens or 0 for frame in frames)


def by_http(session: aiohttp.ClientSession, port: int, settings: dict[str, Any]) -> Ask:
    async def ask(prompt: str) -> int:
        body = {"prompt": prompt, "max_tokens": NUM_TOKENS, **settings}
        async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as response:
            received = await response.read()
        if response.status != 200:
            sys.exit(f"FAILED: {response.status} {received.decode()}")
        if settings["stream"]:
            received = next(
                line[6:] for line in reversed(received.splitlines()) if b'"usage":{' in line
            )
        return int(json.loads(received)["usage"]["completion_tokens"])

    return ask


async def process(path: str, args: argparse.Namespace) -> None:
    engine = LocalEngine(path)
    await engine.start()
    batching, manager = by_batching(path)

    def by_engine(settings: dict[str, Any]) -> Ask:
        async def ask(prompt: str) -> int:
            return (await answer(engine, prompt, settings))[1]

        return ask

    ours = {"greedy": by_engine({**GREEDY, **ALL}), "sampled": by_engine({**WARM, **ALL})}
    generate, sides = by_generate(path), {"batching": batching, **ours}
    for ask in (generate, *sides.values()):
        await at_once(4, [lambda ask=ask: ask("Warm up.")] * 4)
    rates = Rates("process", args.rounds * (1 + len(LEVELS) * len(sides)))
    for _ in range(args.rounds):
        await rates.measure(generate, 1, "generate")
        for number, name in itertools.product(LEVELS, sides):
            await rates.measure(sides[name], number, name, number)
    rates.bar.close()
    manager.stop(block=True, timeout=10)
    await engine.stop()
    heads = ["of continuous batching: greedy", "sampled", "of generate: greedy", "sampled"]
    rows = [["at once", "generate", "continuous batching", "ours, greedy", "ours, sampled", *heads]]
    for number in LEVELS:
        row = [str(number), rates.shown("generate"), *(rates.shown(name, number) for name in sides)]
        row += [
            judged(rates.ratio((name, number), ("batching", number)), OF_BATCHING) for name in ours
        ]
        least = OF_GENERATE_AT_16 if number == 16 else 0
        rows.append(
            [*row, *(judged(rates.ratio((name, number), ("generate",)), least) for name in ours)]
        )
    table(*rows)


async def http(path: str, args: argparse.Namespace) -> None:
    cores = os.sched_getaffinity(0)
    port, our_port = free_port(), free_port()
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    theirs = [
        args.transformers_python,
        "-c",
        code,
        "serve",
        path,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    theirs += ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512"]
    ours = [sys.executable, "-m", "dedup.cli", "serve", "--model", path, "--port", str(our_port)]
    our_settings = {
        **WARM,
        **ALL,
        "min_tokens": NUM_TOKENS,
        "stream_options": {"include_usage": True},
    }
    with ExitStack() as stack:
        stack.enter_context(running(theirs, port, "/health", cores))
        stack.enter_context(running(ours, our_port, "/health/ready", cores))
        async with aiohttp.ClientSession() as session:
            sides = {}
            for is_stream in (False, True):
                sides["theirs", is_stream] = by_http(
                    session, port, {"temperature": 0, "stream": is_stream}
                )
                sides["ours", is_stream] = by_http(
                    session, our_port, {**our_settings, "stream": is_stream}
                )
            for ask in sides.values():
                await at_once(4, [lambda ask=ask: ask("Warm up.")] * 4)
            rates = Rates("http", args.rounds * len(LEVELS) * len(sides))
            for _, number, side in itertools.product(range(args.rounds), LEVELS, sides):
                await rates.measure(sides[side], number, *side, number)
            rates.bar.close()
    rows = [["answers", "clients", "transformers serve", "dedup serve", "ratio"]]
    for is_stream, number in itertools.product((False, True), LEVELS):
        pair = ("theirs", is_stream, number), ("ours", is_stream, number)
        ratio = judged(rates.ratio(pair[1], pair[0]), OF_TRANSFORMERS_SERVE)
        rows.append(
            [
                "streamed" if is_stream else "whole",
                str(number),
                *(rates.shown(*side) for side in pair),
                ratio,
            ]
        )
    table(*rows)


async def isolation(path: str, args: argparse.Namespace) -> None:
    engine = LocalEngine(str(DEMO_MODEL))
    await engine.start()
    asked = zip(make_prompts(24), itertools.cycle(SETTINGS), strict=False)
    jobs = [
        lambda prompt=prompt, settings=settings: answer(engine, prompt, settings)
        for prompt, settings in asked
    ]
    expected = await at_once(1, jobs)
    seconds: dict[int, list[float]] = {1: [], 16: []}
    num_same = len(jobs)
    for _, number in tqdm(
        list(itertools.product(range(args.rounds), seconds)), unit="run", desc="isolation"
    ):
        begun = time.perf_counter()
        answers = await at_once(number, jobs)
        seconds[number].append(time.perf_counter() - begun)
        num_same = min(
            num_same, sum(one == other for one, other in zip(answers, expected, strict=True))
        )
    await engine.stop()
    faster = judged(
        statistics.median(one / other for one, other in zip(*seconds.values(), strict=True)),
        OF_ALONE,
    )
    shown = [f"{statistics.median(each):.2f} s" for each in seconds.values()]
    table(
        ["one after the other", "16 at once", "faster", "the same text"],
        [*shown, faster, f"{num_same} of {len(jobs)}"],
    )
    if num_same < len(jobs):
        sys.exit("FAILED: what a request is answered depends on its neighbours")


PARTS = {"process": process, "http": http, "isolation": isolation}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    how = "runs `transformers serve`: needs torch and transformers[serving] (default: this one)"
    parser.add_argument("--transformers-python", default=sys.executable, metavar="PYTHON", help=how)
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1")  # for the servers
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as directory:
        make_model(directory)
        try:
            for part in args.parts:
                asyncio.run(PARTS[part](directory, args))
        except RuntimeError as error:
            sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main()
