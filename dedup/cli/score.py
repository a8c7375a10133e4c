"""The command `dedup score`."""

import sys
from collections.abc import Callable
from pathlib import Path

import click
from tqdm import tqdm

from dedup.answer.agent_loops import find_loop
from dedup.cli.streams import (
    Row,
    decode_row,
    decode_transcript,
    map_rows,
    quiet_pipe,
    report_line,
)
from dedup.scores import score as score_of
from dedup.scores import table
from dedup.terminal import one_line
from dedup.text.metrics import repetition_metrics


@click.command()
@click.argument(
    "files",
    nargs=-1,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="[FILE]...",
)
@click.option(
    "--jsonl",
    is_flag=True,
    help='Read JSON lines {"id", "text"}; write all metrics of each.',
)
@click.option(
    "--agents",
    is_flag=True,
    help='Read transcripts of agents, JSON lines {"id", "messages"} or {"id", "input"}; write the'
    " loop that each ends in.",
)
@click.option(
    "--repeatable",
    multiple=True,
    metavar="TOOL",
    help="With --agents: a tool that is meant to be called again and again. May be repeated.",
)
def score(files: tuple[str, ...], jsonl: bool, agents: bool, repeatable: tuple[str, ...]) -> None:
    """Measure how much texts repeat themselves.

    Prints a table, the worst text first.

    A FILE is one text, or JSON lines {"id", "text"}, one text a line. Without files, reads standard
    input. Exits with 1 if a line is invalid.

    \b
    dedup score answer.txt another.txt
    dedup score answers.jsonl
    dedup score --jsonl answers.jsonl            # one {"id", "rep_4", "diversity", ...} a line
    dedup score --agents transcripts.jsonl       # one {"id", "loop"} a line
    """
    if jsonl and agents:
        raise click.UsageError("--jsonl and --agents: give one or the other")
    if repeatable and not agents:
        raise click.UsageError("--repeatable requires --agents")

    def loop_of(row: Row) -> Row:
        messages = row["messages"] if "messages" in row else row["input"]
        found = find_loop(messages, repeatable=repeatable)
        return {"loop": found.report() if found is not None else None}

    files = files or ("-",)
    with quiet_pipe():
        if agents:
            sys.exit(_print_rows(files, decode_transcript, loop_of, "transcripts"))
        if jsonl:
            sys.exit(_print_rows(files, decode_row, _metrics_of, "texts"))
        sys.exit(_print_scores(files))


def _metrics_of(row: Row) -> Row:
    return dict(repetition_metrics(row["text"]))


def _print_rows(
    files: tuple[str, ...],
    decode: Callable[[bytes], Row],
    function: Callable[[Row], Row],
    unit: str,
) -> int:
    """Print what a function makes of each row in `files`; return the exit code."""
    code = 0
    for file in files:
        try:
            with click.open_file(file, "rb") as lines:
                code |= map_rows(lines, decode, function, unit)
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror or error}") from None
    return code


def _print_scores(files: tuple[str, ...]) -> int:
    """Print the table of the texts in `files`; return the exit code."""
    rows: list[tuple[str, str]] = []
    is_valid = True
    for file in files:
        try:
            data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror or error}") from None
        prefix = ""
        if len(files) > 1:
            prefix = f"{one_line(file)}: "
        found, found_valid = _texts_in(data, file, prefix)
        rows += found
        is_valid = is_valid and found_valid
    progress = tqdm(rows, unit=" texts", disable=not sys.stderr.isatty(), desc="dedup", leave=False)
    for line in table([(one_line(name), score_of(text)) for name, text in progress]):
        click.echo(line)
    return int(not is_valid)


def _texts_in(data: bytes, file: str, prefix: str) -> tuple[list[tuple[str, str]], bool]:
    """Return the names and texts in a file, and whether all of it is valid.

    A file is JSON lines if its name ends so or its first line is one; otherwise it is one text.

    Args:
        prefix: precedes error messages and the ids of texts.
    """
    lines = data.split(b"\n")
    if file.endswith(".jsonl") or _is_row(next(filter(bytes.strip, lines), b"")):
        return _rows_of(lines, prefix)
    is_valid = True
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        report_line(data.count(b"\n", 0, error.start) + 1, "invalid UTF-8", prefix)
        text, is_valid = data.decode("utf-8", "replace"), False
    return [("standard input" if file == "-" else file, text)], is_valid


def _rows_of(lines: list[bytes], prefix: str) -> tuple[list[tuple[str, str]], bool]:
    """Return the names and texts in JSON lines, and whether all lines are valid."""
    rows, is_valid = [], True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = decode_row(line)
        except ValueError as error:
            report_line(number, str(error), prefix)
            is_valid = False
            continue
        name = row.get("id")
        if name is None:
            name = f"line {number}"
        rows.append((f"{prefix}{name}", row["text"]))
    return rows, is_valid


def _is_row(line: bytes) -> bool:
    """Return whether a line is a JSON object with a text."""
    try:
        decode_row(line)
    except ValueError:
        return False
    return True
