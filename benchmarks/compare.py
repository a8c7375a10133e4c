"""Compare the filter with the loop rules of other systems, on the same texts in one run.

    python benchmarks/compare.py                                           # the texts of this repository
    python benchmarks/compare.py --loops loops/*.jsonl --legit answers/*.jsonl --marked marked.jsonl

The rules are rebuilt from what each system publishes, with its default settings or those its documentation shows. Rules that count
tokens run on words, numbers, single ideographs and symbols here, not on a model's own tokens: their figures are close, not exact.

Rows are {"id", "text"}, `prompt` optional. `--marked` rows also have `repeats`: [{"second_char", "second_end", "label"}], label
"defect" or "legit". A rule stops a loop *live* if it fires before the text has ended. Texts are read up to `--max-chars`.
"""

import argparse
import collections
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from dedup import RepetitionFilter

ROOT = Path(__file__).parent.parent
_TOKEN = re.compile(r" ?[A-Za-z]+| ?\d{1,3}|[\u3040-\u30ff\u4e00-\u9fff]|\n+|\s+|.", re.S)
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")
_BLOCK = re.compile(r"(^|\n)\s*(\|.*\||[|+-]{3,}|[*+-]\s|\d+\.\s)|(^|\n)(#+|>)\s")
_DIVIDER = re.compile(r"[+-_=*\u2500-\u257F]+")

Row = dict[str, Any]
Rule = Callable[[Row], int | None]  # the character at which it fires


def ours(row: Row) -> int | None:
    """This project, with the policy `balanced`."""
    repetition_filter = RepetitionFilter(prompt=row.get("prompt"))
    repetition_filter.feed(row["text"])
    repetition_filter.flush()
    return repetition_filter.loop.detected_at if repetition_filter.loop else None


def tokens(text: str) -> tuple[NDArray[np.int32], list[int]]:
    """Return the token ids of `text` and the offset at which each token ends."""
    known: dict[str, int] = {}
    ids, ends = [], []
    for match in _TOKEN.finditer(text):
        ids.append(known.setdefault(match.group(), len(known)))
        ends.append(match.end())
    return np.array(ids, dtype=np.int32), ends


def cycles(least: int, most: int, copies: int, span: int = 0) -> Rule:
    """Fire where the text ends in `copies` of one unit of `least` to `most` tokens, over `span` tokens."""

    def rule(row: Row) -> int | None:
        ids, ends = tokens(row["text"])
        reach = min(most, len(ids))
        period = np.arange(reach + 1)
        needed = np.maximum(period * (copies - 1), span - period)
        needed[:least] = 1 << 30
        run = np.zeros(reach + 1, dtype=np.int64)  # tokens that equal the one `period` before
        for at in range(1, len(ids)):
            size = min(at, reach)
            same = ids[at - size : at][::-1] == ids[at]
            run[1 : size + 1] = np.where(same, run[1 : size + 1] + 1, 0)
            if (run[1 : size + 1] >= needed[1 : size + 1]).any():
                return ends[at]
        return None

    return rule


