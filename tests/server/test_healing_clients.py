"""Answers that loop, as the clients of the Responses API and of the Messages API get them."""

import json
from collections.abc import Iterator
from random import Random
from typing import Annotated, Any, Literal

import anthropic
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import Discriminator, TypeAdapter

from dedup import RepetitionFilter
from dedup.answer.answer import Answer
from dedup.answer.boundary import can_stop
from dedup.answer.channel import Editing
from dedup.answer.continuation import MAX_ATTEMPTS, OPENING_TOKENS, Support
from dedup_server.completion import Completion
from dedup_server.endpoints import ENDPOINTS
from dedup_server.engines.base import Call, Take
from dedup_server.requests.base import GenerationRequest
from dedup_server.telemetry import Telemetry
from dedup_server.wire.sse import DONE, SSEDecoder, encode
from tests.server.mock_upstream import proxy, upstream
from tests.server.played import event as played_event
from tests.server.test_completion import chunk
from tests.server.test_healing import novel
from tests.server.test_messages import block as block_events
from tests.server.test_messages import body as message_body
from tests.server.test_messages import stream as message_stream
from tests.server.test_responses import message_events
from tests.server.test_responses import stream as whole_stream
from tests.server.three_apis import SpokenEngine, ThreeApisUpstream, local
from tests.server.traffic import ARGUMENTS, ENGLISH, LOOPING_ARGUMENTS, ROUND, Script, says
from tests.server.wired import forwarded

pytestmark = pytest.mark.usefixtures("one_thread")

Api = Literal["responses", "messages"]
Json = dict[str, Any]

KEPT = f"{ENGLISH} {ROUND}".rstrip()
LOOPS = f"{ENGLISH} {ROUND * 60}"
THEN = "Then the rain came back, and they all went home."
HEALED = f"{KEPT} {THEN}"
REFUSES = Script(ends=400)
CALLS = Script(((("content", "Let me look. "), ("arguments", ARGUMENTS)),))
CALLS_AT_ONCE = Script(((("arguments", ARGUMENTS),),))
CALLS_LATER = Script(((("content", "Let me look. It may rain. "), ("arguments", ARGUMENTS)),))
RAINS = "Then it rained. It rained all day. The river rose by "
SLOW = (  # longer than an opening
    "Then the rain came back, and the drivers woke beside their carts, and the woman who kept the inn "
    "put on her boots and called to them across the water, while somebody rang the bell, until they "
    "all went home."
)
THINKS = Script(((("reasoning_content", "What else was there? "), ("content", THEN)),))
SCRIPTS = {
    "plain": says(ENGLISH),
    "heals": says(LOOPS, goes_on=(says(THEN),)),
    "heals-twice": says(
        LOOPS, goes_on=(says("Then it rained. " + "No, wait, not at all. " * 60), says(THEN))
    ),
    "cannot": says(LOOPS),
    "never": says(
        LOOPS,
        goes_on=tuple(
            says(f"It was {day}. " + f"They spoke of {day} and of it only! " * 60)
            for day in ("Monday", "Tuesday", "Friday", "Sunday")
        ),
    ),
    "refuses": says(LOOPS, goes_on=(REFUSES,)),
    "breaks": says(LOOPS, goes_on=(says(THEN[:-9], ends="break"),)),
    "errs": says(LOOPS, goes_on=(says(THEN, ends="error"),)),
    "breaks-later": says(LOOPS, goes_on=(says(RAINS, ends="break"),)),
    "calls": says(LOOPS, goes_on=(CALLS,)),
    "calls-at-once": says(LOOPS, goes_on=(CALLS_AT_ONCE,)),
    "calls-later": says(LOOPS, goes_on=(CALLS_LATER,)),
    "thinks": says(LOOPS, goes_on=(THINKS,)),
    "thought": Script(
        ((("reasoning_content", "Let me see."), ("content", LOOPS)),), goes_on=(says(THEN),)
    ),
    "thinks-in-circles": Script(
        ((("reasoning_content", LOOPS), ("content", THEN)),), goes_on=(says(THEN),)
    ),
    "calls-in-circles": Script(((("arguments", LOOPING_ARGUMENTS),),), goes_on=(says(THEN),)),
    "limited": says(LOOPS, goes_on=(says(THEN, finish="length"),)),
    "limited-later": says(LOOPS, goes_on=(says(RAINS, finish="length"),)),
    "opens-slowly": says(LOOPS, goes_on=(says(SLOW),)),
    "two-blocks": Script(
        ((("content", LOOPS), ("content", "It is late.")),), goes_on=(says(THEN),)
    ),
    "busy": Script(ends=429),
}
APIS: tuple[Api, ...] = ("responses", "messages")
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENTS: TypeAdapter[Any] = TypeAdapter(
    Annotated[RawMessageStreamEvent, Discriminator("type")]
)
TOOL: Json = {"name": "weather", "description": "Look it up.", "parameters": {"type": "object"}}


