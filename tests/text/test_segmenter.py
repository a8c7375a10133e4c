"""The segmenter."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dedup.text.segmenter import Segment, Segmenter


def segments(text: str, size: int | None = None) -> list[Segment]:
    segmenter = Segmenter()
    found = []
    for at in range(0, len(text), size or max(1, len(text))):
        segmenter.feed(text[at : at + (size or len(text))])
        while segment := segmenter.take():
            found.append(segment)
    segmenter.flush()
    while segment := segmenter.take():
        found.append(segment)
    return found


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "Mr. Holmes lit his pipe. He said nothing.",
            ["Mr. Holmes lit his pipe.", "He said nothing."],
        ),
        (
            "It costs 3.50 at example.org today. Cheap!",
            ["It costs 3.50 at example.org today.", "Cheap!"],
        ),
        (
            "He lives in the U.S. and works there. Good.",
            ["He lives in the U.S. and works there.", "Good."],
        ),
        (
            "I miss you. P.S. Give my love to Ann. N.B. She moved.",
            ["I miss you.", "P.S. Give my love to Ann.", "N.B. She moved."],
        ),
        ('"Is it you?" she asked. "Yes."', ['"Is it you?"', "she asked.", '"Yes."']),
        (
            "J. R. Smith came at 10 a.m. on Monday. We left.",
            ["J. R. Smith came at 10 a.m. on Monday.", "We left."],
        ),
        ("Wait... what? Really?! Yes.", ["Wait...", "what?", "Really?!", "Yes."]),
        ("他来了。“你是谁？”她问。走吧！", ["他来了。", "“你是谁？”", "她问。", "走吧！"]),
        ("他问：“去吗？”，然后走了。好！：", ["他问：“去吗？”，然后走了。", "好！："]),
        ("橋が流れた。誰も見ていない。", ["橋が流れた。", "誰も見ていない。"]),
        ("自云：因曾历过．但书中所记何事？", ["自云：因曾历过．", "但书中所记何事？"]),
        ("z.B. heute regnet es. Morgen nicht.", ["z.B. heute regnet es.", "Morgen nicht."]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert [segment.text for segment in segments(text)] == sentences


def test_kinds() -> None:
    text = (
        "# Title\n\nA sentence. A line\n\n- first item\n- second item\n  - inner item\n1. one\n\n> quoted words\n\n"
        "| a | b |\n|---|---|\n\n```py\nx = 1. \n```\nEnd.\n"
    )
    assert [(segment.kind, segment.text) for segment in segments(text)] == [
        ("heading", "# Title"),
        ("sentence", "A sentence."),
        ("sentence", "A line"),
        ("item", "- first item"),
        ("item", "- second item"),
        ("item", "- inner item"),
        ("item", "1. one"),
        ("quote", "> quoted words"),
        ("table", "| a | b |"),
        ("table", "|---|---|"),
        ("code", "```py"),
        ("code", "x = 1. "),
        ("code", "```"),
        ("sentence", "End."),
    ]


def test_items_of_one_list_share_a_scope_and_those_of_another_do_not() -> None:
    first, second, inner, other = (
        s for s in segments("- one\n- two\n  - one\n\nAnother list:\n\n- one\n") if s.kind == "item"
    )
    assert first.scope == second.scope
    assert len({first.scope, inner.scope, other.scope}) == 3


@given(
    st.lists(st.sampled_from([*'ab .。!?\n-`|1…"”“e.g#> \t', "\n    ", "\n- "]), max_size=80).map(
        "".join
    ),
    st.integers(1, 5),
)
@example("The bridge.\n    . - Boil the water for five minutes", 1)
def test_segments_are_the_text_and_do_not_depend_on_the_deltas(text: str, size: int) -> None:
    whole = segments(text)
    assert "".join(segment.text + segment.separator for segment in whole).lstrip() == text.lstrip()
    assert segments(text, size) == whole


def test_bullets_after_a_number_are_a_list_of_their_own() -> None:
    text = "1. Monday\n* read\n* write\n2. Tuesday\n* read\n3. Wednesday\n"
    scopes = [segment.scope for segment in segments(text)]
    monday, read, write, tuesday, read_again, wednesday = scopes
    assert monday == tuesday == wednesday
    assert read == write
    assert len({monday, read, read_again}) == 3


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("I'll love you, my dear,\nThrough thick and thin you'll be my guide.\n", [True, True]),
        ("Subject to the terms and\nconditions of this License. You may.\n", [True, True, False]),
        ("Case 1: x is positive\nThen so is its square.\n", [False, False]),
        ("One line. And a part\n\nAnother paragraph.\n", [False, True, False]),
        ("Things to bring:\nBread and cheese.\n", [False, False]),
    ],
)
def test_what_goes_on_over_a_lines_end_is_wrapped(text: str, wrapped: list[bool]) -> None:
    assert [segment.wrapped for segment in segments(text)] == wrapped


@pytest.mark.parametrize(
    "line",
    [
        ">>> print(1. )",
        "{'a': 1. }",
        "[1., 2.]",
        "<b>Yes. No.</b>",
        "\\frac{1.}{2.}",
        "    indented. code",
    ],
)
def test_lines_of_code_are_whole(line: str) -> None:
    assert [(segment.kind, segment.text) for segment in segments(f"Text.\n{line}\nText.\n")][1] == (
        "code",
        line.strip(),
    )
