"""Cycles: how much of a unit must be repeated to be a loop."""

import re
from typing import Final, NamedTuple

from dedup.text.form import Form, num_fences

# Letters that must be repeated, by the number of whole copies: two copies of a paragraph are as
# certain as ten of a word.
_NEEDED: Final[tuple[float, ...]] = (0.0, 0.0, 100.0, 70.0, 45.0, 45.0, 40.0)
_NEEDED_OF_MANY: Final = 33.0
_NEEDED_OF_SYMBOLS: Final = 45.0  # rules, leaders, padding; and at least _SYMBOL_COPIES
_SYMBOL_COPIES: Final = 8
_BANNER_COPIES: Final = 64  # of one emoji: a row of them may be a banner as wide as a page
# In code, tables, JSON and other data, where a wrong cut breaks what follows.
_LETTERS_IN_STRUCTURE: Final = 450.0
# For units of at least _BLOCK_LINES different lines: equal rows and literals are common, equal
# blocks are not.
_LETTERS_IN_BLOCKS: Final = 200.0
_BLOCK_LINES: Final = 3
# For a snippet in a response, where a wrong cut breaks less than in a file.
_LETTERS_IN_FENCE: Final = 150.0
_FENCED_COPIES: Final = 12
# For words without brackets or commas, so often in one line: arrays and rows have either.
_LETTERS_OF_WORDS: Final = 200.0
_WORD_COPIES: Final = 24
WORDS: Final = re.compile(r"(?=.* )(?:[^\W\d_]|[ .:;!?])+")
# For nucleotides: about 430 characters, as their twelve letters weigh little. Repeats in genes are
# seldom as long.
_LETTERS_OF_SEQUENCE: Final = 150.0
SEQUENCE: Final = re.compile("[ACGTUN]{2,}")
QUOTES: Final = re.compile("[\"']")  # of empty strings
_BLANK: Final = "____"  # of a form to be filled in
_COUNTERS_IN_STRUCTURE: Final = 2600.0
_ONE_LETTER_IN_STRUCTURE: Final = 1000.0  # base64 of zeros
_ROWS_OF_DIGITS: Final = 110.0  # a matrix of zeros
_DIGITS_IN_A_LINE: Final = 45.0  # so often as words: "1.1.1.1: 1.1.1.1: ", "(1/2) × (1/2) × "
_DIGITS_IN_STRUCTURE: Final = 250.0  # an array of equal numbers
_EMPTY_STRINGS: Final = 150.0
_SYMBOLS_IN_FENCE: Final = 75.0
_LETTERS_IN_SERIES: Final = 1000.0  # rows in which two numbers advance: a plan, a conversion
_NOTATION_FACTOR: Final = 2.0  # formulas repeat their terms
_STATEMENT_COPIES: Final = 8  # copies from which a whole equation needs no more than prose
_COUNTER_FACTOR: Final = 2.0  # a cycle in which numbers advance may be an enumeration
# The part of one more copy that must have begun, or else the copies before it may be all: a share
# of it, and at most so many characters.
_NEXT_BEGUN: Final = 0.15
_MAX_NEXT_BEGUN: Final = 60

LEAST_WEIGHT: Final = _NEEDED_OF_MANY


class Cycle(NamedTuple):
    """Copies of one unit at the end of a text.

    start, end: offsets where the first copy begins, and where the last one ends so far.
    period: characters of a copy.
    unit: one copy.
    weight: letters repeated.
    is_exact: True if the copies are equal; False if numbers advance.
    """

    start: int
    end: int
    period: int
    unit: str
    weight: float
    is_exact: bool

    @property
    def copies(self) -> int:
        return (self.end - self.start) // self.period

    @property
    def has_letters(self) -> bool:
        return any(map(str.isalpha, self.unit))

    @property
    def is_block(self) -> bool:
        """True if a copy has several different lines and no blank to fill in."""
        lines = {line.strip() for line in self.unit.split("\n") if any(map(str.isalpha, line))}
        return len(lines) >= _BLOCK_LINES and _BLANK not in self.unit

    @property
    def could_be_loop(self) -> bool:
        """True if it would be a loop in prose, which needs the least."""
        return self.is_loop("prose", False)

    def is_loop(self, form: Form, is_fenced: bool) -> bool:
        """Return whether the cycle is a loop in text of that form."""
        copies = (self.end - self.start) / self.period
        begun = least_begun(self.period) / self.period
        if not any(map(str.isalnum, self.unit)):
            may_be_banner = self.period <= 2 and not self.unit.isascii()
            num_needed = _BANNER_COPIES if may_be_banner else _SYMBOL_COPIES
            return copies >= num_needed and self.weight >= self._needed_of_symbols(is_fenced)
        is_statement = "=" in self.unit and copies >= _STATEMENT_COPIES
        if not (self.has_letters or self.unit.isdigit() or is_statement):
            is_line = copies >= _WORD_COPIES and "\n" not in self.unit
            if self.weight < (_DIGITS_IN_A_LINE if is_line else _ROWS_OF_DIGITS):
                return False
        if form in ("code", "data") and num_fences(self.unit) < 2:  # whole blocks are no code's own
            return copies >= 3 + begun and self.weight >= self._needed_in_structure(is_fenced)
        if form == "series":
            return self.weight >= _LETTERS_IN_SERIES
        if form == "prose":
            least_copies, needed = 2 + begun, needed_weight(copies)
        else:
            least_copies, needed = 3 + begun, needed_weight(copies)
            if not is_statement:
                needed *= _NOTATION_FACTOR
        if not self.is_exact:
            least_copies, needed = 3 + begun, _COUNTER_FACTOR * needed
        return copies >= least_copies and self.weight >= needed

    def _needed_of_symbols(self, is_fenced: bool) -> float:
        if num_fences(self.unit):
            return _NEEDED_OF_MANY
        if QUOTES.search(self.unit):
            return _EMPTY_STRINGS
        return _SYMBOLS_IN_FENCE if is_fenced else _NEEDED_OF_SYMBOLS

    def _needed_in_structure(self, is_fenced: bool) -> float:
        if not self.has_letters:
            if self.is_exact:
                return _DIGITS_IN_STRUCTURE
            return _ROWS_OF_DIGITS
        if not self.is_exact:
            return _COUNTERS_IN_STRUCTURE
        if self.period == 1:
            return _ONE_LETTER_IN_STRUCTURE
        if SEQUENCE.fullmatch(self.unit):
            return _LETTERS_OF_SEQUENCE
        if is_fenced and self.copies >= _FENCED_COPIES:
            return _LETTERS_IN_FENCE
        if self.copies >= _WORD_COPIES and WORDS.fullmatch(self.unit):
            return _LETTERS_OF_WORDS
        return _LETTERS_IN_BLOCKS if self.is_block else _LETTERS_IN_STRUCTURE


def needed_weight(copies: float) -> float:
    """Return the letters that so many copies of prose must repeat to be a loop."""
    whole = int(copies)
    if whole < len(_NEEDED):
        return _NEEDED[whole]
    return _NEEDED_OF_MANY


def least_begun(period: int) -> float:
    """Return the characters of one more copy that must have begun."""
    return min(_NEXT_BEGUN * period, _MAX_NEXT_BEGUN)


def period_of(unit: str) -> int:
    """Return the shortest period of `unit`: tokens may be cut so that it holds several copies."""
    return (unit + unit).find(unit, 1)
