"""The evidence of a loop: how much less information a text carries than its letters should.

Each token carries information, in bits: next to none if it goes on as an earlier passage did, some
if the passage changes, much if it is new. Its letters are expected to carry `EXPECTED_BITS` each.
The missing bits add up (a CUSUM; Page 1954, "Continuous inspection schemes"). The sum starts over
at 0 whenever the text has carried what was expected, and is a loop at a limit that depends on the
form of the text. docs/evidence/loops.md tells how the constants were found, and shows their curves.
"""

import math
from typing import Final

from dedup.text.loops.tokens import Token

# A letter. English carries about 1 bit to a reader; a language model predicts half of it.
EXPECTED_BITS: Final = 0.5

# A token that matches the passage being copied, by the number of tokens copied before it.
_COPIED_BITS: Final[tuple[float, ...]] = (2.0, 0.5, 0.15, 0.05)
SWITCH_BITS: Final = 4.0  # a token that goes on as another passage did
FRAME_BITS: Final = 3.0  # a word two words after the same one as before: it fills the same gap
ADVANCE_BITS: Final = 0.1  # a number that advances
# A word of the text in a new place, and for each doubling of the vocabulary.
_KNOWN_BITS: Final = 1.0
_KNOWN_SLOPE: Final = 0.9
_VOCABULARY: Final = 16  # added to the words of the text so far
_NEW_BITS: Final = 5.0  # a new word, and for each letter, up to _MAX_NEW_LETTERS
_NEW_LETTER_BITS: Final = 2.0
_NEW_IDEOGRAPH_BITS: Final = 6.0
_MAX_NEW_LETTERS: Final = 12
_SYMBOL_BITS: Final = 3.0  # a token without letters
_BLANK_BITS: Final = 0.5  # white space
_DIGIT_BITS: Final = 2.2  # a digit of a number that neither stays nor advances
_MAX_DIGITS: Final = 4
# The share of its expected bits that a copied token counts, by the copies of its passage so far: a
# second version, a refrain or a parallel section is no loop yet.
_COPY_COUNTS: Final[tuple[float, ...]] = (0.0, 0.85, 1.0)
# Characters: text from further away is repeated on purpose more often.
_NEAR: Final = 300
LEAST_LIMIT: Final = 110.0  # of any form, in bits
_LOOK_AGAIN: Final = 1.15  # growth of the sum until the form is looked at again: it may change
_FIRST_UNSPACED: Final = "\u3040"

# The least bits of a word that no passage leads to.
LEAST_SURPRISE: Final = _KNOWN_BITS + _KNOWN_SLOPE * math.log2(_VOCABULARY)


def copied_bits(num_copied: int) -> float:
    """Return the bits of a token that matches, after `num_copied` tokens that did."""
    if num_copied < 3:
        return _COPIED_BITS[num_copied]
    return _COPIED_BITS[3]


def number_bits(num_digits: int) -> float:
    """Return the bits of a number that the ones before do not predict."""
    return _DIGIT_BITS * min(num_digits, _MAX_DIGITS)


def surprise_bits(token: Token, is_known: bool, num_known: int) -> float:
    """Return the bits of a token that no earlier passage leads to.

    Args:
        is_known: whether the token occurred before.
        num_known: different tokens in the text.
    """
    if token.weight < 1:
        if token.text.isspace():
            return _BLANK_BITS
        return _SYMBOL_BITS
    if is_known:
        return _KNOWN_BITS + _KNOWN_SLOPE * math.log2(num_known + _VOCABULARY)
    num_letters = len(token.key)
    if token.key[0] >= _FIRST_UNSPACED:
        return _NEW_BITS + _NEW_IDEOGRAPH_BITS * num_letters
    return _NEW_BITS + _NEW_LETTER_BITS * min(num_letters, _MAX_NEW_LETTERS)


def expected_bits(weight: float, num_copies: int, distance: int) -> float:
    """Return the bits that a token is expected to carry.

    Args:
        weight: its letters.
        num_copies: which copy of its passage it belongs to, from 0 for none.
        distance: characters between it and its original.
    """
    if num_copies >= 3:
        return EXPECTED_BITS * weight
    bits = EXPECTED_BITS * weight * _COPY_COUNTS[num_copies]
    if distance <= _NEAR:
        return bits
    return bits * _NEAR / distance


class Deficit:
    """The running sum of the bits that a text lacks.

    total: the sum. since: offset at which it was 0 last. origin: offset of the first passage copied
    since then. look_at: the sum above which the form of the text is looked at next.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.since = 0
        self.origin = 0
        self.look_at = LEAST_LIMIT

    def add(self, bits: float, start: int, end: int, source: int) -> None:
        """Add the bits that a token lacks.

        Args:
            bits: expected bits less carried bits; below 0 if it carries more than expected.
            start, end: offsets of the token.
            source: offset of its original.
        """
        if not self.total:
            self.since, self.origin = start, source
        self.total += bits
        if self.total <= 0:
            self.clear(end)

    def clear(self, at: int) -> None:
        """Start over at the offset `at`."""
        self.total = 0.0
        self.since = at
        self.look_at = LEAST_LIMIT

    def judge(self, limit: float) -> bool:
        """Return whether the sum is above the limit of the text's form."""
        self.look_at = _LOOK_AGAIN * self.total
        if self.total > limit:
            return True
        self.look_at = min(self.look_at, limit)
        return False
