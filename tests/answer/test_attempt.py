"""Attempts to continue a text."""

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
