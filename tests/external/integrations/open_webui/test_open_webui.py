"""The function through Open WebUI's own loader and filter runner, with its database left out.

`test_server.py` runs it in the whole of Open WebUI.
"""

import asyncio
import copy
import json
import sys
import types
from collections.abc import AsyncIterator, Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.external.integrations.open_webui import upstream
from tests.external.integrations.open_webui.upstream import END, LOOP, OTHER, REPEAT

Json = dict[str, Any]
TEXT = REPEAT + OTHER + END
ID = "repetition"


class Functions:
    """The table of functions, in memory: the one stub, as the real one needs a database."""

    content = upstream.SOURCE.read_text("utf-8")
    valves: ClassVar[Json] = {}
    user_valves: ClassVar[Json] = {}

    @classmethod
    async def get_function_by_id(cls, function_id: str) -> Any:
        return SimpleNamespace(id=function_id, content=cls.content)

    @classmethod
    async def get_function_valves_by_ids(cls, ids: list[str]) -> Json:
        return dict.fromkeys(ids, cls.valves)

    @classmethod
    async def get_user_valves_by_id_and_user_id(cls, function_id: str, user_id: str) -> Json:
        return cls.user_valves


def _stub(name: str, **names: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(names)
    sys.modules[name] = module


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Return open_webui.utils.filter, with the tables that it and the loader import left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("WEBUI_SECRET_KEY", "none" * 8)
        patch.setenv("OFFLINE_MODE", "true")  # else the loader installs the function's requirements
        patch.setenv("FROM_INIT_PY", "true")
        _stub("open_webui.models.functions", Functions=Functions, FunctionModel=object)
        _stub("open_webui.models.tools", Tools=object)
        from open_webui.utils import filter as module  # type: ignore[import-not-found]
    return module  # type: ignore[no-any-return]


class Server:
    """An Open WebUI with the function in it: one instance of the module for all chats."""

    def __init__(self, runner: ModuleType) -> None:
        self.runner = runner
        self.app = SimpleNamespace(state=SimpleNamespace())
        self.status: list[Json] = []

    def chat(self, message_id: str = "m1", prompt: str = "How long?") -> "Chat":
        return Chat(self, message_id, prompt)


class Chat:
    """One answer, as Open WebUI's middleware runs it: inlet, stream by stream event, outlet."""

    def __init__(self, server: Server, message_id: str, prompt: str) -> None:
        self.server = server
        self.messages = [{"role": "user", "content": prompt}]
        self.request = SimpleNamespace(app=server.app, state=SimpleNamespace())
        self.id = message_id
        self.extra = {
            "__event_emitter__": self._emit,
            "__user__": {"id": "u1"},
            "__metadata__": {"chat_id": "c1", "message_id": message_id},
            "__request__": self.request,
        }

    async def _emit(self, event: Json) -> None:
        self.server.status.append(event["data"])

    async def run(self, kind: str, form: Json) -> Json:
        function = await Functions.get_function_by_id(ID)
        result, _ = await self.server.runner.process_filter_functions(
            request=self.request,
            filter_context=None,
            filter_functions=[function],
            filter_type=kind,
            form_data=form,
            extra_params=self.extra,
        )
        return result  # type: ignore[no-any-return]

    async def begin(self) -> None:
        body = {"model": "m", "messages": self.messages, "metadata": self.extra["__metadata__"]}
        assert await self.run("inlet", body) == body

    async def stream(self, events: Any) -> AsyncIterator[Json]:
        await self.begin()
        for event in events:
            given = await self.run("stream", event)
            if given:
                yield given
            await asyncio.sleep(0)

    async def end(self, message: Json) -> Json:
        messages = [*self.messages, {"id": self.id, "role": "assistant", **message}]
        body = await self.run("outlet", {"model": "m", "messages": messages, "id": self.id})
        return body["messages"][-1]  # type: ignore[no-any-return]


@pytest.fixture
def server(runner: ModuleType) -> Server:
    Functions.valves, Functions.user_valves = {}, {}
    return Server(runner)


def text_of(events: list[Json], slot: str = "content") -> str:
    deltas = [event["choices"][0]["delta"] for event in events]
    return "".join(delta.get(slot) or "" for delta in deltas)


async def collect(chat: Chat, model: str) -> list[Json]:
    return [event async for event in chat.stream(upstream.chunks(model))]


async def test_the_page_names_the_file_and_its_valves(
    runner: ModuleType, blocks: Callable[[str, str], list[str]]
) -> None:
    from open_webui.utils.plugin import (  # type: ignore[import-not-found]
        extract_frontmatter,
        load_function_module_by_id,
    )

    module, kind, frontmatter, _ = await load_function_module_by_id(ID, Functions.content)
    assert kind == "filter"
    assert frontmatter == extract_frontmatter(Functions.content)
    assert frontmatter["requirements"] == "dedup-llm"
    [url, requirement] = blocks("open_webui", "text")
    assert url.strip().endswith("/dedup/integrations/open_webui.py")
    assert requirement.strip() == f"requirements: {frontmatter['requirements']}"
    [valves] = blocks("open_webui", "json")
    assert json.loads(valves) == module.Valves().model_dump()


@pytest.mark.shows("streamed", "repeats removed", "metrics")
async def test_repeats_are_removed_from_a_stream(server: Server) -> None:
    chat = server.chat()
    events = await collect(chat, "repeats")
    assert text_of(events) == TEXT
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    message = await chat.end({"content": TEXT})
    assert message["content"] == TEXT
    assert message["repetition"]["removed_sentences"] == 1
    [status] = server.status
    assert status["description"] == f"Repetition was removed: {len(REPEAT)} characters."
    assert status["repetition"] == message["repetition"]


@pytest.mark.shows("loop cut")
async def test_the_rest_of_a_loop_is_hidden_and_told(server: Server) -> None:
    chat = server.chat(prompt="要保留多久？")
    text = text_of(await collect(chat, "loops"))
    assert text == (REPEAT + LOOP).rstrip()
    assert server.status == [{"description": server.status[0]["description"], "done": True}]
    assert "已隐藏" in server.status[0]["description"]
    await chat.end({"content": text})
    assert server.status[-1]["repetition"]["loop"]["channel"] == "content"


async def test_no_notice_if_switched_off(server: Server) -> None:
    Functions.valves = {"notice": False}
    chat = server.chat()
    await chat.end({"content": text_of(await collect(chat, "loops"))})
    assert server.status == []


@pytest.mark.shows("reasoning")
async def test_an_answer_behind_reasoning_that_loops(server: Server) -> None:
    events = await collect(server.chat(), "reasons")
    assert text_of(events, "reasoning_content") == LOOP.rstrip()
    assert text_of(events) == TEXT


@pytest.mark.shows("reasoning")
async def test_an_answer_behind_thoughts_in_tags_that_loop(server: Server) -> None:
    text = text_of(await collect(server.chat(), "thinks"))
    assert text.startswith(f"<think>{LOOP.rstrip()}")
    assert text.endswith(f"</think>{TEXT}")
    assert len(text) < 3 * len(LOOP) + len(TEXT)


@pytest.mark.shows("tool arguments")
async def test_tool_arguments_that_loop(server: Server) -> None:
    events = await collect(server.chat(), "calls")
    calls = [event["choices"][0]["delta"].get("tool_calls") for event in events]
    arguments = "".join(call[0]["function"]["arguments"] for call in calls if call)
    assert len(arguments) < 3 * len(LOOP)
    assert events[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_stream_without_a_finish_loses_nothing(server: Server) -> None:
    chat = server.chat()
    events = await collect(chat, "breaks")
    fed = text_of(list(upstream.chunks("breaks")))
    text = text_of(events).strip()
    part = {"type": "output_text", "text": text}
    output = [{"type": "message", "role": "assistant", "content": [part]}]
    message = await chat.end({"content": text, "output": output})
    assert text != fed
    assert message["content"] == message["output"][0]["content"][0]["text"] == fed


@pytest.mark.shows("whole")
async def test_a_whole_answer_is_repaired(server: Server) -> None:
    chat = server.chat()
    await chat.begin()
    part = {"type": "output_text", "text": REPEAT + OTHER + REPEAT + END}
    output = [{"type": "message", "role": "assistant", "content": [part]}]
    message = await chat.end({"content": part["text"], "output": output})
    assert message["content"] == message["output"][0]["content"][0]["text"] == TEXT


async def test_events_of_the_responses_api(server: Server) -> None:
    text = REPEAT + OTHER + REPEAT + END
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    name = "response.output_text"
    item = {"type": "message", "id": "msg_1", "role": "assistant"}
    part = {"type": "output_text", "text": text}
    events: list[Json] = [
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
    ]
    pieces = [text[at : at + 9] for at in range(0, len(text), 9)]
    events += [{"type": f"{name}.delta", **place, "delta": piece} for piece in pieces]
    events += [{"type": f"{name}.done", **place, "text": text}]
    item["content"] = [part]  # type: ignore[assignment]
    events += [{"type": "response.output_item.done", "output_index": 0, "item": item}]
    response = {"id": "resp_1", "output": [item], "usage": {"output_tokens": 9}}
    events += [{"type": "response.completed", "response": response}]
    chat = server.chat()
    try:
        from open_webui.utils.response import handle_responses_streaming_event as read
    except ImportError:
        read = None
    output: list[Json] = []
    given = [event async for event in chat.stream(copy.deepcopy(events))]
    for event in given[:-1] if read else []:
        output, _ = read(event, output)
    assert not read or output[0]["content"][0]["text"] == TEXT
    assert given[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    assert given[-1]["response"]["usage"] == {"output_tokens": 9}


async def test_chats_at_once_share_nothing(server: Server) -> None:
    models = ("repeats", "loops", "plain", "repeats")
    chats = [server.chat(f"m{number}") for number in range(len(models))]
    texts = await asyncio.gather(*map(collect, chats, models))
    assert len(server.app.state.FUNCTIONS) == 1  # one instance of the module
    assert list(map(text_of, texts)) == [TEXT, (REPEAT + LOOP).rstrip(), TEXT, TEXT]
    # Two models that answer one message of the user share its request.
    one, other = server.chat("a"), server.chat("b")
    other.request = other.extra["__request__"] = one.request
    both = await asyncio.gather(collect(one, "loops"), collect(other, "repeats"))
    assert list(map(text_of, both)) == [(REPEAT + LOOP).rstrip(), TEXT]


async def test_policies_of_the_administrator_and_the_user(server: Server) -> None:
    Functions.valves = {"policy": "off"}
    assert text_of(await collect(server.chat(), "repeats")) == REPEAT + OTHER + REPEAT + END
    Functions.user_valves = {"policy": "balanced"}
    assert text_of(await collect(server.chat(), "repeats")) == TEXT


async def test_repetition_that_was_asked_for_stays(server: Server) -> None:
    chat = server.chat(prompt=f"Say this 50 times: {LOOP}")
    assert text_of(await collect(chat, "loops")).count(LOOP.strip()) >= 50


@pytest.mark.shows("agent loop")
async def test_a_model_that_repeats_a_tool_call_gets_a_notice(server: Server) -> None:
    chat = server.chat()
    messages: list[Json] = list(chat.messages)
    for number in range(6):
        function = {"name": "search", "arguments": '{"query": "retention"}'}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "No document."})
    body = {"model": "m", "messages": messages}
    assert await chat.run("request", body) == body
    Functions.valves = {"nudge": True}
    given = await chat.run("request", body)
    assert given["messages"][:-1] == messages[:-1]
    assert "[repetition notice]" in given["messages"][-1]["content"]


async def test_a_fault_costs_no_text(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("dedup.answer.events.Answer", fail)
    chat = server.chat()
    text = REPEAT + OTHER + REPEAT + END
    assert text_of(await collect(chat, "repeats")) == text
    assert (await chat.end({"content": text}))["content"] == text
