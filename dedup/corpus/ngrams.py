"""Hashes of n-grams as arrays, and what repeats among them.

Hashes have 64 bits. Two different n-grams of a document have equal ones with a probability below
1e-12.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_BASE: Final = np.uint64(0x9E3779B97F4A7C17)  # odd, and so invertible modulo 2**64
_INVERSE: Final = np.uint64(pow(0x9E3779B97F4A7C17, -1, 2**64))
_MIX: Final = np.uint64(0xD6E8FEB86659FD93)


def lengths_of(words: Sequence[str]) -> Ints:
    """Return the lengths of words, in characters."""
    return np.fromiter(map(len, words), np.int64, len(words))


def word_hashes(words: Sequence[str]) -> Hashes:
    """Return a hash of each word. It differs between processes."""
    return np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)


def lengthen(grams: Hashes, words: Hashes, n: int) -> Hashes:
    """Return the hashes of n-grams, from those of (n-1)-grams and of words."""
    longer: Hashes = grams[: len(words) - n + 1] * _BASE + words[n - 1 :]
    return longer


class JoinedHashes:
    """Hashes of n-grams that are compared as strings, joined without a separator.

    Args:
        words: the words.
        lengths: their lengths.
    """

    def __init__(self, words: Sequence[str], lengths: Ints) -> None:
        text = "".join(words)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        mixed = (codes.astype(np.uint64) + np.uint64(1)) * _MIX
        mixed ^= mixed >> np.uint64(29)
        powers = _powers(_BASE, len(codes))
        sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(mixed * powers, out=sums[1:])
        self.bounds = np.zeros(len(words) + 1, np.int64)
        np.cumsum(lengths, out=self.bounds[1:])
        self._sums = sums[self.bounds]
        self._shifts = _powers(_INVERSE, len(codes) + 1)[self.bounds]

    def ngrams(self, n: int) -> Hashes:
        """Return the hashes of the n-grams."""
        count = len(self.bounds) - n
        hashes: Hashes = (self._sums[n:] - self._sums[:count]) * self._shifts[:count]
        return hashes


def repeated(hashes: Hashes) -> Flags | None:
    """Return which hashes occur more than once; None if none does."""
    ordered = np.sort(hashes)
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return None
    twice = ordered[1:][same]
    places = np.searchsorted(twice[:-1], hashes)  # the last place for all that is greater
    flags: Flags = twice[places] == hashes
    return flags


def most_common(hashes: Hashes) -> tuple[int, int]:
    """Return the index of the first occurrence of the most common hash, and its count.

    Of equally common ones the first counts.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(starts, len(ordered)))
    count = int(counts.max())
    first = int(order[starts[counts == count]].min())
    return first, count


def _powers(base: np.uint64, count: int) -> Hashes:
    """Return the powers of a base modulo 2**64, from 0 up to below `count`."""
    table = _TABLES.get(int(base))
    if table is None or len(table) < count:
        table = np.full(max(count, 1 << 14), base, np.uint64)
        table[0] = 1
        np.multiply.accumulate(table, out=table)
        if count <= _MAX_TABLE:
            _TABLES[int(base)] = table
    return table[:count]


_TABLES: dict[int, Hashes] = {}
_MAX_TABLE: Final = 1 << 22  # characters; 32 MB a table
