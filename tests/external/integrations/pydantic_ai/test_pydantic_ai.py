"""Agents of Pydantic AI with a scripted model."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, Tool, ToolOutput, UnexpectedModelBehavior
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

from dedup.answer.agent_loops.notices import ANSWER, NUDGE, STOP, STOP_ZH
from dedup.integrations.pydantic_ai import RepetitionGuard, RepetitionModel
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

ALL = scripts()
LOOPS = [one for one in ALL if one.is_loop]
WORK = [one for one in ALL if not one.is_loop]
EXACT = next(
    one
    for one in LOOPS
    if one.id.startswith("exact") and one.start == 0 and one.inputs[0][0].isascii()
)


def response_of(turn: Turn) -> ModelResponse:
    parts: list[Any] = [TextPart(turn.text)] if turn.text else []
    parts += [ToolCallPart(call.name, arguments_of(call), call.id) for call in turn.calls]
    return ModelResponse(parts=parts)


def arguments_of(call: Any) -> str:
    """Return arguments as JSON: those of a custom tool are a text."""
    try:
        json.loads(call.arguments)
    except ValueError:
        return json.dumps({"input": call.arguments})
    return call.arguments


def messages_of(events: list[str | Turn]) -> list[Any]:
    """Return the messages of events; results and a user's message are in one request."""
    messages: list[Any] = []
    for event in events:
        if isinstance(event, str):
            messages.append(ModelRequest(parts=[UserPromptPart(event)]))
            continue
        messages.append(response_of(event))
        results = [
            ToolReturnPart(
                call.name, call.result, call.id, outcome="failed" if call.is_error else "success"
            )
            for call in event.calls
        ]
        if results:
            messages.append(ModelRequest(parts=results))
    return messages


class Played:
    """A scripted model: which turn it is, the history says."""

    def __init__(self, script: Script, obeys: str = "", fails_behind: str = "") -> None:
        self.script, self.obeys, self.fails_behind = script, obeys, fails_behind
        self.seen: list[Any] = []
        self.model = FunctionModel(self.whole, stream_function=self.stream)

    def _turn(self, messages: list[Any], info: AgentInfo) -> Turn:
        kinds = [
            [(part.part_kind, str(getattr(part, "content", ""))) for part in one.parts]
            for one in messages
        ]
        self.seen.append((kinds, (info.model_settings or {}).get("tool_choice")))
        results = "".join(text for parts in kinds for kind, text in parts if kind == "tool-return")
        if self.fails_behind and self.fails_behind in results:
            raise ConnectionError("no more tokens")
        if self.obeys and self.obeys in results:
            return Turn("The records office knows.")
        return self.script.turn(sum(isinstance(one, ModelResponse) for one in messages))

    def whole(self, messages: list[Any], info: AgentInfo) -> ModelResponse:
        return response_of(self._turn(messages, info))

    async def stream(self, messages: list[Any], info: AgentInfo) -> AsyncIterator[Any]:
        turn = self._turn(messages, info)
        if turn.text:
            yield turn.text
        for number, call in enumerate(turn.calls):
            yield {number: DeltaToolCall(call.name, arguments_of(call), tool_call_id=call.id)}


def tools_of(script: Script) -> list[Tool[Any]]:
    def result(ctx: Any, **arguments: Any) -> str:
        call = script.calls[ctx.tool_call_id]
        if call.is_error:
            raise ToolFailed(call.result)
        return call.result

    schema = {"type": "object", "properties": {}, "additionalProperties": True}
    return [
        Tool.from_schema(result, name, "does something", schema, takes_ctx=True)
        for name in script.tools
    ]


async def play(
    script: Script, played: Played, streamed: bool = False, *guards: RepetitionGuard
) -> tuple[list[Any], list[Any]]:
    """Play a transcript; return the conversation, and the events."""
    agent = Agent(played.model, tools=tools_of(script), capabilities=list(guards))
    messages: list[Any] = []
    events: list[Any] = []

    async def handle(_: Any, stream: Any) -> None:
        events.extend([event async for event in stream])

    for run in script.inputs:
        history = [*messages, *messages_of(run)]
        prompt = None
        if isinstance(run[-1], str):
            prompt = run[-1]
            history.pop()
        result = await agent.run(
            prompt,
            message_history=history,
            event_stream_handler=handle if streamed else None,
            usage_limits=UsageLimits(request_limit=200),
        )
        messages = result.all_messages()
    return messages, events


def bare(messages: list[Any]) -> list[Any]:
    """Return the parts of messages without times and ids of the run."""
    return [
        [
            (
                part.part_kind,
                getattr(part, "content", None),
                getattr(part, "args", None),
                getattr(part, "outcome", None),
            )
            for part in one.parts
        ]
        for one in messages
    ]


def report_of(message: Any) -> dict[str, Any]:
    return (message.metadata or {}).get("repetition", {}).get("agent_loop", {})


