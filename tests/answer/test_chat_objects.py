"""Chat completions as objects, chunk by chunk and whole."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup.answer.chat_objects import ChunkFilter, filter_whole
from dedup.answer.frame import Delta, Finish
from dedup.text.filter import RepetitionFilter

OPENING = "The river rose in the night, and by morning the bridge was gone. "
CIRCLE = "I am going round and round in circles here. "


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> Any:
    body = SimpleNamespace(role=None, tool_calls=None, **delta)
    choice = SimpleNamespace(index=index, delta=body, finish_reason=finish, logprobs=None)
    return SimpleNamespace(choices=[choice])


def call(arguments: str, name: str | None = None) -> Any:
    return SimpleNamespace(index=0, id=name, function=SimpleNamespace(arguments=arguments))


def made(like: Any, piece: Delta | Finish, fields: dict[str, Any]) -> Any:
    given = chunk(piece.choice)
    vars(given.choices[0]).update(fields)
    if isinstance(piece, Delta) and piece.channel == "tool_arguments":
        given.choices[0].delta.tool_calls = [call(piece.text)]
    elif isinstance(piece, Delta):
        setattr(given.choices[0].delta, piece.part, piece.text)
    return given


class Reader:
    """A reader of a stream that is hung up on where the filter says so."""

    def __init__(self, num_choices: int = 1, policy: Any = "balanced") -> None:
        answer = Answer(Editing(policy), num_choices=num_choices)
        self.filter = ChunkFilter(answer, num_choices, deepcopy, made)
        self.texts: dict[tuple[int, str], str] = {}
        self.ends: dict[int, Any] = {}
        self.num_chunks = 0

    def read(self, *chunks: Any) -> None:
        for one in chunks:
            self.num_chunks += 1
            for got in self.filter.feed(one):
                self._take(got)
            if self.filter.is_over:
                break
        for got in self.filter.release():
            self._take(got)

    def _take(self, got: Any) -> None:
        for choice in got.choices:
            for part in ("content", "reasoning_content"):
                text = getattr(choice.delta, part, None) or ""
                key = choice.index, part
                self.texts[key] = self.texts.get(key, "") + text
            for one in choice.delta.tool_calls or ():
                key = choice.index, "arguments"
                self.texts[key] = self.texts.get(key, "") + one.function.arguments
            if choice.finish_reason:
                self.ends[choice.index] = choice


def pieces(text: str, index: int = 0, part: str = "content") -> list[Any]:
    return [chunk(index, **{part: text[at : at + 6]}) for at in range(0, len(text), 6)]


@settings(deadline=None)
@given(st.lists(st.sampled_from([OPENING, CIRCLE, "Then more. ", "1 2 "]) | st.text(max_size=5)))
def test_a_stream_is_what_the_filter_gives(parts: list[str]) -> None:
    reader = Reader()
    reader.read(*[chunk(content=part) for part in parts], chunk(finish="stop"))
    one = RepetitionFilter()
    assert reader.texts.get((0, "content"), "") == one.feed("".join(parts)) + one.flush()
    assert reader.ends[0].finish_reason == "stop"
    assert hasattr(reader.ends[0], "repetition") == bool(one.removed)


def test_a_chunk_that_stays_as_it_is_passes_itself() -> None:
    one = chunk(content="The river")
    assert Reader().filter.feed(one)[0] is one


def test_a_loop_ends_the_stream() -> None:
    reader = Reader()
    chunks = pieces(OPENING + CIRCLE * 50)
    reader.read(*chunks)
    assert reader.texts[0, "content"] == (OPENING + CIRCLE).rstrip()
    assert reader.num_chunks < len(chunks) // 2
    assert reader.ends[0].finish_reason == "stop"
    assert reader.ends[0].stop_reason == "repetition_detected"
    assert reader.ends[0].repetition["loop"]["kind"] == "exact"


@pytest.mark.parametrize("part", ["reasoning_content", "arguments"])
def test_a_cut_that_leaves_something_unusable_is_no_stop(part: str) -> None:
    text = OPENING + CIRCLE * 50
    chunks = pieces(text, part="reasoning_content")
    if part == "arguments":
        chunks = [chunk() for _ in chunks]
        for number, one in enumerate(chunks):
            piece = ('{"a": "' + text)[number * 6 : number * 6 + 6]
            one.choices[0].delta.tool_calls = [call(piece, None if number else "call_1")]
    reader = Reader()
    reader.read(*chunks)
    assert len(reader.texts[0, part]) < 400
    assert reader.ends[0].finish_reason == "length"


def test_of_several_choices_each_ends_for_itself_even_if_ends_have_a_wrong_index() -> None:
    reader = Reader(num_choices=2)
    loop, novel = pieces(OPENING + CIRCLE * 50), pieces(OPENING + "Nobody heard it.", 1)
    mixed = [one for pair in zip(loop, novel, strict=False) for one in pair]
    rest = loop[len(novel) :]
    reader.read(*mixed, chunk(0, "stop"), *rest)
    assert reader.texts[0, "content"] == (OPENING + CIRCLE).rstrip()
    assert reader.texts[1, "content"] == OPENING + "Nobody heard it."
    assert reader.num_chunks < len(mixed) + len(rest) // 2


def test_held_text_comes_where_the_last_chunk_is_usage_alone() -> None:
    reader = Reader(num_choices=2)
    usage = SimpleNamespace(choices=[])
    reader.read(*pieces(OPENING + "The river rose"), chunk(0, "stop"), usage)
    assert reader.texts[0, "content"] == OPENING + "The river rose"


def test_a_fault_costs_no_text() -> None:
    reader = Reader()
    chunks = pieces(OPENING + "The river rose again, and fell. ")
    answer = reader.filter.answer

    class Failing:
        def feed(self, frame: Any) -> Any:
            if reader.num_chunks > 12:
                raise RuntimeError("a fault")
            return answer.feed(frame)

        def __getattr__(self, name: str) -> Any:
            return getattr(answer, name)

    reader.filter.answer = Failing()  # type: ignore[assignment]
    reader.read(*chunks)
    assert reader.texts[0, "content"] == OPENING + "The river rose again, and fell. "


def test_a_whole_answer_is_edited_in_place() -> None:
    message = SimpleNamespace(content=OPENING + CIRCLE * 50, tool_calls=None)
    choice = SimpleNamespace(index=0, message=message, finish_reason="length", logprobs=[1])
    filter_whole(Answer(Editing("balanced")), SimpleNamespace(choices=[choice]))
    assert message.content == (OPENING + CIRCLE).rstrip()
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "repetition_detected")
    assert choice.logprobs is None


def test_other_answers_pass() -> None:
    one = SimpleNamespace(output=[])
    reader = Reader()
    assert reader.filter.feed(one) == [one]
    filter_whole(reader.filter.answer, one)
