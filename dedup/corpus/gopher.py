"""Repetition signals of Gopher as datatrove's `GopherRepetitionFilter` computes them.

With datatrove's words for a language the figures are the same. Source: Rae et al. 2021,
arXiv 2112.11446, table A1.
"""

import re
from collections.abc import Sequence
from typing import Final

from dedup.corpus.ngrams import JoinedHashes, lengthen, lengths_of, most_common, repeated
from dedup.corpus.ngrams import word_hashes as hashes_of
from dedup.text.words import UNSPACED

_TOP: Final = (2, 3, 4)
_DUPLICATE: Final = (5, 6, 7, 8, 9, 10)
_WORD: Final = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
_LINES: Final = re.compile(r"\n+")
_PARAGRAPHS: Final = re.compile(r"\n{2,}")
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
    for name, items in (
        ("line", _LINES.split(text)),
        ("para", _PARAGRAPHS.split(text.strip())),
    ):
        once = set(items)
        found[f"gopher_dup_{name}_frac"] = (len(items) - len(once)) / len(items)
        chars = 0
        if len(once) < len(items):
            chars = sum(map(len, items)) - sum(map(len, once))
        found[f"gopher_dup_{name}_char_frac"] = chars / len(text)
    found |= _top_ngrams(words, len(text))
    found |= _duplicate_ngrams(words, len(text))
    return found


def _top_ngrams(words: Sequence[str], chars: int) -> dict[str, float]:
    hashes, lengths = hashes_of(words), lengths_of(words)
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


def _duplicate_ngrams(words: Sequence[str], chars: int) -> dict[str, float]:
    joined = JoinedHashes(words, lengths_of(words))
    bounds = joined.bounds
    found = {}
    for n in _DUPLICATE:
        name = f"gopher_duplicated_{n}_n_grams"
        found[name] = 0.0
        if len(words) < n:
            continue
        hashes = joined.ngrams(n)
        again = repeated(hashes)
        if again is None:
            continue
        positions = again.nonzero()[0]
        sizes = bounds[positions + n] - bounds[positions]
        seen: set[int] = set()
        covered = until = 0
        for at, key, size in zip(
            positions.tolist(), hashes[positions].tolist(), sizes.tolist(), strict=True
        ):
            if at < until:
                continue
            if key in seen:
                covered += size
                until = at + n
            else:
                seen.add(key)
        found[name] = covered / chars
    return found
