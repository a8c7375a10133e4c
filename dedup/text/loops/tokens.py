"""Tokens of the loop scanner.

A token is a word or two characters of an unspaced script, with the symbols after it, or a run of
symbols. Token boundaries do not depend on how a text is cut into deltas.
"""

import re
from typing import Final

from dedup.text.numerals import number_in_words
from dedup.text.words import UNSPACED, fold

_TOKEN: Final = re.compile(
    rf"(?:[{UNSPACED}]{{1,2}}|[A-Z]?[^\W_{UNSPACED}A-Z]{{1,12}}|[A-Z]{{1,12}})[\W_]{{0,3}}"
    r"|\n{1,8}(?:[^\w\n]|_){0,8}|(?:[^\w\n]|_){1,8}"
)
# The same in ASCII, where every symbol is of one of these kinds.
_LOWER: Final = 0  # and digits
_UPPER: Final = 1
_NEWLINE: Final = 2
_OTHER: Final = 3


def _kind_of(symbol: str) -> int:
    if symbol.islower() or symbol.isdigit():
        return _LOWER
    if symbol.isupper():
        return _UPPER
    if symbol == "\n":
        return _NEWLINE
    return _OTHER


_KINDS: Final = bytes([_kind_of(chr(code)) for code in range(256)])
_NUMBER: Final = re.compile(r"\d+")
_DIGITS_COMPARED: Final = 15
_IN_WORDS: Final = "0 in words"
_FIRST_UNSPACED: Final = "\u3040"
# A word with fewer letters has its full weight; "aaaaaaaaaaaa" and "hahahahahaha" have less.
_FEW_LETTERS: Final = 6

# Weights: the information that a character is expected to carry, in letters of a spaced script.
_IDEOGRAPH_WEIGHT: Final = 2.6
_DIGIT_WEIGHT: Final = 0.4
_SAME_DIGIT_WEIGHT: Final = 0.3  # zeros come in rows
_SYMBOL_WEIGHT: Final = 0.12
_WIDE_SYMBOL_WEIGHT: Final = 0.25  # outside ASCII
_FIRST_EMOJI: Final = "\U0001f000"
_MONOTONE: Final = 0.35  # share of its weight that a word of few different letters has


class Token:
    """A token with the forms of it that are compared.

    text: as written.
    key: its letters and digits, with case and width folded. If it has none, its symbols; of blanks
        alone, one.
    folded: the key with every number as 0; the same for all numbers in words.
    number: its first number; -1 if it has none.
    num_digits: digits of that number.
    weight: the information that it is expected to carry, in letters.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        word = text if text.isalnum() else "".join(filter(str.isalnum, text))
        self.key = fold(word) if word else "".join(text.split()) or text[0]
        self.number, self.num_digits, self.folded = -1, 0, self.key
        if found := _NUMBER.search(self.key):
            digits = found.group()
            self.number, self.num_digits = int(digits[:_DIGITS_COMPARED]), len(digits)
            self.folded = _NUMBER.sub("0", self.key)
        elif word and (number := number_in_words(word, self.key)) >= 0:
            self.number, self.num_digits, self.folded = number, 1, _IN_WORDS
        self.weight = _weight(text, self.key if word else "")


def tokenize(text: str) -> list[str]:
    """Cut `text` into tokens. The last one may be incomplete."""
    if text.isascii():
        return _ascii_tokens(text)
    return _TOKEN.findall(text)


_TOKENS: Final[dict[str, Token]] = {}  # shared by all detectors; bounded
_MAX_TOKENS: Final = 1 << 14


def token_of(text: str) -> Token:
    """Return the token of `text`, from a cache."""
    token = _TOKENS.get(text)
    if token is None:
        if len(_TOKENS) >= _MAX_TOKENS:
            _TOKENS.clear()
        token = _TOKENS[text] = Token(text)
    return token


def _weight(text: str, word: str) -> float:
    """Return the weight of a token. word: its letters and digits."""
    num_symbols = sum(1 for char in text if not char.isalnum())
    weight = num_symbols * _SYMBOL_WEIGHT
    if num_symbols and not text.isascii():
        num_wide = sum(1 for char in text if char > "\x7f" and not char.isalnum())
        weight += num_wide * (_WIDE_SYMBOL_WEIGHT - _SYMBOL_WEIGHT)
        weight += sum(
            1 - _WIDE_SYMBOL_WEIGHT for char in text if char >= _FIRST_EMOJI and not char.isalnum()
        )
    num_digits = sum(map(str.isdigit, word))
    if num_digits:
        weight += num_digits * (_SAME_DIGIT_WEIGHT if len(set(word)) == 1 else _DIGIT_WEIGHT)
    num_letters = len(word) - num_digits
    if num_letters:
        if word[0] >= _FIRST_UNSPACED:
            weight += _IDEOGRAPH_WEIGHT * (len(set(word)) if num_letters == 2 else num_letters)
        elif num_letters >= _FEW_LETTERS and 2 * len(set(word)) < num_letters:
            weight += _MONOTONE * num_letters
        else:
            weight += num_letters
    return weight


def _ascii_tokens(text: str) -> list[str]:
    """Return `_TOKEN.findall(text)` of ASCII text, at a quarter of the cost."""
    kinds = text.encode().translate(_KINDS)
    end = len(kinds)
    tokens: list[str] = []
    at = 0
    while at < end:
        start = at
        kind = kinds[at]
        if kind <= _UPPER:
            if kind == _UPPER and at + 1 < end and kinds[at + 1] == _LOWER:  # a word with a capital
                at += 1
                kind = _LOWER
            at = _run_end(kinds, at, min(end, at + 12), kind)
            at = _symbols_end(kinds, at, min(end, at + 3), _NEWLINE)
        else:
            if kind == _NEWLINE:
                at = _run_end(kinds, at, min(end, at + 8), _NEWLINE)
            at = _symbols_end(kinds, at, min(end, at + 8), _OTHER)
        tokens.append(text[start:at])
    return tokens


def _run_end(kinds: bytes, at: int, stop: int, kind: int) -> int:
    """Return the index after the run of `kind` at `at`."""
    while at < stop and kinds[at] == kind:
        at += 1
    return at


def _symbols_end(kinds: bytes, at: int, stop: int, least: int) -> int:
    """Return the index after the run of kinds of at least `least` at `at`."""
    while at < stop and kinds[at] >= least:
        at += 1
    return at
