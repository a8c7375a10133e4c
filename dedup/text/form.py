"""Tells prose from text that repeats by its form: code, tables, logs, markup, JSON, encoded data.

The form decides how much evidence a loop needs: it depends on how much such text repeats
legitimately, and on what a wrong cut breaks.
"""

import re
from typing import Final, Literal

from dedup.text.words import utf8_size

Form = Literal["prose", "labelled", "series", "verse", "notation", "code", "data"]

# Symbols in places where prose has them.
_IN_PLACE: Final = re.compile(
    r"https?://\S+|`[^`\n]*`"
    r"|^\#+\ |^\s*[-*•>]+\s|^\s*\(?\w{1,3}[.)]\s"  # headings, list markers
    r"|[，。！？：；、（）《》“”‘’「」『』…·]"
    r"|(?<=[\w*)\"'”’.!?])[.,;:!?)\"'”’*]+(?=[\s—–-]|$)"  # after a word
    r"|(?:(?<=\s)|^)[\"'(“‘*$-]+(?=\w)"  # before a word
    r"|(?<=\w)--(?=[\s\w]|$)|(?<=\w)['’-](?=\w)|(?<=\d)[.,:/](?=\d)|(?<=\d)%"  # within a word
    r"|(?<=\s)[—–-](?=\s)",
    re.MULTILINE,
)
_CODE_LINE: Final = re.compile(
    r"^(?!.*(?:\\[a-zA-Z]|[\^_]\{)).*[;{}]\s*$|[(\[]\s*$|^(?:\s{4,}|\t)(?![-*+\d])[!-~]"
    r"|\w\(.*\)\s*$|^(?:def|class|from|import|return|@)\b"
    r"|</?(?!(?:su[bp]|[bi]|br|em|strong)\b)\w+[^<>]*>|\{[^{}\n]*:[^{}\n]*\}"
    r"|^\s*(?:msg(?:id|str|ctxt)\b|\#[:,.|]|//|/\*|\#\w|--\s)|\\\\\s*(?:\\hline)?\s*$"
)
_DATA_LINE: Final = re.compile(
    r"\b(?:TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL|NOTICE)\b|\[\d+/\w+/\d+"  # a log's level, date
    r"|['\"]\s*:\s|^\s*(?!\[[^\W\d_][\w' /-]*\]\W*$)[\[\]{}]|^\s*\"[^\"\n]*\"\s*,\s*$|^\s*-?[\d.]+,?\s*$"  # JSON
    r"|^\s*\|.*\||\t.*\t"  # a row of a table
    r"|\bVALUES\s*\("  # SQL
    r"|^(?=.*\d)(?!.*(?:[\u3040-\u9fff]|\\[a-zA-Z]))(?:[^,]+,(?=\S)(?!\d{3}(?!\d))){2}"  # CSV
    r"|_{4,}|\.{8,}|…{3,}"  # a blank to fill in
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b|(?:[^\W\d][\w.-]*\s?[=:]\s?-?\d\S*.*){3}"  # IPs, measurements
    r"|^\S+:\d+:\d+"  # a compiler's message
    r"|^\s*File \"|^\s+at [\w.$]+\(|^Traceback"  # a stack trace
    r"|^\s*-?\s*[\w.-]+:\s\S+\s*$|^\s*-?\s*[\w.-]+:\s*$|^\s*[\w.]+\s*=\s*\S+\s*$"  # YAML, settings
)
# Letters and digits: identifiers, hex.
_MIXED_WORD: Final = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])\w{3,}", re.ASCII)
_CAPITALS: Final = re.compile(r"\b[A-Z][A-Z_]{2,}\b")  # SQL, constants
# The most characters in prose, as shares of all but white space.
_MAX_CODE_WORDS: Final = 0.25
_MAX_ODD_SYMBOLS: Final = 0.05  # in places where prose has none
_MAX_DIGITS: Final = 0.2
_FORMULA: Final = re.compile(
    r"\$[^$\n]*[=^_+\\][^$\n]*\$|\\(?:frac|sqrt|times|cdot|log|sum|left|lambda|pi)\b"
)
_INLINE_CODE: Final = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
_LATEX: Final = re.compile(r"\\[A-Za-z]|[\^_]\{")  # its braces enclose arguments, not elements
# In subtitles and chats.
_TIME: Final = re.compile(r"\[?\(?\d{1,2}(?::\d{2}){1,2}(?:[.,]\d+)?(?: -->)?\]?\)?\s*")
_LETTER: Final = re.compile(r"[^\W\d_]")
_MIN_VERSES: Final = 4
_MAX_VERSE_CHARS: Final = 200
_TERMINATORS: Final = ".!?。！？…\"'”’)"
# Of a list, or with a label.
_ITEM: Final = re.compile(r"\s*(?:[-*+•>#]|\(?\w{1,3}[.)、]|[\w ]{1,20}[:：])")
# An item under a label: "- **Moho**: draws in two dimensions", "'31,29': the upper edge".
_LABELLED: Final = re.compile(
    r"\s*(?:[-*•]\s+|\d+[.)、]\s*)?[*_'\"“‘「《(（]*([^:：\n]{1,40}?)[*_'\"”’」》)）]*[:：][*_]*\s*\S"
)
_NUMBER: Final = re.compile(r"\d+")
# Numbers between which there is no letter, and no end of a label, are one: a date, a span of time.
_NUMBERS: Final = re.compile(r"\d+(?:(?:[^\w\n:：=.、]*|[:.])\d+)*")
_ENDS_OF_ROWS: Final = tuple(
    map(re.compile, (r"\n+", r"[.;!?](?:\s+|$)|[。；！？]\s*", r"[,，、](?:\s+|$|(?<=[，、]))"))
)
_MIN_ROWS: Final = 4
_LONGEST_ROW: Final = 80  # bytes of UTF-8, numbers aside; sentences in which two count are a loop
_MAX_ROWS: Final = 60  # a series that was asked for is seldom longer; one that runs away is endless
_FENCE: Final = "```"
_COMMENT_MARK: Final = re.compile(r"^\s*/\*|\*/\s*$", re.MULTILINE)
# Base64, hex.
_ENCODED: Final = re.compile(r"(?=[A-Za-z+/=]*\d|[A-Z]*[a-z+/=]*[A-Z])[A-Za-z0-9+/=]{60,}")
_NO_ASCII_WORD: Final = re.compile(r"[^!-~]")  # Chinese in front of a number is no part of it
_LONG_WORD: Final = 60  # characters without a space: base64, a sequence, a path
_LONG_LINE: Final = 16  # characters from which a line tells its form without the text before it
_ROW: Final = re.compile(r"\s*\|.*\|\s*$")  # of a table; it tells its form however short it is
_NEAR: Final = 400  # characters looked at before a loop