class Got:
    """An answer as a client got it, checked on the way against the client's own types.

    Attributes:
        texts: Of each message or text block.
        calls: Name and arguments of each tool call.
        reasoning: All of it.
        status: The status, or the stop reason.
        statuses: Of each item; empty for the Messages API.
        usage: Input and output tokens.
        repetition: The object that reports what was removed.
        metadata: Of a response.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[tuple[str, object]] = []
        self.reasoning = ""
        self.status: str | None = None
        self.statuses: list[str] = []
        self.usage = (0, 0)
        self.repetition: Json = {}
        self.metadata: Json = {}


class Clients:
    """The two clients, for one server."""

    def __init__(self, url: str, key: str = "none") -> None:
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=20)

    def ask(self, api: Api, model: str, *, stream: bool, **more: Any) -> Got:
        if api == "responses":
            return self._respond(model, stream, {"input": "Hello", **more})
        hello = {"role": "user", "content": "Hello"}
        return self._say(model, stream, {"messages": [hello], "max_tokens": 3000, **more})

    def close(self) -> None:
        self.openai.close()
        self.anthropic.close()

    def _respond(self, model: str, stream: bool, fields: Json) -> Got:
        if not stream:
            return _got_response(self.openai.responses.create(model=model, **fields))
        with self.openai.responses.stream(model=model, **fields) as answer:
            events = list(answer)
        numbers = [event.sequence_number for event in events]
        assert numbers == list(range(len(events)))
        for event in events:
            EVENTS.validate_python(event.to_dict(warnings=False))
        _check_order(events)
        got = _got_response(events[-1].response)  # type: ignore[union-attr]
        if got.status == "completed":
            assert answer.get_final_response().output_text == "".join(got.texts)
        deltas: dict[int, str] = {}
        for event in events:
            if event.type == "response.output_text.delta":
                deltas[event.output_index] = deltas.get(event.output_index, "") + event.delta
                assert event.snapshot == deltas[event.output_index]
            elif event.type == "response.output_text.done":
                assert event.text == deltas[event.output_index]
        assert list(deltas.values()) == got.texts
        return got

    def _say(self, model: str, stream: bool, fields: Json) -> Got:
        if not stream:
            return _got_message(self.anthropic.messages.create(model=model, **fields))
        with self.anthropic.messages.stream(model=model, **fields) as answer:
            events = list(answer)
            final = answer.get_final_message()
        raw = [event for event in events if event.type not in _HELPERS]
        for event in raw:
            MESSAGE_EVENTS.validate_python(event.to_dict(warnings=False))
        deltas: dict[int, str] = {}
        opened: list[int] = []
        for event in raw:
            if event.type == "content_block_start":
                assert event.index == len(opened)
                opened.append(event.index)
            elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                deltas[event.index] = deltas.get(event.index, "") + event.delta.text
        assert [event.index for event in raw if event.type == "content_block_stop"] == opened
        assert [event.type for event in raw[-2:]] == ["message_delta", "message_stop"]
        got = _got_message(final)
        assert list(deltas.values()) == got.texts
        got.repetition = getattr(raw[-2].delta, "repetition", {})  # type: ignore[union-attr]
        return got


_HELPERS = ("text", "input_json", "thinking", "signature", "citation")


def _check_order(events: list[Any]) -> None:
    """Check that items and parts begin before, and end behind, all that is in them."""
    opened: list[tuple[Any, ...]] = []
    for event in events:
        place = (getattr(event, "output_index", None), getattr(event, "content_index", None))
        if event.type.startswith("response.reasoning_text") and place not in opened:
            place = (place[0], None)  # some servers do not say that its part begins
        if event.type.endswith(".added"):
            opened.append(place)
        elif place[0] is not None:
            assert place in opened, event
        if event.type in ("response.output_item.done", "response.content_part.done"):
            opened.remove(place)
    assert opened == []


def _got_response(response: Response) -> Got:
    Response.model_validate(response.to_dict(warnings=False))
    got = Got()
    for item in response.output:
        if item.type != "reasoning":
            got.statuses.append(item.status or "")  # type: ignore[union-attr]
        if item.type == "message":
            assert len(item.content) == 1
            assert item.content[0].type == "output_text"
            got.texts.append(item.content[0].text)
        elif item.type == "function_call":
            got.calls.append((item.name, json.loads(item.arguments)))
        elif item.type == "reasoning":
            got.reasoning += "".join(part.text for part in item.content or ())
    got.status = response.status
    assert (response.incomplete_details is not None) == (got.status == "incomplete")
    assert response.usage is not None
    got.usage = (response.usage.input_tokens, response.usage.output_tokens)
    assert sum(got.usage) == response.usage.total_tokens
    got.repetition = (response.model_extra or {}).get("repetition", {})
    got.metadata = dict(response.metadata or {})
    return got


def _got_message(message: Message) -> Got:
    Message.model_validate(message.to_dict())
    got = Got()
    for block in message.content:
        if block.type == "text":
            got.texts.append(block.text)
        elif block.type == "thinking":
            got.reasoning += block.thinking
        elif block.type == "tool_use":
            got.calls.append((block.name, block.input))
    got.status = message.stop_reason
    got.usage = (message.usage.input_tokens, message.usage.output_tokens)
    got.repetition = (message.model_extra or {}).get("repetition", {})
    return got


@pytest.fixture(scope="module")
def played() -> Iterator[ThreeApisUpstream]:
    with upstream(ThreeApisUpstream(SCRIPTS)) as played:
        assert isinstance(played, ThreeApisUpstream)
        yield played


@pytest.fixture(scope="module")
def proxied(played: ThreeApisUpstream) -> Iterator[Clients]:
    with proxy(played.url) as url:
        clients = Clients(url)
        yield clients
        clients.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> SpokenEngine:
    return SpokenEngine(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def spoken(engine: SpokenEngine) -> Iterator[Clients]:
    with local(engine) as url:
        clients = Clients(url)
        yield clients
        clients.close()


def is_good(api: Api, got: Got) -> bool:
    """Return whether the answer ended as one ends that the model ended itself."""
    if api == "responses":
        return got.status == "completed" and set(got.statuses) <= {"completed", ""}
    return got.status == "end_turn"


every_api = pytest.mark.parametrize("api", APIS)
streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@streamed_or_not
@pytest.mark.parametrize(("model", "told"), [("heals", "healed"), ("cannot", "cut")])
def test_a_response_has_its_loop_in_its_metadata(
    proxied: Clients, stream: bool, model: str, told: str
) -> None:
    """Clients that drop fields which are not the API's look in the metadata."""
    got = proxied.ask("responses", model, stream=stream)
    assert got.metadata == {"repetition": f"content/exact; {told}"}
    assert proxied.ask("responses", "plain", stream=stream).metadata == {}


