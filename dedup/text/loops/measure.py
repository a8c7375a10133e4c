"""Measurements for the loop scanner to judge.

They are the cycle that a text ends in, the bits that text of its form may lack, and the first copy
of what it repeats.
"""

import bisect
import re
from typing import Final

from dedup.text.form import (
    Form,
    form_of,
    is_enclosed,
    is_in_comment,
    is_labelled,
    is_series,
    num_fences,
)
from dedup.text.loops.cycle import LEAST_WEIGHT, Cycle, least_begun, period_of
from dedup.text.loops.evidence import LEAST_LIMIT, Deficit
from dedup.text.loops.history import History
from dedup.text.loops.passage import ECHO_CHARS, Passage
from dedup.text.loops.tokens import token_of
from dedup.text.words import UNSPACED

_LONGEST_TOKEN: Final = 16  # characters
_FORM_TOKENS: Final = 600  # read to tell a form
_MATCHING_TOKENS: Final = 3  # that the copies of a passage begin with
# Bits that a loop lacks, by form. They depend on how much such text repeats legitimately, and on
# what a wrong cut breaks.
_LIMITS: Final[dict[Form, float]] = {
    "prose": LEAST_LIMIT,
    "labelled": 300.0,
    "series": 500.0,
    "verse": 200.0,
    "notation": 250.0,
    "code": 900.0,
    "data": 1200.0,
}
_LIMIT_IN_FENCE: Final = 350.0  # at least: the output of programs repeats its lines
# For a snippet in a response, where a wrong cut breaks less than in a file.
_LIMIT_OF_FENCED_CODE: Final = 400.0
_WORD_PART: Final = re.compile(rf"[^\W{UNSPACED}]+\W*")


def ending_cycle(history: History, passage: Passage) -> Cycle | None:
    """Return the cycle that the text ends in; None if it repeats too little to be a loop.

    Args:
        passage: what is being copied; at least a whole copy of it matches.
    """
    index = len(history.tokens) - 1
    distance = passage.distance
    is_exact = passage.num_exact >= distance
    if is_exact:
        num_tokens, start = passage.num_exact, passage.exact_from
    else:
        num_tokens, start = passage.num_same, passage.same_from
    size = history.end - history.ends[index - distance]
    if history.end - start < size + least_begun(size):
        return None
    first = index + 1 - num_tokens
    weight = _weight_of(history, first, index + 1, 0 if is_exact else distance)
    if weight < LEAST_WEIGHT:
        return None
    passage.judged_at = passage.num_same
    last = index
    if is_exact and history.tokens[index] != history.tokens[index - distance]:
        last -= 1  # the last token is truncated
    first = last + 1 - distance
    unit = history.text(first, last + 1)
    period = len(unit)
    if is_exact:
        period = period_of(unit)
        weight += (1 - period / len(unit)) * _weight_of(history, first, last + 1)
        start -= _num_matching_before(history, start, period, len(unit) + _LONGEST_TOKEN)
    start -= period
    # Rotate the unit, so that it is a copy as the first one is.
    phase = (history.ends[last] - start) % period
    if phase:
        unit = unit[-phase:] + unit[: len(unit) - phase]
    return Cycle(start, history.end, period, unit[:period], weight, is_exact)


def deficit_limit(history: History, deficit: Deficit) -> tuple[Form, float]:
    """Return the form of the text since the deficit began, and the bits that it may lack."""
    text = history.text_until(history.end, _FORM_TOKENS)
    lacking = text[-(history.end - deficit.since) :]
    form = form_of(lacking)
    if form == "prose" and form_of(text) == "verse":
        form = "verse"
    if form in ("prose", "verse"):
        if is_enclosed(history.text_until(deficit.since, 0, ECHO_CHARS)):
            form = "data"
        elif is_in_comment(text):
            form = "code"
    if form in ("prose", "verse", "notation") and is_labelled(lacking):
        form = "labelled"  # parts that are explained one by one may be of one kind
    if form in ("prose", "labelled", "verse", "notation") and is_series(lacking):
        form = "series"
    limit = _LIMITS[form]
    if history.in_fence(len(history.tokens) - 1) and not num_fences(lacking):
        if form == "code":
            return form, _LIMIT_OF_FENCED_CODE
        return form, max(limit, _LIMIT_IN_FENCE)
    return form, limit


def first_copy(history: History, deficit: Deficit) -> int:
    """Return the offset of the first copy of the passage that the deficit began with."""
    tokens, ends = history.tokens, history.ends
    index = bisect.bisect_left(ends, deficit.origin + 1)
    # The most characters between two copies.
    step = max(ECHO_CHARS, 2 * (deficit.since - deficit.origin))
    earlier = index - 1
    while earlier >= 0 and ends[index] - ends[earlier] <= step:
        if tokens[earlier : earlier + _MATCHING_TOKENS] == tokens[index : index + _MATCHING_TOKENS]:
            index = earlier
        earlier -= 1
    return history.start_of(index)


def _weight_of(history: History, start: int, end: int, distance: int = 0) -> float:
    """Return the weight of the tokens from index `start` up to `end`, in letters.

    Args:
        distance: if not 0, only tokens with the key of the one `distance` tokens earlier count.
    """
    tokens = history.tokens
    weight = 0.0
    for index in range(max(0, start), end):
        token = token_of(tokens[index])
        if index < distance or not distance or token.key == token_of(tokens[index - distance]).key:
            weight += token.weight
    return weight


def _num_matching_before(history: History, start: int, period: int, most: int) -> int:
    """Return how many characters before the offset `start` equal those a period earlier.

    The tokens there may be cut differently, so that a comparison of tokens misses them.
    """
    text = history.text_until(start, 0, most + period)
    num_same = 0
    while num_same < len(text) - period and text[-1 - num_same] == text[-1 - num_same - period]:
        num_same += 1
    # No copy begins within a word.
    first, second = len(text) - num_same - period, len(text) - num_same
    within = text[max(0, first - 1) : first].isalpha() and text[second - 1 : second].isalpha()
    if num_same and within and (part := _WORD_PART.match(text, second)):
        num_same = len(text) - part.end()
    return num_same
