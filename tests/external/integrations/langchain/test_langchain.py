"""LangChain's agents, and a chat model's stream, with a scripted model."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool
from langchain_openai import ChatOpenAI
from pydantic import PrivateAttr

from dedup.answer.agent_loops.notices import ANSWER, NUDGE
from dedup.integrations.langchain import AgentLoopMiddleware, RunnableRepetitionFilter
from tests.external.integrations.played_transcripts import Script, Turn, scripts
from tests.external.integrations.scripted import (
    KEPT,
    LOOP,
    NOVEL,
    NUM_LOOPS,
    ONCE,
    STUTTER,
    pieces,
    sse_upstream,
)

LOOPS = [one for one in scripts() if one.is_loop]
WORK = [one for one in scripts() if not one.is_loop]


NOTHING_FORBIDDEN = {"type": "object", "properties": {}, "additionalProperties": True}


class AnyTool(BaseTool):
    """A tool with any arguments; `Results` answers in its place."""

    description: str = "does something"
    args_schema: Any = NOTHING_FORBIDDEN

    def _run(self, **arguments: Any) -> str:
        raise AssertionError("not reached")


class Results(AgentMiddleware):
    """Gives the results of a transcript."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.calls = script.calls

    def wrap_tool_call(self, request: Any, handler: Any) -> ToolMessage:
        call = self.calls[request.tool_call["id"]]
        status = "error" if call.is_error else "success"
        return ToolMessage(call.result, tool_call_id=call.id, name=call.name, status=status)

    async def awrap_tool_call(self, request: Any, handler: Any) -> ToolMessage:
        return self.wrap_tool_call(request, handler)


def message_of(turn: Turn) -> AIMessage:
    calls = []
    for call in turn.calls:
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            arguments = {"input": call.arguments}
        calls.append({"name": call.name, "args": arguments, "id": call.id})
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    return AIMessage(turn.text, tool_calls=calls, usage_metadata=usage)


class ScriptedModel(BaseChatModel):
    """Plays a transcript: which turn it is, the history says."""

    script: Any = None
    obeys: str = ""  # the notice that leads it out of the loop
    fails_behind: str = ""
    seen: Any = None

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        return self.bind(tool_choice=tool_choice, tools=[tool.name for tool in tools])

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        kinds = [(one.type, one.content, getattr(one, "tool_calls", None)) for one in messages]
        self.seen.append((kinds, kwargs))
        texts = "".join(str(one.content) for one in messages if one.type == "tool")
        if self.fails_behind and self.fails_behind in texts:
            raise ConnectionError("no more tokens")
        turn = self.script.turn(sum(one.type == "ai" for one in messages))
        if self.obeys and self.obeys in texts:
            turn = Turn("The records office knows.")
        return ChatResult(generations=[ChatGeneration(message=message_of(turn))])


def inputs_of(events: list[str | Turn]) -> list[BaseMessage]:
    messages: list[BaseMessage] = []
    for event in events:
        if isinstance(event, str):
            messages.append(HumanMessage(event))
            continue
        messages.append(message_of(event))
        for call in event.calls:
            status = "error" if call.is_error else "success"
            messages.append(
                ToolMessage(call.result, tool_call_id=call.id, name=call.name, status=status)
            )
    return messages


def play(
    script: Script, *guards: AgentMiddleware, is_async: bool = False, **options: Any
) -> tuple[list[Any], list[BaseMessage]]:
    """Play a transcript; return what the model was asked, and the agent's state at the end."""
    seen: list[Any] = []
    model = ScriptedModel(script=script, seen=seen, **options)
    tools = [AnyTool(name=name) for name in script.tools]
    agent = create_agent(model, tools, middleware=[*guards, Results(script)])
    messages: list[BaseMessage] = []
    for run in script.inputs:
        given = {"messages": [*messages, *inputs_of(run)]}
        config = {"recursion_limit": 400}
        state = (
            asyncio.run(agent.ainvoke(given, config)) if is_async else agent.invoke(given, config)
        )
        messages = state["messages"]
    return seen, messages


