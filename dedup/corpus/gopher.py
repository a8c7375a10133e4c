"""Repetition signals of Gopher as datatrove's `GopherRepetitionFilter` computes them.

With datatrove's words for a language the figures are the same. Source: Rae et al. 2021,
arXiv 2112.11446, table A1.
"""

import re
from collections.abc import Sequence
from typing import Final

from dedup.corpus.ngrams import (
    Ints,
    JoinedHashes,
    lengthen,
    lengths_of,
    most_common,
    repeated,
    word_hashes,
)
from dedup.text.words import UNSPACED

_TOP: Final = (2, 3, 4)
_DUPLICATE: Final = (5, 6, 7, 8, 9, 10)
_WORD: Final = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
NAMES: Final = (
    "gopher_dup_line_frac",
    "gopher_dup_line_char_frac",
    "gopher_dup_para_frac",
    "gopher_dup_para_char_frac",
    *(f"gopher_top_{n}_gram" for n in _TOP),
    *(f"gopher_duplicated_{n}_n_grams" for n in _DUPLICATE),
)


def gopher_words(text: str) -> list[str]:
    """Return words and signs of punctuation; in Chinese and Japanese each character is a word."""
    return _WORD.findall(text)


def gopher_signals(text: str, words: Sequence[str] | None = None) -> dict[str, float]:
    """Return Gopher's repetition signals of a text.

    Args:
        text: the text.
        words: its words, such as datatrove's; by default `gopher_words`.
    """
    if not text:
        return dict.fromkeys(NAMES, 0.0)
    if words is None:
        words = gopher_words(text)
    found = {}
    for name, items in (("line", _lines(text)), ("para", _paragraphs(text))):
        once = set(items)
        found[f"gopher_dup_{name}_frac"] = (len(items) - len(once)) / len(items)
        chars = 0
        if len(once) < len(items):
            chars = sum(map(len, items)) - sum(map(len, once))
        found[f"gopher_dup_{name}_char_frac"] = chars / len(text)
    lengths = lengths_of(words)
    found |= _top_ngrams(words, lengths, len(text))
    found |= _duplicate_ngrams(words, lengths, len(text))
    return found


def _lines(text: str) -> list[str]:
    """Split a text at each run of newlines."""
    items = [item for item in text.split("\n") if item]
    if text[0] == "\n":
        items.insert(0, "")
    if text[-1] == "\n":
        items.append("")
    return items


def _paragraphs(text: str) -> list[str]:
    """Split a text, without white space around it, at each run of two and more newlines."""
    stripped = text.strip()
    return [item for part in stripped.split("\n\n") if (item := part.lstrip("\n"))] or [stripped]


def _top_ngrams(words: Sequence[str], lengths: Ints, chars: int) -> dict[str, float]:
    hashes = word_hashes(words)
    grams = hashes
    found = {}
    for n in range(2, _TOP[-1] + 1):
        share = 0.0
        if len(words) >= n:
            grams = lengthen(grams, hashes, n)
            first, count = most_common(grams)
            share = int(lengths[first : first + n].sum() + n - 1) * count / chars
        found[f"gopher_top_{n}_gram"] = share
    return found


def _duplicate_ngrams(words: Sequence[str], lengths: Ints, chars: int) -> dict[str, float]:
    joined = JoinedHashes(words, lengths)
    found = {}
    for n in _DUPLICATE:
        covered = 0
        if len(words) > n:
            hashes = joined.ngrams(n)
            again = repeated(hashes)
            if again is not None:
                positions = again.nonzero()[0]
                sizes = joined.bounds[positions + n] - joined.bounds[positions]
                covered = _covered(
                    positions.tolist(), hashes[positions].tolist(), sizes.tolist(), n
                )
        found[f"gopher_duplicated_{n}_n_grams"] = covered / chars
    return found


def _covered(positions: list[int], grams: list[int], sizes: list[int], n: int) -> int:
    """Return the characters of n-grams that occurred before. After one, its n words are passed.

    Args:
        positions: first words of the n-grams that occur more than once; others change nothing.
        grams: their hashes.
        sizes: their characters.
        n: words of an n-gram.
    """
    seen: set[int] = set()
    covered = until = 0
    for at, gram, size in zip(positions, grams, sizes, strict=True):
        if at < until:
            continue
        if gram in seen:
            covered += size
            until = at + n
        else:
            seen.add(gram)
    return covered
