"""Real texts: licences and documentation of installed packages, and Chinese and Japanese prose."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@cache
def english(num_texts: int = 16, max_chars: int = 3000) -> tuple[str, ...]:
    """Return licences and long descriptions of packages, no two with the same beginning."""
    found: dict[str, str] = {}
    for distribution in sorted(distributions(), key=lambda one: one.metadata["Name"] or ""):
        for text in _texts_of(distribution.files or ()):
            if len(text) >= 800:
                found.setdefault(text[:200], text[:max_chars])
            if len(found) == num_texts:
                return tuple(found.values())
    return tuple(found.values())


def _texts_of(files: object) -> Iterator[str]:
    for file in files:  # type: ignore[attr-defined]
        if file.name in ("METADATA", "LICENSE", "LICENSE.txt", "LICENSE.md"):
            try:
                yield Path(str(file.locate())).read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                continue


@cache
def mixed() -> tuple[str, ...]:
    """Return the texts of the filter's benchmark: loops and legitimate ones, two languages."""
    path = ROOT / "benchmarks/filter_texts.jsonl"
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return tuple("".join(part * count for part, count in row["parts"]) for row in rows)
