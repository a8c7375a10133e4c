"""Numbers in words and Roman numerals, as counters: "the ninth", "PART VIII", 第八章."""

import re
from typing import Final

# From 0 and from 1 on. Words for the same number are joined by "/".
_CARDINALS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_ORDINALS: Final = (
    "first/erste/première/premier/primer/primera/primero second/zweite/deuxième/segundo/segunda "
    "third/dritte/troisième/tercer/tercera/tercero fourth/vierte/quatrième/cuarto/cuarta "
    "fifth/fünfte/cinquième/quinto/quinta sixth/sechste/sixième/sexto/sexta "
    "seventh/siebte/septième/séptimo/séptima eighth/achte/huitième/octavo/octava "
    "ninth/neunte/neuvième/noveno/novena tenth/zehnte/dixième/décimo/décima eleventh/elfte/onzième "
    "twelfth/zwölfte/douzième thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth "
    "nineteenth twentieth"
)
_HAN: Final = "零一二三四五六七八九十"
_VALUES: Final[dict[str, int]] = {
    **{word: value for value, words in enumerate(_CARDINALS.split()) for word in words.split("/")},
    **{
        word: value for value, words in enumerate(_ORDINALS.split(), 1) for word in words.split("/")
    },
    **{mark + digit: value for value, digit in enumerate(_HAN) for mark in ("", "第")},
}
_ROMAN: Final = re.compile(r"(?=.)(X{0,3})(IX|IV|V?I{0,3})")
_ONES: Final = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")


def number_in_words(word: str, folded: str) -> int:
    """Return the number that a word names; -1 if it names none.

    Args:
        word: the word as written; Roman numerals are upper case.
        folded: the word with case folded.
    """
    value = _VALUES.get(folded, -1)
    if value < 0 and (roman := _ROMAN.fullmatch(word)):
        tens, ones = roman.groups()
        value = 10 * len(tens) + _ONES.index(ones)
    return value
