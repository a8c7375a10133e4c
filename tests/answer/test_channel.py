"""The times of a text on its way to the reader, by a clock that the test sets."""

import pytest

from dedup.answer.channel import Channel, Editing
from dedup.answer.continuation import Healing
from tests.answer.healed import ELSEWHERE

NOVEL = "The river rose in the night, and by morning the bridge was gone. "
LOOP = "I am going round and round in circles here. "
VERBS = ("Cross", "Paint", "Measure", "Sweep", "Photograph", "Repair")
ITEMS = [f"- {verb} the old bridge in the morning.\n" for verb in VERBS]


class Timed:
    """A text of which a piece comes each second."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.channel: Channel = Editing("balanced").channel("content", lambda: self.seconds)
        self.channel.given = []

    def feed(self, *pieces: str) -> str:
        given = ""
        for piece in pieces:
            self.seconds += 1
            given += self.channel.feed(piece)
        return given

    @property
    def longest(self) -> float:
        return self.channel.longest_hold_seconds


@pytest.fixture
def timed() -> Timed:
    return Timed()


def test_text_that_flows_is_not_held(timed: Timed) -> None:
    timed.feed(NOVEL, "Nobody heard it. ", "The miller counted the piers. ", "It was late. ")
    assert timed.longest <= 1


def test_silence_while_items_are_removed_is_a_hold(timed: Timed) -> None:
    timed.feed(*ITEMS)
    before = timed.longest
    assert not timed.feed(*ITEMS)[len(" old bridge in the morning.") :]
    assert timed.feed("- Close the gate behind you.\n")
    assert before <= 1
    assert timed.longest == len(ITEMS)


def test_silence_while_an_answer_is_healed_is_a_hold(timed: Timed) -> None:
    timed.feed(NOVEL)
    while not timed.channel.is_cut:
        timed.feed(LOOP)
    found = timed.seconds
    given = "".join(timed.channel.given or ())
    continuation = Healing({}, "", ELSEWHERE).next(given, timed.channel.looped, "", 50)
    assert continuation is not None
    timed.seconds += 30  # until the engine goes on
    timed.channel.resume(continuation)
    while not timed.feed("and the rain came back, and they all went home. It was late. "):
        assert timed.seconds < found + 60
    assert timed.longest >= 30


def test_silence_at_the_end_is_a_hold(timed: Timed) -> None:
    timed.feed(NOVEL, *ITEMS, *ITEMS)
    timed.channel.flush()
    assert timed.longest == len(ITEMS) - 1