@pytest.mark.shows("agent loop", "metrics")
@pytest.mark.parametrize("script", LOOPS, ids=lambda script: script.id)
async def test_loops(script: Script) -> None:
    """Behind the fourth copy the model goes on with the loop, whatever it is told: the turn is ended."""
    played = Played(script)
    streamed = len(script.id) % 2 == 0
    guard = RepetitionGuard(repeatable=script.repeatable)
    messages, events = await play(script, played, streamed, guard)
    reports = [report_of(one) for one in messages if report_of(one)]
    assert [one["action"] for one in reports] == [script.action] * bool(script.action)
    if script.action != "stopped":
        return
    assert report_of(messages[-1])["action"] == "stopped"
    assert messages[-1].parts[0].content in (STOP, STOP_ZH)
    assert sum(isinstance(one, ModelResponse) for one in messages) <= len(script.turns)
    assert [choice for _, choice in played.seen][-3:] == [None, None, "none"]
    assert NUDGE not in str(messages)
    if streamed:
        assert events[-1].part.content == messages[-1].parts[0].content


@pytest.mark.parametrize("script", WORK, ids=lambda script: script.id)
async def test_work_is_left_alone(script: Script) -> None:
    streamed = len(script.id) % 2 == 0
    plain, guarded = Played(script), Played(script)
    messages, events = await play(script, plain, streamed)
    guard = RepetitionGuard("off", repeatable=script.repeatable)
    ours = await play(script, guarded, streamed, guard)
    assert guarded.seen == plain.seen
    assert bare(ours[0]) == bare(messages)
    assert [type(event) for event in ours[1]] == [type(event) for event in events]
    assert not any(one.metadata for one in ours[0])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("obeys", "action"), [(NUDGE, "nudged"), (ANSWER, "answered")])
async def test_a_model_that_heeds_a_notice(obeys: str, action: str, streamed: bool) -> None:
    messages, _ = await play(EXACT, Played(EXACT, obeys), streamed, RepetitionGuard())
    assert messages[-1].parts[0].content == "The records office knows."
    report = report_of(messages[-1])
    assert (report["action"], report["recovered"]) == (action, True)
    assert obeys not in str(messages)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_attempt_that_fails(streamed: bool) -> None:
    guard = RepetitionGuard(rungs=["nudge", "stop"])
    messages, _ = await play(EXACT, Played(EXACT, fails_behind=NUDGE), streamed, guard)
    assert messages[-1].parts[0].content == STOP
    failing = Played(EXACT, fails_behind=EXACT.turns[0].calls[0].result)
    with pytest.raises(ConnectionError):
        await play(EXACT, failing, streamed, RepetitionGuard())


async def test_an_output_that_is_no_text() -> None:
    """The turn cannot be ended with a text: it is an error."""

    class Answer(BaseModel):
        years: int

    played = Played(EXACT)
    agent = Agent(
        played.model,
        tools=tools_of(EXACT),
        output_type=ToolOutput(Answer),
        capabilities=[RepetitionGuard()],
    )
    with pytest.raises(UnexpectedModelBehavior, match="The turn was ended"):
        await agent.run(EXACT.inputs[0][0])
    assert "none" not in [choice for _, choice in played.seen]  # the output is a call


def test_options_that_are_wrong() -> None:
    with pytest.raises(ValueError, match="rungs must be a list of nudge, answer or stop, got"):
        RepetitionGuard(rungs=["scold"])
    with pytest.raises(ValueError, match="policy"):
        RepetitionGuard("gentle")


class Streaming:
    """A model of one text, which knows how many pieces were taken when it was closed."""

    def __init__(self, kind: str, text: str, fails: bool = False) -> None:
        self.kind, self.text, self.fails = kind, text, fails
        self.closed: int | None = None
        self.model = FunctionModel(self.whole, stream_function=self.stream)

    def whole(self, messages: list[Any], info: AgentInfo) -> ModelResponse:
        if self.kind == "thinking":
            return ModelResponse(parts=[ThinkingPart(self.text), TextPart("Yes.")])
        return ModelResponse(parts=[TextPart(self.text)])

    async def stream(self, messages: list[Any], info: AgentInfo) -> AsyncIterator[Any]:
        number = 0
        try:
            for number, piece in enumerate(pieces(self.text)):
                if self.kind == "thinking":
                    yield {0: DeltaThinkingPart(content=piece)}
                elif self.kind == "arguments":
                    name = None if number else "write"
                    yield {0: DeltaToolCall(name, piece, tool_call_id="c")}
                else:
                    yield piece
            if self.fails:
                raise ConnectionError("gone")
        finally:
            self.closed = number


async def streamed_by(
    model: Any, policy: Any = "balanced", guarded: bool = True
) -> tuple[list[Any], ModelResponse]:
    used = RepetitionModel(model, RepetitionGuard(policy)) if guarded else model
    messages = [ModelRequest(parts=[UserPromptPart("hi")])]
    async with used.request_stream(messages, None, ModelRequestParameters()) as stream:
        events = [event async for event in stream]
        response = stream.get()
    await asyncio.sleep(0)
    return events, response


