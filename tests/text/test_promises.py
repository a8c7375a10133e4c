"""The filter's ten promises, each a property."""

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedup import FilterConfig, RepetitionFilter
from dedup.config import POLICIES
from dedup.text.words import sentence_key

SENTENCES = [
    "The river had risen in the night and taken the bridge.",
    "Nobody in the village remembered such a flood!",
    "Was it the rain, or had the dam given way?",
    "Dr. Watson arrived at 10 a.m. with Mr. Holmes.",
    "河水在夜里涨了起来，冲走了那座老桥。",
    "村里没有人记得见过这样大的洪水！",
    "橋は夜のうちに流された。",
    "Yes.",
    "- Boil the water for five minutes",
    "2. Boil the water for five minutes",
    "  - Keep every window closed at night",
    "# What to do after a flood",
    "| item | price |",
    "```",
    "    return first or second",
    "and the man of the house and ",
    "e.g. ",
    "> It was the best of times, it was the worst of times.",
    "……",
    "---",
    "A) \nB) \n答案：\n",
    "3. Cross the bridge at the mill. The path is steep from there on.",
    "4. Cross the bridge at the mill. Keep to the left of the old wall.",
    "Case 2: the dam holds until the morning. Nobody in the village remembered such a flood!",
    "The wind is high, And white the foam. Come home to me, O wanderer, And sail no more.",
    "彼黍离离，彼稷之苗。悠悠苍天，此何人哉？",
    "- The river had risen in the night and taken the",
]
SEPARATORS = ["", " ", " ", " ", "\n", "\n", "\n\n", "\n    ", "，"]
pieces = st.one_of(
    st.sampled_from(SENTENCES), st.text(max_size=12), st.text("ab .。\n-|`1", max_size=20)
)
repetitive = st.lists(
    st.tuples(pieces, st.sampled_from(SEPARATORS), st.integers(1, 6)), max_size=14
).map(lambda parts: "".join((piece + separator) * times for piece, separator, times in parts))
WORDS = (
    "the river had risen in night and taken bridge so mail did not come nobody village remembered such flood though old Marten "
    "swore that his father seen one by noon water stood at church door baker carried flour loft while two boys rowed along street"
).split()
IDEOGRAPHS = "河水在夜里涨了起来冲走那座老桥邮车没有村人记得见过这样大的洪只马说他父亲一次到中午已经漫教堂门口"
PROMPTS = [
    None,
    "Write 'the river had risen' 20 times.",
    "Repeat the sentence over and over.",
    "写10遍",
    "The lyrics of a song, please.",
    "and the man of the house " * 9,
]


def sentence_of(words: list[str]) -> str:
    return " ".join(words).capitalize() + ". "


english = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(sentence_of)
chinese = st.text(IDEOGRAPHS, min_size=2, max_size=30).map(lambda text: text + "。")
sentences = english | chinese
COUNTERS = [
    "{}",
    "No. {}",
    "IV-{}",
    "{}:30",
    "2026-03-{}",
    "第{}",
]
MARKERS = ["- ", "{}. ", "({}) ", "## {}\n", "| {} | ", "第{}条：", '{{"id": {}, "say": "', "    "]
ENDS = {"| {} | ": " |\n", '{{"id": {}, "say": "': '"}}\n', "    ": ";\n"}


@st.composite
def counted(draw: st.DrawFn) -> str:
    """Return copies of a unit with a number that stays, advances or jumps."""
    before, after, number = draw(sentences), draw(sentences), draw(st.sampled_from(COUNTERS))
    first, step = draw(st.integers(0, 300)), draw(st.sampled_from([0, 1, -1, 7, 7919]))
    return "".join(
        f"{before[:-2]} {number.format(first + step * i % 10_007)} {after}"
        for i in range(draw(st.integers(1, 24)))
    )


@st.composite
def drifting(draw: st.DrawFn) -> str:
    """Return variants of one sentence, or some sentences, in changing order."""
    said = draw(st.lists(sentences, min_size=2, max_size=5))
    if draw(st.booleans()):
        frame = draw(st.lists(st.sampled_from(WORDS), min_size=4, max_size=12))
        said = [
            sentence_of([*frame[:place], draw(st.sampled_from(WORDS)), *frame[place + 1 :]])
            for place in range(4)
        ]
    return "".join(
        said[turn % len(said)] for turn in draw(st.lists(st.integers(0, 4), max_size=40))
    )


