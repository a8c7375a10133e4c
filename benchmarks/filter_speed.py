"""How fast is the filter, and does its time grow with the text?

    python benchmarks/filter_speed.py                    # made-up prose in English and Chinese; a minute
    python benchmarks/filter_speed.py --text FILE ...    # your own

CPU seconds of one process, median of `--repeat` runs. Three questions a text: characters a second when fed whole; microseconds for a
delta of four characters, median and 99th percentile; characters held back while it streams. Beside it, in the same run, Guardrails'
rule for redundant sentences (a sentence goes if its rapidfuzz ratio to any earlier one is over 70), the only other remover of sentences,
and how both grow from 20 KB to 2 MB (Guardrails' to 200 KB: it compares all pairs).
"""

import argparse
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from rapidfuzz import fuzz

from dedup import RepetitionFilter

DELTA_CHARS = 4
_SENTENCE = re.compile(r"[^.!?。！？]+[.!?。！？]\s*")
LANGUAGES = ("English", "Chinese")


def random_prose(language: str, num_chars: int) -> str:
    """Sentences of made-up words, as frequent as words are (Zipf): little in it repeats but words and pairs of them."""
    rng = random.Random(0)
    if language == "Chinese":
        space, stop = "", "。"
        vocabulary = [
            "".join(chr(rng.randrange(0x4E00, 0x6200)) for _ in range(rng.choice([1, 2, 2])))
            for _ in range(4000)
        ]
    else:
        space, stop = " ", ". "
        syllables = [
            a + b
            for a in "bcdfghklmnprstvw"
            for b in ("a", "e", "i", "o", "u", "ar", "en", "is", "on")
        ]
        vocabulary = [
            "".join(rng.choices(syllables, k=rng.choice([1, 1, 2, 2, 3]))) for _ in range(4000)
        ]
    weights = [1 / (rank + 2) for rank in range(len(vocabulary))]
    parts: list[str] = []
    size = 0
    while size < num_chars:
        parts.append(space.join(rng.choices(vocabulary, weights, k=rng.randint(6, 24))) + stop)
        size += len(parts[-1])
    return "".join(parts)[:num_chars]


def filtered(text: str) -> str:
    repetition_filter = RepetitionFilter()
    return repetition_filter.feed(text) + repetition_filter.flush()


def guardrails_rule(text: str) -> str:
    kept: list[str] = []
    for sentence in _SENTENCE.findall(text):
        if not any(fuzz.ratio(sentence, earlier) > 70 for earlier in kept):
            kept.append(sentence)
    return "".join(kept)


def cpu_seconds(work: Callable[[str], object], text: str, repeat: int) -> float:
    times = []
    for _ in range(repeat):
        begun = time.process_time()
        work(text)
        times.append(time.process_time() - begun)
    return statistics.median(times)


def streamed(text: str) -> tuple[list[float], list[int]]:
    """Microseconds of each delta, and the characters held after it."""
    repetition_filter = RepetitionFilter()
    times, held = [], []
    for at in range(0, len(text), DELTA_CHARS):
        begun = time.perf_counter()
        repetition_filter.feed(text[at : at + DELTA_CHARS])
        times.append((time.perf_counter() - begun) * 1e6)
        held.append(repetition_filter.held_chars)
    return times, held


def percentile(values: list[float] | list[int], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text",
        nargs="+",
        type=Path,
        default=[],
        help="text files to measure instead of random prose",
    )
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    texts = {path.name: path.read_text(encoding="utf-8") for path in args.text}
    texts = texts or {language: random_prose(language, 2_000_000) for language in LANGUAGES}

    for name, text in texts.items():
        sizes = [size for size in (20_000, 200_000, 2_000_000) if size <= len(text)]
        ours = {size: cpu_seconds(filtered, text[:size], args.repeat) for size in sizes}
        peer = {
            size: cpu_seconds(guardrails_rule, text[:size], 1) for size in sizes if size <= 200_000
        }
        print(f"{name}: whole, in Mchar/s")
        for size in sizes:
            beside = f"   Guardrails' rule {size / peer[size] / 1e6:8.3f}" if size in peer else ""
            print(f"  {size:>9,} characters   {size / ours[size] / 1e6:6.2f}{beside}")
        first, last = sizes[0], sizes[-1]
        print(
            f"  a character of {last:,} costs {ours[last] / last / (ours[first] / first):.2f} times one of {first:,}"
        )
        times, held = streamed(text[:200_000])
        print(
            f"  deltas of {DELTA_CHARS}: median {statistics.median(times):.1f} µs, p99 {percentile(times, 0.99):.1f} µs;"
            f" held: median {statistics.median(held):.0f}, p95 {percentile(held, 0.95):.0f} characters"
        )


if __name__ == "__main__":
    main()