def bare(messages: list[BaseMessage]) -> list[Any]:
    return [one.model_dump(exclude={"id"}) for one in messages]


def action_in(message: BaseMessage) -> Any:
    return message.response_metadata.get("repetition", {}).get("agent_loop", {}).get("action")


@pytest.mark.shows("agent loop")
@pytest.mark.parametrize("script", LOOPS, ids=lambda script: script.id)
def test_loops(script: Script) -> None:
    """Behind the fourth copy the model goes on with the loop, whatever it is told: the turn is ended."""
    seen, messages = play(
        script, AgentLoopMiddleware(repeatable=script.repeatable), is_async=len(script.id) % 2 == 0
    )
    stopped = [one for one in messages if action_in(one)]
    assert [action_in(one) for one in stopped] == [script.action] * bool(script.action)
    if script.action != "stopped":
        return
    assert sum(one.type == "ai" for one in messages) <= len(script.turns)  # by the fourth copy
    assert action_in(messages[-1]) == "stopped"
    assert messages[-1].usage_metadata["input_tokens"] == 30
    choices = [asked[1]["tool_choice"] for asked in seen]
    assert choices == [None] * (len(choices) - 1) + ["none"]
    assert not any(NUDGE in str(one.content) for one in messages)  # the state has none


@pytest.mark.parametrize("script", WORK, ids=lambda script: script.id)
def test_work_is_left_alone(script: Script) -> None:
    plain = play(script)
    guarded = play(script, AgentLoopMiddleware(repeatable=script.repeatable))
    assert guarded[0] == plain[0]
    assert bare(guarded[1]) == bare(plain[1])


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("obeys", "action"), [(NUDGE, "nudged"), (ANSWER, "answered")])
def test_a_model_that_heeds_a_notice(obeys: str, action: str, is_async: bool) -> None:
    script = next(one for one in LOOPS if "exact" in one.id and one.inputs[0][0].isascii())
    _, messages = play(script, AgentLoopMiddleware(), is_async=is_async, obeys=obeys)
    assert messages[-1].text == "The records office knows."
    report = messages[-1].response_metadata["repetition"]["agent_loop"]
    assert (report["action"], report["recovered"]) == (action, True)
    assert not any(obeys in str(one.content) for one in messages)


def test_rungs() -> None:
    script = next(one for one in LOOPS if one.action == "stopped")
    seen, messages = play(script, AgentLoopMiddleware(rungs=["stop"]))
    assert messages[-1].text.startswith("[")
    assert len(seen) == sum(one.type == "ai" for one in messages)
    _, messages = play(script, AgentLoopMiddleware(rungs=[]))
    assert action_in(messages[-1]) is None  # the text behind all calls
    assert any(action_in(one) == "measured" for one in messages)


def test_an_attempt_that_fails() -> None:
    """A further attempt fails: the next rung is tried; the first one's failure is the agent's."""
    script = next(one for one in LOOPS if one.action == "stopped")
    for rungs, action in ((["nudge", "stop"], "stopped"), (["nudge"], "nudged")):
        notice = "[重复提示]" if script.inputs[0][0][0] >= "\u4e00" else "[repetition notice]"
        _, messages = play(script, AgentLoopMiddleware(rungs), fails_behind=notice)
        assert action in [action_in(one) for one in messages]
    with pytest.raises(ConnectionError):
        play(script, AgentLoopMiddleware(), fails_behind=script.turns[0].calls[0].result)


def test_a_rejected_answer_is_not_streamed() -> None:
    script = next(one for one in LOOPS if one.action == "stopped")
    model = ScriptedModel(script=script, seen=[])
    tools = [AnyTool(name=name) for name in script.tools]
    agent = create_agent(model, tools, middleware=[AgentLoopMiddleware(), Results(script)])
    given = {"messages": inputs_of(script.inputs[0])}
    streamed = [
        one for one, _ in agent.stream(given, {"recursion_limit": 400}, stream_mode="messages")
    ]
    calls = {call["id"] for one in streamed for call in getattr(one, "tool_calls", ())}
    assert not any(str(call).startswith("again_") for call in calls)
    assert action_in(streamed[-1]) == "stopped"


