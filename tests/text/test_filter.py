"""The filter: removals, and text that it must keep."""

import pytest

from dedup import FilterConfig, LoopConfig, LoopDetector, RepetitionFilter
from dedup.text.prompt import NOTHING_REQUESTED


def filtered(
    text: str, history: tuple[str, ...] = (), prompt: str | None = None, **config: object
) -> tuple[str, RepetitionFilter]:
    done = RepetitionFilter(FilterConfig(**config), history=history, prompt=prompt)  # type: ignore[arg-type]
    return done.feed(text) + done.flush(), done


A = "The river had risen in the night."
B = "Nobody remembered such a flood."
C = "The mail did not come that day."


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_an_item_in_which_the_text_breaks_off_goes_with_and_without_a_line_end(end: str) -> None:
    actors = "1. Tom Hanks (1956)\n2. John C. Reilly (1965)\n3. Meryl Streep (1949)\n"
    assert filtered(f"{actors}4. John C. Reilly (196{end}")[0].rstrip("\n") == actors.rstrip("\n")
    assert (
        filtered(f"{actors}4. Maggie Smith (1934{end}")[0] == f"{actors}4. Maggie Smith (1934{end}"
    )


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
            f"{A} 河水在夜里涨了起来。{B} 河水在夜里涨了起来。{C}",
            f"{A} 河水在夜里涨了起来。{B} {C}",
        ),
        (
            f"{A} 河水在夜里涨了起来。{B} 河水在夜里涨了起来。{A}",
            f"{A} 河水在夜里涨了起来。{B}",
        ),
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
def test_a_sentence_said_again_goes_and_the_text_stays_well_formed(
    text: str, expected: str
) -> None:
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


SHIPS = "It ships within two business days and comes with a warranty of two years."
PARALLEL = [
    f"1. The desk lamp has three levels. {SHIPS}\n2. The floor lamp is tall. {SHIPS}\n",
    f"(A) The desk lamp.\nIt has three levels. {SHIPS}\n(B) The floor lamp.\nIt is tall. {SHIPS}\n",
    f"First, consider the desk lamp. {SHIPS} Second, consider the floor lamp. {SHIPS}",
    f"Option one: a desk lamp. {SHIPS}\nOption two: a floor lamp. {SHIPS}\n",
    f"# Desk lamp\n\nIt has three levels. {SHIPS}\n\n# Floor lamp\n\nIt is tall. {SHIPS}\n",
    f"**Desk lamp**\nIt has three levels. {SHIPS}\n\n**Floor lamp**\nIt is tall. {SHIPS}\n",
    "情形一：甲方逾期付款。违约金按照未付款项的万分之五每日计算。情形二：乙方逾期交货。违约金按照未付款项的万分之五每日计算。",
    "首先，三是奇数。这是因为它除以二的余数等于一。其次，五是奇数。这是因为它除以二的余数等于一。",
    "Breakfast:\nOatmeal with berries. Drink a glass of water.\n\nBreakfast:\nYogurt with nuts. Drink a glass of water.\n",
    "Name: ________\nPlease sign on the line below.\n\nName: ________\nPlease sign on the line below.\n",
    "* The packaging generator learned a new\n  option for the licence.\n\n* The packaging generator learned a new\n  `--force` flag.\n",
    "- **Note**\n  The first of the two remarks\n- **Note**\n  The second of the two remarks\n",
]
VERSE = [
    "I left my heart in Memphis.\nI left my shoes in Rome.\nThe road that took me far away will bring you back to me.\n\n"
    "I lost my hat in Dallas.\nI lost my way in Maine.\nThe road that took me far away will bring you back to me.\n",
    "The night is cold, And dark the sea, And far the light upon the shore. Come home to me, O wanderer, And sail no more.\n\n"
    "The wind is high, And white the foam, And loud the breakers evermore. Come home to me, O wanderer, And sail no more.\n",
    "彼黍离离，彼稷之苗。行迈靡靡，中心摇摇。知我者，谓我心忧；不知我者，谓我何求。悠悠苍天，此何人哉？\n"
    "彼黍离离，彼稷之穗。行迈靡靡，中心如醉。知我者，谓我心忧；不知我者，谓我何求。悠悠苍天，此何人哉？\n",
    "Lord, have mercy upon us.\nFor the peace of the world.\nLord, have mercy upon us.\nFor the sick.\nLord, have mercy upon us.\n",
]


