"""The evidence of a loop: how much less a text says than its letters are expected to.

Each token carries information, in bits: next to none if it goes on as an earlier passage did, some if the passage changes, much if
it is new. Its letters are expected to carry `EXPECTED_BITS` each. What is missing adds up (a CUSUM, Page 1954, "Continuous inspection
schemes"): the sum starts over at 0 whenever the text has said what was expected of it, and is a loop at a limit that depends on the
form of the text. How the constants were found, and their curves, stands in docs/evidence.md.
"""

import math
from typing import Final

from dedup.text.loops.tokens import Token

EXPECTED_BITS: Final = (
    0.5  # a letter; English carries about 1 to a reader, a language model knows half of it
)

# Bits of a token that goes on as the passage that it copies did, by the number of tokens copied before it.
_COPIED_BITS: Final[tuple[float, ...]] = (2.0, 0.5, 0.15, 0.05)
SWITCH_BITS: Final = 4.0  # goes on as another passage did
FRAME_BITS: Final = (
    3.0  # a word that fills the same gap as before: it stood two words after the same one
)
ADVANCE_BITS: Final = 0.1  # a number that advances
_KNOWN_BITS: Final = 1.0  # stands in the text, but not after what it follows here; and for each doubling of the vocabulary
_KNOWN_SLOPE: Final = 0.9
_VOCABULARY: Final = 16  # words a text has at least
_NEW_BITS: Final = 5.0  # was never there; and for each letter, up to _MAX_NEW_LETTERS
_NEW_LETTER_BITS: Final = 2.0
_NEW_IDEOGRAPH_BITS: Final = 6.0
_MAX_NEW_LETTERS: Final = 12
_SYMBOL_BITS: Final = 3.0  # at most, of a token that has no letters
_BLANK_BITS: Final = 0.5  # of one that is blank
_DIGIT_BITS: Final = 2.2  # of a number that neither stays nor advances
_MAX_DIGITS: Final = 4
# What a copied token counts, by how often its passage was copied: a second version, a refrain, a parallel section are no loop yet.
_COPY_COUNTS: Final[tuple[float, ...]] = (0.0, 0.85, 1.0)
_NEAR: Final = (
    300  # characters: what comes back from further away comes back for a reason more often
)
_FIRST_UNSPACED: Final = "\u3040"

LEAST_SURPRISE: Final = _KNOWN_BITS + _KNOWN_SLOPE * math.log2(
    _VOCABULARY
)  # bits of a word that was not expected


def copied_bits(num_copied: int) -> float:
    """Return the bits of a token that goes on as `num_copied` tokens before it did."""
    return _COPIED_BITS[num_copied] if num_copied < 3 else _COPIED_BITS[3]


def number_bits(num_digits: int) -> float:
    """Return the bits of a number that cannot be told from the ones before."""
    return _DIGIT_BITS * min(num_digits, _MAX_DIGITS)


def surprise_bits(token: Token, is_known: bool, num_known: int) -> float:
    """Return the bits of a token that no earlier passage leads to, in a text with `num_known` different ones."""
    if token.weight < 1:
        return _BLANK_BITS if token.text.isspace() else _SYMBOL_BITS
    if is_known:
        return _KNOWN_BITS + _KNOWN_SLOPE * math.log2(num_known + _VOCABULARY)
    num_letters = len(token.key)
    if token.key[0] >= _FIRST_UNSPACED:
        return _NEW_BITS + _NEW_IDEOGRAPH_BITS * num_letters
    return _NEW_BITS + _NEW_LETTER_BITS * min(num_letters, _MAX_NEW_LETTERS)


def expected_bits(weight: float, num_copies: int, distance: int) -> float:
    """Return the bits that a token of so many letters counts for as the `num_copies`-th copy, of one so many characters before."""
    if num_copies >= 3:
        return EXPECTED_BITS * weight
    bits = EXPECTED_BITS * weight * _COPY_COUNTS[num_copies]
    return bits if distance <= _NEAR else bits * _NEAR / distance


class Deficit:
    """The running sum of the bits missing.

    total: the bits. since: the offset at which it was 0 last. origin: the offset of what the text copied first since then. judged: the
    total at the last look at the form of the text.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.since = 0
        self.origin = 0
        self.judged = 0.0

    def add(self, bits: float, start: int, end: int, source: int) -> None:
        """Add the bits that a token lacks, or says more than expected (below 0).

        Args:
            bits: what it lacks.
            start, end: offsets of the token.
            source: the offset of what it copies.
        """
        if not self.total:
            self.since, self.origin = start, source
        self.total += bits
        if self.total <= 0:
            self.clear(end)

    def clear(self, at: int) -> None:
        self.total = self.judged = 0.0
        self.since = at
