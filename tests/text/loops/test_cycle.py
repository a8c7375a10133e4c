"""Cycles: how often a unit must be repeated to be a loop."""

import pytest

from dedup.text.form import Form
from dedup.text.loops.cycle import Cycle, least_begun, needed_weight, period_of

SENTENCE = "The mail did not come that day. "


def cycle(
    unit: str, copies: float, *, is_exact: bool = True, letters: float | None = None
) -> Cycle:
    """Return a cycle of so many copies; its weight is that of the copies by default."""
    if letters is None:
        letters = (copies - 1) * sum(map(str.isalpha, unit))
    return Cycle(0, round(copies * len(unit)), len(unit), unit, letters, is_exact)


def least_copies(unit: str, form: Form, *, is_exact: bool = True, is_fenced: bool = False) -> float:
    """Return the least copies of `unit` that are a loop in text of that form."""
    tenths = range(10, 10_000)
    return next(
        n / 10 for n in tenths if cycle(unit, n / 10, is_exact=is_exact).is_loop(form, is_fenced)
    )


def test_more_copies_need_fewer_letters() -> None:
    needed = [needed_weight(n) for n in range(2, 40)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] == 100


def test_whole_copies_count() -> None:
    assert needed_weight(2.99) == needed_weight(2)


def test_two_copies_of_a_paragraph_are_a_loop_once_the_third_has_begun() -> None:
    paragraph = SENTENCE * 3 + "Nobody in the village remembered such a flood as this. "
    assert not cycle(paragraph, 2).is_loop("prose", False)
    assert cycle(paragraph, 2.2).is_loop("prose", False)


@pytest.mark.parametrize(("period", "begun"), [(10, 1.5), (100, 15), (400, 60), (9000, 60)])
def test_so_much_of_one_copy_more_must_have_begun(period: int, begun: float) -> None:
    assert least_begun(period) == pytest.approx(begun)


def test_two_copies_of_a_sentence_are_none() -> None:
    assert 3 <= least_copies(SENTENCE, "prose") <= 5


def test_forms_that_repeat_by_nature_need_more() -> None:
    prose, verse, notation, code, data = (
        least_copies(SENTENCE, form) for form in ("prose", "verse", "notation", "code", "data")
    )
    assert prose < verse == notation < code == data


def test_an_equation_said_again_is_a_loop_before_other_notation() -> None:
    assert least_copies("y' = 2x - 1\n", "notation") < least_copies("y' + 2x - 1\n", "notation")
    assert cycle("= 0.97 + 0.98 ", 9, letters=40).is_loop("notation", False)
    assert not cycle(", 0.97 + 0.98 ", 9, letters=40).is_loop("notation", False)
    assert not cycle("= 0.97 + 0.98 ", 7, letters=40).is_loop("notation", False)
    assert not cycle("= 0.97 + 0.98 ", 9, letters=40).is_loop("data", False)


def test_a_cycle_with_a_counter_may_be_a_list() -> None:
    for form in ("prose", "data"):
        assert least_copies(SENTENCE, form, is_exact=False) > least_copies(SENTENCE, form)


def test_rules_and_padding_need_copies_and_weight() -> None:
    assert not cycle("-", 7, letters=1000).is_loop("prose", False)
    assert cycle("-", 8, letters=45).is_loop("prose", False)
    assert not cycle("-", 8, letters=45).is_loop("prose", True)
    assert cycle("-", 8, letters=75).is_loop("prose", True)


@pytest.mark.parametrize("emoji", ["🚨", "❤️"])
def test_a_banner_of_emoji_is_no_loop(emoji: str) -> None:
    assert not cycle(emoji, 48, letters=58).is_loop("prose", False)
    assert cycle(emoji, 70, letters=69).is_loop("prose", False)


def test_fences_without_end_are_a_loop_sooner_than_other_symbols() -> None:
    assert cycle("```\n", 40, letters=34).is_loop("code", False)
    assert not cycle("~~~\n", 40, letters=34).is_loop("code", False)


def test_a_run_of_one_letter_in_data_may_be_base64() -> None:
    assert not cycle("A", 700).is_loop("data", False)
    assert cycle("A", 1100).is_loop("data", False)
    assert cycle("AB", 300).is_loop("data", False)


def test_words_said_so_often_in_one_line_are_no_rows() -> None:
    for unit in ("fall ", "Total: ", " point of sale"):
        assert cycle(unit, 60, letters=210).is_loop("data", False)
        assert not cycle(unit, 20, letters=210).is_loop("data", False)
    for unit in ("null, ", "fall\n", "<td> ", "f(x) ", "v1 "):
        assert not cycle(unit, 60, letters=210).is_loop("data", False)


def test_nucleotides_need_fewer_letters_than_an_encoding() -> None:
    assert cycle("GAC", 150, letters=157).is_loop("code", True)
    assert not cycle("CAG", 120, letters=126).is_loop("data", False)  # a long expansion of a gene
    assert not cycle("AQEB", 110, letters=157).is_loop("data", False)  # base64 of bytes of 1
    assert not cycle("A", 440, letters=157).is_loop("data", False)


def test_an_array_of_zeros_is_no_loop_before_a_long_row_of_digits_is() -> None:
    row = "[0, 0, 0],\n    "
    assert not cycle(row, 60, letters=140).is_loop("data", False)
    assert cycle(row, 60, letters=140, is_exact=False).is_loop("data", False)
    assert cycle(row, 110, letters=255).is_loop("data", False)


@pytest.mark.parametrize(
    ("unit", "period"), [("abab", 2), ("aba", 3), ("a", 1), ("aaa", 1), ("是的是的", 2)]
)
def test_a_period_is_the_shortest(unit: str, period: int) -> None:
    assert period_of(unit) == period


@pytest.mark.parametrize(
    ("unit", "has_letters"), [("a1", True), ("水", True), ("12, ", False), ("😅", False)]
)
def test_letters_are_those_of_any_script(unit: str, has_letters: bool) -> None:
    assert cycle(unit, 3).has_letters == has_letters


def test_copies_are_whole_ones() -> None:
    assert cycle(SENTENCE, 3.5).copies == 3
