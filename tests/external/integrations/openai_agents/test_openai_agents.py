"""Agents of the OpenAI Agents SDK with a scripted model."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import agents
import openai
import pytest
from agents import (
    Agent,
    FunctionTool,
    Model,
    ModelResponse,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    Usage,
    function_tool,
)
from agents.tracing import TracingProcessor
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningItem,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response_reasoning_item import Summary
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from dedup.answer.agent_loops.notices import ANSWER, NUDGE, STOP, STOP_ZH
from dedup.integrations.openai_agents import AgentLoopGuardrail, RepetitionModel
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


class Spans(TracingProcessor):
    """Keeps the custom spans."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    def on_span_end(self, span: Any) -> None:
        if span.span_data.type == "custom" and span.span_data.name == "repetition":
            self.data.append(span.span_data.data)

    def on_trace_start(self, trace: Any) -> None: ...
    def on_trace_end(self, trace: Any) -> None: ...
    def on_span_start(self, span: Any) -> None: ...
    def shutdown(self) -> None: ...
    def force_flush(self) -> None: ...


SPANS = Spans()
agents.set_trace_processors([SPANS])


def items_of(turn: Turn) -> list[Any]:
    items: list[Any] = []
    if turn.text:
        block = ResponseOutputText(text=turn.text, annotations=[], type="output_text")
        items.append(
            ResponseOutputMessage(
                id="m", content=[block], role="assistant", status="completed", type="message"
            )
        )
    for call in turn.calls:
        items.append(
            ResponseFunctionToolCall(
                call_id=call.id, name=call.name, arguments=call.arguments, type="function_call"
            )
        )
    return items


def usage_of(size: int) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=10,
        output_tokens=size,
        total_tokens=10 + size,
        input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
    )


def response_of(items: list[Any]) -> Response:
    return Response(
        id="r",
        created_at=0,
        model="m",
        object="response",
        output=items,
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        status="completed",
        usage=usage_of(5),
    )


def inputs_of(events: list[str | Turn]) -> list[Any]:
    items: list[Any] = []
    for event in events:
        if isinstance(event, str):
            items.append({"role": "user", "content": event})
            continue
        items += [one.model_dump(exclude_none=True) for one in items_of(event)]
        for call in event.calls:
            items.append(
                {"type": "function_call_output", "call_id": call.id, "output": call.result}
            )
    return items


def num_turns(items: list[Any]) -> int:
    """Return the agent's turns in an input: a text without calls behind it is one, and so is a batch."""
    turns, is_open = 0, False
    for item in items:
        is_agents = item.get("role") == "assistant" or item.get("type") == "function_call"
        if is_agents and not (is_open and item.get("type") == "function_call"):
            turns += 1
        is_open = is_agents
    return turns


class ScriptedModel(Model):
    """Plays a transcript: which turn it is, the input says."""

    def __init__(self, script: Script, obeys: str = "", fails_behind: str = "") -> None:
        self.script, self.obeys, self.fails_behind = script, obeys, fails_behind
        self.seen: list[Any] = []

    def _items(self, given: Any, settings: Any) -> list[Any]:
        self.seen.append((json.loads(json.dumps(given)), settings.tool_choice))
        outputs = "".join(str(one.get("output")) for one in given)
        if self.fails_behind and self.fails_behind in outputs:
            raise ConnectionError("no more tokens")
        if self.obeys and self.obeys in outputs:
            return items_of(Turn("The records office knows."))
        return items_of(self.script.turn(num_turns(given)))

    async def get_response(
        self, system_instructions: Any, input: Any, model_settings: Any, *rest: Any, **options: Any
    ) -> ModelResponse:
        usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
        return ModelResponse(
            output=self._items(input, model_settings), usage=usage, response_id=None
        )

    async def stream_response(
        self, system_instructions: Any, input: Any, model_settings: Any, *rest: Any, **options: Any
    ) -> AsyncIterator[Any]:
        items = self._items(input, model_settings)
        yield ResponseCreatedEvent(
            response=response_of([]), sequence_number=0, type="response.created"
        )
        for number, item in enumerate(items):
            yield ResponseOutputItemAddedEvent(
                item=item, output_index=number, sequence_number=1, type="response.output_item.added"
            )
            yield ResponseOutputItemDoneEvent(
                item=item, output_index=number, sequence_number=2, type="response.output_item.done"
            )
        yield ResponseCompletedEvent(
            response=response_of(items), sequence_number=3, type="response.completed"
        )


