"""A request's life: the engine's chunks in, the reader's chunks out, one filter per choice and channel between them.

Text that may yet turn out to be a repeat is held and comes with a later chunk; none is lost when an answer ends, fails or is cut.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from dedup.config import FilterConfig, Policy
from dedup.filter import RepetitionFilter
from server import sse
from server.engines.base import USED, Chunk, Engine
from server.errors import ApiError, shutting_down
from server.schema import Endpoint, GenerationRequest, estimate_tokens, usage
from server.telemetry import ChannelName, Outcome, Telemetry

_log = logging.getLogger("dedup.server")
_encode = msgspec.json.Encoder().encode

# What every chunk of an answer carries, those that are made here too.
_HEAD = ("id", "object", "created", "model", "system_fingerprint")

Choice = dict[str, Any]
ChannelKey = tuple[str, int]  # the field of a delta, and which tool call


class Channel:
    """One text of a choice, its filter and its clock."""

    def __init__(self, name: ChannelName, key: ChannelKey, text_filter: RepetitionFilter) -> None:
        self.name = name
        self.key = key
        self.filter = text_filter
        self.overhead = 0.0
        self.longest_hold = 0.0
        self.bytes_in = 0
        self.flushed = False
        self._arrivals: deque[tuple[int, float]] = deque()  # (characters fed until then, when)

    def feed(self, text: str) -> str:
        began = time.perf_counter()
        given = self.filter.feed(text)
        ended = time.perf_counter()
        self.overhead += ended - began
        self.bytes_in += len(text.encode("utf-8", "replace"))
        self._arrivals.append((self.filter.chars_in, began))
        self._let_go(self.filter.chars_in - self.filter.held_chars, ended)
        return given

    def flush(self) -> str:
        began = time.perf_counter()
        given = self.filter.flush()
        ended = time.perf_counter()
        self.overhead += ended - began
        self.flushed = True
        self._let_go(self.filter.chars_in, ended)
        return given

    @property
    def cut(self) -> bool:
        """Whether the text has ended at a loop."""
        return self.filter.ended

    def delta(self, text: str) -> dict[str, Any]:
        """`text` at its place in a choice of a chunk."""
        field, call = self.key
        if field == "text":
            return {"text": text}
        if field == "tool_calls":
            return {"delta": {"tool_calls": [{"index": call, "function": {"arguments": text}}]}}
        return {"delta": {field: {"arguments": text} if field == "function_call" else text}}

    def push(self, telemetry: Telemetry, model: str) -> None:
        """Counts what became of the text."""
        numbers = self.filter.metrics()
        for verdict in ("kept", "removed", "flagged"):
            telemetry.count("sentences", numbers[f"sentences_{verdict}"], model, self.name, verdict)
        telemetry.count("output_chars", self.filter.chars_out, model, self.name)
        telemetry.count("removed_chars", numbers["removed_chars"], model, self.name)
        if self.filter.config.policy != "off" and self.filter.chars_in:
            telemetry.observe("repetition_ratio", numbers["rep_4"], model, self.name)
        if loop := self.filter.loop:
            telemetry.count("loops", 1, model, self.name, loop.kind, "cut" if self.cut else "flagged")
            telemetry.observe("loop_detection_chars", loop.detected_at - loop.onset, model)

    def _let_go(self, num_chars: int, now: float) -> None:
        while self._arrivals and self._arrivals[0][0] <= num_chars:
            self.longest_hold = max(self.longest_hold, now - self._arrivals.popleft()[1])


@dataclass
class Filtered:
    """What became of a choice's part of a chunk: what goes before it, itself if anything is left of it, what goes after."""

    before: list[Choice] = field(default_factory=list)
    kept: list[Choice] = field(default_factory=list)
    after: list[Choice] = field(default_factory=list)


