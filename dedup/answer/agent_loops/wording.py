"""Texts that say the same in other words."""

import re
from functools import lru_cache
from typing import Final

_MAX_CHARS: Final = 4000  # of a text that are read
_MIN_WORDS: Final = 3  # of text that is written freely
_MIN_CHARS: Final = 6  # the same, in scripts without spaces
_MAX_FILLED: Final = 4  # words in one place in which the items of a batch differ
_STEM: Final = 5  # letters
_WORD: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:[-_./:@'’][^\W_\u3040-\u30ff\u3400-\u9fff]+)*"
)
_LETTERS: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_LINK: Final = frozenset(
    "a an the to of in on at for and or is are be been was were it its this that with from by as"
    " i you we they he she my your our their do does did so still now again just please"
    " will would can could should have has had not no"
    " 的 了 在 是 我 有 和 就 不 一 个 也 把 再 请 还 着 这 那".split()
)


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


def may_be_free(text: str) -> bool:
    """Return whether a text may be written freely: it has more than one word."""
    return " " in text or _UNSPACED.search(text) is not None


def say_the_same(one: str, other: str, similarity: float, *, may_fill: bool = False) -> bool:
    """Return whether two texts say the same in other words.

    Texts that name different things, such as numbers, paths or people, do not.

    Args:
        similarity: Words in common, of all words, that are enough.
        may_fill: They may be the same but for one place with a few words. Items of a batch are
            ("remind anna", "remind bert").
    """
    said, there = _wording(one[:_MAX_CHARS]), _wording(other[:_MAX_CHARS])
    if not (said.is_free and there.is_free):
        return said.words == there.words and bool(said.words)
    if not (said.names <= there.terms and there.names <= said.terms):
        return False
    if said.stem_set == there.stem_set:
        return True
    if not may_fill and (
        _is_filled(said.stems, there.stems) or _has_grown(said.stems, there.stems)
    ):
        return False
    common, union = said.stem_set & there.stem_set, said.stem_set | there.stem_set
    return len(common) >= similarity * len(union)


@lru_cache(256)
def _wording(text: str) -> _Wording:
    return _Wording(text)


def _has_grown(one: list[str], other: list[str]) -> bool:
    """Return whether one text is the other with more behind it, as a list that is written down."""
    size = min(len(one), len(other))
    return len(one) != len(other) and one[:size] == other[:size]


def _without_genitive(word: str) -> str:
    return word.removesuffix("'s").removesuffix("’s")


def _is_filled(one: list[str], other: list[str]) -> bool:
    """Return whether two texts are the same but for one place with a few words."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    filled, there = len(one) - start - end, len(other) - start - end
    return 0 < filled <= _MAX_FILLED and 0 < there <= _MAX_FILLED and start + end > 0
