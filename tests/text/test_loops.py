"""The loop detector: loops, and text that is none."""

import gc
import random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup import LoopConfig, LoopDetector, LoopEvent, RepetitionFilter
from dedup.text.loops import LoopEnd, LoopScanner

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
    assert event.copies >= (3 if len(unit) < 100 else 2)


def test_a_first_copy_whose_tokens_are_cut_elsewhere_counts() -> None:
    """Two characters of Japanese are a token: the text before a loop shifts its tokens."""
    unit = "橋は夜のうちに流された。"
    for before in ("昨日の", "昨日"):
        event = LoopDetector().feed(before + unit * 5 + "橋は")
        assert event is not None
        assert (event.onset, event.period) == (len(before), len(unit))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The text stands outside the block.\n" + "```\n" * 90, True),
        ("A line, a rule, a line:\n" + "```\nx = 1\n```\n" * 2, False),
        ("The number is 52" + "4452" * 24, True),
        ("The mask is " + "10" * 32, False),
        ("* 1. " + "1.1.1.1: " * 45, True),
        ("```\n# 北京\n\n" + "# 接受\n\n" * 32, True),
        ("```js\nf = (g) => {\n" + "    return (g) => {\n" * 24, True),
        ("```html\n<tr>\n" + "  <td></td>\n" * 14 + "</tr>\n```\n", False),
        ("The share is " + "(1/2) × " * 34, True),
        ("The matrix is\n" + "0 0 0 1\n" * 24, False),
        ("The row is " + "0 " * 60, False),
        ("| name | price |\n|---|---|\n" + ("|" + " " * 60 + "|" + " " * 60 + "|\n") * 6, False),
    ],
)
def test_symbols_and_digits_are_loops_later_than_words(text: str, found: bool) -> None:
    assert (LoopDetector().feed(text) is not None) == found


def test_a_loop_with_a_counter_is_found() -> None:
    text = PROSE + "".join(
        f"Step {i}: press the red button and wait for the light to turn on again. "
        for i in range(40)
    )
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
    again = "".join(
        f"| 2011 | {names[i * i % 5]} | 20-{i % 3 + 13} | at home | won |\n" for i in range(400)
    )
    new = "".join(
        f"| 2011 | {names[i * i % 5]} | {i}-{i * 7} | at home | won |\n" for i in range(80)
    )
    assert LoopDetector().feed(again[: 60 * 42]) is None
    assert LoopDetector().feed(again) is not None
    assert LoopDetector().feed(new) is None


def test_drift_is_found_while_it_runs() -> None:
    text = PROSE + "".join(
        f"Step {i}: press the red button and wait for the light to turn on again. "
        for i in range(14)
    )
    event = LoopDetector().feed(text)
    assert event is not None
    assert event.kind == "near"
    assert event.detected_at < len(PROSE) + 6 * 72


ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth".split()


def test_counters_in_words_are_counters() -> None:
    lines = [f"The {ordinal} set of pieces stands on its own side.\n" for ordinal in ORDINALS]
    event = LoopDetector().feed("".join(lines))
    assert event is not None
    names = [
        line.replace(ordinal, ordinal[::-1]) for line, ordinal in zip(lines, ORDINALS, strict=True)
    ]
    assert LoopDetector().feed("".join(names)) is None


def test_a_line_whose_indent_grows_is_a_loop() -> None:
    lines = [f"{' ' * 2 * depth}list.tail :: list.head :: list.tail <|>\n" for depth in range(60)]
    event = LoopDetector().feed("Here it is.\n```lean\n" + "".join(lines))
    assert event is not None
    assert event.onset < 200


def test_nested_blocks_are_no_loop() -> None:
    names = "road gate lamp mill barn well".split()
    code = "".join(
        f"{'    ' * depth}if {name}.is_open:\n{'    ' * (depth + 1)}{name}.close()\n"
        for depth, name in enumerate(names)
    )
    tree = "".join(
        f"{'  ' * depth}- {name}\n{'  ' * (depth + 1)}- index.md\n"
        for depth, name in enumerate(names)
    )
    assert LoopDetector().feed("```python\n" + code + "```\n\n```\n" + tree + "```\n") is None


PLACES = "Graz Linz Wels Steyr Krems Melk Enns Hall Imst Lienz".split()


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (
            "- **{} {}**: ",
            "The office is open on weekdays from eight to four, and on Saturdays until noon. Ring the "
            "bell twice if nobody comes; the key hangs behind the door.\n",
        ),
        ("“{}{}”：", "在同一行里，用数字来描述整个矩形的边沿，并用标记来删除下面的提示框。\n"),
    ],
)
def test_items_under_labels_of_their_own_may_be_of_one_kind(label: str, said: str) -> None:
    names = [label.format(place, end) for place in PLACES for end in PLACES]
    assert LoopDetector().feed("".join(name + said for name in names[::11][:6])) is None
    assert LoopDetector().feed("".join(name + said for name in names)) is not None