@st.composite
def listed(draw: st.DrawFn) -> str:
    """Return a list, a table or rows of data whose items may be equal."""
    marker = draw(st.sampled_from(MARKERS))
    items = draw(st.lists(sentences, min_size=1, max_size=3))
    end = ENDS.get(marker, "\n")
    rows = range(draw(st.integers(1, 24)))
    return "".join(f"{marker.format(i)}{items[i % len(items)].strip()}{end}" for i in rows)


@st.composite
def flooding(draw: st.DrawFn) -> str:
    """Return a stretch of a few symbols, with or without a period."""
    symbols = draw(st.text(st.sampled_from("-=+|01 \n.😅…哈ha"), min_size=1, max_size=4))
    if draw(st.booleans()):
        return symbols * draw(st.integers(1, 400))
    turns = draw(st.lists(st.integers(0, 3), min_size=8, max_size=40))
    return "".join(symbols[turn % len(symbols)] for turn in turns) * draw(st.integers(1, 30))


@st.composite
def long_units(draw: st.DrawFn) -> str:
    unit = "".join(draw(st.lists(sentences, min_size=3, max_size=12)))
    copies = draw(st.integers(1, 4))
    return (unit * copies)[: draw(st.integers(1, len(unit) * copies))]


hard = st.lists(
    counted() | drifting() | listed() | flooding() | long_units() | repetitive,
    min_size=1,
    max_size=4,
).map(lambda parts: "".join(parts))
prompts = st.sampled_from(PROMPTS)
editing = st.sampled_from(["loops", "balanced", "strict"])
on_loops = st.sampled_from(["cut", "skip"])
thorough = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def filtered(
    text: str, sizes: list[int] | None = None, prompt: str | None = None, **config: object
) -> tuple[str, RepetitionFilter]:
    """Feed `text` in deltas of the sizes given, in turn; whole by default."""
    repetition_filter = RepetitionFilter(FilterConfig(**config), prompt=prompt)  # type: ignore[arg-type]
    out, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)] if sizes else len(text)
        out.append(repetition_filter.feed(text[at : at + size]))
        at, turn = at + size, turn + 1
    return "".join(out) + repetition_filter.flush(), repetition_filter


@thorough
@given(
    hard,
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.sampled_from(POLICIES),
    on_loops,
    prompts,
    st.booleans(),
)
def test_1_deltas_do_not_matter(
    text: str, sizes: list[int], policy: str, on_loop: str, prompt: str | None, edit: bool
) -> None:
    config = {"prompt": prompt, "policy": policy, "on_loop": on_loop, "edit": edit}
    whole, one = filtered(text, **config)
    parts, many = filtered(text, sizes, **config)
    assert (parts, many.loop, many.removed) == (whole, one.loop, one.removed)
    assert many.metrics() == one.metrics()


@thorough
@given(hard, editing, on_loops)
def test_2_the_output_is_the_input_less_the_removed_spans(
    text: str, policy: str, on_loop: str
) -> None:
    out, done = filtered(text, policy=policy, on_loop=on_loop)
    rest, at = [], 0
    for removal in done.removed:
        assert at <= removal.start < removal.end <= len(text)
        rest.append(text[at : removal.start])
        at = removal.end
    assert out == "".join(rest) + text[at:]
    assert (done.chars_in, done.chars_out) == (len(text), len(out))


@thorough
@given(st.lists(st.sampled_from(SENTENCES[:7]), max_size=24).map(" ".join))
def test_2_every_distinct_sentence_before_the_onset_survives(text: str) -> None:
    out, done = filtered(text)
    before = text[: done.loop.onset] if done.loop else text
    assert all(sentence in out for sentence in SENTENCES[:7] if sentence in before)


@thorough
@given(
    st.permutations(SENTENCES[:7]), st.lists(st.integers(1, 40), min_size=1, max_size=6), editing
)
def test_3_text_in_which_nothing_repeats_comes_out_as_it_went_in(
    sentences: list[str], sizes: list[int], policy: str
) -> None:
    text = "\n".join(sentences)
    assert filtered(text, sizes, policy=policy)[0] == text


