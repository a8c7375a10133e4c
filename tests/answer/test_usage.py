"""Token counts of answers that are continued."""

from dedup.answer.frame import Frame
from dedup.answer.usage import TokenCounts


def test_the_prompt_is_what_a_continuation_was_asked_less_what_it_continues() -> None:
    tokens = TokenCounts(prompt_tokens=16)
    tokens.note(Frame([]))  # the first attempt is stopped before it reports anything
    tokens.begin_attempt(num_bytes=900, prefix_bytes=300)
    assert (tokens.known_input, tokens.known_output(900)) == (16, 225)
    frame = Frame([], input_tokens=44 + 200, output_tokens=100)
    tokens.note(frame)
    tokens.calibrate(frame, num_bytes=900 + 150)  # two tokens make three bytes
    assert tokens.known_input == 44
    assert tokens.known_output(1050) == 600 + 100
    assert tokens.is_estimated


def test_what_an_engine_reports_is_not_estimated_again() -> None:
    tokens = TokenCounts(prompt_tokens=16)
    tokens.note(Frame([], input_tokens=40, output_tokens=120))
    tokens.begin_attempt(num_bytes=900, prefix_bytes=300)
    frame = Frame([], input_tokens=200, output_tokens=100)
    tokens.note(frame)
    tokens.calibrate(frame, num_bytes=1050)
    assert (tokens.known_input, tokens.known_output(1050)) == (40, 220)


def test_of_later_attempts_each_byte_is_as_many_tokens_as_before() -> None:
    tokens = TokenCounts(prompt_tokens=16)
    tokens.begin_attempt(num_bytes=300, prefix_bytes=100)
    frame = Frame([], input_tokens=116, output_tokens=16)
    tokens.note(frame)
    tokens.calibrate(frame, num_bytes=316)
    tokens.begin_attempt(num_bytes=316, prefix_bytes=116)
    assert tokens.known_output(416) == 300 + 16 + 100
