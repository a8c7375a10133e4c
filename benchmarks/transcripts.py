"""Count what `clean_segments` removes of made-up transcripts and of spoken ones, beside Whisper's own threshold.

    python benchmarks/transcripts.py [--misses]

Whisper decodes a window of 30 seconds again if its text compresses by more than 2.4 (`compression_ratio_threshold`).
A made-up transcript counts as found where two thirds of what was made up are flagged; a spoken one as changed where
anything is.
"""

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from dedup.transcripts import Dropped, clean_segments
from tests.transcripts_corpus import (
    HALLUCINATED,
    HALLUCINATED_HELD_BACK,
    SPOKEN,
    SPOKEN_HELD_BACK,
    Line,
    Transcript,
)

_THRESHOLD = 2.4
_WINDOW_SECONDS = 30.0


def ratio(text: str) -> float:
    """Return Whisper's compression ratio of a text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def by_segment(lines: list[Line]) -> set[int]:
    """Return the segments whose own text compresses too well."""
    return {number for number, line in enumerate(lines) if ratio(line[2]) > _THRESHOLD}


def by_window(lines: list[Line]) -> set[int]:
    """Return the segments of all windows whose text compresses too well."""
    flagged: set[int] = set()
    first = 0
    for number, (_, end, _) in enumerate(lines):
        while first < number and lines[first][0] < end - _WINDOW_SECONDS:
            first += 1
        window = range(first, number + 1)
        if ratio(" ".join(lines[one][2] for one in window)) > _THRESHOLD:
            flagged.update(window)
    return flagged


def is_flagged(transcript: Transcript, flag: Callable[[list[Line]], set[int]]) -> bool:
    """Return whether two thirds of what was made up are flagged; of a spoken one, anything."""
    flagged = flag(transcript.lines)
    if not transcript.made_up:
        return bool(flagged)
    lines = enumerate(transcript.lines)
    made_up = {n for n, line in lines if any(text in line[2] for text in transcript.made_up)}
    return len(flagged & made_up) >= 2 / 3 * len(made_up)


def is_cleaned(transcript: Transcript) -> bool:
    """Return whether what was made up is gone but for 3 copies, and nothing else; of a spoken one, whether anything is."""
    dropped: list[Dropped] = []
    kept = list(clean_segments(transcript.segments, dropped))
    if not transcript.made_up:
        return bool(dropped) or kept != transcript.segments
    text = " ".join(segment["text"] for segment in kept)
    for made_up in transcript.made_up:
        copies = text.count(made_up)
        if copies > 3 and copies * len(made_up) > 24:
            return False
    others = [
        segment
        for segment in transcript.segments
        if not any(made_up in segment["text"] for made_up in transcript.made_up)
    ]
    return all(segment in kept for segment in others)


@click.command(help=__doc__)
@click.option("--misses", is_flag=True, help="Name the transcripts that are judged wrong.")
def main(misses: bool) -> None:
    rows: list[tuple[str, Callable[[Transcript], bool]]] = [
        ("clean_segments", is_cleaned),
        ("compression ratio, a segment", lambda one: is_flagged(one, by_segment)),
        ("compression ratio, 30 seconds", lambda one: is_flagged(one, by_window)),
    ]
    halves = [
        ("first half", HALLUCINATED, SPOKEN),
        ("second half", HALLUCINATED_HELD_BACK, SPOKEN_HELD_BACK),
    ]
    for half, hallucinated, spoken in halves:
        for name, judge in rows:
            missed = [one.name for one in hallucinated if not judge(one)]
            changed = [one.name for one in spoken if judge(one)]
            found = len(hallucinated) - len(missed)
            print(f"{half:12} {name:30} {found}/{len(hallucinated)} {len(changed)}/{len(spoken)}")
            if misses:
                print(*[f"    missed: {one}" for one in missed], sep="\n")
                print(*[f"    changed: {one}" for one in changed], sep="\n")


if __name__ == "__main__":
    main()
