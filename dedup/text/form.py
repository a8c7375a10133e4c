"""Tells prose from text whose form repeats by nature: code, tables, logs, CSV, JSON."""

import re
from typing import Final, Literal

Form = Literal["prose", "code", "data"]

# What looks like a symbol but stands where prose has one.
_IN_PLACE: Final = re.compile(
    r"https?://\S+|`[^`\n]*`"
    r"|^\#+\ |^\s*[-*•>]+\s|^\s*\(?\w{1,3}[.)]\s"  # headings, list markers
    r"|[，。！？：；、（）《》“”‘’「」『』…·]"
    r"|(?<=[\w*)\"'”’])[.,;:!?)\"'”’*]+(?=[\s—–-]|$)"  # after a word
    r"|(?:(?<=\s)|^)[\"'(“‘*$-]+(?=\w)"  # before a word
    r"|(?<=\w)['’_-](?=\w)|(?<=\d)[.,:/](?=\d)|(?<=\d)%|(?<=\s)[—–-](?=\s)",  # within
    re.MULTILINE,
)
_CODE_LINE: Final = re.compile(r"[;{}:,]\s*$|^(?:\s{4,}|\t)(?![-*+•\d])\S|\w\(.*\)\s*$|^(?:def|class|from|import|return|@)\b")
_DATA_LINE: Final = re.compile(
    r"\d{1,2}:\d{2}:\d{2}|\[\d+/\w+/\d+"  # a log's time
    r"|['\"]\s*:\s|^\s*[\[\]{}\"]|^\s*-?[\d.]+,?\s*$"  # JSON
    r"|^\s*\|.*\||\t.*\t"  # a table's row
    r"|\bVALUES\s*\("  # SQL
    r"|^(?=.*\d)(?:[^,]+,(?=\S)){2}"  # CSV
)
_MAX_ODD_SYMBOLS: Final = 0.05  # share of symbols out of prose's place, of all that is not space
_MAX_DIGITS: Final = 0.2
_LOG_SHARE: Final = 0.1  # of lines; a traceback may follow each
_TIME: Final = re.compile(r"\d{1,2}:\d{2}:\d{2}|\[\d+/\w+/\d+")


def form_of(text: str) -> Form:
    """What a stretch of some hundred words is: `data` are tables, logs and JSON; `code` is what else has more symbols than prose."""
    lines = [line for line in text.split("\n") if line.strip()]
    num_chars = len(text) - sum(map(text.count, " \n\t"))
    if not lines or not num_chars:
        return "data"
    if _share(_TIME, lines) >= _LOG_SHARE or _share(_DATA_LINE, lines) >= 0.5:
        return "data"
    odd = sum(not char.isalnum() and not char.isspace() for char in _IN_PLACE.sub("", text))
    digits = sum(map(str.isdigit, text))
    if odd > _MAX_ODD_SYMBOLS * num_chars or digits > _MAX_DIGITS * num_chars or _share(_CODE_LINE, lines) >= 0.5:
        return "code"
    return "prose"


def _share(pattern: re.Pattern[str], lines: list[str]) -> float:
    return sum(pattern.search(line) is not None for line in lines) / len(lines)