@pytest.mark.parametrize(("model", "told"), [("heals", "healed"), ("cannot", "cut")])
def test_a_whole_answer_has_its_loop_in_a_header(proxied: Clients, model: str, told: str) -> None:
    answer = proxied.openai.responses.with_raw_response.create(model=model, input="Hello")
    assert answer.headers["x-dedup-loop"] == f"content/exact; {told}"


@every_api
@streamed_or_not
@pytest.mark.parametrize("model", ["heals", "heals-twice"])
def test_an_upstream_s_loop_is_healed(
    played: ThreeApisUpstream, proxied: Clients, api: Api, stream: bool, model: str
) -> None:
    played.bodies.clear()
    played.paths.clear()
    got = proxied.ask(api, model, stream=stream, extra_body={"temperature": 0.1})
    assert len(got.texts) == 1
    assert got.texts[0].startswith(KEPT)
    assert got.texts[0].endswith(THEN)
    assert is_good(api, got)
    assert got.repetition["loop"] is None
    # An opening ends the answer, or is stopped behind its first sentence: then a free call follows.
    is_opening = [True] if model == "heals" else [True, False, True]
    limits = [body.get("max_tokens") == OPENING_TOKENS for body in played.bodies[1:]]
    assert limits == is_opening
    assert len(got.repetition["healed"]) == sum(is_opening)
    assert got.usage[0] > 0
    assert got.usage[1] > 29
    assert played.paths == [f"/v1/{api}"] + ["/v1/chat/completions"] * len(is_opening)
    first, second = played.bodies[0], played.bodies[1]
    assert "messages" not in first or len(first["messages"]) == 1
    wanted = {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": KEPT},
        ],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "stream": True,
        "temperature": 0.2,
    }
    assert {name: second[name] for name in wanted} == wanted
    word, *phrases = second["bad_words"]
    assert word == "I"
    assert phrases
    assert "min_tokens" not in second  # the answer may end where it was cut
    for free in played.bodies[2:3]:
        assert free["messages"][-1]["content"].startswith(f"{KEPT} Then it rained.")
        assert free["bad_words"] == phrases  # the opening's bans are lifted
        assert free["seed"] == second["seed"]
    for name in ("input", "instructions", "max_output_tokens", "system", "stop_sequences"):
        assert name not in second
    if api == "messages":
        for free in played.bodies[2:3]:
            assert OPENING_TOKENS < free["max_tokens"] < 3000


