"""Token counts of answers that are continued."""

import pytest

from dedup.answer.frame import Frame
from dedup.answer.usage import Size, TokenCounts


def attempt(tokens: TokenCounts, size: Size, **reported: int) -> None:
    """End an attempt that reports its tokens."""
    frame = Frame([], **reported)  # type: ignore[arg-type]
    tokens.note(frame)
    tokens.calibrate(frame, size)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (Size(900, 200), 200),  # words
        (Size(200, 200), 200),  # digits
        (Size(900, 9), 225),  # sentences
        (Size(900, 1), 225),  # a whole answer
        (Size(0, 0), 0),
    ],
)
def test_a_piece_is_a_token_unless_it_is_long(size: Size, expected: int) -> None:
    assert size.num_tokens == expected


def test_the_prompt_is_what_a_continuation_was_asked_less_what_it_continues() -> None:
    tokens = TokenCounts(prompt_tokens=16)
    tokens.note(Frame([]))  # the first attempt is stopped before it reports anything
    tokens.begin_attempt(Size(900, 300), prefix_share=1 / 3)
    assert (tokens.known_input, tokens.known_output(Size(900, 300))) == (16, 300)
    attempt(tokens, Size(1050, 350), input_tokens=44 + 200, output_tokens=100)  # two in a piece
    assert tokens.known_output(Size(1050, 350)) == 600 + 100
    assert tokens.known_input == 44
    assert tokens.is_estimated


def test_a_prompt_may_be_shorter_than_its_estimate() -> None:
    tokens = TokenCounts(prompt_tokens=124)
    tokens.begin_attempt(Size(400, 200), prefix_share=0.25)
    attempt(tokens, Size(432, 216), input_tokens=39 + 50, output_tokens=16)
    assert tokens.known_input == 39


def test_what_an_engine_reports_is_not_estimated_again() -> None:
    tokens = TokenCounts(prompt_tokens=16)
    tokens.note(Frame([], input_tokens=40, output_tokens=120))
    tokens.begin_attempt(Size(900, 225), prefix_share=1 / 3)
    attempt(tokens, Size(1050, 300), input_tokens=200, output_tokens=100)
    assert (tokens.known_input, tokens.known_output(Size(1050, 300))) == (40, 220)


def test_of_later_attempts_each_piece_is_as_many_tokens_as_before() -> None:
    tokens = TokenCounts(prompt_tokens=16)
    tokens.begin_attempt(Size(900, 100), prefix_share=1 / 3)
    attempt(tokens, Size(1044, 116), input_tokens=116, output_tokens=32)
    tokens.begin_attempt(Size(1044, 116), prefix_share=1 / 3)
    assert tokens.known_output(Size(1944, 216)) == 200 + 32 + 200


def test_no_estimate_exceeds_the_limit() -> None:
    tokens = TokenCounts(prompt_tokens=16, limit=350)
    tokens.begin_attempt(Size(900, 300), prefix_share=1 / 3)
    attempt(tokens, Size(912, 304), input_tokens=144, output_tokens=16)  # four in a piece
    assert tokens.known_output(Size(912, 304)) == 350
    tokens.begin_attempt(Size(912, 304), prefix_share=1 / 3)
    assert tokens.known_output(Size(1200, 400)) == 350
