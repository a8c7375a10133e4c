"""Numbers in words."""

import pytest

from dedup.text.numerals import number_in_words


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("zero", 0), ("one", 1), ("Twelve", 12), ("twenty", 20), ("first", 1), ("Ninth", 9), ("twentieth", 20),
        ("Erste", 1), ("deuxième", 2), ("tercera", 3),
        ("三", 3), ("第八", 8), ("十", 10), ("零", 0),
        ("I", 1), ("IV", 4), ("VIII", 8), ("IX", 9), ("XIV", 14), ("XXXIX", 39),
    ],
)  # fmt: skip
def test_a_number_word_has_its_value(word: str, number: int) -> None:
    assert number_in_words(word, word.casefold()) == number


@pytest.mark.parametrize(
    "word", ["river", "viii", "XL", "IIII", "VX", "firstly", "水", "第一章", ""]
)
def test_other_words_are_no_numbers(word: str) -> None:
    assert number_in_words(word, word.casefold()) == -1
