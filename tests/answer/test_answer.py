"""Answers that are healed: what the reader gets of the attempts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup import RepetitionFilter
from dedup.answer.boundary import can_stop
from dedup.answer.continuation import ALL_METHODS, MAX_ATTEMPTS, Support
from tests.answer.healed import ELSEWHERE, Healed, Said

LOCAL = Support(ALL_METHODS, opens=True)
BOTH = pytest.mark.parametrize("support", [LOCAL, ELSEWHERE], ids=["one call", "two calls"])
START = "The door was open. She went in, and saw nobody. "
LOOP = "She called and called again. "
LOOPS = Said(START + LOOP * 40)
KEPT = (START + LOOP).rstrip()
CODE = Said("Here is how:\n\n```python\ntea = water()\n" + "tea.stir(slowly)\n" * 60)

SENTENCES = [
    "The river rose in the night, and the bridge was gone by noon.",
    "Nobody in the village had heard it fall!",
    "Was it the rain?",
    "- Boil the water",
    "2. **Tea**: it is brown",
    "# What to do",
    "Ingredients:",
    "夜里河水涨了起来，到了早晨，桥已经不见了。",
    "村里没有人听见。",
    "```",
    "tea = water(hot)",
    "| a | b |",
    "and the man of the house",
    "He said: \"I am",
    "Yes.",
]  # fmt: skip
text = st.lists(
    st.tuples(st.sampled_from(SENTENCES), st.sampled_from([" ", " ", "\n", "\n\n", ""])),
    max_size=6,
).map(lambda parts: "".join([sentence + separator for sentence, separator in parts]))
units = st.tuples(st.sampled_from(SENTENCES), st.sampled_from([" ", "\n", "。", " again, "])).map(
    "".join
)
loops = st.tuples(text, units).map(lambda parts: parts[0] + parts[1] * 60)
calls = st.builds(Said, st.one_of(text, loops), st.sampled_from(["stop", "stop", "length", None]))


def is_whole(text: str) -> bool:
    """Return whether a text ends with a whole sentence or line."""
    return can_stop(text, "\n")


def line_of(text: str) -> str:
    """Return the last sentence of a text's last line, or what stands in its place."""
    return text.rpartition("\n")[2].rpartition(". ")[2]


def is_ended(healed: Healed, calls: list[Said]) -> bool:
    """Return whether a text stops in the words of its loop, where a line of that ends.

    Where none ends nearby, there is an ellipsis. A line may also end where the engine ended it.
    """
    ending = healed.ending
    line = line_of(healed.text)
    if line and any(f"{line}\n" in call.text for call in calls):
        return True
    if ending.endswith("…"):
        return healed.text.endswith(ending)
    ends_there = any(f"{ending}\n" in f"{call.text}\n" for call in calls)
    return bool(ending) and healed.text.endswith(ending) and ends_there


@settings(max_examples=400, deadline=None)
@given(loops.map(Said), st.lists(calls, max_size=8), st.booleans(), st.integers(0, 99))
def test_whatever_is_generated_the_reader_gets_one_text(
    first: Said, more: list[Said], opens: bool, seed: int
) -> None:
    support = LOCAL if opens else ELSEWHERE
    healed = Healed([first, *more], support=support, seed=seed)
    if healed.before is None:
        assert not healed.asked
        return
    assert healed.text.startswith(healed.before)
    again = RepetitionFilter()
    again.feed(healed.text)
    again.flush()
    # No filter sees a loop of which every attempt generates one copy, nor a repeat at a seam.
    assert again.loop is None or len(healed.asked) > 1
    assert len(again.removed) <= len(healed.asked)
    if healed.text != healed.before:
        assert is_whole(healed.text) or is_ended(healed, [first, *more])
    openings = [one for one in healed.asked if one.opening is not None]
    assert len(openings) <= MAX_ATTEMPTS
    assert healed.finish is not None
    (channel,) = healed.answer.channels
    assert channel.chars_out == len(healed.text)
    assert channel.removed_chars >= 0
    assert channel.discarded_chars >= 0


@BOTH
def test_an_answer_goes_on_behind_its_loop(support: Support) -> None:
    healed = Healed([LOOPS, Said(" Then the cat came.")], support=support)
    assert healed.before == KEPT
    assert healed.text == f"{KEPT} Then the cat came."
    assert healed.finish is not None
    assert not healed.finish.is_cut
    (channel,) = healed.answer.channels
    assert channel.first_removed == len(KEPT)  # what points behind it does so no more


@BOTH
@pytest.mark.parametrize(
    ("text", "passed"),
    [
        (" Then the cat came. It was", " Then the cat came."),
        (" Then the cat came. It was wet.", " Then the cat came. It was wet."),
        (" Then the", ""),
    ],
)
def test_at_its_limit_the_stump_of_a_sentence_is_dropped(
    support: Support, text: str, passed: str
) -> None:
    calls = [Said(text, "length")]
    if support is ELSEWHERE:
        calls = [Said(" Then th", "length"), Said(text.removeprefix(" Then"), "length")]
    healed = Healed([LOOPS, *calls], support=support)
    if passed:
        assert healed.text == KEPT + passed
    assert healed.text.startswith(KEPT)
    assert is_whole(healed.text)