@every_api
@streamed_or_not
def test_a_local_loop_is_healed(
    engine: SpokenEngine, spoken: Clients, api: Api, stream: bool
) -> None:
    engine.lines, engine.prompts[:] = [LOOPS, THEN], []
    got = spoken.ask(api, "tiny", stream=stream)
    assert got.texts == [HEALED]
    assert is_good(api, got)
    assert len(got.repetition["healed"]) == 1
    assert engine.prompts == ["Hello\n", "Hello\n" + KEPT]
    assert min(got.usage) > 0
    assert engine.lines == []


@every_api
@streamed_or_not
@pytest.mark.parametrize("model", ["cannot", "never", "refuses"])
def test_a_loop_that_cannot_be_healed_is_cut(
    proxied: Clients, api: Api, stream: bool, model: str
) -> None:
    got = proxied.ask(api, model, stream=stream)
    assert len(got.texts) == 1
    assert got.texts[0].startswith(KEPT)
    assert can_stop(got.texts[0])
    assert got.repetition["loop"]
    assert is_good(api, got)
    assert len(got.texts[0]) < 1000


@every_api
@streamed_or_not
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("breaks", KEPT),
        ("errs", HEALED),  # its sentence is whole
        ("breaks-later", f"{KEPT} Then it rained. It rained all day."),
    ],
)
def test_where_a_continuation_fails_the_answer_ends_at_the_cut(
    proxied: Clients, api: Api, stream: bool, model: str, text: str
) -> None:
    got = proxied.ask(api, model, stream=stream)
    assert got.texts == [text]
    assert is_good(api, got)
    assert got.repetition


@every_api
@streamed_or_not
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("calls", f"{KEPT} Let me look."),
        ("calls-at-once", KEPT),
        ("calls-later", f"{KEPT} Let me look. It may rain."),
    ],
)
def test_a_continuation_may_call_a_tool(
    played: ThreeApisUpstream, proxied: Clients, api: Api, stream: bool, model: str, text: str
) -> None:
    """In its opening, which is too short for it, or behind that: it is made once."""
    played.bodies.clear()
    got = proxied.ask(api, model, stream=stream)
    assert got.texts == [text]
    assert got.calls == [("weather", json.loads(ARGUMENTS))]
    assert got.status == ("completed" if api == "responses" else "tool_use")
    assert set(got.statuses) <= {"completed"}
    assert len(played.bodies) == 3


@every_api
@streamed_or_not
def test_a_continuation_may_reason(proxied: Clients, api: Api, stream: bool) -> None:
    got = proxied.ask(api, "thinks", stream=stream)
    assert got.texts == [HEALED]
    assert got.reasoning == "What else was there? "
    assert is_good(api, got)


@every_api
@streamed_or_not
def test_behind_reasoning_a_loop_is_healed(
    played: ThreeApisUpstream, proxied: Clients, api: Api, stream: bool
) -> None:
    played.bodies.clear()
    got = proxied.ask(api, "thought", stream=stream)
    assert got.texts == [HEALED]
    assert got.reasoning == "Let me see."
    assert is_good(api, got)
    last = {"role": "assistant", "content": KEPT, "reasoning_content": "Let me see."}
    assert played.bodies[1]["messages"][-1] == last


@streamed_or_not
def test_reasoning_that_loops_is_closed_and_the_answer_follows(
    played: ThreeApisUpstream, proxied: Clients, stream: bool
) -> None:
    played.bodies.clear()
    got = proxied.ask("responses", "thinks-in-circles", stream=stream)
    assert got.texts == [THEN]
    assert got.reasoning.rstrip() == KEPT
    assert is_good("responses", got)
    assert len(got.repetition["healed"]) == 1
    _, second = played.bodies
    last = {"role": "assistant", "content": f"<think>\n{KEPT}\n</think>\n\n"}
    assert second["messages"][-1] == last
    assert "bad_words" not in second


