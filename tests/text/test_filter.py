"""What the filter removes, and what it leaves alone."""

import pytest

from dedup import FilterConfig, RepetitionFilter


def filtered(
    text: str, history: tuple[str, ...] = (), prompt: str | None = None, **config: object
) -> tuple[str, RepetitionFilter]:
    done = RepetitionFilter(FilterConfig(**config), history=history, prompt=prompt)  # type: ignore[arg-type]
    return done.feed(text) + done.flush(), done


A = "The river had risen in the night."
B = "Nobody remembered such a flood."
C = "The mail did not come that day."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{A} {B} {A} {C}", f"{A} {B} {C}"),
        (f"{A} {B}\n\n{A} {B}\n\n{C}", f"{A} {B}\n\n{C}"),
        (f"{A}\n\n{B} {A}\n\n{C}", f"{A}\n\n{B}\n\n{C}"),
        (f"{A} {B}\n{A} {C}", f"{A} {B}\n{C}"),
        (f"{A} {A.upper()} {C}", f"{A} {C}"),
        (f"{A} {C} {A}", f"{A} {C}"),
        (
            "河水在夜里涨了起来。村里没有人见过。河水在夜里涨了起来。邮车没有来。",
            "河水在夜里涨了起来。村里没有人见过。邮车没有来。",
        ),
        (
            "- close every window\n- boil the water first\n- close every window\n",
            "- close every window\n- boil the water first\n",
        ),
    ],
)
def test_a_sentence_said_again_goes_and_the_text_stays_well_formed(text: str, expected: str) -> None:
    assert filtered(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        '"Yes, sir." He went. "Yes, sir." He came back.',
        "Monday\n\n- read a chapter of the book\n\nTuesday\n\n- read a chapter of the book\n",
        "```\nreturn first or second\nreturn first or second\n```\n",
        "| tea | two pounds |\n| tea | two pounds |\n",
        "Hallelujah, sing to Jesus\nHis the sceptre, his the throne\n\nHallelujah, sing to Jesus\nHis the triumph, his alone\n",
        "x + 1 is the result we want. x - 1 is the result we want.",
        "For the first case, run this:\n\n    a()\n\nFor the first case, run this:\n\n    b()\n",
        "水烧开了吗？\n徒弟：烧开了，师父，米也洗好了。\n米洗好了吗？\n徒弟：烧开了，师父，米也洗好了。\n",
        "1. Roll it out. Let it rest for ten minutes.\n2. Fold it in three. Let it rest for ten minutes.\n",
        "1. Monday\n* read one chapter of the book\n2. Tuesday\n* read one chapter of the book\n",
        "Faith of our fathers, holy faith!\n\nThe night is long.\n\nFaith of our fathers, holy faith!\n",
        ">>> print(dig / Decimal(3))\n0.333333333\n>>> print(dig / Decimal(3))\n0.333333333\n",
    ],
)
def test_legitimate_repetition_stays(text: str) -> None:
    assert filtered(text)[0] == text


def test_of_a_passage_said_again_short_sentences_go_too() -> None:
    """Far from its first place a short sentence alone stays; after the sentence it followed there it goes."""
    first = f"The dam above the village gave way at four o'clock in the morning. {B} {C}"
    between = "In the next valley they knew nothing of it, and went on with the harvest as they did every year at that time. "
    between += "Only the miller wondered why the brook was brown, and sent his boy up to the weir to look at the sluice.\n\n"
    assert filtered(f"{first}\n\n{between}{first}\n")[0] == f"{first}\n\n{between}"
    assert filtered(f"{first}\n\n{between}So it was. {C}\n")[0] == f"{first}\n\n{between}So it was. {C}\n"


@pytest.mark.parametrize("end", [12, 30, 42])
def test_what_the_text_ends_in_goes_if_it_begins_an_earlier_sentence_again(end: int) -> None:
    """A text cut off at its last token often ends in a second copy; fewer than 32 bytes may be words that were meant."""
    said = "The dam above the village gave way at four in the morning."
    assert filtered(f"{B} {said} {said[:end]}")[0] == (f"{B} {said} {said[:end]}" if end < 32 else f"{B} {said}")
    assert filtered(f"{said} {B} {said[:end]}")[0] == (f"{said} {B} {said[:end]}" if end < 32 else f"{said} {B}")


def test_drift_that_the_text_ends_in_is_reported_and_stays() -> None:
    text = "".join(f"Step {i}: press the red button and wait for the light to turn on again. " for i in range(14))
    out, done = filtered(text)
    assert out == text
    assert done.loop is not None
    assert done.loop.kind == "near"
    assert not done.ended


def test_a_loop_is_cut_after_its_first_copy() -> None:
    out, done = filtered(f"{A} " + "and the man of the house " * 40)
    assert done.loop is not None
    assert done.loop.kind == "exact"
    assert out.count("and the man of the house") <= 2
    assert done.removed[-1].kind == "loop"
    assert done.removed[-1].end == done.chars_in