def form_of(text: str) -> Form:
    """Return the form of a text of up to some hundred words.

    Returns:
        `data` for tables, logs, JSON and encodings; `code`; `notation` for formulas and other text
        with more symbols than prose; `verse`; or `prose`.
    """
    lines = [line for line in _TIME.sub("", text).split("\n") if _LETTER.search(line)]
    text = "\n".join(lines)
    num_chars = len(text) - sum(map(text.count, " \n\t"))
    if not lines or not num_chars:
        return "data"
    if _share(_DATA_LINE, lines) >= 0.5 or 2 * sum(map(len, _ENCODED.findall(text))) >= num_chars:
        return "data"
    rest = _IN_PLACE.sub("", text)
    code_words = sum(
        len(word) for pattern in (_MIXED_WORD, _CAPITALS) for word in pattern.findall(rest)
    )
    if code_words > _MAX_CODE_WORDS * num_chars:
        return "code"
    odd = sum(not char.isalnum() and not char.isspace() for char in rest)
    digits = sum(map(str.isdigit, rest))
    if _share(_CODE_LINE, lines) >= 0.4:
        return "notation" if _FORMULA.search(text) else "code"
    if odd > _MAX_ODD_SYMBOLS * num_chars or digits > _MAX_DIGITS * num_chars:
        return "notation"
    if _is_verse(lines):
        return "verse"
    return "prose"


def _is_verse(lines: list[str]) -> bool:
    """Return whether most lines end within a sentence and are not list items, as in poems."""
    if len(lines) < _MIN_VERSES or len(lines[0]) + len(lines[-1]) > 2 * _MAX_VERSE_CHARS:
        return False
    num_verses = sum(
        line.rstrip()[-1] not in _TERMINATORS
        and not line.lstrip()[0].islower()
        and not _ITEM.match(line)
        for line in lines
    )
    return 2 * num_verses >= len(lines)


def is_labelled(text: str) -> bool:
    """Return whether most of a text is items, two thirds of them under labels of their own.

    Labels that differ in a number that advances are not their own: "Step 3", "Step 4".
    """
    lines = text.split("\n")
    items = [found for line in lines if (found := _LABELLED.match(line))]
    labels = [item[1] for item in items]
    if len(labels) < 2 or 2 * sum(len(item.string) for item in items) < len(text):
        return False
    own: set[str] = set()
    last: dict[str, str] = {}  # by what is left of a label without its numbers
    for label in labels:
        frame = _NUMBER.sub("0", label)
        if not _advances(last.get(frame, ""), label):
            own.add(label)
        last[frame] = label
    return 3 * len(own) >= 2 * len(labels)


