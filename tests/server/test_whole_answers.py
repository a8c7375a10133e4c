"""Whole answers that are requested from an upstream as streams: the client cannot tell."""

import asyncio
import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup_server.endpoints import ENDPOINTS
from dedup_server.requests.base import parse
from tests.server.mock_upstream import LOOP, NOVEL, proxy, served

Json = dict[str, Any]

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
ASKS: dict[str, Json] = {
    "chat": {"messages": [{"role": "user", "content": "Hello"}]},
    "completions": {"prompt": "Hello"},
    "responses": {"input": "Hello"},
    "messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 900},
}


def data(*events: Json | str) -> bytes:
    """Return a stream of events without names, as chat and text completions have them."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in events]
    return "".join([f"data: {text}\n\n" for text in texts]).encode()


def named(*events: Json) -> bytes:
    """Return a stream of events that are named after their types."""
    return b"".join([f"event: {one['type']}\n".encode() + data(one) for one in events])


def merged(api: str, reads: list[bytes]) -> Json:
    """Return the body that a client gets of a stream that arrives in these reads."""
    endpoint = ENDPOINTS[api]
    answer = Answer(Editing("balanced"))
    request = parse(endpoint.forwarded, {"model": "m", **ASKS[api]})
    reader, writer = endpoint.reader(), endpoint.writer(answer, request)
    reader.gathers = True
    for received in reads:
        for frame in reader.feed(received):
            assert frame.error is None
            writer.add(frame, answer.feed(frame))
    for frame in reader.flush():
        writer.add(frame, answer.feed(frame))
    assert answer.is_complete
    body: Json = json.loads(writer.whole())
    return body


WORDS = [
    " The",
    " river",
    " rose",
    " in",
    " the",
    ' "night"',
    ",",
    " and",
    " 早",
    "上",
    "\n",
    "gone.",
]
SAID = "".join(WORDS)


@dataclass
class Shape:
    """A stream as a server sends it, and the body that it sends without one."""

    api: str
    stream: bytes
    whole: Json


def openai_like() -> Shape:
    head = {"id": "c", "created": 1, "model": "m", "service_tier": "default"}
    head["system_fingerprint"] = "fp"
    entry = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    chunks: list[Json | str] = []

    def add(delta: Json, finish: str | None = None, logprobs: Json | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice], "usage": None}
        chunks.append({**chunk, "obfuscation": "x" * (len(chunks) % 5)})

    add({"role": "assistant", "content": "", "refusal": None})
    for word in WORDS:
        add({"content": word}, None, {"content": [entry], "refusal": None})
    add({}, "stop")
    usage = {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    usage["completion_tokens_details"] = {"reasoning_tokens": 0}  # type: ignore[assignment]
    last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
    chunks += [{**last, "obfuscation": "zz"}, "[DONE]"]
    message = {"role": "assistant", "content": SAID, "refusal": None}
    logprobs = {"content": [entry] * len(WORDS), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return Shape("chat", data(*chunks), whole)


def tool_calls() -> Shape:
    head = {"id": "c", "created": 1, "model": "m"}
    pieces: list[Json] = [
        {"role": "assistant", "content": ""},
        {"tool_calls": [call(0, "a", "weather", "")]},
        {"tool_calls": [call(0, None, None, '{"city":')]},
        {"tool_calls": [call(0, "", None, ' "Oslo"}')]},
        {"tool_calls": [call(1, "b", "time", '{"zone": "UTC"}')]},
    ]
    chunks: list[Json | str] = []
    for piece in pieces:
        choice = {"index": 0, "delta": piece, "finish_reason": None, "stop_reason": None}
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [choice]})
    last = {"index": 0, "delta": {}, "finish_reason": "tool_calls", "stop_reason": 7}
    usage = {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    chunks.append({**head, "object": "chat.completion.chunk", "choices": [last]})
    chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    calls = [
        whole_call("a", "weather", '{"city": "Oslo"}'),
        whole_call("b", "time", '{"zone": "UTC"}'),
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "stop_reason": 7}
    whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return Shape("chat", data(*chunks, "[DONE]"), whole)


def call(index: int, name: str | None, function: str | None, arguments: str) -> Json:
    one: Json = {"index": index, "function": {"arguments": arguments}}
    if name is not None:
        one |= {"id": name, "type": "function"}
    if function is not None:
        one["function"]["name"] = function
    return one


def whole_call(name: str, function: str, arguments: str) -> Json:
    return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}


def llama_cpp() -> Shape:
    head = {"created": 1, "id": "c", "model": "m", "system_fingerprint": "b0"}
    chunks: list[Json | str] = []
    deltas: list[Json] = [{"role": "assistant", "content": None}]
    deltas += [{"reasoning_content": word} for word in WORDS]
    deltas += [{"content": word} for word in WORDS]
    for delta in deltas:
        choice = {"finish_reason": None, "index": 0, "delta": delta}
        chunks.append({"choices": [choice], **head, "object": "chat.completion.chunk"})
    last = {"finish_reason": "length", "index": 0, "delta": {}}
    usage = {"completion_tokens": 24, "prompt_tokens": 4, "total_tokens": 28}
    timings = {"prompt_n": 4, "predicted_ms": 1.5}
    chunks.append({"choices": [last], **head, "object": "chat.completion.chunk"})
    end = {"choices": [], **head, "object": "chat.completion.chunk"}
    chunks += [{**end, "usage": usage, "timings": timings}, "[DONE]"]
    message = {"role": "assistant", "reasoning_content": SAID, "content": SAID}
    choice = {"finish_reason": "length", "index": 0, "message": message}
    whole = {"choices": [choice], **head, "object": "chat.completion"}
    return Shape("chat", data(*chunks), {**whole, "usage": usage, "timings": timings})


def vllm_choices() -> Shape:
    """Two choices whose chunks take turns, with the ids of their tokens."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks: list[Json | str] = []
    for index in (0, 1):
        delta: Json = {"role": "assistant", "content": ""}
        chunks.append(
            {**head, "choices": [{"index": index, "delta": delta}], "prompt_token_ids": [1]}
        )
    for at, word in enumerate(WORDS):
        for index in (1, 0, 0, 1):  # of each word both halves
            half = word[: len(word) // 2] if len(chunks) % 4 in (2, 3) else word[len(word) // 2 :]
            more = {"logprobs": None, "finish_reason": None, "token_ids": [at]}
            choice = {"index": index, "delta": {"content": half}, **more}
            chunks.append({**head, "choices": [choice]})
    for index in (0, 1):
        last = {"index": index, "delta": {}, "finish_reason": "stop", "stop_reason": None}
        chunks.append({**head, "choices": [last]})
    usage = {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    chunks += [{**head, "choices": [], "usage": usage}, "[DONE]"]
    ids = [at for at in range(len(WORDS)) for _ in range(2)]
    choices = []
    for index in (0, 1):
        message = {"role": "assistant", "content": texts_of(chunks, index)}
        more = {"logprobs": None, "finish_reason": "stop", "stop_reason": None, "token_ids": ids}
        choices.append({"index": index, "message": message, **more})
    whole = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
    return Shape("chat", data(*chunks), {**whole, "prompt_token_ids": [1]})


def texts_of(chunks: list[Json | str], index: int) -> str:
    choices = [one for chunk in chunks if isinstance(chunk, dict) for one in chunk["choices"]]
    return "".join([one["delta"].get("content", "") for one in choices if one["index"] == index])


def details() -> Shape:
    """Reasoning in pieces of objects, annotations, filters of the content, an old function call."""
    head = {"id": "c", "created": 1, "model": "m"}
    pieces: list[Json] = [
        {"role": "assistant", "content": "", "annotations": [{"type": "url", "n": 1}]},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "Let "}]},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "me see."}]},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s"}]},
        {"annotations": [{"type": "url", "n": 2}]},
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"a":'}},
        {"function_call": {"arguments": " 1}"}},
    ]
    chunks: list[Json | str] = [
        {**head, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    ]
    for piece in pieces:
        safe = {"hate": {"filtered": False, "severity": "safe"}}
        choice = {"index": 0, "delta": piece, "content_filter_results": safe}
        chunks.append({**head, "object": "chat.completion.chunk", "choices": [choice]})
    last = {"index": 0, "delta": {}, "finish_reason": "function_call"}
    usage = {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    chunks += [{**head, "choices": [last], "usage": usage}, "[DONE]"]
    reasoning = {"type": "reasoning.text", "index": 0, "text": "Let me see.", "signature": "s"}
    message = {
        "role": "assistant",
        "content": None,
        "annotations": [{"type": "url", "n": 1}, {"type": "url", "n": 2}],
        "reasoning_details": [reasoning],
        "function_call": {"name": "f", "arguments": '{"a": 1}'},
    }
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    choice = {"index": 0, "message": message, "content_filter_results": safe}
    choice["finish_reason"] = "function_call"
    whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return Shape("chat", data(*chunks), {**whole, "prompt_filter_results": [{"prompt_index": 0}]})


def text_completion() -> Shape:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    chunks: list[Json | str] = []
    offset = 0
    offsets = []
    for word in WORDS:
        offsets.append(offset)
        logprobs = {"tokens": [word], "token_logprobs": [-1.0], "text_offset": [offset]}
        choice = {"index": 0, "text": word, "logprobs": {**logprobs, "top_logprobs": None}}
        chunks.append({**head, "choices": [{**choice, "finish_reason": None}]})
        offset += len(word)
    chunks.append({**head, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
    chunks += [{**head, "choices": [], "usage": usage}, "[DONE]"]
    logprobs = {"tokens": WORDS, "token_logprobs": [-1.0] * len(WORDS), "text_offset": offsets}  # type: ignore[dict-item]
    choice = {"index": 0, "text": SAID, "logprobs": {**logprobs, "top_logprobs": None}}
    choice["finish_reason"] = "stop"
    return Shape("completions", data(*chunks), {**head, "choices": [choice], "usage": usage})


def message() -> Shape:
    """Thinking with its signature, text with a citation, calls of tools with and without input."""
    start = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    start |= {"stop_reason": None, "stop_sequence": None}
    begun = {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 3}
    citation = {"type": "char_location", "cited_text": "x"}
    events: list[Json] = [{"type": "message_start", "message": {**start, "usage": begun}}]

    def block(index: int, content_block: Json, *deltas: Json) -> None:
        head = {"index": index}
        events.append({"type": "content_block_start", **head, "content_block": content_block})
        events.extend([{"type": "content_block_delta", **head, "delta": one} for one in deltas])
        events.append({"type": "content_block_stop", **head})

    thoughts = [{"type": "thinking_delta", "thinking": word} for word in WORDS]
    signed = {"type": "signature_delta", "signature": "abc"}
    block(0, {"type": "thinking", "thinking": "", "signature": ""}, *thoughts, signed)
    texts: list[Json] = [{"type": "text_delta", "text": word} for word in WORDS]
    cited = {"type": "citations_delta", "citation": citation}
    block(1, {"type": "text", "text": ""}, *texts, cited)
    tool = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
    inputs = [
        {"type": "input_json_delta", "partial_json": one} for one in ("", '{"city": ', '"Oslo"}')
    ]
    block(2, tool, *inputs)
    block(3, {"type": "server_tool_use", "id": "u", "name": "now", "input": {}})
    ending = {"stop_reason": "pause_turn", "stop_sequence": None}
    events.append({"type": "ping"})
    events.append({"type": "message_delta", "delta": ending, "usage": {"output_tokens": 12}})
    events.append({"type": "message_stop"})
    content = [
        {"type": "thinking", "thinking": SAID, "signature": "abc"},
        {"type": "text", "text": SAID, "citations": [citation]},
        {**tool, "input": {"city": "Oslo"}},
        {"type": "server_tool_use", "id": "u", "name": "now", "input": {}},
    ]
    usage = {"input_tokens": 5, "output_tokens": 12, "cache_read_input_tokens": 3}
    whole = {**start, "content": content, "stop_reason": "pause_turn", "usage": usage}
    return Shape("messages", named(*events), whole)


def response() -> Shape:
    head = {"id": "r", "object": "response", "model": "m", "created_at": 1, "error": None}
    part = {"type": "output_text", "text": SAID, "annotations": [], "logprobs": []}
    item = {"id": "i", "type": "message", "role": "assistant", "status": "completed"}
    whole = {**head, "status": "completed", "output": [{**item, "content": [part]}]}
    whole["usage"] = {"input_tokens": 5, "output_tokens": 12, "total_tokens": 17}
    place = {"item_id": "i", "output_index": 0, "content_index": 0}
    begun = {**head, "status": "in_progress", "output": []}
    events: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        *[{"type": "response.output_text.delta", **place, "delta": word} for word in WORDS],
        {"type": "response.output_text.done", **place, "text": SAID},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": whole["output"][0]},
        {"type": "response.completed", "response": whole},
    ]
    return Shape(
        "responses",
        named(*[{**one, "sequence_number": at} for at, one in enumerate(events)]),
        whole,
    )


SHAPES = [
    openai_like,
    tool_calls,
    llama_cpp,
    vllm_choices,
    details,
    text_completion,
    message,
    response,
]


def cut_up(stream: bytes, how: str) -> list[bytes]:
    """Return a stream in reads."""
    if how == "at once":
        return [stream]
    if how == "event by event":
        return [event + b"\n\n" for event in stream.split(b"\n\n") if event]
    rng = random.Random(how)
    reads = []
    while stream:
        size = rng.randrange(1, 900)
        reads.append(stream[:size])
        stream = stream[size:]
    return reads


@pytest.mark.parametrize("how", ["at once", "event by event", "by chance 1", "by chance 2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_makes_the_body_that_there_would_be_without(
    shape: Callable[[], Shape], how: str
) -> None:
    shown = shape()
    assert merged(shown.api, cut_up(shown.stream, how)) == shown.whole


def chunk(text: str, *, index: int = 0, before: bool = True, **more: Any) -> Json:
    """Return a chunk with its index on either side of its text."""
    place = {"index": index}
    choice = {**place, "text": text} if before else {"text": text, **place}
    return {"id": "c", "choices": [{**choice, **more}]}


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(
            [chunk("x", index=1, before=False)], id="another choice, told behind the text"
        ),
        pytest.param([chunk("x", before=False, note="y")], id="another field behind the text"),
        pytest.param([chunk("", before=False)], id="no text"),
        pytest.param([chunk('"', before=False), chunk("\\", before=False)], id="quotes"),
        pytest.param([chunk("x", before=False, finish_reason="length")], id="the end"),
        pytest.param([{"id": "c", "choices": []}], id="no choice"),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2, 5, 11])
def test_only_chunks_that_are_alike_are_read_as_one(odd: list[Json], at: int) -> None:
    chunks = [chunk(word, before=False) for word in WORDS]
    chunks[at:at] = odd
    ends: list[Json] = [chunk("", index=index, finish_reason="stop") for index in (0, 1)]
    stream = data(*chunks, *ends, "[DONE]")
    assert merged("completions", [stream]) == merged(
        "completions", cut_up(stream, "event by event")
    )


def test_a_read_of_many_chunks_is_one_frame() -> None:
    """Else each of a hundred would cost as much as in a stream."""
    endpoint = ENDPOINTS["completions"]
    reader = endpoint.reader()
    reader.gathers = True
    frames = reader.feed(data(*[chunk(f" {number}") for number in range(100)]))
    assert len(frames) < 6
    assert "".join([frame.deltas[0].text for frame in frames]) == "".join(
        [f" {number}" for number in range(100)]
    )


# Upstreams


@dataclass
class Server:
    """An upstream that answers as `model` says, and what it saw."""

    bodies: list[Json] = field(default_factory=list)
    num_sent: int = 0
    hung_up: threading.Event = field(default_factory=threading.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        model, is_streamed = body["model"], bool(body.get("stream"))
        if model == "no-streams" and is_streamed:
            return refusal("stream: true is not supported")
        if model == "no-options" and "stream_options" in body:
            detail = [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
            return web.json_response({"detail": detail}, status=422)
        if model == "refuses":
            return refusal("temperature: must be cooler")
        if model == "refuses-all":
            return refusal(f"unknown stream or model (stream={is_streamed})")
        if model == "ignores" or not is_streamed:
            return web.json_response(whole(model, with_usage=model != "never-usage"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Own"] = "kept"
        if model == "plain-text":
            response.headers["Content-Type"] = "text/plain"
        await response.prepare(request)
        try:
            await self._stream(request, response, model, body)
        except (ConnectionError, asyncio.CancelledError):
            self.hung_up.set()
            raise
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, model: str, body: Json
    ) -> None:
        text = NOVEL + " " + LOOP * 400 if model == "loops" else NOVEL
        self.num_sent = 0
        events = STREAMS[next(api for api, path in PATHS.items() if path == request.path)]
        for event in events(model, text):
            if b'"usage"' in event and "usage" in model:
                continue
            if model == "breaks" and self.num_sent == 8:
                assert request.transport
                request.transport.close()
                return
            if model == "stalls" and self.num_sent == 8:
                await asyncio.sleep(60)
            if model.startswith("fails") and self.num_sent == 8:
                error = {"type": "overloaded_error", "message": "too busy", "code": 529}
                await response.write(data({"error": error, **error, "type": "error"}))
                if model == "fails-and-breaks":
                    assert request.transport
                    request.transport.close()
                return
            await response.write(event)
            self.num_sent += 1
            if model == "loops":
                await asyncio.sleep(0.001)


def refusal(message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid"}}, status=400)


def whole(model: str, *, with_usage: bool = True) -> Json:
    said = {"role": "assistant", "content": NOVEL}
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
    }
    if with_usage:
        body["usage"] = {"prompt_tokens": 5, "completion_tokens": 25, "total_tokens": 30}
    return body


def pieces(text: str) -> list[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def chat_events(model: str, text: str) -> Iterator[bytes]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    for piece in pieces(text):
        yield data({**head, "choices": [{"index": 0, "delta": {"content": piece}}]})
    yield data({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 5, "completion_tokens": 25, "total_tokens": 30}
    yield data({**head, "choices": [], "usage": usage})
    yield data("[DONE]")


def completion_events(model: str, text: str) -> Iterator[bytes]:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": model}
    for piece in pieces(text):
        yield data({**head, "choices": [{"index": 0, "text": piece}]})
    yield data({**head, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    yield data("[DONE]")


def response_events(model: str, text: str) -> Iterator[bytes]:
    place = {"item_id": "i", "output_index": 0, "content_index": 0}
    begun = {"id": "r", "object": "response", "model": model, "status": "in_progress", "output": []}
    yield named({"type": "response.created", "response": begun})
    item = {
        "id": "i",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    yield named({"type": "response.output_item.added", "output_index": 0, "item": item})
    part: Json = {"type": "output_text", "text": "", "annotations": []}
    yield named({"type": "response.content_part.added", **place, "part": part})
    for piece in pieces(text):
        yield named({"type": "response.output_text.delta", **place, "delta": piece})
    output = [{**item, "status": "completed", "content": [{**part, "text": text}]}]
    response = {**begun, "status": "completed", "output": output}
    yield named({"type": "response.completed", "response": response})


def message_events(model: str, text: str) -> Iterator[bytes]:
    begun = {"id": "m", "type": "message", "role": "assistant", "model": model, "content": []}
    begun["usage"] = {"input_tokens": 5, "output_tokens": 1}  # type: ignore[assignment]
    yield named({"type": "message_start", "message": begun})
    block = {"type": "text", "text": ""}
    yield named({"type": "content_block_start", "index": 0, "content_block": block})
    for piece in pieces(text):
        delta = {"type": "text_delta", "text": piece}
        yield named({"type": "content_block_delta", "index": 0, "delta": delta})
    yield named({"type": "content_block_stop", "index": 0})
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    yield named({"type": "message_delta", "delta": ending, "usage": {"output_tokens": 25}})
    yield named({"type": "message_stop"})


STREAMS = {
    "chat": chat_events,
    "completions": completion_events,
    "responses": response_events,
    "messages": message_events,
}


@contextmanager
def front(**settings: Any) -> Iterator[tuple[Server, str]]:
    server = Server()
    with (
        served([web.post(path, server.answer) for path in PATHS.values()]) as url,
        proxy(url, **settings) as front_url,
    ):
        yield server, front_url


@pytest.fixture(scope="module")
def default() -> Iterator[tuple[Server, str]]:
    with front(idle_timeout_seconds=1, heal=False) as pair:
        yield pair


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: Any


def ask(url: str, model: str, api: str = "chat", **fields: Any) -> Reply:
    body = json.dumps({"model": model, **ASKS[api], **fields}).encode()
    request = urllib.request.Request(url + PATHS[api], body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return Reply(response.status, dict(response.headers), json.load(response))
    except urllib.error.HTTPError as error:
        return Reply(error.code, dict(error.headers), json.load(error))


def text_of(body: Json, api: str) -> str:
    """Return the text of a whole answer."""
    if api == "chat":
        said = body["choices"][0]["message"]["content"]
    elif api == "completions":
        said = body["choices"][0]["text"]
    elif api == "responses":
        said = body["output"][0]["content"][0]["text"]
    else:
        said = body["content"][0]["text"]
    return str(said)


@pytest.mark.parametrize("api", PATHS)
def test_a_whole_answer_is_requested_as_a_stream(default: tuple[Server, str], api: str) -> None:
    server, url = default
    reply = ask(url, f"novel-{api}", api)
    assert server.bodies[-1]["stream"] is True
    options = server.bodies[-1].get("stream_options")
    assert options == ({"include_usage": True} if api in ("chat", "completions") else None)
    assert (reply.status, text_of(reply.body, api)) == (200, NOVEL)
    headers = {name.lower(): value for name, value in reply.headers.items()}
    assert headers["content-type"] == "application/json"
    assert headers["x-own"] == "kept"
    assert not {"transfer-encoding", "cache-control"} & headers.keys()


@pytest.mark.parametrize("api", PATHS)
def test_a_loop_ends_as_early_as_in_a_stream(default: tuple[Server, str], api: str) -> None:
    server, url = default
    server.hung_up.clear()
    reply = ask(url, "loops", api)
    assert server.hung_up.wait(5)
    num_whole = server.num_sent
    assert text_of(reply.body, api).startswith(NOVEL)
    assert text_of(reply.body, api).count(LOOP.strip()) == 1
    server.hung_up.clear()
    body = json.dumps({"model": "loops", "stream": True, **ASKS[api]}).encode()
    request = urllib.request.Request(url + PATHS[api], body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        response.read()
    assert server.hung_up.wait(5)
    assert num_whole < 400 < len(pieces(LOOP * 400))
    assert abs(num_whole - server.num_sent) < 100  # sent before the hang-up was noticed


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(
    ("model", "status", "word"),
    [
        ("breaks", 502, "broke"),
        ("stalls", 504, "stopped"),
        ("fails", 529, "too busy"),
        ("fails-and-breaks", 529, "too busy"),
    ],
)
def test_a_stream_that_fails_is_a_status(
    default: tuple[Server, str], api: str, model: str, status: int, word: str
) -> None:
    reply = ask(default[1], model, api)
    assert reply.status == status
    error = reply.body["error"]
    assert word in error["message"]
    assert ("code" in error) == (api != "messages")  # each in the shape of its API


@pytest.mark.parametrize("model", ["no-streams", "no-options", "plain-text"])
def test_an_upstream_that_does_not_stream_is_asked_once_more(model: str) -> None:
    with front() as (server, url):
        for num_requests in (2, 3):  # it is remembered
            reply = ask(url, model)
            assert (reply.status, reply.body) == (200, whole(model))
            assert len(server.bodies) == num_requests
            assert "stream" not in server.bodies[-1]
        assert ask(url, "novel").status == 200
        assert server.bodies[-1]["stream"] is True


def test_a_json_answer_to_a_request_for_a_stream_is_read(default: tuple[Server, str]) -> None:
    server, url = default
    before = len(server.bodies)
    assert ask(url, "ignores").body == whole("ignores")
    assert len(server.bodies) == before + 1


def test_a_refusal_about_something_else_is_final(default: tuple[Server, str]) -> None:
    server, url = default
    before = len(server.bodies)
    reply = ask(url, "refuses")
    assert (reply.status, reply.body["error"]["message"]) == (400, "temperature: must be cooler")
    assert len(server.bodies) == before + 1


def test_a_request_that_is_refused_either_way_teaches_nothing() -> None:
    with front() as (server, url):
        for num_requests in (2, 4):
            assert ask(url, "refuses-all").body["error"]["message"].endswith("(stream=False)")
            assert len(server.bodies) == num_requests


def test_an_upstream_whose_streams_lack_the_usage_is_asked_for_whole_answers() -> None:
    with front() as (server, url):
        first = ask(url, "no-usage").body
        assert first["usage"]["estimated"] is True
        assert ask(url, "no-usage").body == whole("no-usage")
        assert ask(url, "no-usage").body == whole("no-usage")
        assert [bool(body.get("stream")) for body in server.bodies] == [True, False, False]


def test_an_upstream_that_never_reports_usage_is_asked_for_streams() -> None:
    with front() as (server, url):
        for _ in range(4):
            assert ask(url, "never-usage").status == 200
        assert [bool(body.get("stream")) for body in server.bodies] == [True, False, True, True]


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        ("chat", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
        ("responses", {"background": True}),
        ("completions", {"kv_transfer_params": {"do_remote_decode": True}}),
    ],
)
def test_an_answer_that_is_more_than_a_text_is_not_streamed(
    default: tuple[Server, str], api: str, fields: Json
) -> None:
    server, url = default
    ask(url, "novel", api, **fields)
    assert "stream" not in server.bodies[-1]


def test_it_can_be_turned_off() -> None:
    with front(stream_upstream=False) as (server, url):
        assert ask(url, "novel").body == whole("novel")
        assert "stream" not in server.bodies[-1]


def test_it_can_be_turned_off_for_one_upstream() -> None:
    server = Server()
    with served([web.post(PATHS["chat"], server.answer)]) as target:
        upstreams = (
            {"url": target, "name": "a", "models": ["a-*"], "stream_upstream": False},
            {"url": target, "name": "b", "models": ["b-*"]},
        )
        with proxy(None, upstreams=upstreams) as url:
            for model, streams in (("a-1", False), ("b-1", True)):
                assert ask(url, model).status == 200
                assert bool(server.bodies[-1].get("stream")) == streams
