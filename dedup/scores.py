"""How much texts repeat themselves, in a line each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from dedup.config import FilterConfig
from dedup.terminal import fit, width
from dedup.text.filter import RepetitionFilter
from dedup.text.loops.detector import LoopEvent
from dedup.text.metrics import repetition_metrics

_LOOPS_ONLY = FilterConfig(policy="loops")
_MOST_NAME_COLUMNS = 40
_COLUMNS = {"rep-4": 7, "distinct-2": 10, "dup. sentences": 14, "loop": 6, "onset": 8, "chars": 9}
_MUCH, _SOME = 0.5, 0.2  # repeated 4-grams


@dataclass(frozen=True, slots=True)
class Score:
    """loop: the first one that the filter would cut at."""

    chars: int
    rep_4: float
    distinct_2: float
    duplicate_sentences: float
    loop: LoopEvent | None


def score(text: str) -> Score:
    numbers = repetition_metrics(text)
    found = RepetitionFilter(_LOOPS_ONLY)
    found.feed(text)
    found.flush()
    return Score(
        len(text),
        numbers["rep_4"],
        numbers["distinct_2"],
        numbers["duplicate_sentences"],
        found.loop,
    )


def table(scores: Sequence[tuple[str, Score]]) -> Iterator[str]:
    """Lines: names and scores, the worst first, then all together: means, looping texts, characters. Names must be printable."""
    columns = min(
        _MOST_NAME_COLUMNS,
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
        numbers = f"{one.rep_4:.3f}", f"{one.distinct_2:.3f}", f"{one.duplicate_sentences:.3f}"
        colour = (
            "red" if one.loop or one.rep_4 >= _MUCH else "yellow" if one.rep_4 >= _SOME else None
        )
        yield click.style(line(name, *numbers, *loop, f"{one.chars:,}"), fg=colour)
    if len(scores) > 1:
        all_scores = [one for _, one in scores]
        shares = (
            f"{sum(values) / len(scores):.3f}"
            for values in zip(
                *((one.rep_4, one.distinct_2, one.duplicate_sentences) for one in all_scores),
                strict=True,
            )
        )
        loops = f"{sum(one.loop is not None for one in all_scores)}"
        yield click.style(
            line(
                _total_name(scores), *shares, loops, "", f"{sum(one.chars for one in all_scores):,}"
            ),
            bold=True,
        )


def _badness(row: tuple[str, Score]) -> tuple[bool, float, float]:
    _, one = row
    return one.loop is not None, one.rep_4, one.duplicate_sentences


def _total_name(scores: Sequence[tuple[str, Score]]) -> str:
    return f"all {len(scores)}: means, loops"
