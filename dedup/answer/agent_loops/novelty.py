"""Novelty of a step: whether it tells anything that the steps before it have not told."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from dedup.answer.agent_loops.arguments import Differing, are_equal, differing
from dedup.answer.agent_loops.steps import Call, Step
from dedup.answer.agent_loops.waiting import QUERIES, is_mover, waits

_MAX_CHARS: Final = 20_000  # of a result that are read
_MAX_TEXT: Final = 400  # characters of a text without calls
_MIN_WRITTEN: Final = 8  # characters of an argument
_MIN_SIZE: Final = 120  # characters of a result: any call may have a shorter one
_KNOWN: Final = 0.95  # of a result's characters

_PART: Final = re.compile(r"[^\n,;{}\[\]]+")  # a line, or a field of a record
_LINE_NUMBER: Final = re.compile(r"\A\s*\d+[\t:|]")


def tells_nothing_new(step: Step, before: Sequence[Step]) -> bool:
    """Return whether a step tells what earlier ones have told, or nothing.

    A short text without calls tells nothing to a harness that has missed calls. Calls tell nothing
    new where the results repeat lines or fields of results of the same tool, and the arguments
    name nothing that is new: the same file in other ranges, the same findings for other queries.
    """
    if not step.calls:
        return step.is_prompted and not before[-1].calls and len(step.text) <= _MAX_TEXT
    tools = {call.name for call in step.calls}
    if tools != {call.name for call in before[-1].calls}:
        return False  # what was done in between may have an effect
    made = [call for one in before for call in one.calls]
    return all(_is_known(call, made) for call in step.calls)


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
    new = parts.difference(*[_parts(one.result[:_MAX_CHARS]) for one in same])
    arguments = differing(call, same[-1])
    is_known = sum(map(len, new)) <= (1 - _KNOWN) * sum(map(len, parts))
    return bool(parts) and is_known and not _writes(arguments, new)


def _writes(arguments: list[Differing], new: frozenset[str]) -> bool:
    """Return whether what is new in a result is what the call has passed in."""
    values = [value for name, value, _ in arguments if name not in QUERIES]
    return any(
        isinstance(value, str) and len(value) >= _MIN_WRITTEN and any(value in part for part in new)
        for value in values
    )


@lru_cache(64)
def _parts(text: str) -> frozenset[str]:
    """Return the lines or fields of a result, without the numbers of lines."""
    parts = [_LINE_NUMBER.sub("", part, 1).strip(" \t\"'") for part in _PART.findall(text)]
    return frozenset(parts)
