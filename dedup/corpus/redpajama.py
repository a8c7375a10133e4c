"""Repetition signals as RedPajama-v2 defines and names them.

Words are the text lower-cased, without ASCII punctuation, split at whitespace (NFD), in every
language. Source: togethercomputer/RedPajama-Data, core/quality_signals; Weber et al. 2024,
arXiv 2411.12372. Figures are not rounded; those published have eight decimals.
"""

import string
import unicodedata
from typing import Final

import numpy as np

from dedup.corpus.ngrams import (
    Hashes,
    Ints,
    lengthen,
    lengths_of,
    most_common,
    repeated,
    word_hashes,
)

_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_TOP: Final = (2, 3, 4)
_DUPLICATE: Final = (5, 6, 7, 8, 9, 10)
NAMES: Final = (
    "rps_doc_frac_unique_words",
    "rps_doc_unigram_entropy",
    *(f"rps_doc_frac_chars_top_{n}gram" for n in _TOP),
    *(f"rps_doc_frac_chars_dupe_{n}grams" for n in _DUPLICATE),
)


def normalized_words(text: str) -> list[str]:
    """Return RedPajama's normalized words of a text."""
    text = text.translate(_NO_PUNCTUATION).lower()
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
    return text.split()


def redpajama_signals(text: str) -> dict[str, float]:
    """Return RedPajama-v2's repetition signals of a text; 0 where it has too few words."""
    words = normalized_words(text)
    found = dict.fromkeys(NAMES, 0.0)
    if not words:
        return found
    hashes, lengths = word_hashes(words), lengths_of(words)
    chars = int(lengths.sum())
    counts = np.sort(_counts(hashes))  # hashes differ between processes, sums must not
    shares = counts / len(words)
    found["rps_doc_frac_unique_words"] = len(counts) / len(words)
    found["rps_doc_unigram_entropy"] = float(-(shares * np.log(shares)).sum())
    grams = hashes
    flags = np.ones(len(words), bool)  # n-grams that can be duplicates
    for n in range(2, min(_DUPLICATE[-1], len(words)) + 1):
        grams = lengthen(grams, hashes, n)
        candidates = np.flatnonzero(flags[: len(grams)] & flags[1 : len(grams) + 1])
        again = repeated(grams[candidates])
        if again is None:
            break
        positions = candidates[again]
        flags = np.zeros(len(words) + 1, bool)
        flags[positions] = True
        if n in _TOP:
            found[f"rps_doc_frac_chars_top_{n}gram"] = _top(grams[positions], positions, lengths, n)
        if n in _DUPLICATE:
            covered = _covered(positions, lengths, n)
            found[f"rps_doc_frac_chars_dupe_{n}grams"] = covered / chars
    return found


def _counts(hashes: Hashes) -> Ints:
    ordered = np.sort(hashes)
    edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return np.diff(np.concatenate(([0], edges, [len(ordered)])))


def _top(grams: Hashes, positions: Ints, lengths: Ints, n: int) -> float:
    """Return the share of characters of the most common n-gram, given those that repeat."""
    first, count = most_common(grams)
    start = positions[first]
    return float(lengths[start : start + n].sum() * count / lengths.sum())


def _covered(positions: Ints, lengths: Ints, n: int) -> int:
    """Return the characters of the words in n-grams at some positions. A word counts once."""
    steps = np.zeros(len(lengths) + 1, np.int64)
    steps[positions] += 1
    steps[positions + n] -= 1
    return int(lengths[np.cumsum(steps[:-1]) > 0].sum())