@pytest.mark.parametrize("text", [*PARALLEL, *VERSE])
def test_parallel_parts_and_verse_say_again_what_they_said(text: str) -> None:
    assert filtered(text)[0] == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Far down the list nobody thinks of a pattern.
        (
            f"1. The desk lamp. {SHIPS}\n2. The sofa.\n3. The chair.\n4. The table.\n5. The shelf.\n6. The floor lamp. {SHIPS}\n",
            f"1. The desk lamp. {SHIPS}\n2. The sofa.\n3. The chair.\n4. The table.\n5. The shelf.\n6. The floor lamp.\n",
        ),
        # The same case again is no other case.
        (
            f"Case 1: n is even and positive\n{A} {B}\n\nCase 1: n is even and positive\n{A} {C}\n",
            f"Case 1: n is even and positive\n{A} {B}\n\nCase 1: n is even and positive\n{C}\n",
        ),
        # A conclusion copied from the introduction, under a heading of its own.
        (
            f"# Flood\n\nSo {A[:-1]}, and so it was in all the villages down the valley until the dam was built. {B}\n\n"
            f"# Summary\n\nSo {A[:-1]}, and so it was in all the villages down the valley until the dam was built. {C}\n",
            f"# Flood\n\nSo {A[:-1]}, and so it was in all the villages down the valley until the dam was built. {B}\n\n"
            f"# Summary\n\n{C}\n",
        ),
    ],
)
def test_what_is_not_parallel_goes(text: str, expected: str) -> None:
    assert filtered(text)[0] == expected


def test_of_a_passage_said_again_short_sentences_go_too() -> None:
    """Far from its original a short sentence is removed only after the sentence it followed there."""
    first = f"The dam above the village gave way at four o'clock in the morning. {B} {C}"
    between = "In the next valley they knew nothing of it, and went on with the harvest as they did every year at that time. "
    between += "Only the miller wondered why the brook was brown, and sent his boy up to the weir to look at the sluice.\n\n"
    assert filtered(f"{first}\n\n{between}{first}\n")[0] == f"{first}\n\n{between}"
    assert (
        filtered(f"{first}\n\n{between}So it was. {C}\n")[0]
        == f"{first}\n\n{between}So it was. {C}\n"
    )


@pytest.mark.parametrize("end", [12, 30, 42])
def test_what_the_text_ends_in_goes_if_it_begins_an_earlier_sentence_again(end: int) -> None:
    """A truncated text often ends in a second copy; fewer than 32 bytes may be meant."""
    said = "The dam above the village gave way at four in the morning."
    assert filtered(f"{B} {said} {said[:end]}")[0] == (
        f"{B} {said} {said[:end]}" if end < 32 else f"{B} {said}"
    )
    assert filtered(f"{said} {B} {said[:end]}")[0] == (
        f"{said} {B} {said[:end]}" if end < 32 else f"{said} {B}"
    )


ACTORS = "1. John C. Reilly (1925-2006)\n2. Mary Astor (1906-1987)\n"


@pytest.mark.parametrize(
    "item", ["3. John C. Reilly (192", "3. John C. Reilly (", "3. Mary Astor (1906-1987)"]
)
def test_a_list_cut_off_in_an_item_it_has_loses_that(item: str) -> None:
    assert filtered(ACTORS + item)[0] == ACTORS


def test_a_chinese_sentence_cut_off_goes_if_it_was_said() -> None:
    said = "河水在夜里涨了起来，冲走了村口的那座老桥。村里没有人见过这样的洪水。"
    assert filtered(said + "河水在夜里涨了起来，冲走了村")[0] == said


@pytest.mark.parametrize(
    "text",
    [
        "Languages:\n- JavaScript frameworks\n- Python\n- Java",
        "Before you leave:\n- Close all windows on the ground floor and in the cellar\n- Close all windows on the ground floor",
        "Dr. John Smith, Department of Physics, gave the talk.\n\nIt was well received.\n\nDr. John Smith, Department of Physics",
        f"{ACTORS}3. John C. Reilly",
    ],
)
def test_a_last_line_that_only_begins_as_another_stays(text: str) -> None:
    assert filtered(text)[0] == text


