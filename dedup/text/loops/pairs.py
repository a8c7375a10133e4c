"""A hash table of the place where each pair of neighbouring tokens stood last. It stores the place alone.

A dict of pairs takes about twice the memory, and each text that is being written has a table of its own.
"""

from typing import Final

_LEAST_SLOTS: Final = 128  # a power of 2
_MARK_BITS: Final = (
    12  # of the hash, kept beside the number: they tell most other pairs without a look at the text
)
_MARK: Final = (1 << _MARK_BITS) - 1


class PairTable:
    """A hash table with open addressing.

    A slot holds the number of a pair's second token, plus 1, and a few bits of the pair's hash; 0 if it is empty. The pair itself is
    read from the text.
    """

    def __init__(self) -> None:
        self._slots = [0] * _LEAST_SLOTS
        self._num_pairs = 0

    def move(
        self, tokens: list[str], base: int, ids: dict[str, int], first: int, second: int
    ) -> int:
        """Record where the pair that `tokens` ends with stands now, and return where it stood before.

        Args:
            tokens: all that are remembered.
            base: the number of the first of them.
            ids: of all tokens; `first` and `second` are those of the pair.

        Returns:
            The number of the token that the pair ended with before; -1 if it is new.
        """
        slots = self._slots
        mask = len(slots) - 1
        last = len(tokens) - 1
        hashed = _hash(first, second)
        mark = hashed & _MARK
        slot = (hashed >> _MARK_BITS) & mask
        stored = slots[slot]
        while stored:
            if stored & _MARK == mark:
                number = (stored >> _MARK_BITS) - 1
                index = number - base
                if tokens[index] == tokens[last] and tokens[index - 1] == tokens[last - 1]:
                    slots[slot] = (base + last + 1) << _MARK_BITS | mark
                    return number
            slot = (slot + 1) & mask
            stored = slots[slot]
        slots[slot] = (base + last + 1) << _MARK_BITS | mark
        self._num_pairs += 1
        if 3 * self._num_pairs > 2 * mask:
            self._fill(2 * len(slots), tokens, base, ids)
        return -1

    def forget(self, tokens: list[str], base: int, ids: dict[str, int]) -> None:
        """Drop the pairs that begin before the token with the number `base`, now the first that is remembered."""
        self._fill(len(self._slots), tokens, base, ids)

    def _fill(self, num_slots: int, tokens: list[str], base: int, ids: dict[str, int]) -> None:
        old = self._slots
        slots = self._slots = [0] * num_slots
        mask = num_slots - 1
        self._num_pairs = 0
        for stored in old:
            index = (stored >> _MARK_BITS) - 1 - base
            if index >= 1:
                slot = (_hash(ids[tokens[index - 1]], ids[tokens[index]]) >> _MARK_BITS) & mask
                while slots[slot]:
                    slot = (slot + 1) & mask
                slots[slot] = stored
                self._num_pairs += 1


def _hash(first: int, second: int) -> int:
    return (first * 40503 ^ second) * 60493