def hermes(row: Row) -> int | None:
    """A stretch of 60 characters five times, or more in a long tail, in the last 2,000; looked at every 200."""
    text = row["text"]
    for end in range(400, len(text) + 200, 200):
        tail = text[max(0, end - 2000) : end]
        needed = max(5, -(-len(tail) // 120))
        seen = collections.Counter(tail[at : at + 60] for at in range(len(tail) - 59))
        if seen and max(seen.values()) >= needed:
            return min(end, len(text))
    return None


def oh_my_pi(row: Row) -> int | None:
    """The exact rule: a unit of 2 to 1,024 characters with a letter, in the last 4,096; looked at every 128."""
    text = row["text"]
    for end in [*range(128, len(text), 128), len(text)]:
        tail = text[max(0, end - 4096) : end]
        if len(tail) < 180:
            continue
        back = np.frombuffer(tail.encode("utf-32-le"), dtype=np.uint32)[::-1]
        for period in range(2, min(1024, len(tail) // 3) + 1):
            needed = max(4 * period, 180) if period <= 60 else max(3 * period, 1024)
            size = (-(-needed // period) - 1) * period
            if size + period > len(tail) or back[0] != back[period]:
                continue
            again = (back[:size] == back[period : period + size]).all()
            if again and any(letter.isalpha() for letter in tail[-period:]):
                return end
    return None


def gemini_cli(row: Row) -> int | None:
    """A stretch of 50 characters ten times, at most 250 apart on average, with at most five different periods.

    Fed a line at a time. Tables, lists, headings and quotes start it over; fenced code is not looked at.
    """
    history, looked, end, in_fence = "", 0, 0, False
    places: dict[str, list[int]] = {}
    for line in row["text"].splitlines(keepends=True):
        end += len(line)
        fences = line.count("```")
        divider = _DIVIDER.fullmatch(line) is not None
        if fences or divider or _BLOCK.search(line):
            history, looked, places = "", 0, {}
        was_in_fence, in_fence = in_fence, in_fence ^ (fences % 2 == 1)
        if was_in_fence or in_fence or divider:
            continue
        history += line
        if (excess := len(history) - 5000) > 0:
            history, looked = history[excess:], max(0, looked - excess)
            moved = {c: [at - excess for at in seen if at >= excess] for c, seen in places.items()}
            places = {chunk: seen for chunk, seen in moved.items() if seen}
        for at in range(looked, len(history) - 49):
            seen = places.setdefault(history[at : at + 50], [])
            seen.append(at)
            last = seen[-10:]
            if len(last) < 10 or (last[-1] - last[0]) / 9 > 250:
                continue
            if len({history[a:b] for a, b in itertools.pairwise(last)}) <= 5:
                return end - len(history) + at + 50
        looked = max(looked, len(history) - 49)
    return None


RULES: dict[str, Rule] = {
    "dedup": ours,
    "vLLM, 4-128 tokens × 4": cycles(4, 128, 4),
    "llama.cpp (proposal), 16-1024 × 4": cycles(16, 1024, 4),
    "vllm-mlx (proposal), 1-128 × 3, 48 tokens": cycles(1, 128, 3, 48),
    "gemini-cli, text rule": gemini_cli,
    "hermes-agent, 60 characters × 5": hermes,
    "oh-my-pi, exact rule": oh_my_pi,
}

# Sentences: what a text loses


def fuzzy_sentences(row: Row) -> list[tuple[int, int]]:
    """Guardrails' RedundantSentences: return the spans of sentences whose ratio to an earlier one is over 70."""
    kept: list[str] = []
    gone = []
    for match in _SENTENCE.finditer(row["text"]):
        if kept and process.extractOne(match.group(), kept, scorer=fuzz.ratio, score_cutoff=70.01):
            gone.append(match.span())
        else:
            kept.append(match.group())
    return gone


def our_sentences(row: Row) -> list[tuple[int, int]]:
    repetition_filter = RepetitionFilter(prompt=row.get("prompt"))
    repetition_filter.feed(row["text"])
    repetition_filter.flush()
    return [(removal.start, removal.end) for removal in repetition_filter.removed]


SENTENCE_RULES = {"dedup": our_sentences, "Guardrails, RedundantSentences": fuzzy_sentences}


def text_of(row: Row) -> str:
    if "text" in row:
        return str(row["text"])
    parts = [
        part.replace("{i}", str(number))
        for part, times in row["parts"]
        for number in range(1, times + 1)
    ]
    return "".join(parts)


def load(path: Path, max_chars: int) -> list[Row]:
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [{**row, "text": text_of(row)[:max_chars]} for row in rows]


def new_text(size: int) -> str:
    """Return sentences of made-up words, none of which is like another."""
    random = np.random.default_rng(1)
    letters = np.array(list("eeettaaooiinnsshhrrddlluucmwfgypbvk"))
    words = ["".join(random.choice(letters, length)) for length in random.integers(2, 10, 3000)]
    text = ""
    while len(text) < size:
        text += " ".join(random.choice(words, random.integers(8, 20))).capitalize() + ". "
    return text[:size]


def table(heading: str, columns: Iterable[str], rows: dict[str, list[str]]) -> None:
    names = [heading, *columns]
    print("\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for name, cells in rows.items():
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=Path, nargs="*", default=[], help="texts that degenerate")
    parser.add_argument("--legit", type=Path, nargs="*", default=[], help="texts that must pass")
    parser.add_argument(
        "--marked", type=Path, nargs="*", default=[], help="texts whose repeats are marked"
    )
    parser.add_argument("--max-chars", type=int, default=20_000, help="of a text (20,000)")
    parser.add_argument(
        "--only", nargs="*", choices=["loops", "sentences", "cost"], help="these tables alone"
    )
    args = parser.parse_args()
    tables = args.only or ["loops", "sentences", "cost"]

    loops = {path.stem: load(path, args.max_chars) for path in args.loops}
    legit = {path.stem: load(path, args.max_chars) for path in args.legit}
    if not args.loops and not args.legit:
        own = [
            *load(ROOT / "benchmarks" / "filter_texts.jsonl", args.max_chars),
            *load(ROOT / "tests" / "text" / "field_cases.jsonl", args.max_chars),
        ]
        loops = {"loops": [row for row in own if row["kind"] == "loop"]}
        legit = {"legitimate texts": [row for row in own if row["kind"] == "legit"]}
    sets = {**loops, **legit}

    if "loops" in tables:
        shown: dict[str, list[str]] = {}
        for name, rule in RULES.items():
            cells = []
            for label, rows in sets.items():
                fired = [(rule(row), row) for row in rows]
                if label in loops:
                    fired = [(at, row) for at, row in fired if at is None or at < len(row["text"])]
                hits = sum(at is not None for at, _ in fired)
                cells.append(f"{100 * hits / len(rows):.1f}%")
            shown[name] = cells
        heads = [
            f"{label} ({len(rows)}): {'stopped live' if label in loops else 'alarms'}"
            for label, rows in sets.items()
        ]
        table("rule", heads, shown)

    if "sentences" in tables:
        shown = {}
        for name, spans_of in SENTENCE_RULES.items():
            cells = []
            for rows in legit.values():
                whole = sum(not spans_of(row) for row in rows)
                cells.append(f"{100 * whole / len(rows):.1f}%")
            for path in args.marked:
                gone = {"defect": [0, 0], "legit": [0, 0]}
                for row in load(path, args.max_chars):
                    spans = spans_of(row)
                    for repeat in row["repeats"]:
                        if (tally := gone.get(repeat["label"])) is not None:
                            at = repeat["second_char"] + 1
                            tally[0] += any(start <= at < end for start, end in spans)
                            tally[1] += 1
                cells += [f"{removed} of {total}" for removed, total in gone.values()]
            shown[name] = cells
        heads = [f"{label}: out as it went in" for label in legit]
        for path in args.marked:
            heads += [f"{path.stem}: faults removed", f"{path.stem}: meant repeats removed"]
        table("rule", heads, shown)

    if "cost" in tables:
        sizes = (4_000, 16_000, 64_000)
        text = new_text(sizes[-1])
        shown = {}
        for name, spans_of in SENTENCE_RULES.items():
            cells = []
            for size in sizes:
                times = []
                for _ in range(3):
                    begun = time.perf_counter()
                    spans_of({"text": text[:size]})
                    times.append(time.perf_counter() - begun)
                cells.append(f"{1000 * statistics.median(times):.2f}")
            shown[name] = cells
        table("milliseconds for a text", [f"of {size:,} characters" for size in sizes], shown)


if __name__ == "__main__":
    main()
