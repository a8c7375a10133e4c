"""Is a healed answer a better one, or only a longer one?

    python benchmarks/healing.py                                # the demo model in a server of its own; some minutes on two cores
    python benchmarks/healing.py --upstream http://127.0.0.1:8001/v1 --model demo    # the same model in vLLM, behind the proxy
    python benchmarks/healing.py --json out.json

100 prompts in English and Chinese, greedily, 512 tokens: without help (policy `off`), cut at the loop (`heal` false), healed, and for
comparison sampled at temperature 0.8 without help. Loops: share of answers that end in an exact cycle. Ends well: at a sentence's end.
Log-probability: what the model itself gives a token of the answer, on average. Extra: tokens generated beyond those of the answer.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from demo_loops import ends_in_cycle, free_port
from openai import OpenAI
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from dedup.text.metrics import distinct_n, rep_n
from dedup.text.segmenter import is_terminated
from dedup.text.words import units
from dedup_server.engines.local.engine import DEMO_MODEL

HERE = Path(__file__).parent
GREEDY: dict[str, Any] = {"temperature": 0}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no help": (GREEDY, {"policy": "off"}),
    "cut": (GREEDY, {"heal": False}),
    "healed": (GREEDY, {"heal": True}),
    "no help, sampled at 0.8": ({"temperature": 0.8, "seed": 0}, {"policy": "off"}),
}


def start(port: int, upstream: str | None) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "-m",
        "dedup.cli",
        "serve",
        "--port",
        str(port),
        *(["--upstream", upstream] if upstream else []),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2)
            return server
        except OSError:
            time.sleep(0.25)
    server.kill()
    sys.exit("the server did not get ready")


class Judge:
    """The model's own opinion of what it said."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
        self._model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)

    @torch.inference_mode()
    def logprob(self, prompt: str, answer: str) -> float | None:
        """Of a token of the answer, on average."""
        messages = [{"role": "user", "content": prompt}]
        before = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        start = len(self.tokenizer(before, add_special_tokens=False)["input_ids"])
        ids = self.tokenizer(before + answer, add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ][:, :1024]
        if ids.shape[1] <= start:
            return None
        scores = self._model(ids).logits[0].log_softmax(-1)
        return float(scores[start - 1 : -1].gather(1, ids[0, start:, None]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--upstream",
        metavar="URL",
        help="where the demo model runs; without it, in the server itself",
    )
    parser.add_argument("--model", help="its name there")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--json", type=Path, help="write the answers here")
    args = parser.parse_args()
    prompts = [
        json.loads(line)
        for name in ("prompts.jsonl", "prompts_more.jsonl")
        for line in (HERE / name).read_text(encoding="utf-8").splitlines()
    ]
    port = free_port()
    server = start(port, args.upstream)
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=600)
        model = args.model or client.models.list().data[0].id

        def ask(setting: str, row: dict[str, Any]) -> dict[str, Any]:
            sampling, repetition = SETTINGS[setting]
            messages: Any = [{"role": "user", "content": row["prompt"]}]
            text, last, used = "", None, 0
            for chunk in client.chat.completions.create(
                model=model,
                messages=messages,
                max_tokens=args.max_tokens,
                extra_body={"repetition": repetition},
                stream=True,
                stream_options={"include_usage": True},
                **sampling,
            ):
                used = chunk.usage.completion_tokens if chunk.usage else used
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    last = choice if choice.finish_reason else last
            more = (last.model_extra or {}) if last else {}
            attempts = len((more.get("repetition") or {}).get("healed", []))
            return {
                "text": text,
                "used": used,
                "attempts": attempts,
                "cut": more.get("stop_reason") == "repetition_detected",
            }

        work = [(setting, row) for setting in SETTINGS for row in prompts]
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                tqdm(pool.map(lambda job: ask(*job), work), total=len(work), unit=" answers")
            )
    finally:
        server.terminate()
        server.wait(30)
    judge = Judge()
    print(
        "| | loops | rep-4 | distinct-2 | characters | ends well | log-probability | extra tokens | attempts | used up |"
    )
    print("| --- |" + " --- |" * 9)
    for setting in SETTINGS:
        rows = [
            (row, answer)
            for (one, row), answer in zip(work, answers, strict=True)
            if one == setting
        ]
        texts = [answer["text"] for _, answer in rows]
        words = [units(text) for text in texts]
        logprobs = [
            one
            for row, answer in rows
            if (one := judge.logprob(row["prompt"], answer["text"])) is not None
        ]
        extra = [
            answer["used"] - len(judge.tokenizer(answer["text"])["input_ids"]) for _, answer in rows
        ]
        print(
            f"| {setting} | {sum(map(ends_in_cycle, texts))}/{len(texts)} | {statistics.fmean(rep_n(one, 4) for one in words):.3f} "
            f"| {statistics.fmean(distinct_n(one, 2) for one in words):.3f} | {statistics.fmean(map(len, texts)):.0f} "
            f"| {statistics.fmean(is_terminated(text.rstrip()) for text in texts):.0%} | {statistics.fmean(logprobs):.2f} "
            f"| {statistics.fmean(extra):.0f} | {statistics.fmean(answer['attempts'] for _, answer in rows):.2f} "
            f"| {sum(answer['cut'] for _, answer in rows)}/{len(rows)} |"
        )
    if args.json:
        told = [
            {"setting": setting, **row, **answer}
            for (setting, row), answer in zip(work, answers, strict=True)
        ]
        args.json.write_text(json.dumps(told, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