@streamed_or_not
def test_signed_reasoning_that_loops_is_cut(
    played: ThreeApisUpstream, proxied: Clients, stream: bool
) -> None:
    played.paths.clear()
    got = proxied.ask("messages", "thinks-in-circles", stream=stream)
    assert played.paths == ["/v1/messages"]
    assert got.repetition["loop"]["channel"] == "reasoning"
    assert got.status == "max_tokens"  # nothing came but reasoning
    assert got.texts == []


@streamed_or_not
def test_of_a_message_s_blocks_the_one_that_loops_is_healed(proxied: Clients, stream: bool) -> None:
    got = proxied.ask("messages", "two-blocks", stream=stream)
    assert got.texts == [HEALED]
    assert got.status == "end_turn"


def test_only_the_end_of_a_whole_message_is_continued(played: ThreeApisUpstream) -> None:
    with proxy(played.url, stream_upstream=False) as url:
        client = Clients(url)
        got = client.ask("messages", "two-blocks", stream=False)
        client.close()
    assert got.texts == [KEPT, "It is late."]
    assert got.status == "end_turn"


def test_a_text_that_its_engine_ended_is_not_continued() -> None:
    row = ENDPOINTS["responses"]
    answer, reader = Answer(Editing("balanced"), heals=True), row.reader()
    writer = row.writer(answer, forwarded("responses", {"input": "Hello", "stream": True}))
    written = b""
    for one in whole_stream(message_events([LOOPS])):
        if not (answer.is_over or one["type"] == "response.output_text.delta"):
            frame = reader.read(played_event(one))
            written += writer.write(frame, answer.feed(frame))
    assert answer.is_cut
    assert not answer.is_waiting
    kinds = [json.loads(event.data)["type"] for event in SSEDecoder().feed(written)]
    assert kinds.count("response.output_text.done") == 1
    assert kinds[-1] == "response.completed"


@pytest.mark.parametrize("stream", [True, False])
def test_what_chat_cannot_ask_for_goes_to_an_upstream_as_it_is(
    played: ThreeApisUpstream, proxied: Clients, stream: bool
) -> None:
    messages = [{"role": "user", "content": ["Hello"]}]
    assert proxied.ask("messages", "plain", stream=stream, messages=messages).texts == [ENGLISH]
    assert played.bodies[-1]["messages"] == messages


@every_api
@streamed_or_not
def test_an_opening_without_an_end_is_gone_on_with(
    played: ThreeApisUpstream, proxied: Clients, api: Api, stream: bool
) -> None:
    played.bodies.clear()
    got = proxied.ask(api, "opens-slowly", stream=stream)
    assert got.texts == [f"{KEPT} {SLOW}"]
    assert is_good(api, got)
    opening, free = [body["messages"][-1]["content"] for body in played.bodies[1:]]
    assert free.startswith(f"{opening} Then the rain came back, and the drivers")


@every_api
@streamed_or_not
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("limited", HEALED),
        ("limited-later", f"{KEPT} Then it rained. It rained all day."),  # without half a sentence
    ],
)
def test_a_continuation_may_end_at_its_limit(
    proxied: Clients, api: Api, stream: bool, model: str, text: str
) -> None:
    got = proxied.ask(api, model, stream=stream)
    assert got.texts == [text]
    assert got.status == ("incomplete" if api == "responses" else "max_tokens")
    assert set(got.statuses) <= {"incomplete"}


@every_api
def test_half_a_tool_call_is_never_complete(proxied: Clients, api: Api) -> None:
    if api == "responses":
        with proxied.openai.responses.stream(model="calls-in-circles", input="Hello") as answer:
            last = list(answer)[-1]
        assert last.type == "response.incomplete"
        assert last.response.output[0].status == "incomplete"  # type: ignore[union-attr]
        return
    hello: Any = [{"role": "user", "content": "Hello"}]
    with proxied.anthropic.messages.stream(
        model="calls-in-circles", messages=hello, max_tokens=3000
    ) as message:
        assert message.get_final_message().stop_reason == "max_tokens"


@every_api
@streamed_or_not
@pytest.mark.parametrize("looping", [0, 1])
def test_one_of_two_local_choices_loops(
    engine: SpokenEngine, spoken: Clients, api: Api, stream: bool, looping: int
) -> None:
    engine.lines = [LOOPS, ENGLISH] if looping == 0 else [ENGLISH, LOOPS]
    got = spoken.ask(api, "tiny", stream=stream, extra_body={"n": 2})
    assert sorted(got.texts) == sorted([ENGLISH, KEPT])
    assert is_good(api, got)
    assert got.repetition["loop"]["channel"] == "content"