def test_options_that_are_wrong() -> None:
    with pytest.raises(ValueError, match="rungs must be a list of nudge, answer or stop, got"):
        AgentLoopMiddleware(rungs=["scold"])
    with pytest.raises(TypeError, match="repeatable must be a collection of names"):
        AgentLoopMiddleware(repeatable="poll")
    with pytest.raises(ValueError, match="policy"):
        RunnableRepetitionFilter("gentle")


class StreamingModel(BaseChatModel):
    """Streams chunks, and knows whether its generator was closed before its end."""

    chunks: list[Any]
    _closed: list[int] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "streaming"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        whole = self.chunks[0]
        for chunk in self.chunks[1:]:
            whole += chunk
        message = AIMessage(whole.content, additional_kwargs=whole.additional_kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        number = 0
        try:
            for chunk in self.chunks:
                number += 1
                yield ChatGenerationChunk(message=chunk)
        finally:
            self._closed.append(number)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        number = 0
        try:
            for chunk in self.chunks:
                number += 1
                yield ChatGenerationChunk(message=chunk)
                await asyncio.sleep(0)
        finally:
            self._closed.append(number)


def texts(text: str) -> list[AIMessageChunk]:
    return [AIMessageChunk(content=piece) for piece in pieces(text)]


def blocks_of(text: str, kind: str = "text") -> list[AIMessageChunk]:
    return [
        AIMessageChunk(content=[{"type": kind, kind: piece, "index": 0}]) for piece in pieces(text)
    ]


def reasoning(text: str) -> list[AIMessageChunk]:
    return [
        AIMessageChunk(content="", additional_kwargs={"reasoning_content": piece})
        for piece in pieces(text)
    ]


def arguments(text: str) -> list[AIMessageChunk]:
    first = {"type": "tool_call_chunk", "name": "write", "id": "call_1", "args": "", "index": 0}
    calls = [first] + [{**first, "name": None, "id": None, "args": piece} for piece in pieces(text)]
    return [AIMessageChunk(content="", tool_call_chunks=[call]) for call in calls]


MAKERS: dict[str, Callable[[str], list[AIMessageChunk]]] = {
    "texts": texts,
    "blocks": blocks_of,
    "thinking": lambda text: blocks_of(text, "thinking"),
    "reasoning": reasoning,
    "arguments": arguments,
}


def run(
    model: BaseChatModel, is_async: bool, given: str = "hi", **options: Any
) -> list[AIMessageChunk]:
    chain = model | RunnableRepetitionFilter(**options)
    if not is_async:
        return list(chain.stream(given))

    async def collect() -> list[AIMessageChunk]:
        found = [chunk async for chunk in chain.astream(given)]
        await asyncio.sleep(0.01)  # asyncio closes a generator within another one a moment later
        return found

    return asyncio.run(collect())


def summed(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def text_in(message: AIMessage) -> str:
    calls = getattr(message, "tool_call_chunks", ())
    found = message.text + message.additional_kwargs.get("reasoning_content", "")
    found += "".join(call["args"] or "" for call in calls)
    if isinstance(message.content, list):
        found += "".join(block.get("thinking", "") for block in message.content)
    return found


@pytest.mark.shows(
    "streamed", "loop cut", "source closed", "reasoning", "tool arguments", "metrics"
)
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_loop_ends_the_stream(kind: str, is_async: bool) -> None:
    opening = '{"text": "' if kind == "arguments" else ""
    model = StreamingModel(chunks=MAKERS[kind](opening + NOVEL + LOOP * NUM_LOOPS))
    whole = summed(run(model, is_async))
    assert text_in(whole).startswith(opening + NOVEL[:60])
    assert len(text_in(whole)) < len(opening + NOVEL) + 3 * len(LOOP)
    assert model._closed
    assert model._closed[0] < 200 < len(model.chunks)
    metadata = whole.response_metadata
    assert metadata["stop_reason"] == "repetition_detected"
    assert metadata["finish_reason"] == ("stop" if kind in ("texts", "blocks") else "length")
    assert metadata["repetition"]["loop"]["kind"] in ("exact", "near")
    assert whole.chunk_position == "last"


@pytest.mark.shows("repeats removed", "streamed")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["texts", "blocks"])
def test_repeats_are_removed(kind: str, is_async: bool) -> None:
    model = StreamingModel(chunks=MAKERS[kind](STUTTER))
    chunks = run(model, is_async)
    whole = summed(chunks)
    assert whole.text == KEPT
    assert whole.response_metadata["repetition"]["removed_sentences"] == 1
    assert chunks[-1].chunk_position == "last"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_clean_streams_are_the_same(kind: str, is_async: bool) -> None:
    text = json.dumps({"text": NOVEL}) if kind == "arguments" else NOVEL
    model = StreamingModel(chunks=MAKERS[kind](text))
    whole, plain = summed(run(model, is_async)), summed(list(model.stream("hi")))
    assert whole.model_dump(exclude={"id"}) == plain.model_dump(exclude={"id"})
    off = run(model, is_async, policy="off")
    assert bare(off) == bare(list(model.stream("hi")))


@pytest.mark.shows("whole", "repeats removed", "loop cut", "metrics")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["texts", "blocks"])
def test_whole_answers(kind: str, is_async: bool) -> None:
    def ask(text: str) -> AIMessage:
        chain = StreamingModel(chunks=MAKERS[kind](text)) | RunnableRepetitionFilter()
        return asyncio.run(chain.ainvoke("hi")) if is_async else chain.invoke("hi")

    assert ask(STUTTER).text == KEPT
    looped = ask(NOVEL + LOOP * NUM_LOOPS)
    assert len(looped.text) < len(NOVEL) + 3 * len(LOOP)
    assert looped.response_metadata["repetition"]["loop"]["kind"] == "exact"
    assert ask(NOVEL).text == NOVEL
    assert "repetition" not in ask(NOVEL).response_metadata


