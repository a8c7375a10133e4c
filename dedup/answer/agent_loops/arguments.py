"""Arguments of two calls of a tool: equal, or so near that the same result is no coincidence.

How near they have to be depends on the result: "ok" says nothing about a call, a list of findings
does.
"""

import re
from functools import lru_cache
from typing import Any, Final

from dedup.answer.agent_loops.outcome import Outcome
from dedup.answer.agent_loops.steps import Call
from dedup.answer.agent_loops.volatile import differ_only_in_volatile
from dedup.answer.agent_loops.waiting import QUERIES
from dedup.answer.agent_loops.wording import may_be_free, say_the_same

# Arguments that say why a call is made: they do not change what it does.
_COMMENTARY: Final = frozenset(
    "explanation reason reasoning intent purpose thought thoughts rationale justification why"
    " toolCallDescription tool_call_description".split()
)
# Arguments of which a `description` says what they are.
_DESCRIPTION: Final = "description"
_DESCRIBED: Final = frozenset("command cmd script code query prompt".split())
# Arguments that say where a call goes.
_PLACES: Final = frozenset(
    "url uri host hostname domain address ip site link endpoint mirror".split()
)
_HOST: Final = re.compile(r"\w+://(?:www\.)?([^/\s?#]+)/")
_CHANGE: Final = re.compile(
    r"\b(?:insert|update|delete|create|alter|drop|merge|replace|truncate|mutation)\b"
)
Differing = tuple[str, Any, Any]  # the name of an argument, and its two values

_MAX_CHARS: Final = 4000  # longer arguments are near only if they are equal
_SIMILARITY: Final = 0.2  # of the words, where the result says a lot
_SIMILARITY_ALONE: Final = 0.5  # where it is such that any call may have it


def are_equal(one: Call, other: Call) -> bool:
    """Return whether the arguments are the same values."""
    given, there = one.arguments, other.arguments
    if given == there:
        return True
    if isinstance(given, str) and isinstance(there, str):
        is_long = max(len(given), len(there)) > _MAX_CHARS
        if is_long and len(given) != len(there):
            return False  # not worth reading: keys in another order leave the length as it is
    return bool(one.values == other.values)


def differing(one: Call, other: Call) -> list[Differing]:
    """Return the arguments that differ."""
    values, others = one.fields, other.fields
    found: list[Differing] = []
    for name, value in values.items():
        there = others.get(name)
        if value != there:
            found.append((name, value, there))
    for name, there in others.items():
        if name not in values and there is not None:
            found.append((name, None, there))
    return found


def may_be_near(arguments: list[Differing]) -> bool:
    """Return whether all the arguments that differ are texts: a cheap look ahead of `are_near`."""
    for name, value, there in arguments:
        if name not in _COMMENTARY and name != _DESCRIPTION:
            if not isinstance(value, str) or not isinstance(there, str):
                return False
            if len(value) > _MAX_CHARS or not may_be_free(value):
                return False
    return True


def differ_in_form(one: Call, other: Call, arguments: list[Differing]) -> bool:
    """Return whether all the arguments that differ are numbers, flags or values that always differ.

    What only says why a call is made does not count, unless there is nothing else.
    """
    if not _determining(one, other):
        return False
    for name, value, there in arguments:
        if name in _COMMENTARY:
            continue
        if isinstance(value, str) and isinstance(there, str):
            if len(value) > _MAX_CHARS or not differ_only_in_volatile(value, there):
                return False
        elif value is not None and there is not None and str in (type(value), type(there)):
            return False
    return True


def are_near(one: Call, other: Call, arguments: list[Differing], outcome: Outcome) -> bool:
    """Return whether the arguments that differ say the same in other words.

    Args:
        arguments: The arguments that differ.
        outcome: What came of both calls.
    """
    is_telling = not outcome.is_trivial
    is_answer = is_telling and not outcome.is_empty
    names = _determining(one, other)
    similarity = _SIMILARITY if is_telling else _SIMILARITY_ALONE
    for name, value, there in arguments:
        if names and name not in names:
            continue
        if not isinstance(value, str) or not isinstance(there, str):
            return False
        if name in QUERIES and is_answer and _asks(value) and _asks(there):
            continue  # whatever is asked, the answer is the same
        if not say_the_same(value, there, similarity, may_fill=not names):
            return False
    return True


def ask_for_the_same(arguments: list[Differing]) -> bool:
    """Return whether only what the calls search for differs."""
    return all(name in QUERIES for name, _, _ in arguments)


def name_other_places(arguments: list[Differing]) -> bool:
    """Return whether the calls go to other places: sites, hosts, addresses; not paths of one site."""
    return any(
        name.rpartition(".")[2].lower() in _PLACES and _host(value) != _host(there)
        for name, value, there in arguments
    )


def _host(value: object) -> str:
    found = _HOST.match(str(value))
    return found.group(1) if found is not None else str(value)


def _determining(one: Call, other: Call) -> set[str]:
    """Return the names of the arguments that determine what a call does."""
    names = {*one.fields, *other.fields} - _COMMENTARY
    if _DESCRIPTION in names and not names.isdisjoint(_DESCRIBED):
        names.discard(_DESCRIPTION)
    return names


@lru_cache(256)
def _asks(value: str) -> bool:
    """Return whether the value of a query asks for something, and changes nothing."""
    return bool(value) and _CHANGE.search(value.lower()) is None
