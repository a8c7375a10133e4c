"""Text of strangers on a terminal: nothing in it moves the cursor, and columns stay straight where characters are two columns wide."""

import unicodedata


def printable(text: str, keep: str = "") -> str:
    """`text` with every character that would do something instead of being seen (escapes, controls, bidi overrides) as its escape.

    Spaces of all widths become plain ones. keep: characters that are left alone, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escaped(one) for one in text)


def one_line(text: str) -> str:
    """`text` as a line: white space of any kind is one space."""
    return printable(" ".join(text.split()))


def width(text: str) -> int:
    """Columns that printable `text` takes."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def fit(text: str, columns: int, *, right: bool = False) -> str:
    """`text` in exactly so many columns: cut, with an ellipsis, or filled with spaces."""
    room = columns - width(text)
    if room < 0:
        text, room = _cut(text, columns - 1)
        text += "…"
    return " " * room + text if right else text + " " * room


def shortened(text: str, columns: int) -> str:
    """`text` in at most so many columns."""
    return fit(text, columns).rstrip() if width(text) > columns else text


def _cut(text: str, columns: int) -> tuple[str, int]:
    """The beginning of `text` that has room in so many columns, and the columns left."""
    for at, one in enumerate(text):
        if (size := _width_of(one)) > columns:
            return text[:at], columns
        columns -= size
    return text, columns


def _width_of(one: str) -> int:
    if unicodedata.category(one) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(one) in "WF" else 1


def _escaped(one: str) -> str:
    if one.isspace() and unicodedata.category(one) == "Zs":
        return " "
    code = ord(one)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
