"""What does each method do to a model that loops, and what does the model think of it?

    python benchmarks/logits_demo.py                       # each method as it is usually set; two minutes on two cores
    python benchmarks/logits_demo.py --sweep docs/pictures # and pictures over its strength (needs matplotlib); ten minutes

50 prompts in English and Chinese, 512 tokens, greedy, through transformers' `generate` with the demo model. A text loops if it ends in
an exact cycle of at least 3 copies and 60 characters; rep-4 is the share of repeated 4-grams, distinct-2 that of different 2-grams,
the log-probability the model's own, a token, without any method: what a method costs.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from demo_loops import ends_in_cycle
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from dedup import DecodingConfig
from dedup.logits.hf import logits_processors
from dedup.text.metrics import distinct_n, rep_n
from dedup.text.words import units

HERE = Path(__file__).parent
MODEL = HERE.parent / "server" / "dedup_server" / "demo_model"
NEARLY_GREEDY = 0.01  # a temperature

# Sampled where it is the temperature that does the work.
METHODS: dict[str, dict[str, Any]] = {
    "no method": {},
    "repetition_penalty 1.2": {"repetition_penalty": 1.2},
    "presence_penalty 1": {"presence_penalty": 1.0},
    "frequency_penalty 0.5": {"frequency_penalty": 0.5},
    "no_repeat_ngram_size 4": {"no_repeat_ngram_size": 4},
    "dry_multiplier 0.8": {"dry_multiplier": 0.8},
    "lz_penalty 0.5": {"lz_penalty": 0.5},
    "repetition_temperature 1.5": {"repetition_temperature": 1.5, "temperature": NEARLY_GREEDY},
    "dynatemp_range 0.5 about 0.7": {"temperature": 0.7, "dynatemp_range": 0.5},
}
STRENGTHS: dict[str, tuple[float, ...]] = {
    "repetition_penalty": (1, 1.05, 1.1, 1.2, 1.4, 1.8),
    "presence_penalty": (0, 0.25, 0.5, 1, 1.5, 2),
    "frequency_penalty": (0, 0.1, 0.25, 0.5, 1, 2),
    "no_repeat_ngram_size": (0, 8, 6, 4, 3, 2),
    "dry_multiplier": (0, 0.1, 0.2, 0.4, 0.8, 1.6),
    "lz_penalty": (0, 0.05, 0.15, 0.3, 0.5, 1),
    "repetition_temperature": (0, 0.5, 1, 1.5, 2, 3),
    "dynatemp_range": (0, 0.1, 0.2, 0.4, 0.6, 0.7),
}


class Result(NamedTuple):
    loops: float
    rep_4: float
    distinct_2: float
    log_probability: float


class Demo:
    """The demo model and the prompts, as one batch."""

    def __init__(self, max_new_tokens: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        rows = [
            json.loads(line)
            for line in (HERE / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": row["prompt"]}], tokenize=False
            )
            for row in rows
        ]
        self.inputs = self.tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=False
        )
        self.max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def run(self, parameters: dict[str, Any]) -> Result:
        config = DecodingConfig(**parameters)
        sampled = config.temperature != 1
        torch.manual_seed(0)
        out = self.model.generate(
            **self.inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=sampled,
            logits_processor=logits_processors(config, self.tokenizer),
            **({"top_k": 0} if sampled else {}),
        )
        start = self.inputs["input_ids"].shape[1]
        texts = self.tokenizer.batch_decode(out[:, start:], skip_special_tokens=True)
        words = [units(text) for text in texts]
        return Result(
            statistics.fmean(map(ends_in_cycle, texts)),
            statistics.fmean(rep_n(text, 4) for text in words),
            statistics.fmean(distinct_n(text, 2) for text in words),
            self._log_probability(out, start),
        )

    def _log_probability(self, tokens: torch.Tensor, start: int) -> float:
        made = torch.ones_like(tokens[:, start:])
        ended = (tokens[:, start:] == self.tokenizer.eos_token_id).cumsum(-1)
        made[(ended > 1) | ((ended == 1) & (tokens[:, start:] != self.tokenizer.eos_token_id))] = 0
        mask = torch.cat([self.inputs["attention_mask"], made], dim=1)
        logs = [
            self.model(input_ids=row[None], attention_mask=seen[None])
            .logits[0, start - 1 : -1]
            .log_softmax(-1)
            for row, seen in zip(tokens, mask, strict=True)
        ]
        each = torch.stack(logs).gather(-1, tokens[:, start:, None])[..., 0]
        return float((each * made).sum() / made.sum())


def draw(folder: Path, name: str, results: dict[float, Result]) -> None:
    """Loop share and perplexity over the method's strength."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "dedup", "font.size": 9, "axes.spines.top": False})
    figure, left = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
    right = left.twinx()
    places = range(len(results))
    left.plot(places, [100 * result.loops for result in results.values()], "o-", color="#c0392b")
    right.plot(
        places,
        [math.exp(-result.log_probability) for result in results.values()],
        "s--",
        color="#2c6fbb",
    )
    left.set_xticks(places, [f"{strength:g}" for strength in results])
    left.set_xlabel(name)
    left.set_ylabel("texts that loop, %", color="#c0392b")
    left.set_ylim(-3, 100)
    right.set_ylabel("perplexity to the model", color="#2c6fbb")
    right.set_ylim(bottom=1)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument(
        "--sweep",
        type=Path,
        metavar="FOLDER",
        help="draw each method over its strength, into this folder",
    )
    args = parser.parse_args()
    logging.set_verbosity_error()
    demo = Demo(args.max_new_tokens)
    print(
        "| method | loops | rep-4 | distinct-2 | log-probability a token |\n| --- | --- | --- | --- | --- |",
        flush=True,
    )
    for name, parameters in METHODS.items():
        result = demo.run(parameters)
        numbers = f"{100 * result.loops:.0f}% | {result.rep_4:.3f} | {result.distinct_2:.3f} | {result.log_probability:.2f}"
        print(f"| {name} | {numbers} |", flush=True)
    if not args.sweep:
        return
    base = {
        "repetition_temperature": {"temperature": NEARLY_GREEDY},
        "dynatemp_range": {"temperature": 0.7},
    }
    for name, strengths in tqdm(STRENGTHS.items(), unit=" methods"):
        runs = {
            strength: demo.run({**base.get(name, {}), name: strength}) for strength in strengths
        }
        draw(args.sweep, name, runs)
        tqdm.write(
            f"{name}: "
            + ", ".join(f"{strength:g}: {100 * run.loops:.0f}%" for strength, run in runs.items())
        )


if __name__ == "__main__":
    main()
