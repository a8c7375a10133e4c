"""The sentences of a text so far, and the search for one that a new sentence repeats."""

import bisect
import re
from collections import deque
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Final, NamedTuple

from dedup.text.words import UNSPACED, units

# Words in which near-duplicates may differ. Pronouns for people, prepositions of place and time,
# "or", negations and counts are not among them.
_LIGHT: Final = frozenset(
    "a an the this that these those such some any of in on at by for as and so also too then very "
    "really quite rather just even still simply only is are was were be been being am has have had "
    "having do does did will would shall its it which who there here now well indeed however "
    "moreover furthermore additionally but "
    # German
    "der die das den dem des ein eine einen einem einer eines und auch sehr dann so ist sind war "
    "waren "
    "le la les l un une des de du d et aussi très est sont était que qui "  # French
    "el los las lo una unos unas del y también muy es son era "  # Spanish
    "的 地 得 了 着 过 也 都 就 还 又 很 太 更 最 便 即 而 且 并 及 与 和 把 使 对 为 由 以 所 其 之 这 那 些 "
    "个 种 吗 呢 吧 啊 呀 啦 嘛 一 再 已 曾 将 会 则 是 但 却 亦 "
    "は が を に も の て で と か よ ね な だ".split()
)
_ENDINGS: Final = ("", "s", "es", "d", "ed", "ing", "ly")
_MIN_STEM: Final = 4
_AROUND: Final = ".,;:!?()"
_TOKEN: Final = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


class Seen(NamedTuple):
    """A remembered sentence.

    key: its `sentence_key`.
    start: its offset in the input; below 0 for one of an earlier turn.
    scope: the list that an item belongs to; 0 for other kinds.
    after: the key of the sentence before it.
    place: its offset in the kept text, as `Context.chars` counts it.
    item, marker: number and marker of the list item that it belongs to; 0 and "" for none.
    section: the number of its heading.
    """

    key: str
    start: int
    scope: int = 0
    after: str = ""
    place: int = 0
    item: int = 0
    marker: str = ""
    section: int = 0


class SeenSentences:
    """The last sentences, by key and, for near-duplicates, by word.

    A lookup of a key or a prefix costs O(log n). A search for a near-duplicate reads at most
    `CANDIDATES_PER_WORD` sentences for each word.

    Args:
        max_sentences: sentences remembered.
        similarity: share of common words (0 to 1) from which two sentences are near-duplicates; 1
            for exact matches only.
    """

    CANDIDATES_PER_WORD = 16
    MAX_PREFIXED = 16
    MIN_NEAR_UNITS = 6  # shorter sentences may differ by one word and mean something else

    def __init__(self, max_sentences: int, similarity: float = 1.0) -> None:
        self._similarity = similarity
        self._by_key: dict[str, Seen] = {}
        self._order: list[str] = []  # not a deque, which takes 0.7 KB from the start
        self._sorted: list[str] = []
        self._max = max_sentences
        self._words: dict[str, frozenset[str]] = {}
        self._by_word: dict[str, deque[str]] = {}

    def match(self, key: str, scope: int = 0) -> Seen | None:
        """Return the earlier sentence of that scope with the key, or a near-duplicate of it."""
        seen = self._by_key.get(key)
        if seen is None and self._similarity < 1:
            seen = self._near(key)
        if seen and seen.scope == scope:
            return seen
        return None

    def could_match(self, prefix: str) -> bool:
        """Return whether a sentence whose key begins with `prefix` may turn out to be a repeat."""
        if self._similarity < 1 and self._sorted:
            return True
        at = bisect.bisect_left(self._sorted, prefix)
        return at < len(self._sorted) and self._sorted[at].startswith(prefix)

    def beginning_with(self, prefix: str) -> Iterator[Seen]:
        """Yield the sentences whose keys begin with `prefix`, at most `MAX_PREFIXED`."""
        at = bisect.bisect_left(self._sorted, prefix)
        for key in self._sorted[at : at + self.MAX_PREFIXED]:
            if not key.startswith(prefix):
                return
            yield self._by_key[key]

    def add(self, seen: Seen) -> None:
        """Remember a sentence. A repeat in another scope replaces the earlier one."""
        key = seen.key
        if key not in self._by_key:
            if len(self._order) == self._max:
                self._drop(self._order.pop(0))
            self._order.append(key)
            bisect.insort(self._sorted, key)
            if self._similarity < 1:
                self._words[key] = words = frozenset(units(key))
                for word in words:
                    self._by_word.setdefault(word, deque(maxlen=self.CANDIDATES_PER_WORD)).append(
                        key
                    )
        self._by_key[key] = seen

    def _drop(self, key: str) -> None:
        """Forget a sentence."""
        del self._by_key[key]
        del self._sorted[bisect.bisect_left(self._sorted, key)]
        for word in self._words.pop(key, ()):
            keys = self._by_word[word]
            if key in keys:
                keys.remove(key)
            if not keys:
                del self._by_word[word]

    def _near(self, key: str) -> Seen | None:
        """Return the most similar near-duplicate; None if there is none."""
        words = frozenset(units(key))
        if len(words) < self.MIN_NEAR_UNITS:
            return None
        candidates = {candidate for word in words for candidate in self._by_word.get(word, ())}
        best, best_share = None, self._similarity
        for candidate in sorted(candidates):
            other = self._words[candidate]
            share = 2 * len(words & other) / (len(words) + len(other))
            if share >= best_share and have_same_content(key, candidate):
                best, best_share = candidate, share
        if best is None:
            return None
        return self._by_key[best]


def have_same_content(key: str, other: str) -> bool:
    """Return whether two keys differ only in function words, and in the endings of other words.

    Any other word may be what the sentence is about: a name, a number, a path, a negation, a noun.
    """
    ours, theirs = _TOKEN.findall(key), _TOKEN.findall(other)
    for operation, at, end, other_at, other_end in SequenceMatcher(
        None, ours, theirs, autojunk=False
    ).get_opcodes():
        if operation == "equal":
            continue
        pairs = zip_longest(ours[at:end], theirs[other_at:other_end], fillvalue="")
        if not all(
            (_is_light(one) and _is_light(two)) or _is_inflected(one, two) for one, two in pairs
        ):
            return False
    return True


def _is_light(token: str) -> bool:
    word = token.strip(_AROUND)
    return not word or word in _LIGHT


def _is_inflected(token: str, other: str) -> bool:
    """Return whether two words differ in their endings alone."""
    one, two = token.strip(_AROUND), other.strip(_AROUND)
    shorter = min(len(one), len(two))
    stem = next((at for at in range(shorter) if one[at] != two[at]), shorter)
    return stem >= _MIN_STEM and one[stem:] in _ENDINGS and two[stem:] in _ENDINGS