def test_a_source_that_fails() -> None:
    """Held text is given before the exception."""

    def failing() -> Iterator[AIMessageChunk]:
        yield from texts(ONCE + "The boat was tied to")
        raise ConnectionError("gone")

    given: list[str] = []
    stream = RunnableRepetitionFilter().transform(failing())
    with pytest.raises(ConnectionError):
        while True:
            given.append(next(stream).text)
    assert "".join(given) == ONCE + "The boat was tied to"


@pytest.mark.parametrize("is_async", [False, True])
def test_over_a_socket(is_async: bool) -> None:
    """The server sees that it was hung up on."""
    with sse_upstream() as upstream:
        model = ChatOpenAI(model="m", base_url=upstream.url, api_key="none", max_retries=0)
        whole = summed(run(model, is_async, "loop"))
        assert whole.text.startswith(NOVEL)
        assert len(whole.text) < len(NOVEL) + 3 * len(LOOP)
        assert upstream.hung_up.wait(10)
        assert summed(run(model, is_async, "novel")).text == NOVEL


def test_the_page(blocks: Any) -> None:
    """Its snippets run, and print what it says."""
    agent, stream = blocks("langchain", "python")
    script = next(one for one in LOOPS if "exact" in one.id and one.inputs[0][0].isascii())
    model = ScriptedModel(script=script, seen=[])
    with sse_upstream() as upstream:
        names = {"model": model, "tools": [AnyTool(name=name) for name in script.tools]}
        agent = agent.replace(
            "model, tools=tools, middleware=[", "model, tools=tools, middleware=[results, "
        )
        names["results"] = Results(script)
        names["messages"] = [HumanMessage(script.inputs[0][0])]
        exec(agent, names)
        assert names["report"]["action"] == "stopped"
        exec(stream.replace("http://127.0.0.1:8001/v1", upstream.url), names)
        assert upstream.hung_up.wait(10)
