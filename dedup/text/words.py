"""From characters to words, and to keys under which two sentences are one.

Case and width are folded (NFKC, casefold). Words are runs of letters and digits; in scripts written without spaces (Chinese,
Japanese kana) every character is a word of its own, as in the papers that measure repetition in Chinese.
"""

import re
import unicodedata
from typing import Final

UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT: Final = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_ASCII_UNIT: Final = re.compile(r"[a-z0-9]+")
_FIRST_IDEOGRAPH: Final = "\u4e00"
_CHINESE_RUN: Final = re.compile(
    "[a-z0-9]+|[\u4e00-\u9fff]+"
)  # the words of what `_ONLY_CASE` matches
_UNSPACED_GAP: Final = re.compile(rf"(?<=[{UNSPACED}]) (?=[{UNSPACED}])")
# Text, as Chinese mostly is, that only case is to be folded in, once its punctuation goes.
_ONLY_CASE: Final = re.compile(
    "[\0-\x7f\u2010-\u2027\u2030-\u205e\u3000-\u3004\u3008-\u3020\u4e00-\u9fff"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]*"
)

# What a sentence may differ in and still be the same: quotes, emphasis, commas, how it ends.
_IGNORED: Final = re.compile("[*_`\"'“”‘’「」『』《》,、]")
_IGNORED_ASCII: Final = b"*_`\"',"
_ENDING: Final = " .!;:。…"


def fold(text: str) -> str:
    """`text` with case and width folded; lengths may change."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def units(text: str) -> list[str]:
    """Return the words of `text`, folded."""
    if text.isascii():
        return _ASCII_UNIT.findall(text.casefold())
    found: list[str] = []
    for line in text.split("\n"):
        if _ONLY_CASE.fullmatch(line):
            for run in _CHINESE_RUN.findall(
                line.casefold()
            ):  # a match a run, where the general pattern needs one a character
                if run < _FIRST_IDEOGRAPH:
                    found.append(run)
                else:
                    found.extend(run)
        else:
            found.extend(_UNIT.findall(fold(line)))
    return found


def key_prefix(text: str) -> str:
    """What the key of any sentence that begins with `text` begins with."""
    # Decomposed (NFKD), so that no later mark can change what came before it.
    if text.isascii():
        said = text.casefold().encode().translate(None, _IGNORED_ASCII).decode()
    else:
        said = _IGNORED.sub("", unicodedata.normalize("NFKD", text).casefold())
    key = " ".join(said.split())
    if not key.isascii():
        key = _UNSPACED_GAP.sub("", key)
    return key.rstrip(_ENDING)


def sentence_key(text: str) -> str:
    """What `text` says, word for word: two sentences with one key say the same. Empty if it has no letter or digit.

    Symbols count (x + 1 is not x - 1) and so does a question mark; quotes, emphasis, commas, spacing and the ending do not.
    """
    key = key_prefix(text)
    return key if any(map(str.isalnum, key)) else ""


def utf8_size(key: str) -> int:
    """Return the bytes of `key` in UTF-8: there a Chinese character weighs three letters, as it does to a reader."""
    return len(key) if key.isascii() else len(key.encode("utf-8", "surrogatepass"))


class UnitStream:
    """`units` of a text that comes in pieces, each unit given once it has ended.

    A unit that never ends is cut after `MAX_UNIT_CHARS`, so that memory stays bounded.
    """

    MAX_UNIT_CHARS = 256

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        text = self._rest + text
        end = len(text)
        while end and text[end - 1].isalnum():
            end -= 1
        if len(text) - end > self.MAX_UNIT_CHARS:
            end += (len(text) - end) // self.MAX_UNIT_CHARS * self.MAX_UNIT_CHARS
        self._rest = text[end:]
        return units(text[:end])

    def flush(self) -> list[str]:
        rest, self._rest = self._rest, ""
        return units(rest)
