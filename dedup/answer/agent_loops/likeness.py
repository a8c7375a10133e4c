"""Likeness of two steps: the same calls with the same results, or almost."""

import re
from collections.abc import Sequence
from typing import Final

from dedup.answer.agent_loops.arguments import (
    Differing,
    are_equal,
    are_near,
    ask_for_the_same,
    differ_in_form,
    differing,
    may_be_near,
    name_other_places,
)
from dedup.answer.agent_loops.asked import is_named
from dedup.answer.agent_loops.outcome import words_of
from dedup.answer.agent_loops.steps import Call, Step
from dedup.answer.agent_loops.volatile import (
    Span,
    differ_only_in_volatile,
    has_any_number,
    has_measure,
    known_spans,
    volatile_spans,
)
from dedup.answer.agent_loops.waiting import is_mover, waits
from dedup.answer.agent_loops.wording import say_the_same

# From unlike to like; the weakest that holds a loop together is its kind.
UNLIKE: Final = 0
FAILURE: Final = 1  # calls that fail alike, whatever their arguments
NEAR: Final = 2  # arguments that are worded anew
EXACT: Final = 3

_MAX_GROWTH: Final = 200  # characters by which results that are the same differ, and a quarter
_SAME_ERROR: Final = 0.6  # of the words of two errors
_SAME_TEXT: Final = 0.6  # of the words of two turns without calls
_LONG: Final = 300  # characters of a result in which
_ASIDE: Final = 0.05  # of them may change, and measure nothing
_MIN_LINES: Final = 3  # of results that may be in another order
_MAX_VALUE: Final = 100  # characters of a result that may be little else than a value
_MIN_AROUND: Final = 12  # letters around the values of a result that says more
_TIMES: Final = ("time", "clock", "epoch")
_PROGRESS: Final = re.compile(r"\d+\s?/\s?\d+|\d+(?:\.\d+)?\s?%")


def likeness(one: Step, other: Step, *, any_number: bool = False) -> int:
    """Return how much alike two steps are: `EXACT`, `NEAR`, `FAILURE` or `UNLIKE`.

    Args:
        any_number: Nothing has happened between them that could have an effect, and no one watches
            what they return: that numbers in it differ means little.
    """
    calls, others = one.sorted_calls(), other.sorted_calls()
    if len(calls) != len(others):
        return UNLIKE
    if not calls:
        return _likeness_of_texts(one.text, other.text)
    least = EXACT
    for call, there in zip(calls, others, strict=True):
        least = min(least, _likeness_of_calls(call, there, any_number=any_number))
        if least == UNLIKE:
            return UNLIKE
    return least


def moves_numbers(one: Step, other: Step) -> bool:
    """Return whether two steps that are alike differ in numbers of which nothing says what they are."""
    pairs = zip(one.sorted_calls(), other.sorted_calls(), strict=True)
    return any(
        call.result != there.result
        and has_any_number(call.spans or ())
        and volatile_spans(call.result, there.result) is None
        for call, there in pairs
    )


def measures(step: Step) -> bool:
    """Return whether a number that may measure something has moved in a step that is alike.

    Where nothing came of a call, it does not matter what is measured; in a long result, numbers that
    are a small part of it are not what is looked for.
    """
    return any(
        not call.outcome.is_negative
        and not _is_aside(call.result, call.spans or ())
        and has_measure(call.result, call.spans or ())
        for call in step.calls
    )


def _is_aside(result: str, spans: Sequence[Span]) -> bool:
    """Return whether values are a small part of a long result."""
    return len(result) >= _LONG and sum(end - at for at, end, _ in spans) <= _ASIDE * len(result)


def differ_as_asked(one: Step, other: Step, prompt: str) -> bool:
    """Return whether two steps differ in values that the user's message names: each is looked at."""
    calls, others = one.sorted_calls(), other.sorted_calls()
    if not prompt or len(calls) != len(others):
        return False
    differs = False
    for call, there in zip(calls, others, strict=True):
        if call.name != there.name:
            return False
        for _, value, another in differing(call, there):
            if not (is_named(value, prompt) and is_named(another, prompt)):
                return False
            differs = True
    return differs


def is_next(calls: list[Call], text: str, step: Step) -> bool:
    """Return whether a turn, whose calls have no results yet, makes a step once more."""
    ordered, others = Step(calls).sorted_calls(), step.sorted_calls()
    if len(ordered) != len(others):
        return False
    if not ordered:
        return _likeness_of_texts(text, step.text) != UNLIKE
    return all(_is_again(call, there) for call, there in zip(ordered, others, strict=True))