def is_series(text: str) -> bool:
    """Return whether a text is a series of short rows in which two numbers change: a plan.

    "Day 1: 5 push-ups", "Day 2: 10 push-ups". A label alone may count without end, and so may a
    label that is said again in its row; `_MAX_ROWS` bounds the rest.
    """
    rows: list[str] = []
    for end in _ENDS_OF_ROWS:
        rows = end.split(text)
        if len(rows) >= _MIN_ROWS:
            break
    rows = rows[1:-1]  # the first and the last one may be parts
    if not _MIN_ROWS - 2 <= len(rows) < _MAX_ROWS:
        return False
    num_advanced = sum(map(_has_two_counters, rows, rows[1:]))
    return num_advanced > 0 and 3 * num_advanced >= 2 * (len(rows) - 1)


def _has_two_counters(last: str, row: str) -> bool:
    """Return whether two short rows differ in their numbers alone, and in two in ways of their own."""
    frame = _NUMBERS.sub("0", row)
    if _NUMBERS.sub("0", last) != frame or utf8_size(frame) > _LONGEST_ROW:
        return False
    pairs = zip(_NUMBERS.findall(last), _NUMBERS.findall(row), strict=True)
    return len({pair for pair in pairs if pair[0] != pair[1]}) >= 2


def _advances(last: str, label: str) -> bool:
    """Return whether `label` differs from `last` in one number, by one."""
    pairs = zip(_NUMBER.findall(last), _NUMBER.findall(label), strict=False)
    steps = [int(after) - int(before) for before, after in pairs if after != before]
    return steps in ([1], [-1])


def form_of_cycle(before: str, unit: str) -> Form:
    """Return the form of a cycle: that of its lines, or of the text before it if it has none.

    Args:
        before: the text before the cycle.
        unit: one copy.
    """
    if (not _LATEX.search(unit) and is_enclosed(before[-_NEAR:], unit)) or _is_encoded(
        before, unit
    ):
        return "data"
    near = before[-_NEAR:]
    if "\n" in unit:
        near += unit
        start = unit.rindex("\n") + 1
        unit = unit[start:] + unit[:start]  # whole lines
    if "\n" in unit.strip("\n") or len(unit) > _LONG_WORD:
        return form_of(unit)
    tells_form = "\n" in unit and (len(unit) >= _LONG_LINE or _ROW.match(unit))
    if tells_form and (form := form_of(unit)) in ("code", "data"):
        return form
    if len(near) >= _LONG_WORD:
        return form_of(near)
    return "prose"


def num_fences(text: str) -> int:
    """Return the number of fence marks in `text`."""
    return text.count(_FENCE)


def is_enclosed(before: str, unit: str = "") -> bool:
    """Return whether a bracket or brace is open at the end of `before`, as in an array.

    Args:
        unit: what follows; brackets that it closes and opens again enclose none of it.
    """
    depth = lowest = 0
    for char in unit:
        depth += (char in "[{") - (char in "]}")
        lowest = min(lowest, depth)
    depth = 0 if depth else -lowest
    for char in reversed(_INLINE_CODE.sub("", before)):
        if char in "]}":
            depth += 1
        elif char in "[{":
            if depth == 0:
                return True
            depth -= 1
    return False


def is_in_comment(before: str) -> bool:
    """Return whether a comment between /* and */ is open at the end of `before`."""
    marks = _COMMENT_MARK.findall(before)
    return bool(marks) and marks[-1].endswith("/*")


def _is_encoded(before: str, unit: str) -> bool:
    """Return whether a cycle is in a long word of capitals and digits: base64, hex, a sequence."""
    if any(map(str.isspace, unit)) or not unit.isascii() or not unit.isalnum():
        return False
    start = _NO_ASCII_WORD.split(before[-_NEAR:])[-1].rstrip(unit)
    if any(map(str.isupper, unit)) and any(map(str.isupper, start or unit)):
        return True
    return len(start) >= 8 and any(map(str.isdigit, start)) and any(map(str.isalpha, start))


def _share(pattern: re.Pattern[str], lines: list[str]) -> float:
    """Return the share of lines that match."""
    return sum(pattern.search(line) is not None for line in lines) / len(lines)
