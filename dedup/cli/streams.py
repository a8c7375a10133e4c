"""Standard input and output of the commands: streamed text, JSON lines, broken pipes."""

import codecs
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
import msgspec
from tqdm import tqdm

_READ_BYTES = 64 * 1024
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, under surrogateescape

Row = dict[str, Any]


class quiet_pipe:  # noqa: N801 - used as a statement
    """The context of a command that writes to standard output.

    A pipe that its reader closes (`| head`) ends the command without an error. Other errors of the
    operating system are reported in one line.
    """

    def __enter__(self) -> None:
        """Check that standard input and output are open.

        Raises:
            click.ClickException: one is not.
        """
        for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
            if stream is None:  # the shell closed it: `<&-`
                raise click.ClickException(f"standard {name} is closed")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        """Suppress a broken pipe, and report any other error of the operating system.

        Raises:
            click.ClickException: an error other than a broken pipe.
        """
        if not isinstance(error, OSError):
            return False
        # The interpreter flushes the buffer at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return True
        raise click.ClickException(f"standard output: {error.strerror or error}")


def report_line(number: int, message: str, prefix: str = "") -> None:
    """Print an error message about a line of the input to standard error."""
    tqdm.write(f"{prefix}line {number}: {message}", file=sys.stderr)


def map_lines(function: Callable[[str], Row]) -> int:
    """Apply a function to the text of each JSON line of standard input, and print the results.

    Args:
        function: returns the fields of a result; the `id` of the input is added.

    Returns:
        The exit code: 1 if any line is invalid, else 0.
    """
    return map_rows(sys.stdin.buffer, decode_row, lambda row: function(row["text"]), "texts")


def map_rows(
    lines: Iterable[bytes],
    decode: Callable[[bytes], Row],
    function: Callable[[Row], Row],
    unit: str,
) -> int:
    """Apply a function to the row of each JSON line, and print the results.

    Invalid lines are reported and skipped.

    Args:
        lines: the lines; empty ones are passed over.
        decode: returns the row of a line, or raises `ValueError`.
        function: returns the fields of a result; the `id` of the row is added.
        unit: what the progress counts.

    Returns:
        The exit code: 1 if any line is invalid, else 0.
    """
    failed = False
    with tqdm(unit=f" {unit}", disable=not sys.stderr.isatty(), desc="dedup") as progress:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = decode(line)
            except ValueError as error:
                report_line(number, str(error))
                failed = True
                continue
            sys.stdout.buffer.write(encode({"id": row.get("id"), **function(row)}) + b"\n")
            progress.update()
    sys.stdout.buffer.flush()
    return int(failed)


def decode_row(line: bytes) -> Row:
    """Return the JSON object of a line.

    Raises:
        ValueError: it is invalid, or has no string `text`.
    """
    row = decode_object(line)
    if not isinstance(row.get("text"), str):
        raise ValueError('must be an object with a string "text"')
    return row


def decode_transcript(line: bytes) -> Row:
    """Return the JSON object of a line, with the messages of an agent.

    Raises:
        ValueError: it is invalid, or has no list `messages` or `input`.
    """
    row = decode_object(line)
    if not isinstance(row.get("messages", row.get("input")), list):
        raise ValueError('must be an object with a list "messages" or "input"')
    return row


def decode_object(line: bytes) -> Row:
    """Return the JSON object of a line.

    Raises:
        ValueError: it is invalid.
    """
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:  # the standard library's decoder accepts half a surrogate pair
            row = json.loads(line, parse_constant=_no_number, parse_float=_finite)
        except UnicodeDecodeError:
            raise ValueError("invalid UTF-8") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"invalid JSON: {error.msg} (character {error.pos + 1})") from None
        except RecursionError:
            raise ValueError("invalid JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("must be an object")
    return row


def _no_number(name: str) -> float:
    raise ValueError(f"invalid JSON: {name} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _no_number(digits)
    return value


def encode(row: Row) -> bytes:
    """Return a row as a JSON line, without the line's end."""
    try:
        return msgspec.json.encode(row)
    except UnicodeEncodeError:
        return json.dumps(row).encode()


def text_of_stdin() -> Iterator[tuple[str, list[int]]]:
    """Yield standard input as it comes: text, and the numbers of the lines that are not UTF-8.

    Invalid bytes are replaced with U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    number = 1
    at_end = False
    while not at_end:
        received = os.read(sys.stdin.fileno(), _READ_BYTES)
        at_end = not received
        text = decoder.decode(received, at_end)
        invalid_lines = [
            number + i
            for i, line in enumerate(text.split("\n"))
            if not line.isascii() and _ESCAPED_BYTE.search(line)
        ]
        number += text.count("\n")
        if invalid_lines:
            text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        yield text, invalid_lines
