"""Tokens, and the weight of each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup.text.loops.tokens import _TOKEN, _ascii_tokens, token_of, tokenize


@given(st.text(st.one_of(st.sampled_from("abAB01 _\n.,"), st.characters(max_codepoint=127))))
def test_ascii_text_has_the_tokens_of_any_text(text: str) -> None:
    """The tokenizer for ASCII gives the result of the general pattern."""
    assert _ascii_tokens(text) == _TOKEN.findall(text)


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokenize(text)) == text


@given(st.text(st.sampled_from("aB0 \n.,水の😅é"), max_size=60), st.integers(0, 60))
def test_all_tokens_but_the_last_stand_whatever_follows(text: str, cut: int) -> None:
    """A complete token does not change with the next delta."""
    assert tokenize(text)[: max(0, len(tokenize(text[:cut])) - 1)] == tokenize(text[:cut])[:-1]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The river, they said.", ["The ", "river, ", "they ", "said."]),
        ("camelCase2go", ["camel", "Case2go"]),
        ("河水在夜里", ["河水", "在夜", "里"]),
        ("a\n\n- b", ["a\n\n-", " ", "b"]),
        ("x" * 30, ["x" * 12, "x" * 12, "x" * 6]),
    ],
)
def test_a_token_is_a_word_with_what_follows_it(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


@pytest.mark.parametrize("text", ["River", "river ", "RIVER,", "ｒｉｖｅｒ"])
def test_case_width_and_punctuation_do_not_count(text: str) -> None:
    assert token_of(text).key == "river"


@pytest.mark.parametrize(
    ("text", "other"), [("\n  ", "\n      "), ("  | ", " |"), ("    ", " "), ("\n", "\n\n")]
)
def test_the_width_of_blanks_does_not_count(text: str, other: str) -> None:
    assert token_of(text).key == token_of(other).key


def test_a_line_end_is_no_space() -> None:
    assert token_of("\n").key != token_of(" ").key


@pytest.mark.parametrize(
    ("text", "number", "num_digits", "folded"),
    [
        ("42 ", 42, 2, "0"),
        ("v007.", 7, 3, "v0"),
        ("3x4", 3, 1, "0x0"),
        ("river", -1, 0, "river"),
        ("...", -1, 0, "..."),
    ],
)
def test_numbers_are_folded(text: str, number: int, num_digits: int, folded: str) -> None:
    token = token_of(text)
    assert (token.number, token.num_digits, token.folded) == (number, num_digits, folded)


@pytest.mark.parametrize(
    ("text", "number"), [("Ninth ", 9), ("VIII\n\n", 8), ("第三", 3), ("river", -1)]
)
def test_numbers_in_words_are_counters_of_their_own(text: str, number: int) -> None:
    """They advance as digits do, but "ninth" does not follow "8"."""
    assert token_of(text).number == number
    assert token_of(text).folded != token_of("7 ").folded


@pytest.mark.parametrize("digits", ["٣", "৭", "７", "१२"])
def test_digits_of_any_script_are_numbers(digits: str) -> None:
    assert token_of(digits).number >= 0


@pytest.mark.parametrize("digits", ["²", "①", "½", "Ⅳ", "九"])
def test_what_only_looks_like_a_digit_does_not_raise(digits: str) -> None:
    token_of(digits)


def test_a_very_long_number_does_not_raise() -> None:
    assert token_of("9" * 5000).number == int("9" * 15)


def test_a_word_weighs_its_letters() -> None:
    assert token_of("river").weight == 5
    assert 5 < token_of("river, ").weight < 6


def test_a_word_of_few_letters_weighs_less() -> None:
    assert token_of("hahahahahaha").weight < token_of("hat").weight * 2
    assert token_of("aaaaaaaaaaaa").weight < token_of("remembered").weight / 2
    assert token_of("ha").weight == 2


def test_an_ideograph_weighs_more_than_a_letter() -> None:
    assert token_of("河水").weight == 2 * token_of("河").weight > 4
    assert token_of("哈哈").weight == token_of("哈").weight


def test_digits_weigh_less_than_letters_and_zeros_least() -> None:
    assert 0 < token_of("0000").weight < token_of("1738").weight < token_of("abcd").weight


def test_symbols_weigh_next_to_nothing_and_emoji_as_much_as_a_letter() -> None:
    assert token_of("--------").weight < 1
    assert token_of("——").weight > token_of("--").weight
    assert token_of("😅").weight == pytest.approx(1)