def tools_of(script: Script, *guardrails: AgentLoopGuardrail) -> list[FunctionTool]:
    async def invoke(context: Any, arguments: str) -> str:
        return script.calls[context.tool_call_id].result

    schema = {"type": "object", "properties": {}, "additionalProperties": True}
    return [
        FunctionTool(
            name,
            "does something",
            schema,
            invoke,
            strict_json_schema=False,
            tool_input_guardrails=[one.input for one in guardrails],
            tool_output_guardrails=[one.output for one in guardrails],
        )
        for name in script.tools
    ]


async def play(
    script: Script, model: Model, streamed: bool = False, *guardrails: AgentLoopGuardrail
) -> tuple[list[Any], Any, list[Any]]:
    """Play a transcript; return the conversation, the last result, and the raw events."""
    agent = Agent(
        name="clerk", model=model, tools=tools_of(script, *guardrails), reset_tool_choice=False
    )
    items: list[Any] = []
    events: list[Any] = []
    result: Any = None
    for run in script.inputs:
        given = [*items, *inputs_of(run)]
        if streamed:
            result = Runner.run_streamed(agent, given, max_turns=100)
            async for event in result.stream_events():
                if event.type == "raw_response_event":
                    events.append(event.data)
        else:
            result = await Runner.run(agent, given, max_turns=100)
        items = result.to_input_list()
    return items, result, events


@pytest.mark.shows("agent loop", "metrics")
@pytest.mark.parametrize("script", LOOPS, ids=lambda script: script.id)
async def test_loops(script: Script) -> None:
    """Behind the fourth copy the model goes on with the loop, whatever it is told: the turn is ended."""
    streamed = len(script.id) % 2 == 0
    model = ScriptedModel(script)
    SPANS.data.clear()
    items, result, events = await play(
        script, RepetitionModel(model, repeatable=script.repeatable), streamed
    )
    actions = [data["agent_loop"]["action"] for data in SPANS.data if "agent_loop" in data]
    assert actions == [script.action] * bool(script.action)
    if script.action != "stopped":
        return
    assert actions[-1:] == ["stopped"]
    assert result.final_output in (STOP, STOP_ZH)
    assert num_turns(items) <= len(script.turns)  # by the fourth copy
    assert [choice for _, choice in model.seen][-3:] == [None, None, "none"]
    assert NUDGE not in json.dumps(items)
    assert (
        result.context_wrapper.usage.input_tokens == 10 * len(model.seen) or len(script.inputs) > 1
    )
    if streamed:
        deltas = [one.delta for one in events if one.type == "response.output_text.delta"]
        assert deltas[-1] == result.final_output


@pytest.mark.parametrize("script", WORK, ids=lambda script: script.id)
async def test_work_is_left_alone(script: Script) -> None:
    streamed = len(script.id) % 2 == 0
    plain, guarded = ScriptedModel(script), ScriptedModel(script)
    items, result, events = await play(script, plain, streamed)
    ours = await play(
        script, RepetitionModel(guarded, "off", repeatable=script.repeatable), streamed
    )
    assert guarded.seen == plain.seen
    assert ours[0] == items
    assert ours[1].final_output == result.final_output
    assert ours[2] == events
    guarded = ScriptedModel(script)
    guardrail = AgentLoopGuardrail(script.repeatable)
    await play(script, guarded, streamed, guardrail)
    assert guarded.seen == plain.seen


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("obeys", "action"), [(NUDGE, "nudged"), (ANSWER, "answered")])
async def test_a_model_that_heeds_a_notice(obeys: str, action: str, streamed: bool) -> None:
    SPANS.data.clear()
    items, result, _ = await play(EXACT, RepetitionModel(ScriptedModel(EXACT, obeys)), streamed)
    assert result.final_output == "The records office knows."
    assert SPANS.data[-1]["agent_loop"]["action"] == action
    assert SPANS.data[-1]["agent_loop"]["recovered"] is True
    assert obeys not in json.dumps(items)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_attempt_that_fails(streamed: bool) -> None:
    model = ScriptedModel(EXACT, fails_behind=NUDGE)
    _, result, _ = await play(EXACT, RepetitionModel(model, rungs=["nudge", "stop"]), streamed)
    assert result.final_output == STOP
    model = ScriptedModel(EXACT, fails_behind=EXACT.turns[0].calls[0].result)
    with pytest.raises(ConnectionError):
        await play(EXACT, RepetitionModel(model), streamed)