def test_what_is_fed_after_a_cut_is_dropped_and_counted() -> None:
    done = RepetitionFilter()
    done.feed("我倒没个什么，" * 40)
    assert done.loop is not None
    assert done.feed("还有一句新的话。") == ""
    assert done.flush() == ""
    assert done.removed[-1].end == done.chars_in == 7 * 40 + 8


def test_skip_goes_on_after_each_loop() -> None:
    first, second = "and the man of the house ", "我倒没个什么，"
    text = f"{A} " + first * 40 + f"\n\n{B} " + second * 40 + f"\n\n{C}"
    out, done = filtered(text, on_loop="skip")
    loops = [removal for removal in done.removed if removal.kind == "loop"]
    assert [text[loop.first_start : loop.first_start + 4] for loop in loops] == [" and", "我倒没个"]
    assert all(kept in out for kept in (A, B, C))
    assert len(out) < 200


def test_skip_drops_the_loop_and_goes_on() -> None:
    out, done = filtered(f"{A} " + "and the man of the house " * 40 + f"\n\n{B} {C}", on_loop="skip")
    assert done.loop is not None
    assert out.startswith(A)
    assert out.endswith(f"{B} {C}")
    assert len(out) < 200


def test_skip_cuts_no_word_in_two() -> None:
    step = "- Boil the water for five minutes"
    assert filtered(f"{step}\n" * 4 + f"{step}: {C}", on_loop="skip")[0] == f"{step}: {C}"


@pytest.mark.parametrize("size", [1, 3, 100])
def test_an_indented_item_is_one_whatever_the_deltas(size: int) -> None:
    step = "- Boil the water for five minutes"
    text = f"{step}\n" * 4 + f"{step}\n    {step}\n    "
    done = RepetitionFilter(FilterConfig(on_loop="skip"))
    out = "".join(done.feed(text[at : at + size]) for at in range(0, len(text), size)) + done.flush()
    assert out == f"{step}\n    "


def test_loops_only_cuts() -> None:
    assert filtered(f"{A} {A} {C}", policy="loops")[0] == f"{A} {A} {C}"


def test_watch_flags_and_changes_nothing() -> None:
    text = f"{A} {B} {A} " + "and the man of the house " * 40
    out, done = filtered(text, policy="watch")
    assert out == text
    assert done.sentences_flagged == 1
    assert done.loop is not None
    assert not done.removed


def test_strict_removes_near_duplicates_and_what_earlier_turns_said() -> None:
    near = "Nobody in the village remembered such a terrible flood in all those years."
    nearer = "Nobody in the village remembered such a terrible flood in all these years."
    assert filtered(f"{near} {A} {nearer}", policy="strict")[0] == f"{near} {A}"
    assert filtered(f"{near} {A} {nearer}")[0] == f"{near} {A} {nearer}"
    out, done = filtered(f"{A} {C}", policy="strict", history=(f"{B} {A}",))
    assert out == C
    assert done.removed[0].first_start < 0


def test_of_a_long_history_the_end_is_remembered() -> None:
    between = "".join(f"The water stood at mark {number} that day. " for number in range(10_000))
    assert filtered(f"{A} {C} {B}", policy="strict", history=(f"{A} {between}", f"{between} {C}"))[0] == f"{A} {B}"


def test_near_duplicates_with_other_numbers_stay() -> None:
    text = "Flight 12 leaves the gate at nine in the morning. Flight 14 leaves the gate at nine in the morning."
    assert filtered(text, policy="strict")[0] == text


ASKING = (
    "Write 'I will not be late' 50 times. | REPEAT the sentence. | Keep repeating it. | Say it over and over. | Quote it verbatim. | "
    "The lyrics, please. | Sing the Chorus. | And the refrain? | 把这句话重复写10遍 | 复述 | 写 30 次 | 歌词 | 副歌 | 繰り返し"
)


@pytest.mark.parametrize("prompt", ASKING.split(" | "))
def test_a_reader_who_asks_for_repetition_gets_it(prompt: str) -> None:
    text = "I will not be late for school. " * 50
    out, done = filtered(text, prompt=prompt)
    assert out == text
    assert done.loop is not None


def test_json_and_tool_arguments_are_not_edited_but_cut() -> None:
    text = '{"a": "The river had risen in the night.", "b": "The river had risen in the night."}'
    assert filtered(text, edit=False)[0] == text
    assert filtered('{"a": "' + "and the man of the house " * 40, edit=False)[1].loop is not None


def test_numbers() -> None:
    _, done = filtered(f"{A} {B} {A}")
    assert done.metrics() == {
        "rep_4": pytest.approx(4 / 16),
        "chars_in": 99,
        "chars_out": 65,
        "removed_chars": 34,
        "sentences_kept": 2,
        "sentences_removed": 1,
        "sentences_flagged": 0,
        "loops": 0,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("policy", "gentle"), ("on_loop", "stop"), ("max_sentences", 0), ("similarity", 0), ("max_segment_chars", 1)],
)
def test_wrong_configuration_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        FilterConfig(**{name: value})  # type: ignore[arg-type]