def have_same_results(one: Step, other: Step) -> bool:
    """Return whether two steps have calls of the same tools with the same results."""
    calls, others = one.sorted_calls(), other.sorted_calls()
    if not calls or len(calls) != len(others):
        return False
    pairs = zip(calls, others, strict=True)
    return all(call.name == there.name and _have_same_result(call, there) for call, there in pairs)


def _likeness_of_calls(one: Call, other: Call, *, any_number: bool) -> int:
    if one.name == other.name:
        if are_equal(one, other):
            is_same = _have_same_result(one, other, any_number=any_number)
            return EXACT if is_same else UNLIKE
        if _is_near(one, other):
            return NEAR
    return FAILURE if _fail_alike(one, other) else UNLIKE


def _is_near(one: Call, other: Call) -> bool:
    """Return whether two calls of a tool have arguments that are near, and the same result."""
    arguments = differing(one, other)
    if (
        one.result == other.result
        and one.outcome.is_telling
        and differ_in_form(one, other, arguments)
    ):
        return True
    if not may_be_near(arguments):
        return False
    if not (_have_same_result(one, other) or _have_same_findings(one, other, arguments)):
        return False
    return are_near(one, other, arguments, one.outcome)


def _is_again(call: Call, there: Call) -> bool:
    """Return whether a call without a result is one that was made."""
    if call.name != there.name:
        return False
    if are_equal(call, there):
        return True
    arguments = differing(call, there)
    if there.outcome.is_telling and differ_in_form(call, there, arguments):
        return True
    return may_be_near(arguments) and are_near(call, there, arguments, there.outcome)


def _have_same_result(one: Call, other: Call, *, any_number: bool = False) -> bool:
    """Return whether two results are the same but for volatile values.

    Where they say that nothing came of the calls, it does not matter which numbers they name; of
    errors, a line that has nothing to do with them may differ.

    Args:
        any_number: See `likeness`. Of work that is still running, all numbers matter.
    """
    spans = known_spans(one.result, other.result, other.spans, any_number=any_number)
    if spans is None:
        longest = _MAX_GROWTH + len(other.result) // 4
        if abs(len(one.result) - len(other.result)) > longest:
            return False
        is_nothing = one.outcome.is_negative and other.outcome.is_negative
        any_number = (any_number or is_nothing) and not (waits(one) or is_mover(one))
        spans = volatile_spans(one.result, other.result, any_number=any_number)
        if spans is None:
            return _are_same_lines(one, other) or (is_nothing and _are_same_errors(one, other))
    one.spans = spans
    return not _is_a_value(one.result, spans)


def _is_a_value(result: str, spans: list[Span]) -> bool:
    """Return whether a result is little else than a value, which was asked for: an id, a duration."""
    if len(result) > _MAX_VALUE or all(kind in _TIMES for _, _, kind in spans):
        return False
    rest = result
    for start, end, _ in reversed(spans):
        rest = rest[:start] + rest[end:]
    return sum(map(str.isalpha, rest)) < _MIN_AROUND


def _have_same_findings(one: Call, other: Call, arguments: list[Differing]) -> bool:
    """Return whether searches for different things find the same, whatever its scores."""
    if not ask_for_the_same(arguments):
        return False
    return volatile_spans(one.result, other.result, any_number=True) is not None


def _are_same_lines(one: Call, other: Call) -> bool:
    """Return whether two results have the same lines in another order."""
    if len(one.result) != len(other.result):
        return False
    lines = one.result.split("\n")
    return len(lines) >= _MIN_LINES and sorted(lines) == sorted(other.result.split("\n"))


def _are_same_errors(one: Call, other: Call) -> bool:
    """Return whether the same call has failed twice, with nearly the same words."""
    if not (are_equal(one, other) and one.outcome.error and other.outcome.error):
        return False
    if _PROGRESS.findall(one.result) != _PROGRESS.findall(other.result):
        return False
    words, others = words_of(one.result), words_of(other.result)
    common = sum(map(str.isalpha, words & others))
    return common >= _SAME_ERROR * sum(map(str.isalpha, words | others))


def _fail_alike(one: Call, other: Call) -> bool:
    """Return whether two calls, of whatever tools, have failed with the same error.

    Two places that both refuse, or do not answer, have an error of their own each.
    """
    if not (one.outcome.error and other.outcome.error):
        return False
    if other.outcome.is_of_place and name_other_places(differing(one, other)):
        return False
    if one.result == other.result and one.name == other.name:
        return True
    said, there = one.outcome.said(one.fields), other.outcome.said(other.fields)
    return differ_only_in_volatile(said, there)


def _likeness_of_texts(one: str, other: str) -> int:
    one, other = " ".join(one.split()), " ".join(other.split())
    if not one or not other:
        return UNLIKE
    if one == other or differ_only_in_volatile(one, other):
        return EXACT
    return NEAR if say_the_same(one, other, _SAME_TEXT) else UNLIKE
