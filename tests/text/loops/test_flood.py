"""Floods of a few symbols."""

import random

import pytest

from dedup import LoopDetector
from dedup.text.loops.flood import Flood
from dedup.text.loops.history import History
from dedup.text.loops.tokens import tokenize


def history_of(text: str) -> History:
    history = History()
    for token in tokenize(text):
        history.append(token)
    return history


def shuffled(symbols: str, size: int) -> str:
    return "".join(random.Random(1).choices(symbols, k=size))


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        (shuffled("-+=", 800), True),
        (shuffled("-+=", 600), False),
        (shuffled("01\n.,;", 1300), True),
        (shuffled("01\n.,;", 1000), False),
        (shuffled("0123456789", 3000), False),
        (shuffled("ab ", 3000), False),
        (" \n" * 170, True),
        (" \n" * 120, False),
        ("", False),
    ],
    ids=[
        "three",
        "few-of-three",
        "six",
        "few-of-six",
        "ten",
        "letters",
        "blank",
        "few-blank",
        "nothing",
    ],
)
def test_the_fewer_the_symbols_the_sooner_it_is_a_flood(text: str, begins: bool) -> None:
    assert Flood().begins(history_of(text)) == begins


def test_drawings_in_fenced_code_may_be_twice_as_long() -> None:
    drawing = shuffled("-+=", 1000)
    assert Flood().begins(history_of(drawing))
    assert not Flood().begins(history_of(f"```\n{drawing}"))
    assert Flood().begins(history_of(f"```\n{drawing}{drawing}"))


def test_a_flood_goes_on_with_its_own_symbols_and_ends_with_another() -> None:
    flood = Flood()
    assert flood.begins(history_of(shuffled("-+=", 800)))
    assert flood.goes_on("-=-=")
    assert not flood.goes_on("-a")
    assert not flood.chars


def test_a_flood_begins_behind_the_words_before_it() -> None:
    event = LoopDetector().feed("Here is the result of the run.\n" + shuffled("-+=|", 2000))
    assert event is not None
    assert event.kind == "flood"
    assert 29 <= event.onset <= 40


def test_a_flood_is_found_while_it_runs() -> None:
    event = LoopDetector().feed(shuffled("😅😂🤣", 5000))
    assert event is not None
    assert event.detected_at < 1500
