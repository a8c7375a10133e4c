"""Standard input and output of the commands: text as it comes, JSON lines, and what ends in the middle."""

import codecs
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec
from tqdm import tqdm

READ_BYTES = 64 * 1024
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # how surrogateescape marks a byte that is not UTF-8

Row = dict[str, Any]


class quiet_pipe:  # noqa: N801 - used as a statement
    """A reader that has seen enough (`| head`) is no error; a disk that is full is one line."""

    def __enter__(self) -> None:
        for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
            if stream is None:  # the shell closed it: `<&-`
                raise click.ClickException(f"standard {name} is closed")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        if not isinstance(error, OSError):
            return False
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or what is buffered would fail once more at the end
        if isinstance(error, BrokenPipeError):
            return True
        raise click.ClickException(f"standard output: {error.strerror or error}")


def complain(number: int, what: str, where: str = "") -> None:
    tqdm.write(f"{where}line {number}: {what}", file=sys.stderr)


def each_line(answer: Callable[[str], Row]) -> int:
    """Answers each JSON line of standard input with one; names the lines that are wrong and goes on. Returns the exit code."""
    failed = False
    with tqdm(unit=" texts", disable=not sys.stderr.isatty(), desc="dedup") as progress:
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            try:
                row = decode(line)
            except ValueError as error:
                complain(number, str(error))
                failed = True
                continue
            sys.stdout.buffer.write(encode({"id": row.get("id"), **answer(row["text"])}) + b"\n")
            progress.update()
    sys.stdout.buffer.flush()
    return int(failed)


def decode(line: bytes) -> Row:
    """The object in `line`, which has a string `text`. Raises ValueError that says what is wrong."""
    row = object_in(line)
    if not isinstance(row.get("text"), str):
        raise ValueError('must be an object with a string "text"')
    return row


def object_in(line: bytes) -> Row:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:  # the standard library's decoder takes half a surrogate pair
            row = json.loads(line, parse_constant=_no_number, parse_float=_finite)
        except UnicodeDecodeError:
            raise ValueError("invalid UTF-8") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"invalid JSON: {error.msg} (character {error.pos + 1})") from None
        except RecursionError:
            raise ValueError("invalid JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError('must be an object with a string "text"')
    return row


def _no_number(name: str) -> float:
    raise ValueError(f"invalid JSON: {name} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits)


def encode(row: Row) -> bytes:
    try:
        return msgspec.json.encode(row)
    except UnicodeEncodeError:
        return json.dumps(row).encode()


def text_of_stdin() -> Iterator[tuple[str, list[int]]]:
    """Standard input as it comes: text, with U+FFFD for bytes that are not UTF-8, and the numbers of the lines that have such."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    number = 1
    at_end = False
    while not at_end:
        received = os.read(sys.stdin.fileno(), READ_BYTES)
        at_end = not received
        text = decoder.decode(received, at_end)
        wrong = [
            number + i
            for i, line in enumerate(text.split("\n"))
            if not line.isascii() and _ESCAPED_BYTE.search(line)
        ]
        number += text.count("\n")
        yield (
            (text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if wrong else text),
            wrong,
        )