@every_api
@streamed_or_not
def test_one_of_two_local_choices_ends_at_its_limit(
    engine: SpokenEngine, spoken: Clients, api: Api, stream: bool
) -> None:
    engine.lines = [ENGLISH, "It is late."]
    limit = {"max_output_tokens": 40} if api == "responses" else {"max_tokens": 40}
    got = spoken.ask(api, "tiny", stream=stream, extra_body={"n": 2}, **limit)
    late = got.texts.index("It is late.")
    assert ENGLISH.startswith(got.texts[1 - late])
    assert got.status == ("incomplete" if api == "responses" else "max_tokens")
    if api == "responses":
        assert got.statuses[late] == "completed"
        assert got.statuses[1 - late] == "incomplete"


class LoopingEngine:
    """Says something new, and then the same for ever, `num_loops` times; then it ends.

    It answers in an API's own form, and continues in chat.
    """

    is_local = False
    models = ("m",)

    def __init__(self, seed: int, num_loops: int) -> None:
        self.calls: list[Call] = []
        self._random = Random(seed)
        self._num_loops = num_loops

    def validate(self, request: GenerationRequest) -> None: ...

    def support(self, request: GenerationRequest) -> Support | None:
        return Support(opens=self._random.random() < 0.5)

    async def generate(self, call: Call, take: Take) -> None:
        self.calls.append(call)
        random = self._random
        text = " " + novel(random)
        if len(self.calls) <= self._num_loops:
            unit = novel(random)[: random.choice([7, 30, 90, 200])] + random.choice([" ", "。"])
            text += unit * 400
        deltas = [text[at : at + 9] for at in range(0, len(text), 9)]
        if call.continuation is not None:
            events = [played_chunk(chunk(content=delta)) for delta in deltas]
            events.append(played_chunk(chunk(finish_reason="stop")))
            if random.random() < 0.5:
                usage = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
                events.append(played_chunk({**chunk(), "choices": [], "usage": usage}))
            events.append(DONE)
        elif call.request.endpoint == "responses":
            messages = whole_stream(message_events(deltas))
            if not call.request.stream:
                body = json.dumps(messages[-1]["response"]).encode()
                take([call.reader.read_whole(body)])
                return
            events = [played_event(message).encode() for message in messages]
        else:
            if not call.request.stream:
                part = {"type": "text", "text": text}
                message = {**message_body(part), "role": "assistant", "model": "m"}
                take([call.reader.read_whole(json.dumps(message).encode())])
                return
            events = [
                played_event(one).encode()
                for one in message_stream(block_events("text_delta", deltas))
            ]
        size = random.choice([1, 3, 10])
        for at in range(0, len(events), size):
            take(call.reader.feed(b"".join(events[at : at + size])))


def played_chunk(one: Json) -> bytes:
    return encode(json.dumps(one).encode())


@every_api
@streamed_or_not
async def test_whatever_loops_the_reader_gets_one_answer(api: Api, stream: bool) -> None:
    """However often an engine loops, what the reader gets is one text that does not, told once."""
    for seed in range(60):
        engine = LoopingEngine(seed, num_loops=seed % 7)
        hello: Json = {"input": "Hello"}
        if api == "messages":
            hello = {"messages": [{"role": "user", "content": "Hello"}]}
        request = forwarded(api, {**hello, "model": "m", "stream": stream})
        completion = Completion(request, engine, "balanced", Telemetry(["m"]), heal=True)  # type: ignore[arg-type]
        if stream:
            written: list[bytes] = []
            written.append(await completion.stream(written.append, written.append))
            text = _streamed_text(api, b"".join(written))
        else:
            text = _whole_text(api, json.loads(await completion.collect()))
        attempts = [call.continuation for call in engine.calls[1:] if call.continuation]
        openings = [one for one in attempts if one.opening is not None]
        for one in openings:
            assert text.startswith(one.prefix.removesuffix(one.insertion).rstrip()), seed
        again = RepetitionFilter()
        assert again.feed(text) + again.flush() == text, seed
        assert again.loop is None, seed
        assert len(openings) <= MAX_ATTEMPTS
        assert len(engine.calls) <= 1 + 2 * len(openings)
        if not openings:
            assert completion.outcome == "ok", seed
        else:
            assert completion.outcome in ("healed", "cut"), seed
            assert can_stop(text) or len(openings) == MAX_ATTEMPTS, seed