def test_a_cut_leaves_no_beginning_of_a_sentence_behind() -> None:
    """The output ends with a whole sentence, wherever the detector sees the bounds of the loop."""
    first = "Maria opened the gate and let the dogs out into the yard."
    second = "Then she went back to the kitchen and put the kettle on the stove."
    out, done = filtered(f"It was early. {first} {second} " + f"{first} {second} " * 8)
    assert done.loop is not None
    assert out.rstrip() == f"It was early. {first} {second}"


COMMENT = "# If the file already exists, it will delete the file and return its path.\n\n"
ROW = "| Miscellaneous things | ten metres of rope | in the red bag |\n"


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("```sh\nset -e\n" + COMMENT + "rm -f x\n\n", COMMENT),
        ("| what | how | where |\n|---|---|---|\n| Tent | one | here |\n", ROW),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
def test_a_cut_leaves_no_beginning_of_a_line_behind(before: str, line: str, size: int) -> None:
    text = before + line * 60
    filter = RepetitionFilter()
    out = "".join(filter.feed(text[at : at + size]) for at in range(0, len(text), size))
    out += filter.flush()
    assert filter.loop is not None
    assert out.rpartition("\n")[2] == line.rstrip()


def test_lines_that_begin_alike_are_held_until_they_differ() -> None:
    filter = RepetitionFilter()
    begun = "```c\nint first = read(1);\nint second = read(2);\n"
    out = filter.feed(begun) + filter.feed("int ")
    assert out == begun.rstrip()
    out += filter.feed("fourth = 4;\n") + filter.feed("return first;")
    assert out == begun + "int fourth = 4;\nreturn first;"
    out += filter.feed("\nint first = read(1);\n```\nDone.") + filter.flush()
    assert out.endswith("return first;\nint first = read(1);\n```\nDone.")
    assert filter.removed == []


def test_drift_is_cut_while_it_runs() -> None:
    text = "".join(
        f"Step {i}: press the red button and wait for the light to turn on again. "
        for i in range(14)
    )
    out, done = filtered(text)
    assert done.loop is not None
    assert done.loop.kind == "near"
    assert done.ended
    assert out.count("Step") <= 3


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
    out, done = filtered(
        f"{A} " + "and the man of the house " * 40 + f"\n\n{B} {C}", on_loop="skip"
    )
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
    out = (
        "".join(done.feed(text[at : at + size]) for at in range(0, len(text), size)) + done.flush()
    )
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
    assert (
        filtered(f"{A} {C} {B}", policy="strict", history=(f"{A} {between}", f"{between} {C}"))[0]
        == f"{A} {B}"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            "Flight 12 leaves the gate at nine in the morning.",
            "Flight 14 leaves the gate at nine in the morning.",
        ),
        (
            "Enable projects/acme/locations/eu/services/accounts for all users now.",
            "Enable projects/acme/locations/eu/services/alerts for all users now.",
        ),
        (
            "Restart host web-01 and wait until the health check passes.",
            "Restart host web-02 and wait until the health check passes.",
        ),
        (
            "Ask Maria for the key to the office on the second floor.",
            "Ask Martin for the key to the office on the second floor.",
        ),
        (
            "Alice owes Bob ten dollars for the dinner they had on Friday.",
            "Bob owes Alice ten dollars for the dinner they had on Friday.",
        ),
        (
            "You should restart the server after every change of that file.",
            "You should not restart the server after every change of that file.",
        ),
        (
            "The patient may eat and drink up to two hours before the operation.",
            "The patient may eat or drink up to two hours before the operation.",
        ),
        (
            "Send the form to sales@example.org before the end of the month.",
            "Send the form to support@example.org before the end of the month.",
        ),
        (
            "Call `open_file` before you read any data from the stream of bytes.",
            "Call `close_file` before you read any data from the stream of bytes.",
        ),
        (
            "他在北京大学学习计算机科学，毕业后留校任教。",
            "他在南京大学学习计算机科学，毕业后留校任教。",
        ),
        (
            "请把三号机房的服务器重新启动，然后检查日志。",
            "请把四号机房的服务器重新启动，然后检查日志。",
        ),
        (
            "你可以在晚上十点以后使用这台机器，请注意安全。",
            "你不可以在晚上十点以后使用这台机器，请注意安全。",
        ),
        (
            "他昨天从上海坐火车去了北京，今天早上才到。",
            "他昨天从北京坐火车去了上海，今天早上才到。",
        ),
    ],
)
def test_sentences_that_differ_in_the_word_that_matters_stay(first: str, second: str) -> None:
    text = f"{first} {C} {second}"
    assert filtered(text, policy="strict")[0] == text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            "The committee has approved the plan for the new library in the north of the town.",
            "The committee had approved the plan for a new library in the north of the town.",
        ),
        (
            "Exercise helps you to sleep better and reduces the level of stress.",
            "Exercise helps you to sleep better and reduce the level of stress.",
        ),
        ("村里没有人记得这些年里见过这样大的洪水。", "村里没有人记得那些年里见过这样大的洪水。"),
    ],
)
def test_sentences_that_differ_in_function_words_and_endings_are_one(
    first: str, second: str
) -> None:
    assert filtered(f"{first} {C} {second}", policy="strict")[0] == f"{first} {C}"