@BOTH
@pytest.mark.parametrize("reason", ["length", "stop"])
def test_an_answer_behind_whose_loop_nothing_comes_is_cut(support: Support, reason: str) -> None:
    calls = [Said(" Then the", "length")]
    if support is ELSEWHERE:
        calls = [Said(" Then", "length"), Said(" the", "length")]
    if reason == "stop":
        calls = []
    healed = Healed([LOOPS, *calls], support=support)
    assert healed.text == KEPT
    assert healed.finish is not None
    assert healed.finish.is_cut
    summary = healed.answer.summary()
    assert summary["loop"]["kind"] == "exact"
    assert "healed" not in summary


def test_an_item_does_not_go_on_the_line_of_the_one_before() -> None:
    """In an opening the engine cannot end the line of an item that the loop left open."""
    item = "{}. A gift card with ten years of warranty and a discount\n"
    text = "Ideas:\n\n1. A phone\n2. A cake\n" + "".join(map(item.format, range(3, 30)))
    opening = Said(" A bow 5. A", "length")
    healed = Healed([Said(text), opening, Said("5. A silk scarf\n6. A pen\n")])
    assert healed.before is not None
    assert healed.asked[1].prefix.endswith("\n4. A bow\n")
    assert healed.text.endswith("\n4. A bow\n5. A silk scarf\n6. A pen")
    healed = Healed(
        [Said(text), Said(" A bow 5. A silk scarf.\n"), Said(" and a hat.\n4. A pen.")],
        support=LOCAL,
    )
    assert " A bow 5." not in healed.text
    assert healed.text.endswith(" and a hat.\n4. A pen.")


COMMENT = "# This line will rename all photos in a folder by their date.\n\n"


@BOTH
def test_what_cannot_be_healed_ends_with_its_sentence_or_line(support: Support) -> None:
    """A stump cannot be withdrawn: it is ended in the loop's own words."""
    loops = Said("#!/bin/bash\n\n# This script will rename all photos.\n\n" + COMMENT * 40)
    healed = Healed([loops, *[Said(COMMENT[2:] + COMMENT * 40)] * 12], support=support)
    assert healed.text.endswith("\n\n" + COMMENT.rstrip())
    assert healed.finish is not None
    assert healed.finish.is_cut
    (channel,) = healed.answer.channels
    assert channel.chars_out == len(healed.text)
    assert channel.removed_chars >= 0


def test_a_loop_without_an_end_ends_with_an_ellipsis() -> None:
    loops = Said("It was called \"Rock's " + "Lair's " * 90)
    healed = Healed([loops], support=LOCAL)
    assert healed.before is not None
    assert healed.text == f"{healed.before}…"


def test_an_item_begins_its_own_line_behind_a_loop() -> None:
    """A model that is to end the line itself goes on with the item before it instead."""
    loops = Said("1. Marble\n2. Marble\n" + "".join(f"{one}. Marble\n" for one in range(3, 40)))
    healed = Healed([loops, Said(" Rose\n4. Lily\n")], support=LOCAL)
    assert healed.text == "1. Marble\n2. Marble\n3. Rose\n4. Lily"
    assert healed.asked[0].prefix == "1. Marble\n2. Marble\n3."
    healed = Healed([loops, Said("\n3. Rose"), Said("3. Rose\n4. Lily\n")], support=LOCAL)
    assert healed.asked[1].prefix == "1. Marble\n2. Marble\n"
    assert healed.text == "1. Marble\n2. Marble\n3. Rose\n4. Lily"


def test_behind_a_third_copy_an_answer_goes_on_where_the_reader_stands() -> None:
    """Text that the filter passed and the gate held is not skipped: "5. RetreysGolden"."""
    items = "1. Golden Retreys\n2. Labrador Retreys\n" + "".join(
        f"{one}. Golden Retreys\n" for one in range(3, 30)
    )
    again = " Black Labradors\n" + "".join(f"{one}. Golden Retreys\n" for one in range(5, 30))
    healed = Healed([Said(items), Said(again), Said(" Pug\n6. Collie\n")], support=LOCAL)
    assert "RetreysGolden" not in healed.text
    assert healed.text.endswith("Labradors\n5. Pug\n6. Collie")
    assert healed.asked[-1].insertion.strip() == "5."


def test_an_answer_that_is_cut_in_the_end_says_at_which_loop() -> None:
    lost = Said("\n\n" + "".join(f"{one}. Kusi: {one + 30}\n" for one in range(1, 60)))
    healed = Healed([LOOPS, *[lost] * 8], support=LOCAL)
    assert healed.finish is not None
    assert healed.finish.is_cut
    assert healed.text != KEPT
    assert healed.answer.summary()["loop"] is not None


