"""Repetition scores of texts, and their table for the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from dedup.config import FilterConfig
from dedup.terminal import fit, width
from dedup.text.filter import RepetitionFilter
from dedup.text.loops.detector import LoopEvent
from dedup.text.metrics import repetition_metrics

_LOOPS_ONLY = FilterConfig(policy="loops")
_MAX_NAME_COLUMNS = 40
_COLUMNS = {"rep-4": 7, "distinct-2": 10, "dup. sentences": 14, "loop": 6, "onset": 8, "chars": 9}
_RED_FROM, _YELLOW_FROM = 0.5, 0.2  # rep-4


@dataclass(frozen=True, slots=True)
class Score:
    """Repetition of one text.

    Attributes:
        chars: Length in characters.
        rep_4: Share of 4-grams that occurred before, 0 to 1.
        distinct_2: Share of distinct 2-grams, 0 to 1.
        duplicate_sentences: Share of sentences that occurred before, 0 to 1.
        loop: First loop that the filter would cut at.
    """

    chars: int
    rep_4: float
    distinct_2: float
    duplicate_sentences: float
    loop: LoopEvent | None


def score(text: str) -> Score:
    """Return the score of a text."""
    numbers = repetition_metrics(text)
    loop_filter = RepetitionFilter(_LOOPS_ONLY)
    loop_filter.feed(text)
    loop_filter.flush()
    return Score(
        len(text),
        numbers["rep_4"],
        numbers["distinct_2"],
        numbers["duplicate_sentences"],
        loop_filter.loop,
    )


def table(scores: Sequence[tuple[str, Score]]) -> Iterator[str]:
    """Yield the lines of a table: a header, the texts from worst to best, and the totals.

    Args:
        scores: Names, which must be printable, and scores.
    """
    columns = min(
        _MAX_NAME_COLUMNS,
        max(map(width, ["text", _total_name(scores), *(name for name, _ in scores)])),
    )

    def line(name: str, *cells: str) -> str:
        sized = (
            fit(cell, size, right=True) for cell, size in zip(cells, _COLUMNS.values(), strict=True)
        )
        return f"{fit(name, columns)} {' '.join(sized)}"

    yield click.style(line("text", *_COLUMNS), bold=True)
    for name, one in sorted(scores, key=_badness, reverse=True):
        loop = (one.loop.kind, str(one.loop.onset)) if one.loop else ("-", "-")
        shares = (f"{share:.3f}" for share in _shares(one))
        yield click.style(line(name, *shares, *loop, f"{one.chars:,}"), fg=_colour(one))
    if len(scores) > 1:
        all_scores = [one for _, one in scores]
        columns_of_shares = zip(*map(_shares, all_scores), strict=True)
        means = (f"{sum(values) / len(scores):.3f}" for values in columns_of_shares)
        num_loops = sum(one.loop is not None for one in all_scores)
        num_chars = sum(one.chars for one in all_scores)
        total = line(_total_name(scores), *means, str(num_loops), "", f"{num_chars:,}")
        yield click.style(total, bold=True)


def _shares(one: Score) -> tuple[float, float, float]:
    return one.rep_4, one.distinct_2, one.duplicate_sentences


def _colour(one: Score) -> str | None:
    if one.loop or one.rep_4 >= _RED_FROM:
        return "red"
    return "yellow" if one.rep_4 >= _YELLOW_FROM else None


def _badness(row: tuple[str, Score]) -> tuple[bool, float, float]:
    _, one = row
    return one.loop is not None, one.rep_4, one.duplicate_sentences


def _total_name(scores: Sequence[tuple[str, Score]]) -> str:
    return f"all {len(scores)}: means, loops"
