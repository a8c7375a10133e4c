"""Words of a text, and keys that are equal for sentences that count as the same.

Case and width are folded (NFKC, casefold). Words are runs of letters and digits; in scripts written
without spaces (Chinese, Japanese kana) each character is a word, as in the papers that measure
repetition in Chinese.
"""

import re
import unicodedata
from typing import Final

UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT: Final = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
# Of ASCII: letters in lower case, digits, and a space for all else.
_ASCII_UNITS: Final = bytes(
    [code if chr(code).isalnum() and code < 0x80 else 0x20 for code in bytes(range(256)).lower()]
)
_FIRST_IDEOGRAPH: Final = "\u4e00"
_CHINESE_RUN: Final = re.compile("[a-z0-9]+|[\u4e00-\u9fff]+")  # in text that `_ONLY_CASE` matches
_UNSPACED_GAP: Final = re.compile(rf"(?<=[{UNSPACED}]) (?=[{UNSPACED}])")
# Text, as most Chinese is, in which nothing but case is to be folded, punctuation aside.
_ONLY_CASE: Final = re.compile(
    "[\0-\x7f\u2010-\u2027\u2030-\u205e\u3000-\u3004\u3008-\u3020\u4e00-\u9fff"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]*"
)

# Sentences may differ in these and still be the same: quotes, emphasis, commas, the ending.
_IGNORED: Final = re.compile("[*_`\"'“”‘’「」『』《》,、]")
_IGNORED_ASCII: Final = b"*_`\"',"
_ENDING: Final = " .!;:。…"


def fold(text: str) -> str:
    """Return `text` with case and width folded. Its length may change."""
    if text.isascii():
        return text.casefold()
    return unicodedata.normalize("NFKC", text).casefold()


def units(text: str) -> list[str]:
    """Return the words of `text`, folded."""
    if text.isascii():
        return text.encode().translate(_ASCII_UNITS).decode().split()
    found: list[str] = []
    for line in text.split("\n"):
        if _ONLY_CASE.fullmatch(line):
            # One match a run, where the general pattern needs one a character.
            for run in _CHINESE_RUN.findall(line.casefold()):
                if run < _FIRST_IDEOGRAPH:
                    found.append(run)
                else:
                    found.extend(run)
        else:
            found.extend(_UNIT.findall(fold(line)))
    return found


def key_prefix(text: str) -> str:
    """Return the prefix that the keys of all sentences that begin with `text` have in common."""
    # Decomposed (NFKD), so that a combining mark after `text` does not change the prefix.
    if text.isascii():
        folded = text.casefold().encode().translate(None, _IGNORED_ASCII).decode()
    else:
        folded = _IGNORED.sub("", unicodedata.normalize("NFKD", text).casefold())
    key = " ".join(folded.split())
    if not key.isascii():
        key = _UNSPACED_GAP.sub("", key)
    return key.rstrip(_ENDING)


def sentence_key(text: str) -> str:
    """Return the key of a sentence: sentences with equal keys are the same word for word.

    Symbols and question marks count (x + 1 is not x - 1). Case, quotes, emphasis, commas, spacing
    and the ending do not.

    Returns:
        The key; empty if the sentence has no letter or digit.
    """
    key = key_prefix(text)
    if any(map(str.isalnum, key)):
        return key
    return ""


def utf8_size(key: str) -> int:
    """Return the length of `key` in UTF-8 bytes: a Chinese character counts as three letters."""
    if key.isascii():
        return len(key)
    return len(key.encode("utf-8", "surrogatepass"))


class UnitStream:
    """The `units` of a stream, each returned once it has ended.

    A unit is cut after `MAX_UNIT_CHARS`, so that memory is bounded.
    """

    MAX_UNIT_CHARS = 256

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """Feed a delta; return the units that have ended."""
        text = self._rest + text
        end = len(text)
        while end and text[end - 1].isalnum():
            end -= 1
        if len(text) - end > self.MAX_UNIT_CHARS:
            end += (len(text) - end) // self.MAX_UNIT_CHARS * self.MAX_UNIT_CHARS
        self._rest = text[end:]
        return units(text[:end])

    def flush(self) -> list[str]:
        """Return the last unit, now that the text has ended."""
        rest, self._rest = self._rest, ""
        return units(rest)
