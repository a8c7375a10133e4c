"""The evidence: bits that a text lacks."""

import pytest

from dedup.text.loops.evidence import (
    ADVANCE_BITS,
    LEAST_LIMIT,
    LEAST_SURPRISE,
    Deficit,
    copied_bits,
    expected_bits,
    number_bits,
    surprise_bits,
)
from dedup.text.loops.tokens import token_of


def test_the_longer_a_passage_is_copied_the_less_its_next_token_says() -> None:
    bits = [copied_bits(n) for n in range(6)]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 1 > bits[-1] > 0
    assert bits[3] == bits[5]


def test_a_number_that_advances_says_less_than_one_that_jumps() -> None:
    assert ADVANCE_BITS < number_bits(1) < number_bits(4) == number_bits(9)


def test_a_known_word_says_less_than_a_new_one() -> None:
    known = surprise_bits(token_of("river"), True, 50)
    assert known < surprise_bits(token_of("river"), False, 50)
    assert known < surprise_bits(token_of("河水"), False, 50)
    assert (
        surprise_bits(token_of("    "), False, 50)
        < surprise_bits(token_of("--"), False, 50)
        < known
    )


def test_of_more_words_each_says_more() -> None:
    river = token_of("river")
    assert surprise_bits(river, True, 10) < surprise_bits(river, True, 1000)
    assert surprise_bits(river, True, 0) == LEAST_SURPRISE


@pytest.mark.parametrize("distance", [10, 400, 4000])
def test_a_first_statement_counts_nothing_and_each_copy_more_than_the_one_before(
    distance: int,
) -> None:
    counts = [expected_bits(10, copies, distance) for copies in range(5)]
    assert counts[0] == 0
    assert counts[0] < counts[1] < counts[2] <= counts[3] == counts[4]


def test_what_comes_back_from_far_away_counts_less_until_it_came_back_often() -> None:
    assert expected_bits(10, 1, 4000) < expected_bits(10, 1, 300) == expected_bits(10, 1, 10)
    assert expected_bits(10, 3, 4000) == expected_bits(10, 3, 10)


def test_a_deficit_adds_up_and_starts_over_when_nothing_is_missing() -> None:
    deficit = Deficit()
    deficit.add(5, 90, 100, 40)
    deficit.add(7, 100, 110, 50)
    assert (deficit.total, deficit.since, deficit.origin) == (12, 90, 40)
    deficit.add(-20, 110, 120, 60)
    assert (deficit.total, deficit.since) == (0, 120)
    deficit.add(3, 125, 130, 70)
    assert (deficit.total, deficit.since, deficit.origin) == (3, 125, 70)


def test_a_text_that_says_more_than_expected_saves_nothing_up() -> None:
    deficit = Deficit()
    deficit.add(-1000, 0, 10, 0)
    deficit.add(4, 15, 20, 0)
    assert deficit.total == 4


def test_the_form_is_looked_at_again_at_its_limit_at_the_latest() -> None:
    deficit = Deficit()
    deficit.add(LEAST_LIMIT + 1, 0, 10, 0)
    assert deficit.total > deficit.look_at
    assert not deficit.judge(900)
    assert deficit.total < deficit.look_at < 900
    assert not deficit.judge(LEAST_LIMIT + 2)
    assert deficit.look_at == LEAST_LIMIT + 2
    assert deficit.judge(LEAST_LIMIT)
    assert deficit.look_at > deficit.total
    deficit.clear(10)
    assert deficit.look_at == LEAST_LIMIT