class ChoiceState:
    """One choice of an answer: its channels, and how it ends."""

    def __init__(self, index: int, request: GenerationRequest, policy: Policy) -> None:
        self.ended = False
        self.channels: list[Channel] = []
        self._open: dict[ChannelKey, Channel] = {}
        self._index = index
        self._request = request
        self._policy = policy

    @property
    def cut(self) -> bool:
        return any(channel.cut for channel in self.channels)

    @property
    def gave_text(self) -> bool:
        return any(channel.filter.chars_out for channel in self.channels)

    @property
    def bytes_in(self) -> int:
        return sum(channel.bytes_in for channel in self.channels)

    def filter(self, choice: Choice) -> Filtered:
        """Takes the choice's part of a chunk, edits it in place and says what becomes of it."""
        if self.ended:
            return Filtered() if self.cut else Filtered(kept=[choice])
        whole = self._request.endpoint == "chat" and isinstance(choice.get("message"), dict)
        finish_reason = choice.get("finish_reason")
        last = whole or bool(finish_reason)
        filtered = Filtered()
        edited = False
        for name, key, holder, slot in _texts(choice):
            text = holder[slot]
            if name != "reasoning":
                filtered.before += self.release("reasoning")  # it has ended: an answer follows
            channel = self._channel(name, key)
            given = channel.feed(text)
            if last:
                given += channel.flush()
            holder[slot] = given
            edited = edited or given != text
        if edited and choice.get("logprobs"):
            choice["logprobs"] = None  # they belong to the text as it came
        if last:
            filtered.before += self.release()
        if not edited or last or _carries(choice):
            filtered.kept.append(choice)
        if self.cut and not last:
            filtered.after += self.release()
            filtered.after.append(self._cut_short())
        elif self.cut:
            choice.update(self._report(finish_reason))
        elif last and any(channel.filter.removed for channel in self.channels):
            choice["repetition"] = self._summary()
        self.ended = last or self.cut
        return filtered

    def release(self, name: ChannelName | None = None) -> list[Choice]:
        """Flushes the channels (of one name) and gives what they held."""
        held = []
        for channel in self.channels:
            if not channel.flushed and (name is None or channel.name == name) and (text := channel.flush()):
                held.append({"index": self._index, **channel.delta(text), "logprobs": None, "finish_reason": None})
        return held

    def _channel(self, name: ChannelName, key: ChannelKey) -> Channel:
        channel = self._open.get(key)
        if channel is None or channel.flushed:
            edit = name != "tool_arguments" and not (name == "content" and self._request.wants_json)
            history = self._request.earlier_answers if self._policy == "strict" else []
            config = FilterConfig(policy=self._policy, edit=edit)
            channel = Channel(name, key, RepetitionFilter(config, history=history, prompt=self._request.prompt_text))
            self._open[key] = channel
            self.channels.append(channel)
        return channel

    def _cut_short(self) -> Choice:
        """The choice's part of the chunk that ends it at a loop."""
        body: Choice = {"delta": {}} if self._request.endpoint == "chat" else {"text": ""}
        return {"index": self._index, **body, "logprobs": None, **self._report(None)}

    def _report(self, finish_reason: str | None) -> Choice:
        return {
            "finish_reason": self._finish_reason(finish_reason),
            "stop_reason": "repetition_detected",
            "repetition": self._summary(),
        }

    def _finish_reason(self, given: str | None) -> str:
        """`length` where what was cut is unusable, so that no client takes it for complete."""
        names = {channel.name for channel in self.channels}
        cut_names = {channel.name for channel in self.channels if channel.cut}
        unfinished_call = "tool_arguments" in cut_names or (given is None and "tool_arguments" in names)
        no_answer = "reasoning" in cut_names and names == {"reasoning"}
        if unfinished_call or no_answer or ("content" in cut_names and self._request.wants_json):
            return "length"
        return given or "stop"

    def _summary(self) -> dict[str, Any]:
        looping = next((channel for channel in self.channels if channel.cut), None)
        loop = None
        if looping and looping.filter.loop:
            loop = {"channel": looping.name, **asdict(looping.filter.loop)}
        return {
            "policy": self._policy,
            "loop": loop,
            "removed_chars": sum(int(channel.filter.metrics()["removed_chars"]) for channel in self.channels),
            "removed_sentences": sum(channel.filter.sentences_removed for channel in self.channels),
        }


def _texts(choice: Choice) -> Iterator[tuple[ChannelName, ChannelKey, dict[str, Any], str]]:
    """Where in the choice there is text: its channel, and the dict and the field that hold it. Reasoning comes first."""
    if isinstance(choice.get("text"), str) and choice["text"]:
        yield "content", ("text", 0), choice, "text"
    body = choice.get("message") or choice.get("delta")
    if not isinstance(body, dict):
        return
    for field_name in ("reasoning_content", "reasoning"):
        if isinstance(body.get(field_name), str) and body[field_name]:
            yield "reasoning", (field_name, 0), body, field_name
    if isinstance(body.get("content"), str) and body["content"]:
        yield "content", ("content", 0), body, "content"
    calls = body.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else []):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str) and function["arguments"]:
            yield "tool_arguments", ("tool_calls", call.get("index", position)), function, "arguments"
    function = body.get("function_call")
    if isinstance(function, dict) and isinstance(function.get("arguments"), str) and function["arguments"]:
        yield "tool_arguments", ("function_call", 0), function, "arguments"