def _whole_text(api: Api, body: Json) -> str:
    got = _got_response(Response(**body)) if api == "responses" else _got_message(Message(**body))
    assert is_good(api, got)
    (text,) = got.texts
    return text


def _streamed_text(api: Api, written: bytes) -> str:
    """Return the text of the deltas, of events that are all there once and in order."""
    events = [json.loads(event.data) for event in SSEDecoder().feed(written)]
    for event in events:
        if event["type"] != "ping":  # which no client has a type for
            (EVENTS if api == "responses" else MESSAGE_EVENTS).validate_python(event)
    kinds = [event["type"] for event in events]
    once = [kind for kind in kinds if not kind.endswith("delta") or kind == "message_delta"]
    assert len(set(once)) == len(once)
    if api == "messages":
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert events[-2]["delta"]["stop_reason"] == "end_turn"
        deltas = [event["delta"]["text"] for event in events if "text" in event.get("delta", {})]
        return "".join(deltas)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = _whole_text(api, events[-1]["response"])
    assert text == "".join([event["delta"] for event in events if "delta" in event])
    return text


REQUESTS: list[tuple[Api, Json, Json | None]] = [
    (
        "responses",
        {"tools": [{"type": "function", "strict": None, **TOOL}], "tool_choice": "auto"},
        {"tools": [{"type": "function", "function": {"strict": None, **TOOL}}]},
    ),
    (
        "responses",
        {"tools": [{"type": "function", "strict": None, **TOOL}],
         "tool_choice": {"type": "function", "name": "weather"}},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    ("responses", {"tools": [{"type": "web_search"}]}, None),
    ("responses", {"previous_response_id": "resp_0"}, None),
    ("responses", {"conversation": "conv_0"}, None),
    (
        "responses",
        {"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "Hello"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        ]}]},
        None,
    ),
    (
        "responses",
        {"instructions": "Be brief.", "input": [
            {"role": "developer", "content": "In English."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        ]},
        {"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "In English."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": KEPT},
        ]},
    ),
    (
        "responses",
        {"input": [
            {"role": "user", "content": "Hello"},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "Wait.", "annotations": []}]},
            {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "Rain."},
            {"type": "function_call_output", "call_id": "b", "output": "Snow."},
        ]},
        {"messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Wait.", "tool_calls": [
                {"id": one, "type": "function",
                 "function": {"name": "weather", "arguments": "{}"}} for one in "ab"
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "Rain."},
            {"role": "tool", "tool_call_id": "b", "content": "Snow."},
            {"role": "assistant", "content": KEPT},
        ]},
    ),
    ("responses", {"text": {"format": {"type": "json_object"}}}, None),
    (
        "responses",
        {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        {"top_logprobs": None, "logprobs": None},
    ),
    ("responses", {"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    (
        "messages",
        {"tools": [{"name": "weather", "description": "Look it up.",
                    "input_schema": {"type": "object"}}],
         "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required",
         "parallel_tool_calls": False},
    ),
    ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, None),
    ("messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, None),
    (
        "messages",
        {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "Hello"},
            {"type": "image", "source": {
                "type": "base64", "media_type": "image/png", "data": "AA=="}},
        ]}]},
        None,
    ),
    (
        "messages",
        {"system": [{"type": "text", "text": "Be brief.",
                     "cache_control": {"type": "ephemeral"}}],
         "stop_sequences": ["END"], "extra_body": {"top_k": 5}, "metadata": {"user_id": "u"}},
        {"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": KEPT},
        ], "stop": ["END"], "top_k": 5},
    ),
    (
        "messages",
        {"messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "text", "text": "Wait."},
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rom"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [
                    {"type": "text", "text": "Rain."}]},
                {"type": "text", "text": "And?"},
            ]},
        ]},
        {"messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Wait.", "tool_calls": [
                {"id": "a", "type": "function",
                 "function": {"name": "weather", "arguments": '{"city":"Rom"}'}}
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "Rain."},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": KEPT},
        ]},
    ),
    (
        "messages",
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("api", "fields", "asked"), REQUESTS)
@streamed_or_not
def test_a_loop_is_healed_where_chat_can_ask_for_the_answer(
    played: ThreeApisUpstream,
    proxied: Clients,
    api: Api,
    fields: Json,
    asked: Json | None,
    stream: bool,
) -> None:
    played.bodies.clear()
    got = proxied.ask(api, "heals", stream=stream, **fields)
    if asked is None:
        assert len(played.bodies) == 1
        assert got.repetition["loop"]
        assert got.texts[0].startswith(KEPT[:-50])
        return
    assert got.texts == [HEALED]
    _, second = played.bodies
    assert {name: second.get(name) for name in asked} == asked