@thorough
@given(
    repetitive,
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.sampled_from(["off", "watch"]),
)
def test_3_off_and_watch_are_the_identity_at_once(text: str, sizes: list[int], policy: str) -> None:
    identity = RepetitionFilter(FilterConfig(policy=policy))  # type: ignore[arg-type]
    for at in range(0, len(text), sizes[0]):
        assert identity.feed(text[at : at + sizes[0]]) == text[at : at + sizes[0]]
    assert identity.flush() == ""
    assert not identity.removed


@thorough
@given(st.permutations(SENTENCES[:7]), st.sampled_from(["loops", "balanced"]))
def test_4_novel_text_is_not_held_back(sentences: list[str], policy: str) -> None:
    """At most a step, the beginning of a marker and a possible copy of a few words are held."""
    repetition_filter = RepetitionFilter(FilterConfig(policy=policy))  # type: ignore[arg-type]
    held = []
    for character in "\n".join(sentences):
        repetition_filter.feed(character)
        held.append(repetition_filter.held_chars)
    assert sorted(held)[len(held) // 2] <= 8
    assert max(held) <= 40


@pytest.mark.parametrize("item", ["{}\n", "- {}\n", "{}. ", "{:x}\n", "* {}\n", "{} | {}\n"])
def test_4_an_enumeration_is_not_held_back(item: str) -> None:
    """Numbers that advance are news."""
    repetition_filter = RepetitionFilter()
    for number in range(1, 1500):
        repetition_filter.feed(item.format(number, number + 3))
        assert repetition_filter.held_chars <= 280


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([*SENTENCES, "x", "\n", " ", "=", "```\ncode", "那"]), editing)
def test_5_memory_is_bounded(unit: str, policy: str) -> None:
    """Memory does not grow with the text, whether it repeats or not."""
    repetition_filter = RepetitionFilter(FilterConfig(policy=policy, max_segment_chars=500))  # type: ignore[arg-type]
    for number in range(3000):
        repetition_filter.feed(f"{unit}{number * 7919 % 3001:x}")
        assert repetition_filter.held_chars <= 3 * repetition_filter.config.loop.max_period


@thorough
@given(
    st.text(max_size=200) | st.text(st.characters(exclude_categories=[]), max_size=100),
    st.sampled_from(POLICIES),
)
def test_5_no_text_raises(text: str, policy: str) -> None:
    filtered(text * 3, policy=policy)


@thorough
@given(
    st.sampled_from(["```python\n{}\n```", "| a | b |\n|---|---|\n{}\n", "~~~\n{}\n~~~"]),
    st.lists(
        st.sampled_from(
            ["x = compute(first, second)", "y = compute(second, third)", "| 10 | 20 |"]
        ),
        min_size=1,
        max_size=12,
    ),
    editing,
)
def test_6_code_and_tables_are_not_edited(frame: str, lines: list[str], policy: str) -> None:
    rows = [line if "|" in line or "|" not in frame else f"| {line} |" for line in lines]
    text = (
        "See below what came out of it.\n\n"
        + frame.format("\n".join(rows))
        + "\nThat is all there is to say."
    )
    out, done = filtered(text, policy=policy)
    assert out == text if done.loop is None else text.startswith(out)


@thorough
@given(
    st.lists(
        st.sampled_from(
            [
                '"replicas": 3,',
                '"a long name of nothing in particular, said again",',
                "{",
                "}",
                "},",
                "[",
                "],",
                "null,",
                "0,",
            ]
        ),
        max_size=14,
    ),
    editing,
)
def test_6_json_is_not_edited(lines: list[str], policy: str) -> None:
    text = "{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
    out, done = filtered(text, policy=policy)
    assert out == text if done.loop is None else text.startswith(out)


@thorough
@given(hard, st.sampled_from(["loops", "balanced"]))
def test_7_filtering_again_changes_nothing(text: str, policy: str) -> None:
    once, _ = filtered(text, policy=policy)
    assert filtered(once, policy=policy)[0] == once


