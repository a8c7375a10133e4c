"""The page's examples for LangChain, Gradio and Streamlit, with the real packages and a model on a real socket that loops."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio
import openai
import pytest
from streamlit.testing.v1 import AppTest

from dedup import RepetitionFilter
from tests.server.mock_upstream import LOOP, NOVEL, Upstream, upstream

Blocks = Callable[[str, str], list[str]]


@pytest.fixture
def served() -> Iterator[Upstream]:
    with upstream() as mock:
        yield mock


def block(blocks: Blocks, word: str) -> str:
    return next(text for text in blocks("streams", "python") if word in text)


def ask(prompt: str) -> Iterator[str]:
    yield from [f"{NOVEL} {NOVEL} "] + [LOOP] * 1000


def expected() -> str:
    repetition_filter = RepetitionFilter()
    return "".join(map(repetition_filter.feed, ask(""))) + repetition_filter.flush()


@pytest.mark.shows("streamed", "loop cut", "source closed")
def test_openai(blocks: Blocks, served: Upstream, capsys: pytest.CaptureFixture[str]) -> None:
    text = block(blocks, "from openai import OpenAI")
    names: dict[str, Any] = {}
    exec("from dedup import filter_stream\n" + at(served, text), names)
    assert 1 <= capsys.readouterr().out.count(LOOP.strip()) <= 2
    assert served.hung_up.wait(5)
    names["client"].close()


@pytest.mark.shows("streamed", "loop cut", "source closed")
def test_langchain(blocks: Blocks, served: Upstream, capsys: pytest.CaptureFixture[str]) -> None:
    exec(at(served, block(blocks, "from langchain_openai")), {})
    assert 1 <= capsys.readouterr().out.count(LOOP.strip()) <= 2
    assert served.hung_up.wait(5)


def at(served: Upstream, text: str) -> str:
    return text.replace("http://127.0.0.1:8000/v1", served.url).replace('"demo"', '"loop"')


@pytest.mark.shows("streamed", "loop cut", "repeats removed", "source closed")
def test_gradio(blocks: Blocks) -> None:
    is_closed = threading.Event()

    def source(prompt: str) -> Iterator[str]:
        try:
            yield from ask(prompt)
        finally:
            is_closed.set()

    names: dict[str, Any] = {"ask": source}
    exec(block(blocks, "import gradio"), names)
    shown = list(names["respond"]("Where is the bridge?", []))
    assert shown[-1] == expected()
    assert shown[-1].count(NOVEL) == 1
    assert is_closed.is_set()
    assert isinstance(names["demo"], gradio.ChatInterface)


@pytest.mark.shows("streamed", "loop cut", "repeats removed", "source closed")
def test_streamlit(blocks: Blocks, tmp_path: Path) -> None:
    source = """
from tests.external.integrations.streams.test_streams import Source as _Source
def ask(prompt):
    return _Source(prompt)
"""
    Source.closed.clear()
    app = AppTest.from_string(source + block(blocks, "import streamlit"), default_timeout=60).run()
    app.chat_input[0].set_value("Where is the bridge?").run()
    assert not app.exception
    assert app.chat_message[0].markdown[0].value.strip() == expected().strip()
    assert Source.closed.is_set()


class Source:
    closed = threading.Event()

    def __init__(self, prompt: str) -> None:
        self.pieces = ask(prompt)

    def __iter__(self) -> Iterator[str]:
        return self.pieces

    def close(self) -> None:
        self.closed.set()


@pytest.mark.shows("streamed")
def test_a_clean_stream_is_as_it_was(served: Upstream) -> None:
    from dedup import filter_stream

    client = openai.OpenAI(base_url=served.url, api_key="none")
    stream = client.chat.completions.create(
        model="novel", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    chunks = filter_stream(
        stream, text=lambda chunk: chunk.choices[0].delta.content if chunk.choices else None
    )
    assert "".join(chunks) == NOVEL
    client.close()
    time.sleep(0)
