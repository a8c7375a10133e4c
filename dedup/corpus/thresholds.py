"""Thresholds of signals, and the signals of a document that exceed them."""

from collections.abc import Iterable, Mapping
from typing import Final

from dedup.corpus.signals import NAMES, Signal

# Few legitimate documents reach these: what repeats in tables, forms and code does not count.
DEFAULT: Final[Mapping[str, float]] = {"loop_char_frac": 0.3, "dup_sentence_char_frac": 0.5}

# Rae et al. 2021, arXiv 2112.11446, table A1, for words of languages with spaces.
GOPHER: Final[Mapping[str, float]] = {
    "gopher_dup_line_frac": 0.3,
    "gopher_dup_line_char_frac": 0.2,
    "gopher_dup_para_frac": 0.3,
    "gopher_dup_para_char_frac": 0.2,
    "gopher_top_2_gram": 0.2,
    "gopher_top_3_gram": 0.18,
    "gopher_top_4_gram": 0.16,
    "gopher_duplicated_5_n_grams": 0.15,
    "gopher_duplicated_6_n_grams": 0.14,
    "gopher_duplicated_7_n_grams": 0.13,
    "gopher_duplicated_8_n_grams": 0.12,
    "gopher_duplicated_9_n_grams": 0.11,
    "gopher_duplicated_10_n_grams": 0.1,
}
_NOT_NUMBERS: Final = ("loop_kind", "loop_onset", "loop_period")


def check_thresholds(thresholds: Mapping[str, float]) -> None:
    """Check thresholds.

    Raises:
        ValueError: a name is no signal, or a value no positive number.
    """
    known = [name for name in NAMES if name not in _NOT_NUMBERS]
    for name, value in thresholds.items():
        if name not in known:
            raise ValueError(f"{name} is not a signal; signals: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"the threshold of {name} must be a number above 0, got {value!r}")


def exceeded(found: Mapping[str, Signal], thresholds: Mapping[str, float]) -> Iterable[str]:
    """Yield the names of the signals above their thresholds."""
    for name, most in thresholds.items():
        value = found[name]
        if isinstance(value, int | float) and value > most:
            yield name


def severity(found: Mapping[str, Signal], thresholds: Mapping[str, float]) -> float:
    """Return the greatest ratio of a signal to its threshold."""
    ratios = [
        value / most
        for name, most in thresholds.items()
        if isinstance(value := found[name], int | float)
    ]
    return max(ratios, default=0.0)