LATE = "I will not be late for school. "


@pytest.mark.parametrize(
    ("prompt", "reason", "copies"),
    [
        ("Write 'I will not be late for school.' 50 times.", "copies", 50),
        (
            'Please write out "I will not be late for school." twenty times, one per line',
            "copies",
            20,
        ),
        ("把这句话重复写10遍", "copies", 10),
        ("写 30 次", "copies", 30),
        ("この文を20回繰り返してください。", "copies", 20),
        ("Keep repeating it.", "repetition", 80),
        ("Say it over and over.", "repetition", 80),
        ("The lyrics, please.", "lyrics", 12),
        ("写一首歌的歌词", "lyrics", 12),
        (LATE * 30 + "\n\nCorrect the spelling.", "in_prompt", 30),
    ],
)
def test_a_reader_who_asks_for_copies_gets_them_and_no_loop(
    prompt: str, reason: str, copies: int
) -> None:
    text = LATE * copies + "That is all."
    out, done = filtered(text, prompt=prompt)
    assert out == text
    assert done.loop is None
    assert done.requested.reason == reason
    assert done.requested.copies >= copies


@pytest.mark.parametrize(
    "prompt", ["Write 'I will not be late for school.' 50 times.", "把这句话重复写50遍"]
)
def test_what_goes_on_beyond_the_copies_asked_for_is_cut(prompt: str) -> None:
    """Models miscount: a tenth more and two are allowed."""
    out, done = filtered(LATE * 400, prompt=prompt)
    assert done.loop is not None
    assert 57 <= out.count("late") <= 62


def test_a_unit_asked_for_allows_no_other() -> None:
    out, done = filtered(
        "I am sorry for the noise. " * 40, prompt="Write 'I will not be late for school.' 50 times."
    )
    assert done.loop is not None
    assert out.count("sorry") <= 2


@pytest.mark.parametrize(
    "prompt",
    [
        "Don't repeat yourself.",
        "Please do not repeat the same sentence over and over.",
        "Never write anything 50 times.",
        "The job failed 3 times last night, what do I do?",
        "Why does `grid-template-columns: repeat(3, 1fr)` overflow?",
        "I have told you a hundred times already. What is the capital of France?",
        "请不要重复。",
        "你好，请介绍一下你自己。",
        "同じことを繰り返さないでください。",
        "",
    ],
)
def test_a_prompt_that_asks_for_no_repetition_allows_none(prompt: str) -> None:
    out, done = filtered(LATE * 50, prompt=prompt)
    assert done.requested == NOTHING_REQUESTED
    assert done.loop is not None
    assert out.count("late") == 1


def test_off_reads_no_prompt() -> None:
    _, done = filtered(
        LATE, prompt="Write 'I will not be late for school.' 50 times.", policy="off"
    )
    assert done.requested == NOTHING_REQUESTED


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
    [
        ("policy", "gentle"),
        ("on_loop", "stop"),
        ("max_sentences", 0),
        ("similarity", 0),
        ("max_segment_chars", 1),
    ],
)
def test_wrong_configuration_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        FilterConfig(**{name: value})  # type: ignore[arg-type]


RIVER = "The river rose in the night, and the bridge was gone by noon."


