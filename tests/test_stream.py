"""Filtered streams: the filter's text whatever the source, and a source that is closed where it loops, or where nobody reads."""

import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup import FilterConfig, RepetitionFilter, filter_stream, filter_stream_async
from tests.server.mock_upstream import LOOP, NOVEL, upstream

ONCE = "The river rose in the night. Nobody slept. "


class Source:
    """An endless loop behind a beginning, sync or async, which knows whether it was closed."""

    def __init__(self, pieces: Sequence[str], fault: Exception | None = None) -> None:
        self.pieces = pieces
        self.fault = fault
        self.num_read = 0
        self.num_closed = 0

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces:
            self.num_read += 1
            yield piece
        if self.fault:
            raise self.fault

    async def __aiter__(self) -> AsyncIterator[str]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.num_closed += 1


class AsyncSource(Source):
    async def aclose(self) -> None:
        self.num_closed += 1

    def close(self) -> None:
        raise AssertionError("aclose comes first")


async def collected(stream: AsyncIterator[str]) -> list[str]:
    return [piece async for piece in stream]


texts = st.lists(
    st.sampled_from([ONCE, "Nobody slept. ", "夜深了，屋里只点着一盏灯。", "and so on ", "\n", ""])
    | st.text(max_size=9),
    max_size=40,
)


@settings(deadline=None)
@given(texts)
async def test_a_stream_has_the_text_that_the_filter_gives(pieces: list[str]) -> None:
    repetition_filter = RepetitionFilter()
    expected = "".join([repetition_filter.feed(piece) for piece in pieces])
    is_cut = repetition_filter.ended  # a loop that is certain only at the end closes nothing
    expected += repetition_filter.flush()
    source, twin = Source(pieces), AsyncSource(pieces)
    given_out = list(filter_stream(source))
    assert "".join(given_out) == expected
    assert all(given_out)
    assert given_out == await collected(filter_stream_async(twin))
    assert source.num_closed == twin.num_closed == int(is_cut)
    assert source.num_read == twin.num_read


async def test_a_loop_closes_the_source_at_once() -> None:
    for make, read in ((Source, filter_stream), (AsyncSource, filter_stream_async)):
        source = make([NOVEL, " "] + [LOOP] * 1000)
        repetition_filter = RepetitionFilter()
        stream = read(source, repetition_filter)
        text = ""
        while not source.num_closed:
            text += next(stream, "") if make is Source else await anext(stream, "")
        rest = list(stream) if make is Source else await collected(stream)
        text += "".join(rest)
        assert text.startswith(NOVEL)
        assert text.count(LOOP.strip()) <= 2
        assert source.num_read < 20
        assert source.num_closed == 1
        assert repetition_filter.loop
        assert repetition_filter.loop.period == len(LOOP)


async def test_a_reader_who_leaves_closes_the_source() -> None:
    source, twin = Source([NOVEL, " More."]), AsyncSource([NOVEL, " More."])
    stream = filter_stream(source)
    next(stream)
    stream.close()
    other = filter_stream_async(twin)
    await anext(other)
    await other.aclose()
    assert source.num_closed == twin.num_closed == 1
    assert source.num_read == twin.num_read == 1


async def test_what_was_held_comes_before_the_fault_of_a_source() -> None:
    pieces = [ONCE, "The river rose in"]
    fault = ConnectionError("reset")
    got: list[str] = []
    stream = filter_stream(Source(pieces, fault))
    with pytest.raises(ConnectionError, match="reset"):
        while True:
            got.append(next(stream))
    assert "".join(got) == "".join(pieces)
    twin: list[str] = []
    with pytest.raises(ConnectionError, match="reset"):
        async for piece in filter_stream_async(AsyncSource(pieces, fault)):
            twin.append(piece)
    assert twin == got


async def test_items_that_are_no_strings_ask_for_a_function() -> None:
    source, twin = Source([{"text": NOVEL}]), AsyncSource([{"text": NOVEL}])
    with pytest.raises(TypeError, match="items of type dict, not strings: pass text="):
        list(filter_stream(source))
    with pytest.raises(TypeError, match="pass text="):
        await collected(filter_stream_async(twin))
    assert source.num_closed == twin.num_closed == 1
    assert list(filter_stream([{"text": NOVEL}, {"text": None}], text=lambda item: item["text"]))
    assert list(filter_stream([None, "a"])) == ["a"]


def test_the_filter_keeps_its_policy() -> None:
    assert list(filter_stream([ONCE, ONCE], RepetitionFilter(FilterConfig(policy="off")))) == [
        ONCE,
        ONCE,
    ]


async def test_openai_streams_are_hung_up_on() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    with upstream() as mock:
        client = openai.OpenAI(base_url=mock.url, api_key="none")
        stream = client.chat.completions.create(model="loop", messages=messages, stream=True)
        chunks = filter_stream(
            stream, text=lambda chunk: chunk.choices[0].delta.content if chunk.choices else None
        )
        assert "".join(chunks).count(LOOP.strip()) <= 2
        assert mock.hung_up.wait(5)
        client.close()
    with upstream() as mock:
        client = openai.AsyncOpenAI(base_url=mock.url, api_key="none")
        stream = await client.chat.completions.create(model="loop", messages=messages, stream=True)
        chunks = filter_stream_async(
            stream, text=lambda chunk: chunk.choices[0].delta.content if chunk.choices else None
        )
        text = "".join(await collected(chunks))
        assert text.count(LOOP.strip()) <= 2
        assert mock.hung_up.wait(5)
        await client.close()


def test_a_generator_is_closed_and_a_list_needs_nothing() -> None:
    done = threading.Event()

    def pieces() -> Iterator[str]:
        try:
            while True:
                yield LOOP
        finally:
            done.set()

    text = "".join(filter_stream(pieces()))
    assert text.count(LOOP.strip()) <= 2
    assert done.is_set()
    assert "".join(filter_stream([LOOP] * 1000)) == text
