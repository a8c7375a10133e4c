"""Novelty of a step: whether it tells anything that the steps before it have not told."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from dedup.answer.agent_loops.arguments import Differing, are_equal, ask_for_the_same, differing
from dedup.answer.agent_loops.steps import Call, Step
from dedup.answer.agent_loops.waiting import QUERIES, is_mover, waits
from dedup.answer.agent_loops.wording import LINKS

_MAX_CHARS: Final = 20_000  # of a result that are read
_MAX_TEXT: Final = 400  # characters of a text without calls
_MIN_PART: Final = 8  # characters
_MIN_SIZE: Final = 120  # characters of a result: any call may have a shorter one
_KNOWN: Final = 0.95  # of a result's characters
_KNOWN_FINDINGS: Final = 0.8  # the same, of a search
_KNOWN_TERMS: Final = 0.5  # of a text's terms

_PART: Final = re.compile(r"[^\n,;{}\[\]]{8,}")  # a line, or a field of a record
_LINE_NUMBER: Final = re.compile(r"\A\s*\d+[\t:|]")
_TERM: Final = re.compile(
    r"(?=([\u3040-\u30ff\u3400-\u9fff]{2}))"
    r"|([^\W\d_\u3040-\u30ff\u3400-\u9fff]{3,5})[^\W_\u3040-\u30ff\u3400-\u9fff]*"
)


def tells_nothing_new(step: Step, before: Sequence[Step]) -> bool:
    """Return whether other calls, or another text, tell what earlier ones have told.

    Calls do where the results repeat lines or fields of results of the same tool, and the arguments
    name nothing that is new: the same file in other ranges, the same findings for other queries.
    """
    if not step.calls:
        texts = [one.text[:_MAX_TEXT] for one in before if not one.calls]
        return bool(texts) and _is_known_text(step.text, texts)
    tools = {call.name for call in step.calls}
    if not before or tools != {call.name for call in before[-1].calls}:
        return False  # what was done in between may have an effect
    made = [call for one in before for call in one.calls]
    return all(_is_known(call, made) for call in step.calls)


def _is_known_text(text: str, texts: list[str]) -> bool:
    """Return whether a short text has few terms of its own; a long one may be a part of a work."""
    terms = _terms(text[:_MAX_TEXT])
    new = terms.difference(*map(_terms, texts))
    return len(text) <= _MAX_TEXT and len(new) <= (1 - _KNOWN_TERMS) * len(terms)


def _is_known(call: Call, made: list[Call]) -> bool:
    if len(call.result) < _MIN_SIZE:
        return False
    same = [one for one in made if one.name == call.name]
    if not all(any(name in one.names for one in same) for name in call.names):
        return False
    outcome = call.outcome
    if not same or outcome.error or outcome.is_empty or is_mover(call) or waits(call):
        return False
    for one in reversed(same):
        if are_equal(call, one):  # what has changed since is new
            return call.result == one.result
    parts = _parts(call.result[:_MAX_CHARS])
    size = sum(map(len, parts))
    if size < _MIN_SIZE:
        return False
    new = parts.difference(*[_parts(one.result[:_MAX_CHARS]) for one in same])
    arguments = differing(call, same[-1])
    known = _KNOWN_FINDINGS if ask_for_the_same(arguments) else _KNOWN
    return sum(map(len, new)) <= (1 - known) * size and not _writes(arguments, new)


def _writes(arguments: list[Differing], new: frozenset[str]) -> bool:
    """Return whether what is new in a result is what the call has passed in."""
    values = [value for name, value, _ in arguments if name not in QUERIES]
    return any(
        isinstance(value, str) and len(value) >= _MIN_PART and any(value in part for part in new)
        for value in values
    )


@lru_cache(64)
def _parts(text: str) -> frozenset[str]:
    """Return the lines or fields of a result, without the numbers of lines."""
    parts = [_LINE_NUMBER.sub("", part, 1).strip(" \t\"'") for part in _PART.findall(text)]
    return frozenset([part for part in parts if len(part) >= _MIN_PART])


@lru_cache(64)
def _terms(text: str) -> frozenset[str]:
    """Return the beginnings of words; of unspaced scripts, pairs of characters."""
    terms = [pair or word for pair, word in _TERM.findall(text.lower())]
    return frozenset(terms) - LINKS
