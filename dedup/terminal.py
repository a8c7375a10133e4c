"""Untrusted text on a terminal.

Escapes are made visible, and columns stay aligned where characters are two columns wide.
"""

import unicodedata


def printable(text: str, keep: str = "") -> str:
    """Return `text` with escape sequences in place of characters that would act on the terminal.

    These are escapes, controls and bidi overrides. White space of any width becomes a space.

    Args:
        keep: characters that are left as they are, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def one_line(text: str) -> str:
    """Return printable `text` on one line: each stretch of white space becomes a space."""
    return printable(" ".join(text.split()))


def width(text: str) -> int:
    """Return the columns that printable `text` takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of, text))


def fit(text: str, columns: int, *, right: bool = False) -> str:
    """Return `text` in exactly `columns` columns: truncated, with an ellipsis, or padded.

    Args:
        right: whether it is aligned to the right.
    """
    room = columns - width(text)
    if room < 0:
        text, room = _truncated(text, columns - 1)
        text += "…"
    padding = " " * room
    if right:
        return padding + text
    return text + padding


def shortened(text: str, columns: int) -> str:
    """Return `text` in at most `columns` columns."""
    if width(text) > columns:
        return fit(text, columns).rstrip()
    return text


def _truncated(text: str, columns: int) -> tuple[str, int]:
    """Return the beginning of `text` that fits into `columns` columns, and the columns left."""
    for at, char in enumerate(text):
        size = _width_of(char)
        if size > columns:
            return text[:at], columns
        columns -= size
    return text, columns


def _width_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    if unicodedata.east_asian_width(char) in "WF":
        return 2
    return 1


def _escaped(char: str) -> str:
    if char.isspace() and unicodedata.category(char) == "Zs":
        return " "
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"