@BOTH
def test_at_its_limit_verse_passes_in_whole_lines(support: Support) -> None:
    verse = " Then the evening came,\nWhere shadows play,\nThe wheels"
    calls = [Said(verse, "length")]
    if support is ELSEWHERE:
        calls = [Said(" Then th", "length"), Said(verse.removeprefix(" Then"), "length")]
    healed = Healed([LOOPS, *calls], support=support)
    assert healed.text == f"{KEPT} Then the evening came,\nWhere shadows play,"


@BOTH
@pytest.mark.parametrize(
    ("text", "reason", "ending"),
    [
        ('pour("cup")\nreturn tea\n', "stop", 'pour("cup")\nreturn tea\n```'),
        ('pour("cup")\nreturn tea\n', "length", 'pour("cup")\nreturn tea\n```'),
        ('pour("cup")\nreturn tea\n', None, 'pour("cup")\nreturn tea\n```'),
        ('pour("cup")\n```\nDone.', "stop", 'pour("cup")\n```\nDone.'),
    ],
    ids=["stop", "length", "broken off", "closed by itself"],
)
def test_code_is_closed(support: Support, text: str, reason: str | None, ending: str) -> None:
    calls = [Said(text, reason)]
    if support is ELSEWHERE:
        calls = [Said('pour("cup"', "length"), Said(text.removeprefix('pour("cup"'), reason)]
    healed = Healed([CODE, *calls], support=support)
    assert healed.before is not None
    assert healed.before.endswith("\ntea.stir(slowly)")
    assert healed.asked[0].insertion == "\n"
    assert healed.text == f"{healed.before}\n{ending}"
    assert is_whole(healed.text)


@BOTH
def test_blocks_of_code_are_closed(support: Support) -> None:
    code = "```js\napp.run(() => {\n    app.add({\n" + "        isFinishedAndDone: false,\n" * 60
    closing = "        isFinishedAndDone: false,\n    })\n})\n```"
    healed = Healed([Said(code)], support=support)
    assert healed.text.endswith(closing)
    healed = Healed([Said(code), Said("```\nThat is all.")], support=LOCAL)
    assert healed.text.endswith(f"{closing}\nThat is all.")


def test_what_the_filter_holds_of_an_opening_is_kept() -> None:
    calls = [Said("tea.st", "length"), Said("ir(fast)\nreturn tea\n```")]
    healed = Healed([CODE, *calls])
    assert healed.asked[1].prefix.endswith("\ntea.stir(slowly)\ntea.")
    calls[0] = Said("", "length")
    healed = Healed([CODE, *calls])
    assert healed.asked[1].prefix.endswith("\ntea.stir(slowly)\n")


@BOTH
def test_a_line_of_code_is_ended_once(support: Support) -> None:
    names = ["add" + "_with_list" * size for size in range(30)]
    body = "def {}(n, m):\n    return n + n * m + {}(n, m)\n\n"
    code = "```python\n" + "".join(map(body.format, names[1:], names))
    for closing in ("```", "\n```", "\n```\n"):
        healed = Healed([Said(code), Said(closing)], support=support)
        assert healed.before is not None
        assert healed.text.rstrip().endswith("\n```")
        assert healed.text.count("```") == 2


@BOTH
def test_an_enumeration_that_cannot_be_healed_ends_with_an_ellipsis(support: Support) -> None:
    healed = Healed([Said("They saw " + "Texas, Arizona, New Mexico, " * 60)], support=support)
    assert healed.text.endswith(", …")
    healed = Healed([Said("我们看到" + "美丽的城市，古老的村庄，" * 60)], support=support)
    assert healed.text.endswith(("美丽的城市…", "古老的村庄…"))


@BOTH
def test_code_that_cannot_be_healed_is_closed(support: Support) -> None:
    healed = Healed([CODE, *[Said('tea.pour("cup")\n' * 60)] * 8], support=support)
    assert healed.text.count("```") == 2
    assert healed.text.endswith("\n```")
    assert healed.finish is not None
    assert healed.finish.is_cut


def test_an_attempt_that_ends_no_sentence_is_withdrawn() -> None:
    healed = Healed([LOOPS, Said(" Then the", None)], support=LOCAL)
    assert healed.text == KEPT
    (channel,) = healed.answer.channels
    assert channel.discarded_chars == channel.removed_chars
    assert healed.finish is not None
    assert healed.finish.is_cut


@BOTH
@pytest.mark.parametrize("reason", ["stop", "length", None])
def test_a_sentence_that_an_attempt_has_ended_is_not_ended_again(
    support: Support, reason: str | None
) -> None:
    loop = "春天是一种美好的日花，是一" + "种美好的日花，是一" * 12
    for max_tokens in range(8, 200, 3):
        for rest in ("。", "。\n", "。你", "。你可以看到"):
            said = Said(rest, reason)
            for last in (said, Said("", "stop"), Said("你", reason)):
                healed = Healed([Said(loop), said, last], support=support, max_tokens=max_tokens)
                assert not ("日花。" in healed.text and "…" in healed.text)