@given(repetitive, st.sampled_from(POLICIES))
def test_8_flush_twice_gives_nothing_and_feed_after_flush_raises(text: str, policy: str) -> None:
    _, done = filtered(text, policy=policy)
    assert done.flush() == ""
    with pytest.raises(ValueError, match="feed after flush"):
        done.feed("more")


novel = (
    st.permutations(SENTENCES[:3]).map(" ".join)
    | st.permutations(SENTENCES[4:7]).map("".join)
    | st.just("")
)


@thorough
@given(
    novel,
    st.lists(english, min_size=1, max_size=8) | st.lists(chinese, min_size=1, max_size=8),
    editing,
)
def test_9_a_cycle_is_stopped_while_it_runs(before: str, unit: list[str], policy: str) -> None:
    """A long unit is cut after two copies and a part, a short one after more."""
    period = "".join(unit)
    _, done = filtered(before + period * 400, policy=policy)
    assert done.loop is not None
    assert done.loop.detected_at <= len(before) + 3 * len(period) + 260
    assert done.loop.onset <= len(before) + len(period)


@thorough
@given(
    novel,
    english,
    english,
    st.sampled_from(COUNTERS),
    st.integers(0, 3000),
    st.sampled_from([1, -1, 7]),
    editing,
)
def test_9_a_cycle_with_a_counter_is_stopped_while_it_runs(
    before: str, first: str, second: str, number: str, start: int, step: int, policy: str
) -> None:
    units = [f"{first[:-2]} {number.format(start + step * i)}: {second}" for i in range(60)]
    _, done = filtered(before + "".join(units), policy=policy)
    assert done.loop is not None
    assert done.loop.detected_at <= len(before) + max(map(len, units)) * 8 + 400


@thorough
@given(
    st.lists(
        st.lists(st.sampled_from(WORDS), min_size=6, max_size=12).map(sentence_of),
        min_size=2,
        max_size=4,
        unique=True,
    ),
    st.randoms(use_true_random=False),
)
def test_9_sentences_in_changing_order_are_stopped_while_they_run(
    said: list[str], order: random.Random
) -> None:
    text = "".join(order.choice(said) for _ in range(80))
    _, done = filtered(text, policy="loops")
    assert done.loop is not None
    assert done.loop.detected_at <= 1200 + 4 * sum(map(len, said))


words = st.sampled_from(WORDS)


@st.composite
def structured(draw: st.DrawFn) -> str:
    """Return legitimate text of a form that repeats."""
    kind = draw(st.sampled_from(STRUCTURES))
    return kind(draw)


def json_array(draw: st.DrawFn) -> str:
    literal = draw(
        st.sampled_from(["0", "0.0", "null", "true", "false", '"none"', "[0, 0, 0]", "-1", '"n/a"'])
    )
    separator = draw(st.sampled_from([", ", ",", ",\n  ", ",\n    "]))
    return '{"values": [' + separator.join([literal] * draw(st.integers(1, 64))) + "]}\n"


def json_objects(draw: st.DrawFn) -> str:
    first, second = draw(words), draw(words)
    rows = [
        f'{{"id": {i}, "{first}": "{second}", "ok": true}}' for i in range(draw(st.integers(1, 30)))
    ]
    return "[" + draw(st.sampled_from([", ", ",\n "])).join(rows) + "]\n"


def base64_of_zeros(draw: st.DrawFn) -> str:
    head = draw(
        st.sampled_from(
            [
                "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4",
                "data:image/png;base64,R0lGODlhAQABAIAA",
            ]
        )
    )
    return head + "A" * draw(st.integers(1, 600)) + "TXL0Y4OHwAAAABJRU5ErkJggg==\n"


def table(draw: st.DrawFn) -> str:
    cells = draw(st.lists(words, min_size=2, max_size=5))
    row = "| " + " | ".join(cells) + " |\n"
    return row + "|---" * len(cells) + "|\n" + row * draw(st.integers(1, 8))


def blank_form(draw: st.DrawFn) -> str:
    labels = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    return ("".join(f"{label.capitalize()}: {'_' * 24}\n" for label in labels) + "\n") * draw(
        st.integers(1, 12)
    )


