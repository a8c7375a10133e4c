"""The history of tokens, and the last position of each pair."""

import pytest

from dedup.text.loops.history import History
from dedup.text.loops.tokens import tokenize


def history_of(text: str) -> History:
    history = History()
    for token in tokenize(text):
        history.append(token)
    return history


def read(history: History, text: str) -> int:
    """Return how many tokens of `text` are read, up to the third of an earlier passage."""
    tokens = tokenize(text)
    return history.read(tokens, 0, len(tokens))


TEXT = "the river had risen in the night and "


def test_offsets_and_texts_are_those_of_the_text() -> None:
    history = history_of(TEXT)
    assert history.end == len(TEXT)
    assert history.text(0, 3) == "the river had "
    assert history.start_of(1) == 4
    assert [history.text_until(9, 1), history.text_until(9, 2)] == ["river"[:5], "the river"]
    assert history.text_until(9, 0, 3) in ("the river", "river")
    assert history.text_until(len(TEXT) + 50, 1) == "and "


def test_reading_stops_at_the_third_token_of_a_passage_that_stood_before() -> None:
    history = history_of(TEXT)
    assert read(history, "then the river had come up") == 4
    assert history.is_passage
    assert history.found == 2


def test_two_tokens_are_no_passage() -> None:
    history = history_of(TEXT)
    assert read(history, "then the river fell and it was the night of ") == 10
    assert not history.is_passage


def test_a_passage_is_found_where_it_stood_last() -> None:
    history = history_of(TEXT + "then " + TEXT)
    read(history, "so the river had ")
    assert history.found == history_of(TEXT + "then the river had ").next_number - 1


def test_a_passage_whose_numbers_changed_is_one() -> None:
    history = history_of("stop at gate 12, then go on ")
    assert read(history, "stop at gate 13, then go on ") == 3
    assert read(history, "gate 14, then ") <= 3
    assert history.is_passage


def test_what_was_forgotten_is_not_found() -> None:
    history = history_of(TEXT + "so it was said by all of them ")
    num_tokens = len(tokenize(TEXT))
    history.forget(num_tokens)
    assert history.base == num_tokens
    assert history.text(0, 2) == "so it "
    assert history.end == len(TEXT) + 30
    read(history, TEXT)
    assert not history.is_passage


def test_what_is_kept_is_found_after_forgetting() -> None:
    history = history_of("so it was said by all of them " + TEXT)
    history.forget(8)
    read(history, "when the river had ")
    assert history.is_passage
    assert history.found == 10


def test_after_starting_over_a_token_follows_nothing() -> None:
    history = history_of("the river had risen the river ")
    history.start_over("")
    assert read(history, "had come ") == 2
    assert not history.is_passage


def test_a_token_is_new_once() -> None:
    history = history_of(TEXT)
    assert [history.is_new(index) for index in (0, 5, 6)] == [True, False, True]


@pytest.mark.parametrize("num_tokens", [0, 2, 6])
def test_fences_count_when_they_were_forgotten(num_tokens: int) -> None:
    history = history_of("say:\n```\nx = 1\ny = 2\n```\nso it was said ")
    last = len(history.tokens) - 1
    is_inside = [history.in_fence(index) for index in range(num_tokens, last)]
    history.forget(num_tokens)
    assert [history.in_fence(index) for index in range(last - num_tokens)] == is_inside


def test_a_word_fills_a_frame_it_was_asked_about_before() -> None:
    history = history_of("so eagerly curious")
    asked = [history.fills_frame()]
    for text in ("so keenly curious", "so keenly glad"):
        for token in tokenize(text):
            history.append(token)
        asked.append(history.fills_frame())
    assert asked == [False, True, False]


def test_frames_are_forgotten_with_the_tokens() -> None:
    history = history_of("so eagerly curious")
    history.fills_frame()
    history.forget(1)
    for token in tokenize("so keenly curious"):
        history.append(token)
    assert not history.fills_frame()
