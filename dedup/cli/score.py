"""`dedup score`."""

import sys
from pathlib import Path

import click
from tqdm import tqdm

from dedup.cli.streams import complain, decode, each_line, quiet_pipe
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
    help='Standard input: {"id", "text"} a line; answered with a line of all numbers each.',
)
def score(files: tuple[str, ...], jsonl: bool) -> None:
    """Says how much texts repeat themselves: a table, the worst first.

    A file is a text, or JSON lines {"id", "text"}: then each line is one. Without files, standard input.

    \b
    dedup score answer.txt another.txt
    dedup score answers.jsonl
    dedup score --jsonl < answers.jsonl          # {"id", "rep_4", "diversity", ...} a line
    """
    if jsonl and files:
        raise click.UsageError("--jsonl reads standard input, not files")
    with quiet_pipe():
        sys.exit(each_line(repetition_metrics) if jsonl else _print_scores(files or ("-",)))


def _print_scores(files: tuple[str, ...]) -> int:
    rows: list[tuple[str, str]] = []
    failed = False
    for file in files:
        try:
            data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror or error}") from None
        found, all_right = _texts_in(data, file, f"{one_line(file)}: " if len(files) > 1 else "")
        rows += found
        failed = failed or not all_right
    progress = tqdm(rows, unit=" texts", disable=not sys.stderr.isatty(), desc="dedup", leave=False)
    for line in table([(one_line(name), score_of(text)) for name, text in progress]):
        click.echo(line)
    return int(failed)


def _texts_in(data: bytes, file: str, where: str) -> tuple[list[tuple[str, str]], bool]:
    """Names and texts in a file: JSON lines if it is called so or begins as such, else one text. And whether all of it was right.

    where: stands before what is said of a line and before the id of a text.
    """
    lines = data.split(b"\n")
    if file.endswith(".jsonl") or _is_row(next(filter(bytes.strip, lines), b"")):
        rows, all_right = [], True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = decode(line)
            except ValueError as error:
                complain(number, str(error), where)
                all_right = False
            else:
                name = row.get("id")
                rows.append(
                    (where + (f"line {number}" if name is None else str(name)), row["text"])
                )
        return rows, all_right
    try:
        text, all_right = data.decode(), True
    except UnicodeDecodeError as error:
        complain(data.count(b"\n", 0, error.start) + 1, "invalid UTF-8", where)
        text, all_right = data.decode("utf-8", "replace"), False
    return [("standard input" if file == "-" else file, text)], all_right


def _is_row(line: bytes) -> bool:
    try:
        decode(line)
    except ValueError:
        return False
    return True
