"""What does the filter find, and what does it leave alone? Beside the rules of two others, on a few small texts of our own.

    python benchmarks/filter_quality.py

Loops must be reported, marked repeats must go, all else must come out as it went in. llama.cpp's rule: the end of the text is four
copies of one unit of 16 to 1,024 characters (its units are tokens). Guardrails' rule: a sentence goes if its rapidfuzz ratio to any
earlier one is over 70; sentences are joined with one space.
"""

import json
import re
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from dedup import RepetitionFilter

_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")


def text_of(row: dict[str, Any]) -> str:
    return "".join(
        part.replace("{i}", str(number))
        for part, times in row["parts"]
        for number in range(1, times + 1)
    )


def filtered(text: str) -> tuple[bool, str]:
    repetition_filter = RepetitionFilter()
    out = repetition_filter.feed(text) + repetition_filter.flush()
    return repetition_filter.loop is not None, out


def cycle_rule(text: str) -> tuple[bool, str]:
    for end in range(64, len(text) + 1, 16):
        for period in range(16, min(1024, end // 4) + 1):
            if text[end - 3 * period : end] == text[end - 4 * period : end - period]:
                return True, text[: end - 3 * period]
    return False, text


def fuzzy_rule(text: str) -> tuple[bool, str]:
    kept: list[str] = []
    found = _SENTENCE.findall(text)
    for sentence in found:
        if not any(fuzz.ratio(sentence, earlier) > 70 for earlier in kept):
            kept.append(sentence)
    return False, text if len(kept) == len(found) else " ".join(kept)


def right(row: dict[str, Any], text: str, looped: bool, out: str) -> bool:
    if row["kind"] == "loop":
        return looped
    if row["kind"] == "repeat":
        once = text
        for repeat in row["repeats"]:
            at = once.rindex(repeat)
            once = once[:at] + once[at + len(repeat) :]
        return not looped and out.split() == once.split()
    return not looped and out.split() == text.split()


def main() -> None:
    rows = [
        json.loads(line)
        for line in (Path(__file__).parent / "filter_texts.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    rules = {"dedup": filtered, "llama.cpp's rule": cycle_rule, "Guardrails' rule": fuzzy_rule}
    print(f"{'':24s}" + "".join(f"{name:>20s}" for name in rules))
    tally = {(kind, name): [0, 0] for kind in ("loop", "repeat", "legit") for name in rules}
    for row in rows:
        text = text_of(row)
        cells = []
        for name, rule in rules.items():
            good = right(row, text, *rule(text))
            tally[row["kind"], name][0] += good
            tally[row["kind"], name][1] += 1
            cells.append("ok" if good else "wrong")
        print(f"{row['id']:24s}" + "".join(f"{cell:>20s}" for cell in cells))
    for kind in ("loop", "repeat", "legit"):
        cells = [f"{tally[kind, name][0]}/{tally[kind, name][1]}" for name in rules]
        print(f"{kind + ': right':24s}" + "".join(f"{cell:>20s}" for cell in cells))


if __name__ == "__main__":
    main()
