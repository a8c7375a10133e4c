"""Tables of where each pair of tokens occurred last, as written and with numbers folded."""

from typing import Final

from dedup.text.loops.tokens import token_of

ID_BITS: Final = 30  # a text has fewer tokens
_FOLDED: Final = "\0"  # precedes a token whose numbers are folded
_LEAST_SLOTS: Final = 16  # a power of 2
_FEW_SLOTS: Final = 1024  # fewer become four times as many: each step reads all
_SHIFT: Final = 12  # the lowest bits of the product are poor
_HASH_BITS: Final = 30  # stored beside the number: nearly no other pair has the same
_HASH: Final = (1 << _HASH_BITS) - 1


class PairTable:
    """A hash table with open addressing.

    Each stream has a table of its own; a dict of pairs would take about twice the memory. A slot
    holds the number of a pair's second token, plus 1, and the pair's hash; 0 if it is empty. The
    pair itself is read from the text.
    """

    def __init__(self) -> None:
        self._slots = [0] * _LEAST_SLOTS
        self._num_pairs = 0

    def move(self, tokens: list[str], base: int, first: int, second: int) -> int:
        """Record the position of the pair that `tokens` ends with; return its previous position.

        Args:
            tokens: the tokens remembered.
            base: number of the first of them.
            first, second: the ids of the pair.

        Returns:
            The number of the pair's second token at its previous occurrence; -1 if it is new.
        """
        slots = self._slots
        mask = len(slots) - 1
        last = len(tokens) - 1
        hashed = ((first * 40503 ^ second) * 60493 >> _SHIFT) & _HASH
        slot = hashed & mask
        stored = slots[slot]
        while stored:
            if stored & _HASH == hashed:
                number = (stored >> _HASH_BITS) - 1
                index = number - base
                if tokens[index] == tokens[last] and tokens[index - 1] == tokens[last - 1]:
                    slots[slot] = (base + last + 1) << _HASH_BITS | hashed
                    return number
            slot = (slot + 1) & mask
            stored = slots[slot]
        slots[slot] = (base + last + 1) << _HASH_BITS | hashed
        self._num_pairs += 1
        if 3 * self._num_pairs > 2 * mask:
            growth = 4 if len(slots) < _FEW_SLOTS else 2
            self._fill(growth * len(slots), base)
        return -1

    def forget(self, base: int) -> None:
        """Drop the pairs that begin before token number `base`, now the first one remembered."""
        self._fill(len(self._slots), base)

    def _fill(self, num_slots: int, base: int) -> None:
        """Move the pairs that are remembered to a table of `num_slots` slots."""
        old = self._slots
        slots = self._slots = [0] * num_slots
        mask = num_slots - 1
        least = (base + 2) << _HASH_BITS
        self._num_pairs = 0
        for stored in old:
            if stored >= least:
                slot = stored & mask
                while slots[slot]:
                    slot = (slot + 1) & mask
                slots[slot] = stored
                self._num_pairs += 1


class FoldedPairs:
    """The pairs that hold a number, with numbers folded: "gate 12" and "gate 13" are one pair.

    last_id: id of the last token with its numbers folded; -1 if it has none.
    """

    def __init__(self) -> None:
        self.last_id = -1
        self._numbers: dict[int, int] = {}  # number of the second token, by the ids of a pair

    def move(
        self, token: str, number: int, ids: dict[str, int], first: int, second: int, base: int
    ) -> int:
        """Record the position of the pair that ends with a token; return its previous position.

        Args:
            token, number: the token and its number.
            ids: the ids of all tokens, and of those with numbers folded.
            first, second: the ids of the pair as written; `first` is -1 at the beginning.
            base: number of the first token remembered.

        Returns:
            The number of the pair's second token at its previous occurrence; -1 if it is new.
        """
        if self.last_id >= 0:
            first = self.last_id
        self.last_id = -1
        if token[0].isdigit():
            self.last_id = ids.setdefault(_FOLDED + token_of(token).folded, number)
            second = self.last_id
        if first < 0:
            return -1
        pair = first << ID_BITS | second
        known = self._numbers.get(pair, -1)
        self._numbers[pair] = number
        if known > base:
            return known
        return -1

    def forget(self, base: int) -> None:
        """Drop the pairs that begin before token number `base`, now the first one remembered."""
        self._numbers = {pair: number for pair, number in self._numbers.items() if number > base}


def is_folded(token: str) -> bool:
    """Return whether a key of the ids is a token with its numbers folded."""
    return token[0] == _FOLDED
