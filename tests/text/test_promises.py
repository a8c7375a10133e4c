"""The filter's eight promises, each a property."""

import os

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
pieces = st.one_of(st.sampled_from(SENTENCES), st.text(max_size=12), st.text("ab .。\n-|`1", max_size=20))
repetitive = st.lists(st.tuples(pieces, st.sampled_from(SEPARATORS), st.integers(1, 6)), max_size=14).map(
    lambda parts: "".join((piece + separator) * times for piece, separator, times in parts)
)
editing = st.sampled_from(["loops", "balanced", "strict"])
thorough = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def filtered(text: str, sizes: list[int] | None = None, **config: object) -> tuple[str, RepetitionFilter]:
    """`text` fed in deltas of the sizes given, in turn; whole by default."""
    repetition_filter = RepetitionFilter(FilterConfig(**config))  # type: ignore[arg-type]
    out, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)] if sizes else len(text)
        out.append(repetition_filter.feed(text[at : at + size]))
        at, turn = at + size, turn + 1
    return "".join(out) + repetition_filter.flush(), repetition_filter


@thorough
@given(repetitive, st.lists(st.integers(1, 40), min_size=1, max_size=6), editing, st.sampled_from(["cut", "skip"]))
def test_1_deltas_do_not_matter(text: str, sizes: list[int], policy: str, on_loop: str) -> None:
    whole, one = filtered(text, policy=policy, on_loop=on_loop)
    parts, many = filtered(text, sizes, policy=policy, on_loop=on_loop)
    assert (parts, many.loop, many.removed) == (whole, one.loop, one.removed)
    assert many.metrics() == one.metrics()


@thorough
@given(repetitive, editing, st.sampled_from(["cut", "skip"]))
def test_2_the_output_is_the_input_less_the_removed_spans(text: str, policy: str, on_loop: str) -> None:
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
@given(st.permutations(SENTENCES[:7]), st.lists(st.integers(1, 40), min_size=1, max_size=6), editing)
def test_3_text_in_which_nothing_repeats_comes_out_as_it_went_in(sentences: list[str], sizes: list[int], policy: str) -> None:
    text = "\n".join(sentences)
    assert filtered(text, sizes, policy=policy)[0] == text


@thorough
@given(repetitive, st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from(["off", "watch"]))
def test_3_off_and_watch_are_the_identity_at_once(text: str, sizes: list[int], policy: str) -> None:
    identity = RepetitionFilter(FilterConfig(policy=policy))  # type: ignore[arg-type]
    for at in range(0, len(text), sizes[0]):
        assert identity.feed(text[at : at + sizes[0]]) == text[at : at + sizes[0]]
    assert identity.flush() == ""
    assert not identity.removed


@thorough
@given(st.permutations(SENTENCES[:7]), st.sampled_from(["loops", "balanced"]))
def test_4_novel_text_is_not_held_back(sentences: list[str], policy: str) -> None:
    """Held is at most a step, a marker that may begin, and what may be the second copy of a few words."""
    repetition_filter = RepetitionFilter(FilterConfig(policy=policy))  # type: ignore[arg-type]
    held = []
    for character in "\n".join(sentences):
        repetition_filter.feed(character)
        held.append(repetition_filter.held_chars)
    assert sorted(held)[len(held) // 2] <= 8
    assert max(held) <= 40


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([*SENTENCES, "x", "\n", " ", "=", "```\ncode", "那"]), editing)
def test_5_memory_is_bounded(unit: str, policy: str) -> None:
    """What a filter holds does not grow with the text, however it repeats or does not."""
    repetition_filter = RepetitionFilter(FilterConfig(policy=policy, max_segment_chars=500))  # type: ignore[arg-type]
    for number in range(3000):
        repetition_filter.feed(f"{unit}{number * 7919 % 3001:x}")
        assert repetition_filter.held_chars <= 3 * repetition_filter.config.loop.max_period


@thorough
@given(st.text(max_size=200) | st.text(st.characters(exclude_categories=[]), max_size=100), st.sampled_from(POLICIES))
def test_5_no_text_raises(text: str, policy: str) -> None:
    filtered(text * 3, policy=policy)


@thorough
@given(
    st.sampled_from(["```python\n{}\n```", "| a | b |\n|---|---|\n{}\n", "~~~\n{}\n~~~"]),
    st.lists(
        st.sampled_from(["x = compute(first, second)", "y = compute(second, third)", "| 10 | 20 |"]), min_size=1, max_size=12
    ),
    editing,
)
def test_6_code_and_tables_are_not_edited(frame: str, lines: list[str], policy: str) -> None:
    rows = [line if "|" in line or "|" not in frame else f"| {line} |" for line in lines]
    text = "See below what came out of it.\n\n" + frame.format("\n".join(rows)) + "\nThat is all there is to say."
    out, done = filtered(text, policy=policy)
    assert out == text if done.loop is None else text.startswith(out)


@thorough
@given(
    st.lists(
        st.sampled_from(
            ['"replicas": 3,', '"a long name of nothing in particular, said again",', "{", "}", "},", "[", "],", "null,", "0,"]
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
@given(repetitive, st.sampled_from(["loops", "balanced"]))
def test_7_filtering_again_changes_nothing(text: str, policy: str) -> None:
    once, _ = filtered(text, policy=policy)
    assert filtered(once, policy=policy)[0] == once


@given(repetitive, st.sampled_from(POLICIES))
def test_8_flush_twice_gives_nothing_and_feed_after_flush_raises(text: str, policy: str) -> None:
    _, done = filtered(text, policy=policy)
    assert done.flush() == ""
    with pytest.raises(ValueError, match="feed after flush"):
        done.feed("more")


@given(pieces, pieces)
def test_a_key_begins_with_the_key_of_what_the_text_begins_with(first: str, second: str) -> None:
    from dedup.text.words import key_prefix

    assert not sentence_key(first + second) or sentence_key(first + second).startswith(key_prefix(first))
