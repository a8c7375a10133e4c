"""Answers of each API as a strict client reads them, streamed and whole."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dedup_server.wire.sse import SSEDecoder
from tests.agents.strict import Json
from tests.agents.upstream import Api

STOPS: dict[Api, str] = {"chat": "stop", "responses": "completed", "messages": "end_turn"}
CALL_STOPS: dict[Api, str] = {
    "chat": "tool_calls",
    "responses": "completed",
    "messages": "tool_use",
}


@dataclass
class Choice:
    """One choice.

    Attributes:
        calls: Name and arguments, as JSON, of each call.
    """

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    stop: str = ""


@dataclass
class Got:
    """An answer.

    Attributes:
        error: The message of an error event; empty without one.
        tokens: Input and output tokens of the usage.
        repetition: The object that reports what was done.
    """

    choices: dict[int, Choice] = field(default_factory=dict)
    error: str = ""
    tokens: tuple[int, int] | None = None
    repetition: Json = field(default_factory=dict)

    @property
    def only(self) -> Choice:
        (choice,) = self.choices.values()
        return choice


def read(api: Api, stream: bool, raw: bytes) -> Got:
    """Read an answer.

    Raises:
        AssertionError: If it is not well formed.
    """
    got = Got()
    if not stream:
        whole = {"chat": _chat_whole, "responses": _response, "messages": _message}
        whole[api](got, json.loads(raw))
        return got
    decoder = SSEDecoder()
    events = [event.data for event in decoder.feed(raw)]
    is_done = bool(events) and events[-1] == b"[DONE]"
    if is_done:
        events.pop()
    parsed = [json.loads(event) for event in events]
    for event in parsed:
        if event.get("error") or event.get("type") == "error":
            got.error = (event.get("error") or event)["message"]
            return got
    if api == "chat":
        assert is_done, "no [DONE]"
        _chat_stream(got, parsed)
    elif api == "responses":
        _response_stream(got, parsed)
    else:
        _message_stream(got, parsed)
    return got


def _chat_whole(got: Got, body: Json) -> None:
    for one in body["choices"]:
        message = one["message"]
        choice = got.choices[one["index"]] = Choice(stop=one["finish_reason"])
        choice.text = message["content"] or ""
        choice.thought = message.get("reasoning_content") or ""
        for call in message.get("tool_calls") or []:
            function = call["function"]
            choice.calls.append((function["name"], json.loads(function["arguments"])))
        got.repetition = one.get("repetition") or got.repetition
    _note_usage(got, body, "prompt_tokens", "completion_tokens")


def _chat_stream(got: Got, chunks: Iterable[Json]) -> None:
    calls: dict[tuple[int, int], list[str]] = {}
    ids = set()
    for chunk in chunks:
        ids.add(chunk["id"])
        _note_usage(got, chunk, "prompt_tokens", "completion_tokens")
        for one in chunk["choices"]:
            choice = got.choices.setdefault(one["index"], Choice())
            assert not choice.stop, "a delta behind the end"
            delta = one["delta"]
            choice.text += delta.get("content") or ""
            choice.thought += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or []:
                at = (one["index"], call["index"])
                if at not in calls:
                    assert call["id"], "a call without an id"
                    calls[at] = [call["function"]["name"], ""]
                calls[at][1] += call["function"].get("arguments") or ""
            choice.stop = one["finish_reason"] or ""
            got.repetition = one.get("repetition") or got.repetition
    assert len(ids) == 1, "chunks of two answers"
    indices = [at for _, at in calls]
    assert all(at < len(calls) for at in indices), "an index of a call is left out"
    for (index, _), (name, arguments) in sorted(calls.items()):
        got.choices[index].calls.append((name, json.loads(arguments)))
    assert all(choice.stop for choice in got.choices.values()), "a choice has no end"


def _note_usage(got: Got, body: Json, *names: str) -> None:
    usage = body.get("usage")
    if usage:
        tokens = tuple(usage[name] for name in names)
        got.tokens = (tokens[0], tokens[1])


def _response(got: Got, body: Json) -> None:
    choice = got.choices[0] = Choice(stop=body["status"])
    for item in body["output"]:
        if item["type"] == "function_call":
            choice.calls.append((item["name"], json.loads(item["arguments"])))
        elif item["type"] == "reasoning":
            choice.thought += "".join(part["text"] for part in item["summary"])
        else:
            choice.text += "".join(part["text"] for part in item["content"])
    got.repetition = body.get("repetition") or {}
    _note_usage(got, body, "input_tokens", "output_tokens")


def _response_stream(got: Got, events: list[Json]) -> None:
    numbers = [event["sequence_number"] for event in events]
    assert numbers == list(range(len(events))), "sequence numbers have gaps"
    open_items: dict[int, str] = {}
    done: list[Json] = []
    texts: dict[int, str] = {}
    for event in events:
        kind = event["type"].removeprefix("response.")
        index = event.get("output_index")
        if kind == "output_item.added":
            assert index == len(open_items), "an item is added twice"
            open_items[index] = event["item"]["id"]
        elif kind in ("output_text.delta", "function_call_arguments.delta"):
            assert event["item_id"] == open_items[event["output_index"]]
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
        elif kind == "output_item.done":
            assert index == len(done), "an item ends out of order"
            done.append(event["item"])
    last = events[-1]
    assert last["type"] in ("response.completed", "response.incomplete"), "it does not end"
    _response(got, last["response"])
    assert last["response"]["output"] == done, "items differ from those of the last event"
    assert len(done) == len(open_items), "an item does not end"
    for index, text in texts.items():
        item = done[index]
        told = item.get("arguments") or "".join(part["text"] for part in item.get("content", []))
        assert told == text, "deltas differ from their item"


def _message(got: Got, body: Json) -> None:
    choice = got.choices[0] = Choice(stop=body["stop_reason"])
    for block in body["content"]:
        if block["type"] == "tool_use":
            choice.calls.append((block["name"], block["input"]))
        elif block["type"] == "thinking":
            choice.thought += block["thinking"]
        else:
            choice.text += block["text"]
    got.repetition = body.get("repetition") or {}
    _note_usage(got, body, "input_tokens", "output_tokens")


def _message_stream(got: Got, events: list[Json]) -> None:
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop", "it does not end"
    blocks: list[Json] = []
    is_open = False
    for event in events:
        kind = event["type"]
        if kind == "content_block_start":
            assert not is_open, "a block begins in another"
            assert event["index"] == len(blocks), "an index is left out"
            blocks.append({**event["content_block"], "json": ""})
            is_open = True
        elif kind == "content_block_delta":
            assert is_open
            assert event["index"] == len(blocks) - 1
            _add(blocks[-1], event["delta"])
        elif kind == "content_block_stop":
            assert is_open
            is_open = False
    assert not is_open, "a block does not end"
    (delta,) = [event for event in events if event["type"] == "message_delta"]
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"] or "{}")
    started = events[0]["message"]["usage"]
    body = {"content": blocks, "usage": {**started, **delta["usage"]}, **delta["delta"]}
    body["repetition"] = delta.get("repetition") or delta["delta"].get("repetition")
    _message(got, body)


def _add(block: Json, delta: Json) -> None:
    slots = {
        "text_delta": ("text", "text"),
        "thinking_delta": ("thinking", "thinking"),
        "signature_delta": ("signature", "signature"),
        "input_json_delta": ("json", "partial_json"),
    }
    name, source = slots[delta["type"]]
    block[name] += delta[source]