def text_of(response: ModelResponse) -> str:
    part = response.parts[0]
    return part.args if isinstance(part, ToolCallPart) else part.content


@pytest.mark.shows(
    "streamed", "loop cut", "source closed", "reasoning", "tool arguments", "metrics"
)
@pytest.mark.parametrize("kind", ["text", "thinking", "arguments"])
async def test_a_loop_ends_the_stream(kind: str) -> None:
    opening = '{"text": "' if kind == "arguments" else ""
    played = Streaming(kind, opening + NOVEL + LOOP * NUM_LOOPS)
    _, response = await streamed_by(played.model)
    text = text_of(response)
    assert text.startswith(opening + NOVEL[:60])
    assert len(text) < len(opening + NOVEL) + 3 * len(LOOP)
    assert played.closed is not None
    assert played.closed < 80 < len(pieces(played.text))
    assert response.finish_reason == ("stop" if kind == "text" else "length")
    assert response.metadata["repetition"]["loop"]["period"] == len(LOOP)


@pytest.mark.shows("repeats removed", "streamed")
async def test_repeats_are_removed() -> None:
    events, response = await streamed_by(Streaming("text", STUTTER).model)
    assert text_of(response) == KEPT
    assert response.metadata["repetition"]["removed_sentences"] == 1
    assert response.state == "complete"
    deltas = [event.delta.content_delta for event in events if isinstance(event, PartDeltaEvent)]
    assert KEPT.endswith("".join(deltas))


@pytest.mark.parametrize("kind", ["text", "thinking", "arguments"])
async def test_clean_streams_are_the_same(kind: str) -> None:
    text = json.dumps({"text": NOVEL}) if kind == "arguments" else NOVEL
    plain, response = await streamed_by(Streaming(kind, text).model, guarded=False)
    events, ours = await streamed_by(Streaming(kind, text).model)
    assert bare([ours]) == bare([response])
    assert (ours.state, ours.finish_reason, ours.usage, ours.metadata) == (
        response.state,
        response.finish_reason,
        response.usage,
        response.metadata,
    )
    events, ours = await streamed_by(Streaming(kind, text).model, "off")
    assert events == plain


@pytest.mark.shows("whole", "repeats removed", "loop cut", "metrics")
async def test_runs() -> None:
    """Of an agent, whole and streamed."""
    for text, wanted in ((STUTTER, KEPT), (NOVEL, NOVEL), (NOVEL + LOOP * NUM_LOOPS, None)):
        agent = Agent(Streaming("text", text).model, capabilities=[RepetitionGuard()])
        result = await agent.run("hi")
        async with agent.run_stream("hi") as stream:
            assert await stream.get_output() == result.output
        report = (result.response.metadata or {}).get("repetition")
        if wanted is None:
            assert result.output.startswith(NOVEL)
            assert len(result.output) < len(NOVEL) + 3 * len(LOOP)
            assert report["loop"]["kind"] == "exact"
        else:
            assert result.output == wanted
            assert (report is None) == (text == wanted)
    agent = Agent(
        Streaming("thinking", NOVEL + LOOP * NUM_LOOPS).model, capabilities=[RepetitionGuard()]
    )
    assert (await agent.run("hi")).output == "Yes."


async def test_a_source_that_fails() -> None:
    given: list[Any] = []
    model = Streaming("text", ONCE + "The boat was tied to", fails=True).model
    guarded = RepetitionModel(model, RepetitionGuard())
    messages = [ModelRequest(parts=[UserPromptPart("hi")])]
    with pytest.raises(ConnectionError):
        async with guarded.request_stream(messages, None, ModelRequestParameters()) as stream:
            given.append(stream)
            async for _ in stream:
                pass
    assert text_of(given[0].get()) == ONCE + "The boat was tied to"


async def test_over_a_socket() -> None:
    """The server sees that it was hung up on."""
    with sse_upstream() as upstream:
        provider = OpenAIProvider(base_url=upstream.url, api_key="none")
        agent = Agent(OpenAIChatModel("m", provider=provider), capabilities=[RepetitionGuard()])
        async with agent:
            async with agent.run_stream("loop") as stream:
                output = await stream.get_output()
            assert output.startswith(NOVEL)
            assert len(output) < len(NOVEL) + 3 * len(LOOP)
            assert await asyncio.to_thread(upstream.hung_up.wait, 10)
            assert (await agent.run("novel")).output == NOVEL


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_the_page(blocks: Any) -> None:
    """Its snippet runs."""
    (snippet,) = blocks("pydantic_ai", "python")
    with sse_upstream() as upstream:
        names: dict[str, Any] = {"question": "loop"}
        exec(snippet.replace("http://127.0.0.1:8001/v1", upstream.url), names)
        report = await names["main"]()
        assert report["loop"]["period"] == len(LOOP)
        assert await asyncio.to_thread(upstream.hung_up.wait, 10)
