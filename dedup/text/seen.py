"""The sentences a text has said, and whether a new one says one of them again."""

import bisect
import re
from collections import deque
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Final, NamedTuple

from dedup.text.words import UNSPACED, units

# Words that a sentence may differ in and still say the same. Pronouns for people, prepositions of place and time, "or", and all that
# negates or counts are not among them.
_LIGHT: Final = frozenset(
    "a an the this that these those such some any of in on at by for as and so also too then very really quite rather just "
    "even still simply only is are was were be been being am has have had having do does did will would shall its it which who there "
    "here now well indeed however moreover furthermore additionally but "
    "der die das den dem des ein eine einen einem einer eines und auch sehr dann so ist sind war waren "  # German
    "le la les l un une des de du d et aussi très est sont était que qui "  # French
    "el los las lo una unos unas del y también muy es son era "  # Spanish
    "的 地 得 了 着 过 也 都 就 还 又 很 太 更 最 便 即 而 且 并 及 与 和 把 使 对 为 由 以 所 其 之 这 那 些 个 种 "
    "吗 呢 吧 啊 呀 啦 嘛 一 再 已 曾 将 会 则 是 但 却 则 亦 "
    "は が を に も の て で と か よ ね な だ".split()
)
_ENDINGS: Final = ("", "s", "es", "d", "ed", "ing", "ly")
_MIN_STEM: Final = 4
_AROUND: Final = ".,;:!?()"
_TOKEN: Final = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


class Seen(NamedTuple):
    """A remembered sentence.

    start: its offset in what went in; below 0 for one of an earlier turn. scope: the list that an item belongs to; 0 for other kinds.
    after: the key before it. place: where it stands in what was kept. item, marker: number and marker of the item it belongs to; 0 and
    "" for none. section: the number of its heading.
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
    """The last `max_sentences` sentences by key, and, for `similarity` < 1, by the words they are made of.

    Looking up a key or a prefix costs O(log n); a near match looks only at sentences that share rare words with the new one.
    """

    CANDIDATES_PER_WORD = 16
    MAX_PREFIXED = 16
    MIN_NEAR_UNITS = 6  # shorter sentences differ by one word and say something else

    def __init__(self, max_sentences: int, similarity: float = 1.0) -> None:
        self._similarity = similarity
        self._by_key: dict[str, Seen] = {}
        self._order: deque[str] = deque()
        self._sorted: list[str] = []
        self._max = max_sentences
        self._words: dict[str, frozenset[str]] = {}
        self._by_word: dict[str, deque[str]] = {}

    def match(self, key: str, scope: int = 0) -> Seen | None:
        """The earlier sentence in the same scope that `key` says again, or nearly so."""
        seen = self._by_key.get(key)
        if seen is None and self._similarity < 1:
            seen = self._near(key)
        return seen if seen and seen.scope == scope else None

    def could_match(self, prefix: str) -> bool:
        """Return whether a sentence whose key begins with `prefix` could still be a repeat."""
        if self._similarity < 1 and self._sorted:
            return True
        at = bisect.bisect_left(self._sorted, prefix)
        return at < len(self._sorted) and self._sorted[at].startswith(prefix)

    def beginning_with(self, prefix: str) -> Iterator[Seen]:
        """Yield some of the sentences whose keys begin with `prefix`."""
        at = bisect.bisect_left(self._sorted, prefix)
        for key in self._sorted[at : at + self.MAX_PREFIXED]:
            if not key.startswith(prefix):
                return
            yield self._by_key[key]

    def add(self, seen: Seen) -> None:
        """Remembers a sentence; said again in another scope, it counts for the last one."""
        key = seen.key
        if key not in self._by_key:
            if len(self._order) == self._max:
                self._drop(self._order.popleft())
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
        del self._by_key[key]
        del self._sorted[bisect.bisect_left(self._sorted, key)]
        for word in self._words.pop(key, ()):
            keys = self._by_word[word]
            if key in keys:
                keys.remove(key)
            if not keys:
                del self._by_word[word]

    def _near(self, key: str) -> Seen | None:
        words = frozenset(units(key))
        if len(words) < self.MIN_NEAR_UNITS:
            return None
        candidates = {candidate for word in words for candidate in self._by_word.get(word, ())}
        best, best_share = None, self._similarity
        for candidate in sorted(candidates):
            other = self._words[candidate]
            share = 2 * len(words & other) / (len(words) + len(other))
            if share >= best_share and says_the_same(key, candidate):
                best, best_share = candidate, share
        return self._by_key[best] if best is not None else None


def says_the_same(key: str, other: str) -> bool:
    """Return whether two keys differ only in words that carry no content: function words, and the endings of the others.

    Anything else may be what the sentence is about: a name, a number, a path, a negation, a noun.
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
    """Return whether two words are forms of one: they differ in an ending alone."""
    one, two = token.strip(_AROUND), other.strip(_AROUND)
    shorter = min(len(one), len(two))
    stem = next((at for at in range(shorter) if one[at] != two[at]), shorter)
    return stem >= _MIN_STEM and one[stem:] in _ENDINGS and two[stem:] in _ENDINGS
