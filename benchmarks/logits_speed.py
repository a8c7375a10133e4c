"""What do the methods cost a step, beside transformers' own?

    python benchmarks/logits_speed.py                  # all sizes; some minutes
    python benchmarks/logits_speed.py --batch 1 --context 4096

One thread, growing decode: every step hands over a new tensor with one token more, as `generate` does. Both sides stand in a
`LogitsProcessorList`; each decodes for `STEPS` steps, and the two take turns. Medians in microseconds, and how many times faster ours is:

    n-gram    no_repeat_ngram_size=3
    deltas    the same where the engine hands over what is new: `TokenHistory.append` and `no_repeat_ngram`, row by row
    stack     repetition_penalty=1.2, no_repeat_ngram_size=3, temperature=0.8, fused, against three processors

Histories: text (tokens as frequent as words are, with phrases that come back), random, and a loop of 50 tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
)

from dedup import DecodingConfig
from dedup.logits.hf import logits_processors
from dedup.logits.history import TokenHistory
from dedup.logits.no_repeat_ngram import no_repeat_ngram

STEPS = 24
NGRAM = DecodingConfig(no_repeat_ngram_size=3)
STACK = DecodingConfig(repetition_penalty=1.2, no_repeat_ngram_size=3, temperature=0.8)

Step = Callable[[torch.Tensor, torch.Tensor], object]


def history(
    kind: str, batch: int, length: int, vocabulary: int, rng: np.random.Generator
) -> np.ndarray:
    if kind == "random":
        return rng.integers(0, vocabulary, (batch, length))
    if kind == "loop":
        return np.tile(rng.integers(0, vocabulary, (batch, 50)), (1, length // 50 + 1))[:, :length]
    tokens = np.minimum(rng.zipf(1.2, (batch, length)) * 7919 % vocabulary, vocabulary - 1)
    for row in tokens:
        for _ in range(length // 100):
            source, target, size = (
                *rng.integers(0, length - 12, 2).tolist(),
                int(rng.integers(3, 12)),
            )
            row[target : target + size] = row[source : source + size].copy()
    return tokens


def microseconds(
    sides: Sequence[Callable[[], Step]], tokens: torch.Tensor, vocabulary: int, turns: int = 3
) -> list[float]:
    """The median time of a step for each side."""
    length = tokens.shape[1] - STEPS
    base = torch.randn(len(tokens), vocabulary)
    times: list[list[float]] = [[] for _ in sides]
    for side, its_times in list(zip(sides, times, strict=True)) * turns:
        step = side()
        for number in range(STEPS):
            ids, scores = tokens[:, : length + number + 1].clone(), base.clone()
            begun = time.perf_counter()
            step(ids, scores)
            if number > 1:
                its_times.append(time.perf_counter() - begun)
    return [1e6 * statistics.median(its_times) for its_times in times]


def by_deltas(tokens: torch.Tensor) -> Step:
    length = tokens.shape[1] - STEPS
    histories = [TokenHistory(row[:length].tolist(), 3) for row in tokens]
    news = iter(tokens[:, length:].t().tolist())

    def step(ids: torch.Tensor, scores: torch.Tensor) -> None:
        for row, token, logits in zip(histories, next(news), scores.numpy(), strict=True):
            row.append(token)
            no_repeat_ngram(row, logits, NGRAM)

    return step


def comparisons(
    tokens: torch.Tensor,
) -> Iterator[tuple[str, Callable[[], Step], Callable[[], Step]]]:
    def stack() -> Step:
        return LogitsProcessorList(
            [
                RepetitionPenaltyLogitsProcessor(1.2),
                NoRepeatNGramLogitsProcessor(3),
                TemperatureLogitsWarper(0.8),
            ]
        )

    def ngram() -> Step:
        return LogitsProcessorList([NoRepeatNGramLogitsProcessor(3)])

    yield "n-gram", ngram, lambda: logits_processors(NGRAM)
    yield "deltas", ngram, lambda: by_deltas(tokens)
    yield "stack", stack, lambda: logits_processors(STACK)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 4096, 16384])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 152_000])
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = ("n-gram", "deltas", "stack")
    print("| batch, context, vocabulary | history | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * (1 + len(names)))
    worst = dict.fromkeys(names, float("inf"))
    for batch, context, vocabulary in product(args.batch, args.context, args.vocabulary):
        for kind in ("text", "random", "loop"):
            tokens = torch.from_numpy(
                history(kind, batch, context + STEPS, vocabulary, np.random.default_rng(0))
            )
            cells = []
            for name, theirs, ours in comparisons(tokens):
                one, other = microseconds([theirs, ours], tokens, vocabulary)
                cells.append(f"{one:.0f} → {other:.0f} ({one / other:.1f}×)")
                worst[name] = min(worst[name], one / other)
            print(
                f"| {batch}, {context}, {vocabulary} | {kind} | " + " | ".join(cells) + " |",
                flush=True,
            )
    print("\nworst: " + ", ".join(f"{name} {ratio:.1f}×" for name, ratio in worst.items()))


if __name__ == "__main__":
    main()