def test_the_same_words_in_the_same_gaps_are_a_loop() -> None:
    rng = random.Random(1)
    how, what = (
        "eagerly keenly anxiously excitedly curiously gladly".split(),
        "excited curious willing eager pleased thrilled".split(),
    )
    lines = [f"We are {rng.choice(how)} {rng.choice(what)} to know about it.\n" for _ in range(60)]
    event = LoopDetector().feed("".join(lines))
    assert event is not None
    assert event.detected_at < 40 * len(lines[0])


@pytest.mark.parametrize("literal", ["null", "true", '"none"'])
@pytest.mark.parametrize("separator", [", ", ",\n    "])
def test_the_form_of_what_is_said_again_counts_not_that_of_what_stands_before(
    literal: str, separator: str
) -> None:
    array = '{"values": [' + separator.join([literal] * 64) + "]}\n"
    assert LoopDetector().feed(PROSE + "\n\n" + array) is None


def test_code_in_a_fence_is_stopped_before_a_file_of_code() -> None:
    rng = random.Random(3)
    names = "stop move turn jump left right".split()
    code = "".join(
        f"    self.add_action(Action('{rng.choice(names)}', self.inputs.{rng.choice(names)}));\n"
        for _ in range(240)
    )
    fenced, bare = LoopDetector().feed("Here it is.\n```java\n" + code), LoopDetector().feed(code)
    assert fenced is not None
    assert bare is not None
    assert 1.5 * fenced.detected_at < bare.detected_at


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
        "".join(f"id-{i},press-03,ok,1.02\n" for i in range(100)),
        "".join(
            f"2026-03-01 09:{i % 60:02}:00 WARN connection refused, retrying in two seconds\n"
            for i in range(30)
        ),
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
@given(
    st.text("ab c", min_size=1, max_size=30),
    st.integers(0, 40),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
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
    assert LoopDetector(LoopConfig(max_period=200)).feed(unit * 5) is None
    assert LoopDetector(LoopConfig(max_period=400)).feed(unit * 5) is not None


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_wrong_configuration_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="max_period"):
        LoopConfig(max_period=value)  # type: ignore[arg-type]


# A page without two equal sentences: only as a whole does it repeat.
NOUNS = (
    "river bridge miller harvest orchard barge lantern meadow cellar chapel ferry market".split()
)
VERBS = "carried forgot mended counted painted borrowed buried measured followed traded".split()


