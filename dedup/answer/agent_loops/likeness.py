"""Likeness of two steps: the same calls with the same results, or almost."""

import re
from typing import Any, Final

from dedup.answer.agent_loops.outcome import error_of, is_trivial
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
_DESCRIBED: Final = ("command", "cmd", "script", "code", "query", "prompt")
_MAX_CHARS: Final = 4000  # of arguments; longer ones are alike only if they are equal
_MIN_WORDS: Final = 3  # of text that is written freely
_MIN_CHARS: Final = 6  # the same, in scripts without spaces
_MIN_SIMILARITY: Final = 0.3  # of words, where the results say a lot
_MIN_SIMILARITY_ALONE: Final = 0.6  # where they are such that any call may have them
_STEM: Final = 5  # letters
_WORD: Final = re.compile(r"[^\W_]+(?:[-_./:@'’][^\W_]+)*|[\u3040-\u30ff\u3400-\u9fff]")
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


def _likeness_of_calls(one: Call, other: Call) -> int:
    if one.name == other.name:
        if _are_equal(one, other):
            return EXACT if _have_same_result(one, other) else UNLIKE
        if _may_be_near(one, other) and _have_same_result(one, other):
            found = _nearness(one, other, is_telling=not is_trivial(one.result))
            if found != UNLIKE:
                return found
    error = error_of(one)
    if error and differ_only_in_volatile(error, error_of(other)):
        return FAILURE
    return UNLIKE


def _have_same_result(one: Call, other: Call) -> bool:
    spans = spans_if_alike(one.result, other.result, other.spans)
    if spans is not None:
        one.spans = spans
    return spans is not None


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
    values, others = one.values, other.values
    if not isinstance(values, dict) or not isinstance(others, dict):
        return isinstance(values, str) and isinstance(others, str)
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
    values, others = one.values, other.values
    if not isinstance(values, dict) or not isinstance(others, dict):
        return _as_likeness(values, others, is_telling=is_telling)
    names = _determining(values, others)
    is_commentary = not names
    for name in names or {*values, *others}:
        value, there = values.get(name), others.get(name)
        if value != there:
            found = _as_likeness(value, there, is_telling=is_telling, is_commentary=is_commentary)
            if found == UNLIKE:
                return UNLIKE
    return NEAR


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
    words, others = _words(one), _words(other)
    if not (_is_free(one, words) and _is_free(other, others)):
        return words == others and bool(words)
    if _names(words) != _names(others):
        return False
    stems, other_stems = _stems(words), _stems(others)
    if set(stems) == set(other_stems):
        return True
    if not may_fill and _is_filled(stems, other_stems):
        return False
    common, union = set(stems) & set(other_stems), set(stems) | set(other_stems)
    return len(common) >= least * len(union)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _is_free(text: str, words: list[str]) -> bool:
    """Return whether a text is written freely, and not a name, a path or a query of one word."""
    if _UNSPACED.search(text):
        return len(text) >= _MIN_CHARS
    return len(words) >= _MIN_WORDS


def _names(words: list[str]) -> set[str]:
    """Return words that name something: numbers, paths, identifiers, names in the text."""
    found: set[str] = set()
    for position, word in enumerate(words):
        is_named = position > 0 and word[:1].isupper() and word.lower() not in _LINK
        if is_named or not word.replace("'", "").replace("’", "").replace("-", "").isalpha():
            found.add(word)
    return found


def _stems(words: list[str]) -> list[str]:
    """Return the beginnings of the words that carry meaning; of unspaced scripts, characters."""
    return [word.lower()[:_STEM] for word in words if word.lower() not in _LINK]


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
