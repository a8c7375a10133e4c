"""Attempts to continue a text."""

import pytest

from dedup.answer.attempt import Attempt
from dedup.answer.continuation import OPENING_TOKENS, Continuation, Opening


def test_an_opening_waits_for_its_end() -> None:
    """There the engine says how many tokens it took. One that knows no limit is stopped."""
    opening = Opening(("again",), stands_open=False, can_stop=False, is_own_call=True)
    attempt = Attempt(Continuation("She called.", opening, {}), "She called.")
    for _ in range(OPENING_TOKENS):
        attempt.feed(attempt.join(" then"))
    assert not attempt.has_opened
    attempt.feed(attempt.join(" then"))
    assert attempt.has_opened


@pytest.mark.parametrize(
    ("before", "generated", "joined"),
    [
        ("| tea | hot |\n", "The table", "\nThe table"),
        ("| tea | hot |\n", "\nThe table", "\nThe table"),
        ("| tea | hot |", "\nThe table", "\n\nThe table"),
        ("| tea | hot |\n", "| milk | cold |", "| milk | cold |"),
        ("| tea | hot |\n| ", "milk | cold |", "milk | cold |"),
        ("Tea is hot.\n", "The table", "The table"),
    ],
)
def test_text_behind_a_table_begins_a_block(before: str, generated: str, joined: str) -> None:
    """On the next line, markdown takes it for a row."""
    header = "| a | b |\n|---|---|\n"
    opening = Opening((), stands_open=False, can_stop=False, is_own_call=True)
    attempt = Attempt(Continuation(header + before, opening, {}), header + before)
    assert "".join(map(attempt.join, generated)) == joined


def test_a_fence_that_closes_code_is_not_indented() -> None:
    """Indented by four spaces, it closes nothing in markdown."""
    before = "```python\ndef f(n):\n    return n\n"
    attempt = Attempt(Continuation(before, None, {}), before)
    assert "".join(map(attempt.join, ["    ", "```\n", "It returns n."])) == "```\nIt returns n."