def page(num_chars: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    words = []
    while sum(map(len, words)) + len(words) < num_chars:
        words.append(
            rng.choice(NOUNS + VERBS)
            if rng.random() < 0.5
            else "".join(rng.choices("aeioulmnrst", k=rng.randint(3, 9)))
        )
    return " ".join(words)[:num_chars]


def test_a_page_of_nine_thousand_characters_said_three_times_is_a_loop() -> None:
    event = LoopDetector().feed(PROSE + page(9000) * 3)
    assert event is not None
    assert event.period == 9000
    assert event.onset == len(PROSE)


def test_a_page_longer_than_the_longest_period_is_none() -> None:
    assert LoopDetector(LoopConfig(max_period=8000)).feed(page(9000) * 3) is None


def step(number: object) -> str:
    return f"Then comes gate {number}, where the guard asks for the ticket and lets the next visitor pass. "


COUNTERS = [
    [str(i) for i in range(1, 60)],
    [str(i) for i in range(400, 200, -7)],
    [f"IV-{40168 + i}" for i in range(60)],
    [f"{6 + i // 6:02}:{i % 6 * 10:02}" for i in range(60)],
    [f"2026-03-{i:02}" for i in range(1, 31)],
    [f"{i}%" for i in range(0, 300, 5)],
]


@pytest.mark.parametrize("numbers", COUNTERS, ids=lambda numbers: numbers[0])
def test_a_counter_inside_prose_is_a_loop_before_ten_copies(numbers: list[str]) -> None:
    event = LoopDetector().feed(PROSE + "".join(map(step, numbers)))
    assert event is not None
    assert event.kind == "near"
    assert event.detected_at < len(PROSE) + 10 * len(step(numbers[-1]))


@pytest.mark.parametrize("marker", ["{}. ", "({}) ", "- **{}** ", "第{}条："])
def test_a_list_of_one_item_under_new_numbers_is_a_loop(marker: str) -> None:
    items = [f"{marker.format(i)}Wipe the chain with a dry rag\n" for i in range(1, 60)]
    event = LoopDetector().feed(f"Some habits keep a bicycle in good shape:\n\n{''.join(items)}")
    assert event is not None
    assert event.detected_at < 16 * len(items[-1])


# One item without end, as models list it, and the items within which it is cut.
ITEMS = [
    ("{n}. John C. Reilly (1965 - present)\n", 12),
    ("John C. Reilly (1965-2020)\n", 12),
    ("{n}. Apple - $1.99\n", 16),
    ("{n}. **Paris**: The capital of France.\n", 16),
    ("{n}. https://example.com/page/{n}\n", 16),
    ("{n}、北京故宫\n", 16),
    ("{n}. Apple, ", 24),
    ("- January {day}, {year}: Born\n", 16),
    ("{hour:02}:{minute:02} - Wake up\n", 16),
    ("- {hour}:{minute:02} AM: Breakfast\n", 300),
    ("Q{n}: What is the capital of France?\nA{n}: Paris.\n", 16),
    ("## Chapter {n}\n\nThe story goes on.\n\n", 16),
    ("第{n}章 风雪山神庙\n", 16),
    ("- Apple\n", 16),
    ("{n}. Namibia\n", 16),
    ("{n}) Namibia\n", 16),
    ("{n}、苹果\n", 24),
    ('{{"id": {n}, "name": "Apple", "price": 1.99}}\n', 200),
    ("| {n} | Apple | $1.99 |\n", 500),
    ("[{n}] Smith, J. (2019). Deep learning. Nature, 521, 436-444.\n", 120),
    ('print("Hello, world {n}")\n', 160),
]


@pytest.mark.parametrize("before", ["", "Here is the list:\n\n", "1. South Africa\n"], ids=repr)
@pytest.mark.parametrize(("item", "most"), ITEMS, ids=lambda value: str(value).strip())
def test_an_item_that_is_said_without_end_is_cut(item: str, most: int, before: str) -> None:
    text_filter = RepetitionFilter()
    text_filter.feed(before)
    for n in range(1, most + 1):
        numbers = {"n": n, "day": n % 28 + 1, "year": 1900 + n}
        text_filter.feed(item.format(**numbers, hour=6 + n // 60, minute=n % 60))
        if text_filter.ended:
            break
    text_filter.flush()
    assert text_filter.ended
    assert text_filter.chars_out < 120


# Rows of plans and conversions, in which two numbers change.
SERIES = [
    "Step {n}: Swim {ten} meters\n",
    "- {n} °C = {tenth} °F\n",
    "In {year}, the population was {ten}.\n",
    "第{n}天：跑步{ten}公里\n",
    "Month {n}: save ${ten}, ",
]


@pytest.mark.parametrize("row", SERIES)
def test_a_series_is_no_loop_unless_it_runs_away(row: str) -> None:
    def text(num_rows: int) -> str:
        numbers = range(1, num_rows + 1)
        return "Here it is:\n\n" + "".join(
            row.format(n=n, ten=10 * n, tenth=1.8 * n, year=1900 + n) for n in numbers
        )

    kept = RepetitionFilter()
    assert kept.feed(text(30)) + kept.flush() == text(30)
    assert kept.loop is None
    cut = RepetitionFilter()
    cut.feed(text(400))
    assert cut.ended
    assert cut.chars_out < len(text(200))


def test_a_series_is_not_held_to_its_end() -> None:
    text_filter = RepetitionFilter()
    text_filter.feed("".join(f"Day {n}: {5 * n} push-ups\n" for n in range(1, 40)))
    assert text_filter.held_chars < 40


def test_a_short_table_of_random_numbers_is_no_loop() -> None:
    rng = random.Random(3)
    rows = [
        f"| {rng.randint(1, 9999)} | {rng.randint(1, 9999)} | {rng.randint(1, 9999)} |\n"
        for _ in range(200)
    ]
    assert LoopDetector().feed("| a | b | c |\n|---|---|---|\n" + "".join(rows)) is None


def test_measurements_in_prose_need_more_copies_than_a_counter() -> None:
    """A number that the ones before do not predict is new."""
    rng = random.Random(5)
    counted = LoopDetector().feed(
        "".join(f"The gauge at the weir reads {i} today. " for i in range(1, 40))
    )
    measured = LoopDetector().feed(
        "".join(f"The gauge at the weir reads {rng.randint(100, 9999)} today. " for _ in range(40))
    )
    assert counted is not None
    assert measured is None or measured.detected_at > counted.detected_at


def test_a_paragraph_is_a_loop_once_a_little_of_its_third_copy_has_begun() -> None:
    fed = LoopDetector()
    assert fed.feed(PROSE * 2) is None
    event = fed.feed(PROSE[:60])
    assert event == LoopEvent("exact", 0, event.detected_at if event else 0, len(PROSE), 2)


@pytest.mark.parametrize("unit", ["No. ", "good ", "是的。", "ha"])
def test_a_few_copies_of_a_word_are_no_loop(unit: str) -> None:
    assert LoopDetector().feed(PROSE + unit * 4) is None


def num_objects(root: object) -> int:
    """Return how many objects `root` keeps alive, without code."""
    seen = {id(root)}
    waiting = [root]
    while waiting:
        for item in gc.get_referents(waiting.pop()):
            if (
                id(item) not in seen
                and not isinstance(item, type | ModuleType)
                and not callable(item)
            ):
                seen.add(id(item))
                waiting.append(item)
    return len(seen)


@pytest.mark.parametrize("unit", ["{} ", "word{:x} and so on it went with the ", "新{}的"])
def test_what_is_remembered_does_not_grow_with_the_text(unit: str) -> None:
    detector = LoopDetector(LoopConfig(max_period=1000))
    rng = random.Random(2)
    sizes = []
    for _ in range(12):
        for _ in range(100_000 // len(unit) // 100):
            assert (
                detector.feed("".join(unit.format(rng.getrandbits(40)) for _ in range(60))) is None
            )
        sizes.append(num_objects(detector))
    assert max(sizes) < 5 * (2 * 1000 + 16_384)
    assert max(sizes[6:]) < 1.5 * max(sizes[:6])


def test_token_ids_that_repeat_are_a_loop_and_those_that_do_not_are_none() -> None:
    rng = random.Random(4)
    ids = [rng.randint(0, 150_000) for _ in range(400)]
    assert LoopDetector().feed(ids) is None
    event = LoopDetector().feed(ids + [7, 90_000, 14] * 40)
    assert event is not None
    assert (event.kind, event.onset, event.period) == ("exact", 400, 3)
    assert event.detected_at <= 400 + 63


def test_three_copies_of_token_ids_must_be_long() -> None:
    rng = random.Random(4)
    ids = [rng.randint(0, 150_000) for _ in range(100)]
    assert LoopDetector().feed(ids[:40] * 3) is None
    assert LoopDetector().feed(ids * 3) is not None


@pytest.mark.parametrize(
    "words", ["The total is ", "答案为", "假设客户的销售额为1", "今年の売上高の合計は7"]
)
def test_a_number_without_end_is_no_encoded_data(words: str) -> None:
    """Words of a script without spaces are no part of it."""
    text_filter = RepetitionFilter()
    text_filter.feed(words + "0" * 250)
    assert text_filter.ended


def test_a_run_in_encoded_data_is_none_behind_chinese() -> None:
    encoded = RepetitionFilter()
    encoded.feed("图片：data:image/png;base64,R0lGODlhAQABAIAA" + "0" * 250)
    assert not encoded.ended


def test_a_text_that_goes_on_after_a_loop_has_left_it() -> None:
    scanner = LoopScanner(LoopConfig())
    scanner.feed("and the man of the house " * 20 + PROSE + CHINESE)
    changes = []
    while change := scanner.next_change():
        changes.append(change)
    assert [type(change).__name__ for change in changes] == ["LoopEvent", "LoopEnd"]
    assert abs(changes[1].at - 20 * 25) <= 1


def test_a_loop_after_a_flood_that_was_replaced_ends_where_it_ends() -> None:
    scanner = LoopScanner(LoopConfig())
    symbols = "".join(random.Random(1).choices("-+=", k=2000))
    scanner.feed(PROSE + symbols)
    flood = scanner.next_change()
    assert isinstance(flood, LoopEvent)
    assert flood.kind == "flood"
    scanner.resume()
    looping = "Then it rose over the old stone wall. " * 20
    scanner.feed(looping + CHINESE)
    loop, end = scanner.next_change(), scanner.next_change()
    assert isinstance(loop, LoopEvent)
    assert isinstance(end, LoopEnd)
    assert abs(end.at - len(PROSE + symbols + looping)) <= 16


def test_flush_reports_a_loop_that_the_last_token_makes_certain() -> None:
    text = PROSE + "Then it rose over the old stone wall. " * 6
    event = LoopDetector().feed(text)
    assert event is not None
    detector = LoopDetector()
    assert detector.feed(text[: event.detected_at]) is None
    assert detector.flush() == event


@pytest.mark.parametrize(
    "unit",
    [
        "old swore old swore swore old old. Old old. ",
        "Not not. Not while while while not. ",
        "River river rowed. River river river river rowed. ",
        "la li la li li la la. La la. ",
    ],
)
@pytest.mark.parametrize("before", ["", PROSE])
def test_a_cycle_of_few_words_is_found_though_each_pair_of_them_comes_more_than_once(
    unit: str, before: str
) -> None:
    event = LoopDetector().feed(before + unit * 40)
    assert event is not None
    assert event.period % len(unit) == 0
    assert abs(event.onset - len(before)) <= len(unit)
    assert event.copies <= 14
