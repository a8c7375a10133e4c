"""Tools of a model in this process: what it is told of them, and the calls that it writes into its text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup.answer.agent_loops.notices import NUDGE, STOP
from dedup.answer.frame import Delta
from dedup_server.engines.local.tool_calls import ToolCallReader
from tests.agents.client import ask
from tests.answer.agent_loops.histories import APIS, Api, history, turn
from tests.server.three_apis import SpokenEngine, local

TEMPLATE = (
    "{% if tools %}{% for tool in tools %}[tool {{ tool.function.name }}]{% endfor %}"
    " write <tool_call>\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% for call in message.tool_calls or [] %} call {{ call.function.name }}"
    " {{ call.function.arguments.city }}{% endfor %}\n{% endfor %}"
)
CALL = '<tool_call>\n{"name": "look_up", "arguments": {"city": "Delft"}}\n</tool_call>'
OTHER = '<tool_call>{"name": "look_up", "arguments": {"city": "Gouda"}}</tool_call>'
STEP = turn("look_up", {"city": "Delft"}, "No entry was found for this city in the register.")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


class CallingEngine(SpokenEngine):
    async def start(self) -> None:
        await super().start()
        self.loaded.tokenizer.chat_template = TEMPLATE


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> CallingEngine:
    return CallingEngine(Path(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def url(engine: CallingEngine) -> Iterator[str]:
    with local(engine) as url:
        yield url


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    return request.param


def body(api: Api, num_steps: int = 0, **fields: Any) -> dict[str, Any]:
    function = {"name": "look_up", "description": "Look up a city.", "parameters": PARAMETERS}
    tools: dict[Api, dict[str, Any]] = {
        "chat": {"type": "function", "function": function},
        "responses": {"type": "function", **function},
        "messages": {"name": "look_up", "input_schema": PARAMETERS},
    }
    field = "input" if api == "responses" else "messages"
    conversation = history(api, *[STEP] * num_steps, start="How many people live in Delft?")
    more = {"max_tokens": 500} if api == "messages" else {}
    return {"model": "tiny", "tools": [tools[api]], field: conversation, **more, **fields}


def say(engine: CallingEngine, *lines: str) -> None:
    engine.lines[:] = lines
    engine.prompts.clear()


@pytest.mark.parametrize("stream", [True, False])
def test_a_call_is_told_from_what_is_said(
    engine: CallingEngine, url: str, api: Api, stream: bool
) -> None:
    say(engine, f"Let me look that up.\n{CALL}")
    got = ask(url, api, body(api, stream=stream)).got.only
    assert got.text.strip() == "Let me look that up."
    assert [
        (name, json.loads(given) if isinstance(given, str) else given) for name, given in got.calls
    ] == [("look_up", {"city": "Delft"})]
    assert got.stop == {"chat": "tool_calls", "responses": "completed", "messages": "tool_use"}[api]
    assert "[tool look_up]" in engine.prompts[0]


@pytest.mark.parametrize("stream", [True, False])
def test_an_agent_in_a_loop_is_led_out(
    engine: CallingEngine, url: str, api: Api, stream: bool
) -> None:
    rungs = {"agent_loops": ["nudge", "stop"]}
    say(engine, CALL, "There is no entry for Delft.")
    got = ask(url, api, body(api, 6, stream=stream, repetition=rungs)).got.only
    assert (got.text, got.calls) == ("There is no entry for Delft.", [])
    assert NUDGE[:60] in engine.prompts[1]
    assert engine.prompts[0].count("call look_up Delft") == 6
    say(engine, CALL, CALL)
    got = ask(url, api, body(api, 6, stream=stream, repetition=rungs)).got.only
    assert (got.text, got.calls) == (STOP, [])


def test_no_call_is_offered_where_none_may_be_made(engine: CallingEngine, url: str) -> None:
    say(engine, "I do not know.")
    assert ask(url, "chat", body("chat", tool_choice="none")).got.only.text == "I do not know."
    assert "[tool" not in engine.prompts[0]


def test_calls_in_parallel_and_one_at_a_time(engine: CallingEngine, url: str) -> None:
    say(engine, f"{CALL}\n{OTHER}")
    assert len(ask(url, "chat", body("chat")).got.only.calls) == 2
    say(engine, f"{CALL}\n{OTHER}")
    assert len(ask(url, "chat", body("chat", parallel_tool_calls=False)).got.only.calls) == 1


def test_a_call_that_is_cut_off_is_no_call(engine: CallingEngine, url: str) -> None:
    say(engine, CALL)
    got = ask(url, "chat", body("chat", max_tokens=20)).got.only
    assert got.calls == []
    assert got.text.startswith("<tool_call>")
    assert got.stop == "length"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": "required"}, "tool_choice: the local engine does not support it"),
        ({"tools": [{"type": "web"}]}, "tools.0.type: must be 'function'"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name: is required"),
    ],
)
def test_what_is_not_supported_is_refused(url: str, fields: dict[str, Any], message: str) -> None:
    reply = ask(url, "chat", {**body("chat"), **fields})
    assert reply.status == 400
    assert message in reply.raw.decode()


def read(*pieces: str) -> tuple[str, list[tuple[str, str]], str]:
    """Return the text, the calls, and what was said while reading, each piece in brackets."""
    reader = ToolCallReader(0)
    deltas: list[Delta] = []
    trace = ""
    for piece in pieces:
        found = reader.feed(piece)
        trace += "[" + "".join([one.text for one in found if one.tool is None]) + "]"
        deltas += found
    deltas += reader.flush()
    text = "".join([one.text for one in deltas if one.tool is None])
    return text, [(one.tool[1], one.text) for one in deltas if one.tool], trace


def test_text_passes_at_once_and_only_the_beginning_of_a_mark_is_held() -> None:
    assert read("a < b <tool", "s") == ("a < b <tools", [], "[a < b ][<tools]")
    assert read("Yes. ", CALL)[:2] == ("Yes. ", [("look_up", '{"city":"Delft"}')])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": 3}</tool_call>',
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read(f"a {text} b")[:2] == (f"a {text} b", [])


def test_a_call_without_its_end_is_one() -> None:
    assert read(CALL.removesuffix("</tool_call>"))[1] == [("look_up", '{"city":"Delft"}')]


@given(
    st.lists(
        st.sampled_from(["a ", "<", "<tool_call>", CALL, OTHER, "</tool_call>", "{", " 我"]),
        max_size=8,
    ),
    st.integers(1, 7),
)
def test_pieces_do_not_matter(parts: list[str], size: int) -> None:
    text = "".join(parts)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(*pieces)[:2] == read(text)[:2]
