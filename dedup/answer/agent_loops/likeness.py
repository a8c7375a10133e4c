"""Likeness of two steps: the same calls with the same results, or almost."""

import re
from functools import lru_cache
from typing import Any, Final

from dedup.answer.agent_loops.outcome import (
    error_of,
    is_empty_handed,
    is_negative,
    is_trivial,
)
from dedup.answer.agent_loops.steps import Call, Step
from dedup.answer.agent_loops.volatile import differ_only_in_volatile, spans_if_alike

# From unlike to like; the weakest that holds a loop together is its kind.
UNLIKE: Final = 0
FAILURE: Final = 1  # calls that fail alike, whatever their arguments
NEAR: Final = 2  # arguments that are worded anew
EXACT: Final = 3

# Arguments that say why a call is made: they do not change what it does.
_COMMENTARY: Final = frozenset(
    (
        "explanation",
        "reason",
        "reasoning",
        "intent",
        "purpose",
        "thought",
        "thoughts",
        "rationale",
        "justification",
        "why",
        "toolCallDescription",
        "tool_call_description",
    )
)
# Arguments that ask for something, and change nothing.
_QUERIES: Final = frozenset(
    ("query", "q", "search", "search_query", "search_term", "keyword", "keywords", "question")
)
_CHANGE: Final = re.compile(
    r"\b(?:insert|update|delete|create|alter|drop|merge|replace|truncate|mutation)\b", re.IGNORECASE
)
_DESCRIBED: Final = ("command", "cmd", "script", "code", "query", "prompt")
_MAX_CHARS: Final = 4000  # of arguments; longer ones are alike only if they are equal
_MAX_GROWTH: Final = 200  # characters by which results that are the same differ, and a quarter
_SAME_ERROR: Final = 0.6  # of the words of two results
_MIN_WORDS: Final = 3  # of text that is written freely
_MIN_CHARS: Final = 6  # the same, in scripts without spaces
_MIN_SIMILARITY: Final = 0.2  # of words, where the results say a lot
_MIN_SIMILARITY_ALONE: Final = 0.6  # where they are such that any call may have them
_STEM: Final = 5  # letters
_WORD: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:[-_./:@'’][^\W_\u3040-\u30ff\u3400-\u9fff]+)*"
)
_WORDS: Final = re.compile(r"[^\W\d_]{2,}")
_LETTERS: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_LINK: Final = frozenset(
    "a an the to of in on at for and or is are be been was were it its this that with from by as"
    " i you we they he she my your our their do does did so still now again just please"
    " will would can could should have has had not no"
    " 的 了 在 是 我 有 和 就 不 一 个 也 把 再 请 还 着 这 那".split()
)


def likeness(one: Step, other: Step) -> int:
    """Return how much alike two steps are: `EXACT`, `NEAR`, `FAILURE` or `UNLIKE`."""
    calls, others = one.sorted_calls(), other.sorted_calls()
    if len(calls) != len(others):
        return UNLIKE
    if not calls:
        return _likeness_of_texts(one.text, other.text)
    least = EXACT
    for call, there in zip(calls, others, strict=True):
        least = min(least, _likeness_of_calls(call, there))
        if least == UNLIKE:
            return UNLIKE
    return least


def likeness_of_next(calls: list[Call], step: Step) -> int:
    """Return how much calls without results are like those of a step."""
    ordered, others = Step(calls).sorted_calls(), step.sorted_calls()
    if len(ordered) != len(others) or not ordered:
        return UNLIKE
    least = EXACT
    for call, there in zip(ordered, others, strict=True):
        if call.name != there.name:
            return UNLIKE
        least = min(
            least, _likeness_of_arguments(call, there, is_telling=not is_trivial(there.result))
        )
    return least


def have_same_results(one: Step, other: Step) -> bool:
    """Return whether two steps have calls of the same tools with the same results."""
    calls, others = one.sorted_calls(), other.sorted_calls()
    if not calls or len(calls) != len(others):
        return False
    return all(
        not (call.name != there.name or not _have_same_result(call, there))
        for call, there in zip(calls, others, strict=True)
    )


