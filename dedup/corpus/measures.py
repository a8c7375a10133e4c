"""Counts over many documents that can be merged, in bounded memory."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from dedup.corpus.ngrams import Hashes, JoinedHashes, lengths_of

_BINS: Final = 20
_MAX_SOURCES: Final = 20_000
OTHER_SOURCES: Final = "(others)"


def stable_hash(text: str) -> int:
    """Return a hash of 64 bits that is the same in every process."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@dataclass(slots=True)
class Distribution:
    """Distribution of a share: its sum and a histogram from 0 to 1."""

    total: float = 0.0
    count: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * _BINS)

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1
        self.bins[min(_BINS - 1, int(max(0.0, value) * _BINS))] += 1

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add another one, as `asdict` returns it."""
        self.total += other["total"]
        self.count += other["count"]
        self.bins = [a + b for a, b in zip(self.bins, other["bins"], strict=True)]

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)


class Sources:
    """Sums by source. Once there are many sources, those that are new count as one."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, float]] = {}

    def add(self, source: str, values: Mapping[str, float]) -> None:
        if source not in self.sums and len(self.sums) >= _MAX_SOURCES:
            source = OTHER_SOURCES
        row = self.sums.setdefault(source, {})
        for name, value in values.items():
            row[name] = row.get(name, 0) + value

    def merge(self, other: Mapping[str, Mapping[str, float]]) -> None:
        for source, values in other.items():
            self.add(source, values)


class DistinctNgrams:
    """An estimate of the distinct n-grams of a set of texts, of 2% error.

    It keeps the smallest hashes (KMV: Bar-Yossef et al. 2002); the result does not depend on order.
    """

    SIZE: Final = 4096

    def __init__(self, n: int) -> None:
        self.n = n
        self.num_grams = 0
        self.smallest: Hashes = np.zeros(0, np.uint64)

    def add(self, words: Sequence[str]) -> None:
        """Add a text, as words."""
        if len(words) < self.n:
            return
        hashes = _scatter(JoinedHashes(words, lengths_of(words)).ngrams(self.n))
        self.num_grams += len(hashes)
        if len(self.smallest) == self.SIZE:
            hashes = hashes[hashes < self.smallest[-1]]
        self._keep(hashes)

    def merge(self, num_grams: int, smallest: Iterable[int]) -> None:
        self.num_grams += num_grams
        self._keep(np.fromiter(smallest, np.uint64))

    @property
    def distinct_share(self) -> float:
        """Distinct n-grams over all n-grams; 1 if there are none."""
        if not self.num_grams:
            return 1.0
        distinct = float(len(self.smallest))
        if len(self.smallest) == self.SIZE:
            distinct = (self.SIZE - 1) / (float(self.smallest[-1]) / 2.0**64)
        return min(1.0, distinct / self.num_grams)

    def _keep(self, hashes: Hashes) -> None:
        if len(hashes):
            self.smallest = np.unique(np.concatenate((self.smallest, hashes)))[: self.SIZE]


def _scatter(hashes: Hashes) -> Hashes:
    """Spread hashes evenly over 64 bits (the finalizer of SplitMix64)."""
    mixed = hashes ^ (hashes >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed = mixed * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result