@pytest.mark.parametrize(
    ("begun", "more", "released"),
    [
        ("It rained. " + RIVER, f" {RIVER} Was it?", " Was it?"),
        ("It rained. " + RIVER, f" It was late. {RIVER} Was it?", " It was late. Was it?"),
        (f"It rained. {RIVER[:20]}", f"{RIVER[20:]} Was it? {RIVER} Yes.", f"{RIVER[20:]} Was it? Yes."),
        (f"- {RIVER[:20]}", f"{RIVER[20:]}\n- {RIVER}\n- Yes.", f"{RIVER[20:]}\n- Yes."),
        (f"It rained. {RIVER}\n", f"\n{RIVER}\n\nYes.", "\nYes."),
        (f"It rained. {RIVER} ", f"{RIVER} Was it?", "Was it?"),
        (f"{RIVER} {RIVER} Was it?", " Yes.", " Yes."),
        ('"1. 河水涨了，桥', "不见了。", "不见了。"),  # whether "1." ends a sentence is seen only then
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_text_goes_on_behind_what_has_begun(
    begun: str, more: str, released: str, size: int
) -> None:
    """Its last sentence may end in what follows; nothing of it is changed or released again."""
    text_filter = RepetitionFilter(begun=begun)
    assert text_filter.chars_in == text_filter.chars_out == len(begun)
    given = "".join([text_filter.feed(more[at : at + size]) for at in range(0, len(more), size)])
    assert given + text_filter.flush() == released
    assert all(removal.start >= len(begun) for removal in text_filter.removed)


@pytest.mark.parametrize("start", range(0, 140, 3))
def test_wherever_a_text_has_begun_the_rest_passes(start: int) -> None:
    text = f"It rained.\n\n- {RIVER}\n- Nobody knew!\n\n```\nx = 1\nx = 1\n```\n河水涨了。桥不见了。 Yes."
    text_filter = RepetitionFilter(begun=text[:start])
    given = "".join([text_filter.feed(character) for character in text[start:]])
    assert given + text_filter.flush() == text[start:]
    assert not text_filter.removed


@pytest.mark.parametrize("wrong", ["strict", LoopConfig(), {"policy": "strict"}])
def test_a_config_of_another_type_says_what_to_write(wrong):
    with pytest.raises(TypeError, match=r'RepetitionFilter\(FilterConfig\(policy="strict"\)\)'):
        RepetitionFilter(wrong)
    with pytest.raises(TypeError, match="config must be a LoopConfig"):
        LoopDetector("strict")


@pytest.mark.parametrize(
    "text",
    [
        'He said, "Nobody heard the bridge fall." I asked him: "You are sure? Nobody heard the bridge fall."\n',
        'Nobody heard the bridge fall. She said, "Nobody heard the bridge fall. It was at night."\n',
        "Nobody heard the bridge fall. They left (late, that is. Nobody heard the bridge fall.) in the rain.\n",
        "没有人听见大桥在夜里倒下。他说：“我知道。没有人听见大桥在夜里倒下。”\n",
        "**Nobody heard the bridge fall. It fell. Nobody heard the bridge fall.**\n",
        "没有人听见大桥在夜里倒下？：\n\n有！没有人听见大桥在夜里倒下？：\n\n没有。\n",
        "没有人听见大桥在夜里倒下吗？她问。他答：没有人听见大桥在夜里倒下吗？，是的。\n",
    ],
)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_no_half_of_a_quotation_a_bracket_or_a_sentence_is_removed(text: str, size: int) -> None:
    text_filter = RepetitionFilter()
    given = "".join(text_filter.feed(text[at : at + size]) for at in range(0, len(text), size))
    assert given + text_filter.flush() == text


def test_a_whole_quotation_is_removed() -> None:
    text_filter = RepetitionFilter()
    text = 'It rained. "Nobody heard the bridge fall." It rained on. "Nobody heard the bridge fall." She left.'
    assert text_filter.feed(text) + text_filter.flush() == (
        'It rained. "Nobody heard the bridge fall." It rained on. She left.'
    )


def test_the_sentences_of_a_quotation_are_removed_together() -> None:
    text_filter = RepetitionFilter()
    said = (
        'The old man said: "Nobody heard the bridge fall. It must have fallen late at night."\n\n'
    )
    text = f"{said}The rain went on for days.\n\n{said}They left.\n"
    assert (
        text_filter.feed(text) + text_filter.flush()
        == f"{said}The rain went on for days.\n\nThey left.\n"
    )