def _likeness_of_calls(one: Call, other: Call) -> int:
    if one.name == other.name:
        if _are_equal(one, other):
            return EXACT if _have_same_result(one, other) else UNLIKE
        if _may_be_near(one, other) and (
            _have_same_result(one, other) or _have_same_answer(one, other)
        ):
            found = _nearness(one, other, is_telling=not is_trivial(one.result))
            if found != UNLIKE:
                return found
        if _differ_in_numbers(one, other) and is_negative(one) and not is_trivial(one.result) and _have_same_result(one, other):
            return NEAR
    return FAILURE if _fail_alike(one, other) else UNLIKE


def _differ_in_numbers(one: Call, other: Call) -> bool:
    """Return whether two calls have the same object, and differ in numbers alone."""
    values, others = one.fields, other.fields
    has_object = False
    for name in {*values, *others}:
        value, there = values.get(name), others.get(name)
        if value == there:
            has_object = has_object or (isinstance(value, str) and not value.isdigit())
        elif not (_is_number(value) and _is_number(there)):
            return False
    return has_object


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, or is not given."""
    if isinstance(value, str):
        return value.isdigit()
    return value is None or isinstance(value, int | float)


def _fail_alike(one: Call, other: Call) -> bool:
    if one.result == other.result and one.name == other.name and one.is_error == other.is_error:
        one.error = error_of(other)
        return bool(one.error)
    error = error_of(one)
    return bool(error) and differ_only_in_volatile(error, error_of(other))


def _have_same_result(one: Call, other: Call) -> bool:
    """Return whether two results are the same but for volatile values.

    Where they say that nothing came of the call, it does not matter which numbers they name; where
    both are errors, nor does a line that has nothing to do with them.
    """
    if abs(len(one.result) - len(other.result)) > _MAX_GROWTH + len(other.result) // 4:
        return False
    any_number = is_negative(one) and is_negative(other)
    spans = spans_if_alike(one.result, other.result, other.spans, any_number=any_number)
    if spans is not None:
        one.spans = spans
        return True
    return any_number and _are_same_errors(one, other)


def _are_same_errors(one: Call, other: Call) -> bool:
    """Return whether the same call has failed twice, with nearly the same words."""
    if not (_are_equal(one, other) and error_of(one) and error_of(other)):
        return False
    words, others = set(_WORDS.findall(one.result)), set(_WORDS.findall(other.result))
    return len(words & others) >= _SAME_ERROR * len(words | others)


def _have_same_answer(one: Call, other: Call) -> bool:
    """Return whether searches with different queries find the same, whatever its scores."""
    names = one.fields.keys() | other.fields.keys()
    differing = [name for name in names if one.fields.get(name) != other.fields.get(name)]
    if not all(name in _QUERIES for name in differing):
        return False
    return spans_if_alike(one.result, other.result, other.spans, any_number=True) is not None


def _likeness_of_arguments(one: Call, other: Call, *, is_telling: bool) -> int:
    if _are_equal(one, other):
        return EXACT
    return _nearness(one, other, is_telling=is_telling) if _may_be_near(one, other) else UNLIKE


def _are_equal(one: Call, other: Call) -> bool:
    given, there = one.arguments, other.arguments
    if given == there:
        return True
    if (
        isinstance(given, str)
        and isinstance(there, str)
        and max(len(given), len(there)) > _MAX_CHARS
        and len(given) != len(there)
    ):
        return False  # not worth reading: keys in another order leave the length as it is
    return bool(one.values == other.values)


def _may_be_near(one: Call, other: Call) -> bool:
    """Return whether all the arguments that differ are texts."""
    for given in (one.arguments, other.arguments):
        if isinstance(given, str) and len(given) > _MAX_CHARS:
            return False
    values, others = one.fields, other.fields
    for name in {*values, *others}:
        value, there = values.get(name), others.get(name)
        if value != there and name not in _COMMENTARY:
            if not isinstance(value, str) or not isinstance(there, str):
                return False
            if " " not in value and not _UNSPACED.search(value):
                return False
    return True


def _nearness(one: Call, other: Call, *, is_telling: bool) -> int:
    """Return how much alike arguments are that are not equal: `NEAR`, or `UNLIKE`."""
    values, others = one.fields, other.fields
    names = _determining(values, others)
    is_commentary = not names
    is_answer = is_telling and not is_empty_handed(one.result)
    for name in names or {*values, *others}:
        value, there = values.get(name), others.get(name)
        if value != there:
            if name in _QUERIES and is_answer and _asks(value) and _asks(there):
                continue  # whatever is asked, the answer is the same
            found = _as_likeness(value, there, is_telling=is_telling, is_commentary=is_commentary)
            if found == UNLIKE:
                return UNLIKE
    return NEAR


def _asks(value: Any) -> bool:
    """Return whether the value of a query asks for something, and changes nothing."""
    return isinstance(value, str) and bool(value) and _CHANGE.search(value) is None


def _determining(values: dict[str, Any], others: dict[str, Any]) -> set[str]:
    """Return the names of the arguments that determine what a call does."""
    names = {*values, *others} - _COMMENTARY
    if "description" in names and not names.isdisjoint(_DESCRIBED):
        names.discard("description")
    return names


def _as_likeness(value: Any, other: Any, *, is_telling: bool, is_commentary: bool = False) -> int:
    if not isinstance(value, str) or not isinstance(other, str):
        return UNLIKE
    least = _MIN_SIMILARITY if is_telling or is_commentary else _MIN_SIMILARITY_ALONE
    return NEAR if _are_near(value, other, least, may_fill=is_commentary) else UNLIKE


def _likeness_of_texts(one: str, other: str) -> int:
    one, other = " ".join(one.split()), " ".join(other.split())
    if not one or not other:
        return UNLIKE
    if one == other or differ_only_in_volatile(one, other):
        return EXACT
    return NEAR if _are_near(one, other, _MIN_SIMILARITY_ALONE, may_fill=False) else UNLIKE


def _are_near(one: str, other: str, least: float, *, may_fill: bool) -> bool:
    """Return whether two texts say the same in other words.

    Args:
        least: Their similarity: words in common, of all words.
        may_fill: They may be the same but for one word or two in one place. Items of a batch are
            ("remind anna", "remind bert").
    """
    said, there = _wording(one), _wording(other)
    if not (said.is_free and there.is_free):
        return said.words == there.words and bool(said.words)
    if not (said.names <= there.terms and there.names <= said.terms):
        return False
    if said.stem_set == there.stem_set:
        return True
    if not may_fill and _is_filled(said.stems, there.stems):
        return False
    common, union = said.stem_set & there.stem_set, said.stem_set | there.stem_set
    return len(common) >= least * len(union)


class _Wording:
    """The words of a text.

    Attributes:
        is_free: It is written freely, and not a name, a path or a query of one word.
        words: Its words, in order.
        terms: The same in lower case, without a genitive's ending.
        names: Those of them that name something: numbers, paths, identifiers, names.
        stems: The beginnings of the words that carry meaning; of unspaced scripts, characters.
    """

    def __init__(self, text: str) -> None:
        words: list[str] = _WORD.findall(text)
        self.words = words
        if _UNSPACED.search(text):
            self.is_free = len(text) >= _MIN_CHARS
        else:
            self.is_free = len(words) >= _MIN_WORDS
        lowered = [word.lower() for word in words]
        self.terms = {_without_genitive(word) for word in lowered}
        self.names: set[str] = set()
        for position, word in enumerate(words):
            is_named = position > 0 and word[:1].isupper() and lowered[position] not in _LINK
            if is_named or not _LETTERS.fullmatch(word):
                self.names.add(_without_genitive(lowered[position]))
        self.stems = [word[:_STEM] for word in lowered if word not in _LINK]
        self.stem_set = set(self.stems)


@lru_cache(256)
def _wording(text: str) -> _Wording:
    return _Wording(text)


def _without_genitive(word: str) -> str:
    return word.removesuffix("'s").removesuffix("’s")


def _is_filled(one: list[str], other: list[str]) -> bool:
    """Return whether two texts are the same but for one place with a word or two."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    filled, there = len(one) - start - end, len(other) - start - end
    return 0 < filled <= 4 and 0 < there <= 4 and start + end > 0
