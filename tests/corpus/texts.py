"""Real texts: documentation of installed packages, and what Chinese the benchmarks hold."""

import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
_IDEOGRAPHS = re.compile("[\u4e00-\u9fff]")
_SENTENCE = re.compile(r"[^。！？\n{}\"]{8,}[。！？]")


@cache
def english(num_texts: int = 16, max_chars: int = 3000) -> tuple[str, ...]:
    """Return descriptions of packages, no two with the same beginning."""
    found: dict[str, str] = {}
    for distribution in sorted(distributions(), key=lambda one: one.metadata["Name"] or ""):
        text = str(distribution.metadata.get_payload() or "")
        if len(text) >= 800:
            found.setdefault(text[:200], text[:max_chars])
        if len(found) == num_texts:
            break
    return tuple(found.values())


@cache
def docstrings(num_texts: int) -> tuple[str, ...]:
    """Return docstrings of the standard library, no two with the same beginning."""
    found: dict[str, str] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8", "replace"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if 250 <= len(text) <= 700:
                    found.setdefault(text[:60], text)
        if len(found) >= num_texts:
            break
    return tuple(found.values())[:num_texts]


@cache
def chinese(num_texts: int, sentences: int = 6) -> tuple[str, ...]:
    """Return texts of different Chinese sentences, each of which occurs once."""
    found: dict[str, None] = {}
    for path in sorted((ROOT / "benchmarks").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            for text in _strings(json.loads(line)):
                if len(_IDEOGRAPHS.findall(text)) > len(text) / 3:
                    found.update(dict.fromkeys(_SENTENCE.findall(text)))
    every = list(found)
    starts = range(0, len(every) - sentences + 1, sentences)
    return tuple("".join(every[at : at + sentences]) for at in starts)[:num_texts]


@cache
def mixed() -> tuple[str, ...]:
    """Return the texts of the filter's benchmark: loops and legitimate ones, in two languages."""
    path = ROOT / "benchmarks/filter_texts.jsonl"
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return tuple(
        "".join(
            part.replace("{i}", str(number))
            for part, count in row["parts"]
            for number in range(1, count + 1)
        )
        for row in rows
    )


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
