"""What the loop detector calls a loop, and what it does not."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup import LoopConfig, LoopDetector
from dedup.text.loops.detector import _TOKEN, _ascii_tokens

PROSE = (
    "The river had risen in the night and taken the bridge, so the mail did not come. Nobody in the village remembered such a "
    "flood, though old Marten swore that his father had seen one. By noon the water stood at the church door. "
)
CHINESE = "河水在夜里涨了起来，冲走了那座老桥，邮车没有来。村里没有人记得见过这样大的洪水，只有老马说他父亲见过一次。"


@pytest.mark.parametrize("before", ["", PROSE, CHINESE])
@pytest.mark.parametrize(
    "unit",
    [
        "and the man of the house ",
        "我倒没个什么，",
        "他说道：“不知道。”",
        "The same sentence, again and again. ",
        "- item\n",
        PROSE * 3,
    ],
)
def test_a_cycle_is_found_where_it_begins(before: str, unit: str) -> None:
    event = LoopDetector().feed(before + unit * max(4, 200 // len(unit)))
    assert event is not None
    assert event.kind == "exact"
    assert abs(event.onset - len(before)) <= len(unit)
    assert event.period == len(unit) if unit != PROSE * 3 else len(unit) % event.period == 0
    assert event.copies >= 3


def test_a_first_copy_whose_tokens_are_cut_elsewhere_counts() -> None:
    """Two characters of Japanese are a token; what stands before the loop decides where its first copy's begin."""
    unit = "橋は夜のうちに流された。"
    for before in ("昨日の", "昨日"):
        event = LoopDetector().feed(before + unit * 5 + "橋は")
        assert event is not None
        assert (event.onset, event.period) == (len(before), len(unit))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The text stands outside the block.\n" + "```\n" * 60, True),
        ("A line, a rule, a line:\n" + "```\nx = 1\n```\n" * 2, False),
        ("The number is 52" + "4452" * 24, True),
        ("The mask is " + "10" * 32, False),
        ("| name | price |\n|---|---|\n" + ("|" + " " * 60 + "|" + " " * 60 + "|\n") * 6, False),
    ],
)
def test_symbols_and_digits_are_loops_later_than_words(text: str, found: bool) -> None:
    assert (LoopDetector().feed(text) is not None) == found


@given(st.text(st.one_of(st.sampled_from("abAB01 _\n.,"), st.characters(max_codepoint=127))))
def test_ascii_text_has_the_tokens_of_any_text(text: str) -> None:
    """The tokenizer for ASCII gives what the pattern for all text gives."""
    assert _ascii_tokens(text) == _TOKEN.findall(text)


def test_a_loop_with_a_counter_is_found() -> None:
    text = PROSE + "".join(f"Step {i}: press the red button and wait for the light to turn on again. " for i in range(40))
    event = LoopDetector().feed(text)
    assert event is not None
    assert event.kind == "near"


def test_sentences_in_changing_order_are_a_loop() -> None:
    rng = random.Random(1)
    said = [sentence + ". " for sentence in PROSE.split(". ") if sentence]
    event = LoopDetector().feed("".join(rng.choice(said) for _ in range(60)))
    assert event is not None


def test_a_table_without_a_new_row_is_a_loop_and_one_with_new_rows_is_none() -> None:
    names = ["Ravens", "Browns", "Steelers", "Bengals", "Colts"]
    again = "".join(f"| 2011 | {names[i * i % 5]} | 20-{i % 3 + 13} | at home | won |\n" for i in range(80))
    new = "".join(f"| 2011 | {names[i * i % 5]} | {i}-{i * 7} | at home | won |\n" for i in range(80))
    assert LoopDetector().feed(again) is not None
    assert LoopDetector().feed(new) is None


def test_drift_at_the_end_of_a_text_is_reported_when_it_is_known_that_no_more_comes() -> None:
    detector = LoopDetector()
    text = PROSE + "".join(f"Step {i}: press the red button and wait for the light to turn on again. " for i in range(14))
    assert detector.feed(text) is None
    detector.flush()
    event = detector.feed("")
    assert event is not None
    assert event.kind == "near"


@pytest.mark.parametrize("unit", ["让它们", "にいくつもりで", "0123456", "haha lol", "\n```", "😅"])
def test_a_period_need_not_be_whole_tokens(unit: str) -> None:
    event = LoopDetector().feed(PROSE + unit * 240)
    assert event is not None
    assert event.period == (7 if unit == "0123456" else len(unit))


def test_the_second_copy_is_held_from_its_first_token_on() -> None:
    detector = LoopDetector()
    detector.feed("他放下了手里的书，")
    assert detector.held_from == 9
    detector.feed("他放下了")
    assert detector.held_from == 11


@pytest.mark.parametrize(
    "text",
    [
        PROSE + CHINESE,
        "Yes. Yes. Yes.",
        "Name: ____________________ Date: ____________________\n" * 2,
        "Chapter 1 ........................................ 12\nChapter 2 ........................................ 31\n",
        "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n",
        "ha ha ha ha ha",
        "```\n" + "| | |  |   |  | | |\n" * 20 + "```\n",
        "".join(f"id-{i},press-03,ok,1.02\n" for i in range(200)),
        "".join(f"2026-03-01 09:{i % 60:02}:00 WARN connection refused, retrying in two seconds\n" for i in range(200)),
        "=" * 120 + "\n",
    ],
)
def test_no_loop(text: str) -> None:
    assert LoopDetector().feed(text) is None


def test_tokens_are_symbols_too() -> None:
    event = LoopDetector().feed([9000 + i for i in range(50)] + [70_001, 70_002, 70_003] * 40)
    assert event is None or event.period == 3
    letters = LoopDetector().feed([ord(c) for c in "abcdefg" * 20])
    assert letters is not None
    assert letters.period == 7


@settings(deadline=None)
@given(st.text("ab c", min_size=1, max_size=30), st.integers(0, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_pieces_do_not_matter(unit: str, copies: int, sizes: list[int]) -> None:
    text = PROSE[:100] + unit * copies
    pieces, at, turn = LoopDetector(), 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        pieces.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    assert pieces.event == LoopDetector().feed(text)


def test_a_period_beyond_the_bound_is_not_looked_for() -> None:
    unit = "".join(chr(0x4E00 + i) for i in range(300))
    assert LoopDetector(LoopConfig(max_period=200, window=100_000)).feed(unit * 5) is None
    assert LoopDetector(LoopConfig(max_period=400)).feed(unit * 5) is not None


@pytest.mark.parametrize(("name", "value"), [("max_period", 0), ("window", 3), ("max_period", 1.5), ("window", True)])
def test_wrong_configuration_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        LoopConfig(**{name: value})  # type: ignore[arg-type]
