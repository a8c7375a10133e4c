"""Prompts that make small models loop, and whether an answer does."""

import json

from tests.docs_snippets import ROOT

_MIN_CHARS = 60


def prompts(number: int) -> list[str]:
    """Return the first prompts in English."""
    lines = (ROOT / "benchmarks" / "prompts.jsonl").read_text("utf-8").splitlines()
    found = [line for line in map(json.loads, lines) if line["language"] == "en"]
    return [str(line["prompt"]) for line in found[:number]]


def ends_in_cycle(text: str) -> bool:
    """Return whether a text ends in a cycle of at least 3 copies and 60 characters.

    The last copy may be incomplete.
    """
    text = text.rstrip("\ufffd")
    for period in range(1, len(text) // 3 + 1):
        size = max(3 * period, _MIN_CHARS)
        if size <= len(text) and text[-size:-period] == text[-size + period :]:
            return True
    return False