def _carries(choice: Choice) -> bool:
    """Whether anything is left in an edited choice that a reader needs."""
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    calls = delta.get("tool_calls") or ([{"function": delta["function_call"]}] if delta.get("function_call") else [])
    if any(call.get("id") or any((call.get("function") or {}).values()) for call in calls):
        return True
    return any(value for name, value in delta.items() if name not in ("tool_calls", "function_call"))


class Completion:
    """One request on its way. `stream` or `collect` once; closing either stops the engine at once."""

    def __init__(self, request: GenerationRequest, engine: Engine, policy: Policy, telemetry: Telemetry) -> None:
        self._request = request
        self._engine = engine
        self._telemetry = telemetry
        chosen = request.repetition.policy if request.repetition else None
        self._policy: Policy = chosen or policy
        self._choices: dict[int, ChoiceState] = {}
        self._head: Chunk = {}  # the fields every chunk of the answer has: id, created, model
        self._usage: dict[str, Any] | None = None
        self._usage_given = False
        self._outcome: Outcome = "client_gone"  # unless something better becomes of it
        self._broken_off = False
        self._started_at = time.perf_counter()
        self._first_text_at: float | None = None

    def break_off(self) -> None:
        """From now on, being cancelled ends the answer as a failure does, with what was held and an error."""
        self._broken_off = True

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events. Raises `ApiError` only before its first item; later errors are events.

        An empty item says that the answer has begun, while its text is still held.
        """
        async with aclosing(self._chunks()) as chunks:
            begun = False
            try:
                async for chunk in chunks:
                    yield sse.encode(_encode(chunk)) if chunk else b""
                    begun = True
            except ApiError as error:
                if not begun:
                    raise
                yield sse.encode(_encode(error.body()))
                return
        yield sse.DONE

    async def collect(self) -> dict[str, Any]:
        """The answer as one response. Raises `ApiError`."""
        merged = Merged(self._request.endpoint)
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                merged.add(chunk)
        response = merged.response()
        if not response.get("usage"):
            response["usage"] = self._usage or self._estimated_usage()
        return response

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        """The chunks for the reader. An empty one stands for a first chunk that is held."""
        label = self._telemetry.model_label(self._model)
        self._telemetry.add("streams_in_progress", 1, label)
        try:
            async with aclosing(self._engine.generate(self._request)) as source:
                begun = False
                try:
                    async for chunk in source:
                        self._remember(chunk)
                        for given in self._filter(chunk):
                            begun = True
                            self._note_text()
                            yield given
                        if not begun:
                            begun = True
                            yield {}
                        if self._is_over():
                            break
                except ApiError as error:
                    # A refusal is the client's doing; what comes later, or from 500 on, the engine's.
                    self._outcome = "rejected" if not begun and error.status < 500 else "upstream_error"
                    for given in self._release():
                        yield given
                    raise
                except asyncio.CancelledError:
                    if not self._broken_off:
                        raise
                    self._outcome = "upstream_error"
                    for given in self._release():
                        yield given
                    raise shutting_down() from None
                except Exception:
                    self._outcome = "upstream_error"
                    _log.exception("the engine failed")
                    for given in self._release():
                        yield given
                    raise ApiError(500, "the engine failed", type="server_error", code="engine_failed") from None
            for given in self._release():
                yield given
            was_cut = any(choice.cut for choice in self._choices.values())
            if was_cut and not self._usage_given and self._request.stream and self._request.wants_usage:
                yield {**self._head, "choices": [], "usage": self._usage or self._estimated_usage()}
            self._outcome = "cut" if was_cut else "ok"
        finally:
            self._telemetry.add("streams_in_progress", -1, label)
            self._push()

    def _remember(self, chunk: Chunk) -> None:
        if not self._head and chunk.get("choices"):
            self._head = {name: chunk[name] for name in _HEAD if name in chunk}
        reported = chunk.pop(USED, None) or chunk.get("usage")
        if isinstance(reported, dict):
            self._usage = reported

    def _filter(self, chunk: Chunk) -> list[Chunk]:
        """What the reader gets for `chunk`: nothing, it, or it between others."""
        choices = chunk.get("choices") or []
        if not choices:
            # Clients that did not ask for usage read `choices[0]` of every chunk.
            self._usage_given = bool(chunk.get("usage"))
            unasked = self._request.stream and self._usage_given and not self._request.wants_usage
            return [] if unasked else [chunk]
        before: list[dict[str, Any]] = []
        kept: list[dict[str, Any]] = []
        after: list[dict[str, Any]] = []
        for position, choice in enumerate(choices):
            index = choice.get("index", position)
            if index not in self._choices:
                self._choices[index] = ChoiceState(index, self._request, self._policy)
            outcome = self._choices[index].filter(choice)
            before += outcome.before
            kept += outcome.kept
            after += outcome.after
        given = [{**self._head, "choices": [choice]} for choice in before]
        if kept:
            chunk["choices"] = kept
            given.append(chunk)
        return given + [{**self._head, "choices": [choice]} for choice in after]

    def _release(self) -> list[Chunk]:
        """Held text of choices that never finished."""
        held = [choice for state in self._choices.values() for choice in state.release()]
        return [{**self._head, "choices": [choice]} for choice in held]

    def _is_over(self) -> bool:
        """Whether nothing more can come that a reader gets: then the engine is hung up on."""
        states = self._choices.values()
        all_ended = len(states) >= self._request.num_choices and all(state.ended for state in states)
        return all_ended and any(state.cut for state in states)

    def _note_text(self) -> None:
        if self._first_text_at is None and any(state.gave_text for state in self._choices.values()):
            self._first_text_at = time.perf_counter()

    @property
    def _model(self) -> str | None:
        return self._request.model or (self._engine.models[0] if self._engine.models else None)

    def _estimated_usage(self) -> dict[str, Any]:
        output_tokens = estimate_tokens(sum(state.bytes_in for state in self._choices.values()))
        return {**usage(self._request.estimated_prompt_tokens, output_tokens), "estimated": True}

    def _push(self) -> None:
        """Counts what became of the request."""
        telemetry, label = self._telemetry, self._telemetry.model_label(self._model)
        ended_at = time.perf_counter()
        telemetry.count("requests", 1, label, self._request.endpoint, self._outcome)
        telemetry.observe("request_duration_seconds", ended_at - self._started_at, label)
        if self._first_text_at is not None:
            telemetry.observe("time_to_first_token_seconds", self._first_text_at - self._started_at, label)
        if not self._choices:
            return  # nothing was generated
        counted = self._usage or self._estimated_usage()
        for kind, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            amount = counted.get(name)
            telemetry.count("tokens", amount if isinstance(amount, int) and amount > 0 else 0, label, kind)
        channels = [channel for state in self._choices.values() for channel in state.channels]
        telemetry.observe("hold_seconds", max((channel.longest_hold for channel in channels), default=0.0), label)
        telemetry.observe("overhead_seconds", sum(channel.overhead for channel in channels), label)
        for channel in channels:
            channel.push(telemetry, label)


class Merged:
    """Chunks of one answer put together as one response. What is a whole response already stays as it is."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._chat = endpoint == "chat"
        self._response: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Chunk) -> None:
        for name, value in chunk.items():
            if name != "choices" and (value is not None or name not in self._response):
                self._response[name] = value
        for position, choice in enumerate(chunk.get("choices") or []):
            index = choice.get("index", position)
            if index not in self._choices:
                self._choices[index] = self._empty(index)
            self._add_choice(self._choices[index], choice)

    def response(self) -> dict[str, Any]:
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {**self._response, "object": kind, "choices": choices}

    def _empty(self, index: int) -> dict[str, Any]:
        text: dict[str, Any] = {"message": {"role": "assistant", "content": None}} if self._chat else {"text": ""}
        return {"index": index, **text, "logprobs": None, "finish_reason": None}

    def _add_choice(self, merged: dict[str, Any], choice: dict[str, Any]) -> None:
        for name, value in choice.items():
            if name == "delta":
                _add_delta(merged["message"], value)
            elif name == "text":
                merged["text"] += value or ""
            elif name == "logprobs":
                merged["logprobs"] = _joined(merged["logprobs"], value)
            elif value is not None:
                merged[name] = value


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            calls = message.setdefault("tool_calls", [])
            for call in value:
                _add_call(calls, call)
        elif name != "role" and isinstance(value, str) and isinstance(message.get(name), str):
            message[name] += value
        elif value is not None:
            message[name] = value


def _add_call(calls: list[dict[str, Any]], call: dict[str, Any]) -> None:
    place = call.get("index", len(calls))
    while len(calls) <= place and len(calls) < 128:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    if place >= len(calls):
        return
    merged = calls[place]
    function = call.get("function") or {}
    merged["function"]["name"] += function.get("name") or ""
    merged["function"]["arguments"] += function.get("arguments") or ""
    merged.update({name: value for name, value in call.items() if name not in ("index", "function") and value is not None})


def _joined(merged: Any, more: Any) -> Any:
    if not isinstance(merged, dict) or not isinstance(more, dict):
        return more or merged
    return {name: _sum(merged.get(name), more.get(name)) for name in {**merged, **more}}


def _sum(one: Any, other: Any) -> Any:
    return one + other if isinstance(one, list) and isinstance(other, list) else other or one
