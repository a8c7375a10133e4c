"""The sentences a text has said, and whether a new one says one of them again."""

import bisect
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from dedup.text.words import units


class Seen(NamedTuple):
    """A remembered sentence.

    start: its offset in what went in; below 0 for one of an earlier turn. scope: the list that an item belongs to; 0 for other kinds.
    after: the key before it. place: where it stands in what was kept. item: the number of the item it belongs to; 0 for none.
    section: the number of its heading.
    """

    key: str
    start: int
    scope: int = 0
    after: str = ""
    place: int = 0
    item: int = 0
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
        """Whether a sentence whose key begins with `prefix` could still be a repeat."""
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
                    self._by_word.setdefault(word, deque(maxlen=self.CANDIDATES_PER_WORD)).append(key)
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
        numbers = {word for word in words if word.isdigit()}
        candidates = {candidate for word in words for candidate in self._by_word.get(word, ())}
        best, best_share = None, self._similarity
        for candidate in sorted(candidates):
            other = self._words[candidate]
            share = 2 * len(words & other) / (len(words) + len(other))
            if share >= best_share and numbers == {word for word in other if word.isdigit()}:
                best, best_share = candidate, share
        return self._by_key[best] if best is not None else None