def verse(draw: st.DrawFn) -> str:
    choose = draw(st.randoms(use_true_random=False))
    lines = [sentence_of(choose.sample(WORDS, 6)).strip(". ") for _ in range(24)]
    num_lines = draw(st.integers(1, 4))
    refrain = "\n".join(lines[:num_lines])
    stanzas = ["\n".join(lines[at : at + 4]) for at in range(4, 4 + 4 * draw(st.integers(1, 5)), 4)]
    return "".join(f"{stanza}\n\n{refrain}\n\n" for stanza in stanzas)


def code(draw: st.DrawFn) -> str:
    call = f"{draw(words)}_{draw(words)}({draw(words)}, {draw(words)})"
    end = draw(st.sampled_from([";", ""]))
    body = "".join(f"    {call}{end}\n" for _ in range(draw(st.integers(1, 12))))
    return draw(
        st.sampled_from(
            [
                "def run():\n{}    return None\n",
                "```python\ndef run():\n{}```\n",
                "void run() {{\n{}}}\n",
            ]
        )
    ).format(body)


def unrolled(draw: st.DrawFn) -> str:
    target = draw(words)
    return (
        "```c\n"
        + "".join(
            f"    {target}[{i}] = left[{i}] + right[{i}];\n"
            for i in range(draw(st.integers(1, 32)))
        )
        + "```\n"
    )


def log(draw: st.DrawFn) -> str:
    message = " ".join(draw(st.lists(words, min_size=2, max_size=6)))
    return "".join(
        f"2026-03-01 09:{i:02}:00 WARN {message}\n" for i in range(draw(st.integers(1, 25)))
    )


def inserts(draw: st.DrawFn) -> str:
    value = draw(words)
    return "".join(
        f"INSERT INTO stock (sku, qty) VALUES ('{value}-{i}', 10);\n"
        for i in range(draw(st.integers(1, 40)))
    )


def matrix(draw: st.DrawFn) -> str:
    size = draw(st.integers(1, 12))
    return "\n".join([" ".join(["0"] * size)] * size) + "\n"


def stack_trace(draw: st.DrawFn) -> str:
    name = draw(words)
    frame = f'  File "tree.py", line 31, in {name}\n    return {name}(node.left)\n'
    return (
        "Traceback (most recent call last):\n"
        + frame * draw(st.integers(1, 4))
        + "RecursionError: too deep\n"
    )


def yaml(draw: st.DrawFn) -> str:
    names = draw(st.lists(words, min_size=1, max_size=8, unique=True))
    return "services:\n" + "".join(
        f"  {name}:\n    image: nginx\n    restart: always\n    replicas: 1\n" for name in names
    )


STRUCTURES = [
    json_array, json_objects, base64_of_zeros, table, blank_form, verse, code, unrolled, log, inserts, matrix, stack_trace, yaml,
]  # fmt: skip


@thorough
@given(
    structured(),
    st.sampled_from(["", "Here is what you asked for:\n\n", "\n".join(SENTENCES[:4]) + "\n\n"]),
    editing,
)
def test_10_structured_output_is_not_cut(text: str, before: str, policy: str) -> None:
    _, done = filtered(before + text, policy=policy)
    assert done.loop is None
    assert not done.ended


FRAME = '  File "tree.py", line 31, in the\n    return the(node.left)\n'


@pytest.mark.parametrize(
    "text",
    [
        ", ".join(map(str, range(1, 101))),
        (" ".join(["0"] * 16) + "\n") * 16,
        '{"values": [' + ",\n    ".join(['""'] * 64) + "]}\n",
        "def run():\n" + "    the_the(the, the)\n" * 12,
        "\n".join(SENTENCES[:4])
        + "\n\nTraceback (most recent call last):\n"
        + FRAME * 8
        + "RecursionError: too deep\n",
    ],
    ids=["counting", "matrix", "empty strings", "last token cut off", "stack trace"],
)
def test_10_forms_that_were_cut(text: str) -> None:
    assert filtered(text, policy="loops")[1].loop is None


@given(pieces, pieces)
def test_a_key_begins_with_the_key_of_what_the_text_begins_with(first: str, second: str) -> None:
    from dedup.text.words import key_prefix

    assert not sentence_key(first + second) or sentence_key(first + second).startswith(
        key_prefix(first)
    )
