"""The command `dedup filter`."""

import sys
from dataclasses import asdict
from typing import Any

import click

from dedup.cli.streams import Row, map_lines, quiet_pipe, report_line, text_of_stdin
from dedup.config import POLICIES, FilterConfig
from dedup.text.filter import RepetitionFilter
from dedup.text.segmenter import load_punkt


@click.command("filter")
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="balanced",
    show_default=True,
    help="How much is removed: nothing (off, watch), loops, also repeated sentences (balanced), "
    "also near-duplicates (strict).",
)
@click.option(
    "--on-loop",
    type=click.Choice(["cut", "skip"]),
    default="cut",
    show_default=True,
    help="At a loop: end the text (cut), or remove the loop and go on (skip).",
)
@click.option(
    "--jsonl", is_flag=True, help='Read and write JSON lines: one {"id", "text"} for each text.'
)
def filter_command(policy: Any, on_loop: Any, jsonl: bool) -> None:
    """Remove repetition from a text.

    Reads standard input, writes standard output. Exits with 1 if a line is invalid.

    \b
    dedup filter < answer.txt
    some-program | dedup filter                  # writes text as soon as it cannot be a repeat
    dedup filter --jsonl < answers.jsonl         # adds "loop" and "removed" to each line
    """
    config = FilterConfig(policy=policy, on_loop=on_loop)

    def filter_text(text: str) -> Row:
        text_filter = RepetitionFilter(config)
        out = text_filter.feed(text) + text_filter.flush()
        return {
            "text": out,
            "loop": asdict(text_filter.loop) if text_filter.loop else None,
            "removed": [asdict(removal) for removal in text_filter.removed],
        }

    if policy not in ("off", "loops"):
        load_punkt()
    with quiet_pipe():
        if jsonl:
            sys.exit(map_lines(filter_text))
        sys.exit(_filter_stream(RepetitionFilter(config)))


def _filter_stream(text_filter: RepetitionFilter) -> int:
    """Filter standard input as it comes; return the exit code."""
    failed = False
    for text, invalid_lines in text_of_stdin():
        for number in invalid_lines:
            report_line(number, "invalid UTF-8")
            failed = True
        if out := text_filter.feed(text):
            sys.stdout.buffer.write(out.encode())
            sys.stdout.buffer.flush()
    sys.stdout.buffer.write(text_filter.flush().encode())
    sys.stdout.buffer.flush()
    return int(failed)