@pytest.mark.shows("agent loop")
async def test_the_guardrail() -> None:
    """The repeated call is not made: the model gets the same result, and the notice."""
    made: list[str] = []
    guardrail = AgentLoopGuardrail()

    @function_tool(
        tool_input_guardrails=[guardrail.input], tool_output_guardrails=[guardrail.output]
    )
    def search(query: str) -> str:
        made.append(query)
        return "No document matches."

    class Stubborn(ScriptedModel):
        def _items(self, given: Any, settings: Any) -> list[Any]:
            outputs = [one["output"] for one in given if one.get("type") == "function_call_output"]
            if outputs and NUDGE in outputs[-1]:
                assert outputs[-1] == f"No document matches.\n\n{NUDGE}"
            if len(outputs) == 7:
                return items_of(Turn("I give up."))
            arguments = '{"query": "retention"}'
            return [
                ResponseFunctionToolCall(
                    call_id=f"c{len(outputs)}",
                    name="search",
                    arguments=arguments,
                    type="function_call",
                )
            ]

    agent = Agent(name="clerk", model=Stubborn(EXACT), tools=[search])
    for num_runs in (1, 2):  # each run for itself
        result = await Runner.run(agent, "How long do we keep invoices?")
        assert result.final_output == "I give up."
        assert len(made) == 4 * num_runs
        assert len(result.tool_input_guardrail_results) == 7


def test_options_that_are_wrong() -> None:
    with pytest.raises(ValueError, match="rungs must be a list of nudge, answer or stop, got"):
        RepetitionModel(ScriptedModel(EXACT), rungs=["scold"])
    with pytest.raises(ValueError, match="policy"):
        RepetitionModel(ScriptedModel(EXACT), "gentle")


class StreamingModel(Model):
    """Streams one text, and knows how many pieces were taken when it was closed."""

    def __init__(self, kind: str, text: str, fails: bool = False) -> None:
        self.kind, self.text, self.fails = kind, text, fails
        self.closed: int | None = None

    @property
    def item(self) -> Any:
        if self.kind == "reasoning":
            return ResponseReasoningItem(
                id="i", summary=[Summary(text=self.text, type="summary_text")], type="reasoning"
            )
        if self.kind == "arguments":
            return ResponseFunctionToolCall(
                call_id="c", name="write", arguments=self.text, type="function_call"
            )
        block = ResponseOutputText(text=self.text, annotations=[], type="output_text")
        return ResponseOutputMessage(
            id="m", content=[block], role="assistant", status="completed", type="message"
        )

    async def get_response(self, *rest: Any, **options: Any) -> ModelResponse:
        return ModelResponse(output=[self.item], usage=Usage(), response_id=None)

    async def stream_response(self, *rest: Any, **options: Any) -> AsyncIterator[Any]:
        place = {"item_id": "i", "output_index": 0, "sequence_number": 1}
        number = 0
        empty = StreamingModel(self.kind, "").item
        changes = (
            {"content": []}
            if self.kind == "text"
            else {"summary": []}
            if self.kind == "reasoning"
            else {}
        )
        try:
            yield ResponseCreatedEvent(
                response=response_of([]), sequence_number=0, type="response.created"
            )
            yield ResponseOutputItemAddedEvent(
                item=empty.model_copy(update=changes),
                output_index=0,
                sequence_number=1,
                type="response.output_item.added",
            )
            for piece in pieces(self.text):
                number += 1
                if self.kind == "reasoning":
                    yield ResponseReasoningSummaryTextDeltaEvent(
                        delta=piece,
                        summary_index=0,
                        type="response.reasoning_summary_text.delta",
                        **place,
                    )
                elif self.kind == "arguments":
                    yield ResponseFunctionCallArgumentsDeltaEvent(
                        delta=piece, type="response.function_call_arguments.delta", **place
                    )
                else:
                    yield ResponseTextDeltaEvent(
                        delta=piece,
                        content_index=0,
                        logprobs=[],
                        type="response.output_text.delta",
                        **place,
                    )
            if self.fails:
                raise ConnectionError("gone")
            if self.kind == "text":
                yield ResponseTextDoneEvent(
                    text=self.text,
                    content_index=0,
                    logprobs=[],
                    type="response.output_text.done",
                    **place,
                )
            yield ResponseOutputItemDoneEvent(
                item=self.item, output_index=0, sequence_number=2, type="response.output_item.done"
            )
            yield ResponseCompletedEvent(
                response=response_of([self.item]), sequence_number=3, type="response.completed"
            )
        finally:
            self.closed = number


async def events_of(model: Model, policy: Any = "balanced") -> list[Any]:
    settings = ModelSettings()
    stream = RepetitionModel(model, policy).stream_response(
        None,
        "hi",
        settings,
        [],
        None,
        [],
        agents.ModelTracing.DISABLED,
        previous_response_id=None,
        conversation_id=None,
        prompt=None,
    )
    return [event async for event in stream]


def text_of(events: list[Any]) -> str:
    return "".join(one.delta for one in events if one.type.endswith(".delta"))


