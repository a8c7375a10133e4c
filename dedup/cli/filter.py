"""`dedup filter`."""

import sys
from dataclasses import asdict
from typing import Any

import click

from dedup.cli.streams import Row, complain, each_line, quiet_pipe, text_of_stdin
from dedup.config import POLICIES, FilterConfig
from dedup.text.filter import RepetitionFilter
from dedup.text.segmenter import load_punkt


@click.command("filter")
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="balanced",
    show_default=True,
    help="What is removed.",
)
@click.option(
    "--on-loop",
    type=click.Choice(["cut", "skip"]),
    default="cut",
    show_default=True,
    help="At a loop: end the text, or drop the looping stretch and go on.",
)
@click.option("--jsonl", is_flag=True, help='One JSON object a line, {"id", "text"}, in and out.')
def filter_command(policy: Any, on_loop: Any, jsonl: bool) -> None:
    """Takes repetition out of a text: standard input to standard output.

    \b
    dedup filter < answer.txt
    some-program | dedup filter                  # as it comes, no waiting for the end
    dedup filter --jsonl < answers.jsonl         # {"id", "text"} to {"id", "text", "loop", "removed"}
    """
    config = FilterConfig(policy=policy, on_loop=on_loop)

    def filtered(text: str) -> Row:
        done = RepetitionFilter(config)
        out = done.feed(text) + done.flush()
        return {
            "text": out,
            "loop": asdict(done.loop) if done.loop else None,
            "removed": [asdict(span) for span in done.removed],
        }

    if policy not in ("off", "loops"):
        load_punkt()
    with quiet_pipe():
        sys.exit(each_line(filtered) if jsonl else _stream(RepetitionFilter(config)))


def _stream(repetition_filter: RepetitionFilter) -> int:
    failed = False
    for text, wrong in text_of_stdin():
        for number in wrong:
            complain(number, "invalid UTF-8")
            failed = True
        if out := repetition_filter.feed(text):
            sys.stdout.buffer.write(out.encode())
            sys.stdout.buffer.flush()
    sys.stdout.buffer.write(repetition_filter.flush().encode())
    sys.stdout.buffer.flush()
    return int(failed)