def test_errors_of_messages_are_the_client_s_own(
    played: ThreeApisUpstream, proxied: Clients, spoken: Clients
) -> None:
    with pytest.raises(anthropic.RateLimitError, match="not now"):
        proxied.ask("messages", "busy", stream=False)
    with pytest.raises(anthropic.RateLimitError, match="not now"):
        proxied.ask("messages", "busy", stream=True)
    with pytest.raises(anthropic.NotFoundError, match="the model 'nobody' does not exist") as gone:
        spoken.ask("messages", "nobody", stream=True)
    assert gone.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: must be ≥ 1, got 0") as bad:
        spoken.ask("messages", "tiny", stream=False, max_tokens=0)
    assert bad.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    with proxy(played.url, api_keys=["secret"], requests_per_minute=1) as url:
        stranger, client = Clients(url), Clients(url, "secret")
        with pytest.raises(anthropic.AuthenticationError, match="API key") as unknown:
            stranger.ask("messages", "plain", stream=False)
        assert unknown.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
        assert client.ask("messages", "plain", stream=False).texts == [ENGLISH]
        with pytest.raises(anthropic.RateLimitError, match="more than 1 requests") as often:
            client.ask("messages", "plain", stream=False)
        assert often.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
        assert int(often.value.response.headers["retry-after"]) > 0
        stranger.close()
        client.close()


@pytest.mark.parametrize(
    ("api", "fields", "message"),
    [
        ("responses", {"max_output_tokens": 0}, "max_output_tokens: must be ≥ 1, got 0"),
        ("responses", {"max_output_tokens": "9"}, "max_output_tokens: must be a valid integer"),
        ("responses", {"previous_response_id": "r"}, "previous_response_id: only what the"),
        ("responses", {"input": []}, "input: must be a string or a list of objects"),
        ("responses", {"temperature": 3}, "temperature: must be ≤ 2, got 3"),
        ("responses", {"tools": [{"type": "web_search"}]}, "tools: only functions are supp"),
        ("responses", {"tools": [{"type": "function", **TOOL}]}, "tools: the local engine"),
        ("responses", {"reasoning": {"effort": "low"}}, "reasoning: the local engine"),
        ("responses", {"text": {"format": {"type": "json_object"}}}, "text: the local engine"),
        ("responses", {"background": True}, "background: "),
        ("responses", {"top_logprobs": 2}, "top_logprobs: "),
        ("responses", {"include": ["message.output_text.logprobs"]}, "include: "),
        ("responses", {"extra_body": {"min_tokens": 9}, "max_output_tokens": 3}, "min_tokens: "),
        ("responses", {"extra_body": {"stop": 3}}, "stop: must be a string or a list"),
        ("messages", {"stop_sequences": "END"}, "stop_sequences: must be a valid list"),
        ("messages", {"stop_sequences": ["E"] * 17}, "stop_sequences: must be at most 16"),
        ("messages", {"max_tokens": 0}, "max_tokens: must be ≥ 1, got 0"),
        ("messages", {"extra_body": {"temperature": 3}}, "temperature: must be ≤ 2, got 3"),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking: "),
        ("messages", {"messages": []}, "messages: must be 1 to 16384 objects"),
        ("messages", {"tools": [{"name": "f", "input_schema": {}}]}, "tools: the local engine"),
        (
            "messages",
            {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
            "output_config: ",
        ),
        ("messages", {"container": "c"}, "container: the local engine does not support it"),
    ],
)  # fmt: skip
def test_what_a_local_engine_cannot_do_is_refused_in_the_api_s_words(
    spoken: Clients, api: Api, fields: Json, message: str
) -> None:
    kinds = (openai.BadRequestError, anthropic.BadRequestError)
    with pytest.raises(kinds) as refused:
        spoken.ask(api, "tiny", stream=False, **fields)
    assert isinstance(refused.value, openai.BadRequestError | anthropic.BadRequestError)
    assert isinstance(refused.value.body, dict)
    told = refused.value.body.get("error", refused.value.body)
    assert told["message"].startswith(message)
    if api == "responses":
        assert told["param"] == message.partition(":")[0]