@pytest.mark.shows("streamed", "loop cut", "source closed", "reasoning", "tool arguments")
@pytest.mark.parametrize("kind", ["text", "reasoning", "arguments"])
async def test_a_loop_ends_the_stream(kind: str) -> None:
    model = StreamingModel(kind, NOVEL + LOOP * NUM_LOOPS)
    events = await events_of(model)
    text = text_of(events)
    assert text.startswith(NOVEL[:60])
    assert len(text) < len(NOVEL) + 3 * len(LOOP)
    assert model.closed is not None
    assert model.closed < 60 < len(pieces(model.text))
    # Half a call, or reasoning alone, is no answer: the SDK takes it for one that was cut short.
    assert events[-1].type == ("response.completed" if kind == "text" else "response.incomplete")
    item = events[-1].response.output[0]
    whole = {
        "text": lambda: item.content[0].text,
        "reasoning": lambda: item.summary[0].text,
        "arguments": lambda: item.arguments,
    }
    assert whole[kind]() == text
    assert events[-2].item == item


@pytest.mark.shows("repeats removed", "streamed")
async def test_repeats_are_removed() -> None:
    events = await events_of(StreamingModel("text", STUTTER))
    assert text_of(events) == KEPT
    done = {event.type: event for event in events}
    assert done["response.output_text.done"].text == KEPT
    assert done["response.output_item.done"].item.content[0].text == KEPT
    assert done["response.completed"].response.output[0].content[0].text == KEPT


@pytest.mark.parametrize("kind", ["text", "reasoning", "arguments"])
async def test_clean_streams_are_the_same(kind: str) -> None:
    text = json.dumps({"text": NOVEL}) if kind == "arguments" else NOVEL
    plain = [event async for event in StreamingModel(kind, text).stream_response()]
    events = await events_of(StreamingModel(kind, text))
    assert text_of(events) == text
    is_delta = ".delta"
    assert [one for one in events if not one.type.endswith(is_delta)] == [
        one for one in plain if not one.type.endswith(is_delta)
    ]
    assert await events_of(StreamingModel(kind, text), "off") == plain


@pytest.mark.shows("whole", "repeats removed", "loop cut", "metrics")
async def test_runs() -> None:
    """Of an agent, whole and streamed."""
    for text, wanted in ((STUTTER, KEPT), (NOVEL, NOVEL), (NOVEL + LOOP * NUM_LOOPS, None)):
        SPANS.data.clear()
        agent = Agent(name="clerk", model=RepetitionModel(StreamingModel("text", text)))
        whole = (await Runner.run(agent, "hi")).final_output
        result = Runner.run_streamed(agent, "hi")
        async for _ in result.stream_events():
            pass
        assert result.final_output == whole
        if wanted is None:
            assert whole.startswith(NOVEL)
            assert len(whole) < len(NOVEL) + 3 * len(LOOP)
            assert [data["loop"]["kind"] for data in SPANS.data] == ["exact", "exact"]
        else:
            assert whole == wanted


async def test_a_source_that_fails() -> None:
    given: list[str] = []
    stream = RepetitionModel(
        StreamingModel("text", ONCE + "The boat was tied to", fails=True)
    ).stream_response(None, "hi", ModelSettings(), [], None, [], agents.ModelTracing.DISABLED)
    with pytest.raises(ConnectionError):
        async for event in stream:
            given.append(getattr(event, "delta", ""))
    assert "".join(given) == ONCE + "The boat was tied to"


async def test_over_a_socket() -> None:
    """The server sees that it was hung up on."""
    with sse_upstream() as upstream:
        async with openai.AsyncOpenAI(
            base_url=upstream.url, api_key="none", max_retries=0
        ) as client:
            model = OpenAIChatCompletionsModel(model="m", openai_client=client)
            agent = Agent(name="clerk", model=RepetitionModel(model))
            result = Runner.run_streamed(agent, "loop")
            async for _ in result.stream_events():
                pass
            assert result.final_output.startswith(NOVEL)
            assert len(result.final_output) < len(NOVEL) + 3 * len(LOOP)
            assert await asyncio.to_thread(upstream.hung_up.wait, 10)
            assert (await Runner.run(agent, "novel")).final_output == NOVEL


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_the_page(blocks: Any) -> None:
    """Its snippets run."""
    model, guardrail = blocks("openai_agents", "python")
    with sse_upstream() as upstream:
        names: dict[str, Any] = {"question": "loop"}
        exec(model.replace("http://127.0.0.1:8001/v1", upstream.url), names)
        result = await names["main"]()
        assert result.final_output.startswith(NOVEL)
        assert await asyncio.to_thread(upstream.hung_up.wait, 10)
        exec(guardrail, names)
        assert names["search"].tool_input_guardrails == [names["guardrail"].input]
