"""Does the demo model loop, and what stops it?

    python benchmarks/demo_loops.py                 # starts a server of its own; some minutes on two cores
    python benchmarks/demo_loops.py --json out.json

Asks the running server greedily, 256 tokens, 25 prompts in English and 25 in Chinese: with no help (policy `off`), with the filter
(`balanced`), with a processor alone (`off`, no_repeat_ngram_size 4; DRY 0.8), and once sampled at temperature 0.9. An answer loops if
it ends in an exact cycle of at least 3 copies and 60 characters; rep-4 is the share of repeated 4-grams.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _cycles import tail_cycle
from openai import OpenAI
from tqdm import tqdm

from dedup.text.metrics import rep_n
from dedup.text.words import units

HERE = Path(__file__).parent

GREEDY: dict[str, Any] = {"temperature": 0}
OFF = {"repetition": {"policy": "off"}}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no help: policy `off`": (GREEDY, OFF),
    "filter: policy `balanced`, cut": (
        GREEDY,
        {"repetition": {"policy": "balanced", "heal": False}},
    ),
    "filter: policy `balanced`, healed": (GREEDY, {"repetition": {"policy": "balanced"}}),
    "processor: `no_repeat_ngram_size` 4": (GREEDY, {**OFF, "no_repeat_ngram_size": 4}),
    "processor: DRY 0.8": (GREEDY, {**OFF, "dry_multiplier": 0.8}),
    "no help, sampled at temperature 0.9": ({"temperature": 0.9, "seed": 0}, OFF),
}


def ends_in_cycle(text: str) -> bool:
    """Return whether a text ends in an exact cycle; its last character may be incomplete."""
    return tail_cycle(text.rstrip("\ufffd")) is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(port: int) -> "subprocess.Popen[bytes]":
    command = [str(Path(sys.executable).parent / "dedup"), "serve", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2)
            return server
        except OSError:  # refused, or still loading
            time.sleep(0.25)
    server.kill()
    sys.exit("the server did not get ready")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        default=HERE / "prompts.jsonl",
        help='lines of {"language", "prompt"}',
    )
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--json", type=Path, help="write the answers here")
    args = parser.parse_args()
    prompts = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    port = free_port()
    server = start_server(port)
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=600)
        model = client.models.list().data[0].id

        def ask(setting: str, row: dict[str, Any]) -> str:
            sampling, extra = SETTINGS[setting]
            messages: Any = [{"role": "user", "content": row["prompt"]}]
            done = client.chat.completions.create(
                model=model,
                messages=messages,
                max_tokens=args.max_tokens,
                extra_body=extra,
                **sampling,
            )
            return done.choices[0].message.content or ""

        work = [(setting, row) for setting in SETTINGS for row in prompts]
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                tqdm(pool.map(lambda job: ask(*job), work), total=len(work), unit=" answers")
            )
    finally:
        server.terminate()
        server.wait(30)
    languages = sorted({row["language"] for row in prompts})
    print(
        "| | "
        + " | ".join(f"{language}: loops | rep-4 | characters" for language in languages)
        + " |"
    )
    print("| --- |" + " --- |" * (3 * len(languages)))
    for setting in SETTINGS:
        cells = []
        for language in languages:
            texts = [
                text
                for (s, row), text in zip(work, answers, strict=True)
                if s == setting and row["language"] == language
            ]
            loops = sum(map(ends_in_cycle, texts))
            rep_4 = statistics.fmean(rep_n(units(text), 4) for text in texts)
            cells.append(
                f"{loops}/{len(texts)} | {rep_4:.3f} | {statistics.fmean(map(len, texts)):.0f}"
            )
        print(f"| {setting} | " + " | ".join(cells) + " |")
    if args.json:
        rows = [
            {"setting": setting, **row, "answer": text}
            for (setting, row), text in zip(work, answers, strict=True)
        ]
        args.json.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
