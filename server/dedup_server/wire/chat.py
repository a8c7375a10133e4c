"""Chat and text completions: several choices, each with channels of its own, in chunks or whole.

What a chunk says is looked at through a typed view; one whose text stays as it is leaves as the bytes it came as. All others are read
in full, edited and written again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from dedup.lenient_json import as_text, read_json, write_json
from dedup_server.channel import Channel, Editing
from dedup_server.engines.base import USED
from dedup_server.errors import ApiError, UpstreamRefusalError, upstream_failed
from dedup_server.schema import Endpoint, estimate_tokens, usage
from dedup_server.telemetry import ChannelName
from dedup_server.wire.body import read_object
from dedup_server.wire.report import is_unusable, summary
from dedup_server.wire.sse import DONE, Event, encode
from dedup_server.wire.view import ChunkView, read_view

# What every chunk of an answer carries, those that are made here too.
_HEAD: Final = ("id", "object", "created", "model", "system_fingerprint")

Choice = dict[str, Any]
Chunk = dict[str, Any]
_Key = tuple[str, int]  # the field of a delta, and which tool call


_MAX_FRAMES: Final = (
    16  # learnt; where each chunk has another, learning them costs more than it saves
)

_text: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.Encoder().encode


@dataclass
class _Filtered:
    """What became of a choice's part of a chunk: what goes before it, itself if anything is left of it, what goes after."""

    before: list[Choice] = field(default_factory=list)
    kept: list[Choice] = field(default_factory=list)
    after: list[Choice] = field(default_factory=list)
    changed: bool = False


@dataclass(slots=True)
class _Fed:
    """A text that its channel was fed, and what the channel gave for it."""

    state: "_ChoiceState"
    channel: Channel
    text: str
    given: str
    changed: bool


class _ChoiceState:
    """One choice of an answer: its channels, and how it ends."""

    def __init__(
        self, index: int, is_chat: bool, editing: Editing, heals: bool, keeps: bool
    ) -> None:
        self.ended = False
        self.waits = False  # cut at a loop, and may yet go on
        self._heals = heals
        self._keeps = keeps
        self._begins_with = ""  # goes before the next text
        self.channels: list[Channel] = []
        self.last: tuple[str, Channel] | None = (
            None  # the field and the channel that text went to last
        )
        self._open: dict[_Key, Channel] = {}
        self._index = index
        self._is_chat = is_chat
        self._editing = editing

    @property
    def cut(self) -> bool:
        return any(channel.cut for channel in self.channels)

    @property
    def bytes_in(self) -> int:
        return sum(channel.bytes_in for channel in self.channels)

    @property
    def _can_go_on(self) -> bool:
        """Return whether there is more to say behind a cut: in content alone, and not in JSON that is complete."""
        if {channel.name for channel in self.channels} != {"content"}:
            return False
        return not (
            self._editing.wants_json and all(channel.is_whole_json for channel in self.channels)
        )

    def filter(self, choice: Choice, fed: _Fed | None = None) -> _Filtered:
        """Takes the choice's part of a chunk, edits it in place and says what becomes of it.

        fed: what became of its only text, if that was fed already.
        """
        if self.ended:
            return _Filtered(changed=True) if self.cut else _Filtered(kept=[choice])
        whole = self._is_chat and isinstance(choice.get("message"), dict)
        finish_reason = choice.get("finish_reason")
        last = whole or bool(finish_reason)
        filtered = _Filtered()
        edited = False
        for name, key, holder, slot in _texts(choice):
            text = holder[slot]
            if self._begins_with and name == "content":
                text, self._begins_with = self._begins_with + text, ""
                edited = True
            if name != "reasoning":
                filtered.before += self.release("reasoning")  # it has ended: an answer follows
            channel = self._channel(name, key)
            given = channel.feed(text) if fed is None else fed.given
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
            self.waits = self._heals and self._can_go_on
            if not self.waits:
                filtered.after += self.end_short()
        elif self.cut:
            choice.update(self._report(finish_reason))
        elif last and any(channel.filter.removed for channel in self.channels):
            choice["repetition"] = summary(self._editing.policy, self.channels)
        self.ended = last or self.cut
        filtered.changed = bool(
            edited
            or not filtered.kept
            or filtered.before
            or filtered.after
            or self.cut
            or "repetition" in choice
        )
        return filtered

    def release(self, name: ChannelName | None = None) -> list[Choice]:
        """Flushes the channels (of one name) and gives what they held."""
        held = []
        for key, channel in self._open.items():
            if (
                not channel.flushed
                and (name is None or channel.name == name)
                and (text := channel.flush())
            ):
                held.append(
                    {
                        "index": self._index,
                        **_delta(key, text),
                        "logprobs": None,
                        "finish_reason": None,
                    }
                )
        return held

    def end_short(self) -> list[Choice]:
        """How the choice ends at a loop."""
        self.waits = False
        return [*self.release(), self._cut_short()]

    @property
    def said(self) -> str:
        """The content that the reader got."""
        return "".join(
            part
            for channel in self.channels
            if channel.name == "content"
            for part in channel.given or ()
        )

    def resume(self, begins_with: str) -> None:
        """Goes on behind a cut."""
        self._begins_with = begins_with
        for channel in self.channels:
            if channel.cut:
                channel.resume()
        self.ended = self.waits = False

    def _channel(self, name: ChannelName, key: _Key) -> Channel:
        channel = self._open.get(key)
        if channel is None or channel.flushed:
            channel = self._open[key] = self._editing.channel(name)
            self.channels.append(channel)
            if self._keeps:
                channel.given = []
        self.last = (key[0], channel)
        return channel

    def _cut_short(self) -> Choice:
        """The choice's part of the chunk that ends it at a loop."""
        body: Choice = {"delta": {}} if self._is_chat else {"text": ""}
        return {"index": self._index, **body, "logprobs": None, **self._report(None)}

    def _report(self, finish_reason: str | None) -> Choice:
        return {
            "finish_reason": self._finish_reason(finish_reason),
            "stop_reason": "repetition_detected",
            "repetition": summary(self._editing.policy, self.channels),
        }

    def _finish_reason(self, given: str | None) -> str:
        """`length` where what was cut is unusable, so that no client takes it for complete."""
        calls = [channel for channel in self.channels if channel.name == "tool_arguments"]
        if is_unusable(self.channels, self._editing, calls if given in (None, "length") else ()):
            return "length"
        if given and given != "length":
            return given
        if not calls:
            return "stop"
        return "function_call" if ("function_call", 0) in self._open else "tool_calls"


@dataclass(slots=True)
class _Frame:
    """The bytes around the text of a chunk that carries nothing else."""

    state: _ChoiceState
    channel: Channel
    before: bytes
    after: bytes


def _frame_of(data: bytes, fed: _Fed) -> _Frame | None:
    """The frame of the next chunks, if they are like `data`."""
    text = _encode(fed.text)
    before, found, after = data.partition(text)
    if (
        not found
        or text in after
        or not before.endswith((b'"content":', b'"content": ', b'"text":', b'"text": '))
    ):
        return None
    chunk = read_object(data)
    choice = chunk["choices"][0]
    holder = choice if "text" in choice else choice["delta"]
    holder["text" if "text" in choice else "content"] = ""
    return (
        None
        if _carries(choice) or choice.get("logprobs")
        else _Frame(fed.state, fed.channel, before, after)
    )


def _texts(choice: Choice) -> Iterator[tuple[ChannelName, _Key, dict[str, Any], str]]:
    """Where in the choice there is text: its channel, and the dict and the field that hold it. Reasoning comes first."""
    if isinstance(choice.get("text"), str) and choice["text"]:
        yield "content", ("text", 0), choice, "text"
    body = choice.get("message") or choice.get("delta")
    if not isinstance(body, dict):
        return
    names: tuple[tuple[ChannelName, str], ...] = (
        ("reasoning", "reasoning_content"),
        ("reasoning", "reasoning"),
        ("content", "content"),
        ("content", "refusal"),
    )
    for name, slot in names:
        if isinstance(body.get(slot), str) and body[slot]:
            yield name, (slot, 0), body, slot
    calls = body.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else []):
        function = call.get("function") if isinstance(call, dict) else None
        if (
            isinstance(function, dict)
            and isinstance(function.get("arguments"), str)
            and function["arguments"]
        ):
            index = call.get("index")
            yield (
                "tool_arguments",
                ("tool_calls", index if isinstance(index, int) else position),
                function,
                "arguments",
            )
    function = body.get("function_call")
    if (
        isinstance(function, dict)
        and isinstance(function.get("arguments"), str)
        and function["arguments"]
    ):
        yield "tool_arguments", ("function_call", 0), function, "arguments"


def _delta(key: _Key, text: str) -> Choice:
    """`text` at its place in a choice of a chunk."""
    slot, call = key
    if slot == "text":
        return {"text": text}
    if slot == "tool_calls":
        return {"delta": {"tool_calls": [{"index": call, "function": {"arguments": text}}]}}
    return {"delta": {slot: {"arguments": text} if slot == "function_call" else text}}


def _carries(choice: Choice) -> bool:
    """Whether anything is left in an edited choice that a reader needs."""
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    calls = delta.get("tool_calls") or (
        [{"function": delta["function_call"]}] if delta.get("function_call") else []
    )
    if any(
        call.get("id") or any((call.get("function") or {}).values())
        for call in calls
        if isinstance(call, dict)
    ):
        return True
    return any(
        value for name, value in delta.items() if name not in ("tool_calls", "function_call")
    )


class ChatAnswer:
    """See `dedup_server.wire.base`. wants_usage: a streamed answer ends with its usage. prompt_tokens: an estimate, used after a cut.
    heals: at a loop in its content it `waits`: to be resumed with what an engine says in the loop's stead, or to end.
    keeps: `said` and `looped` are wanted in any case.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        editing: Editing,
        *,
        num_choices: int = 1,
        wants_usage: bool = False,
        prompt_tokens: int = 0,
        heals: bool = False,
        keeps: bool = False,
    ) -> None:
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self._is_chat = endpoint == "chat"
        self._editing = editing
        self._num_choices = num_choices
        self._wants_usage = wants_usage
        self._prompt_tokens = prompt_tokens
        self._heals = heals and num_choices == 1
        self._keeps = keeps or self._heals
        self._resumed = False
        self._used_before = 0  # output tokens of the attempts before this one
        self._estimated_before = False
        self._choices: dict[int, _ChoiceState] = {}
        self._head: Chunk = {}  # the fields every chunk of the answer has: id, created, model
        self._usage: dict[str, Any] | None = None
        self._usage_given = False
        self._done = False
        self._frame: _Frame | None = None
        self._frames_left = _MAX_FRAMES
        self.over = self.failed = False

    @property
    def channels(self) -> list[Channel]:
        return [channel for state in self._choices.values() for channel in state.channels]

    @property
    def cut(self) -> bool:
        return any(state.cut for state in self._choices.values())

    @property
    def waits(self) -> bool:
        """Whether it was cut at a loop and can be resumed."""
        return any(state.waits for state in self._choices.values())

    @property
    def said(self) -> str:
        """The content that the reader got, of an answer that keeps it."""
        return "".join(state.said for state in self._choices.values())

    @property
    def looped(self) -> str:
        """What came of the loop that the answer was cut at, and was given to nobody, if the answer keeps that."""
        return "".join(channel.looped for channel in self.channels if channel.cut)

    def resume(self, begins_with: str = "") -> None:
        """What is fed from here on is another stream of events, which goes on with the text in the loop's stead, behind `begins_with`."""
        for state in self._choices.values():
            if state.waits:
                state.resume(begins_with)
        self._used_before, self._estimated_before = (
            self.num_tokens,
            self._estimated_before or self.output_tokens is None,
        )
        self.input_tokens = self._prompt_tokens if self.input_tokens is None else self.input_tokens
        self.over = self._done = False
        self._resumed = True
        self._frame, self._frames_left = None, 0

    @property
    def num_tokens(self) -> int:
        """Generated so far; estimated where the engine did not say."""
        if self.output_tokens is not None:
            return self.output_tokens
        return estimate_tokens(sum(state.bytes_in for state in self._choices.values()))

    @property
    def complete(self) -> bool:
        return self._done or (
            bool(self._choices) and all(state.ended for state in self._choices.values())
        )

    def feed(self, event: Event) -> bytes:
        data = event.data
        if (frame := self._frame) and data.startswith(frame.before) and data.endswith(frame.after):
            given = self._feed_framed(frame, event)
            if given is not None:
                return given
        try:
            view = read_view(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            view = None  # the end, an error, or something unusual
            event = Event(as_text(data), event.name)
        fed = self._feed_plain(view) if view is not None and not self._resumed else None
        if fed is not None:
            self._learn_frame(event, fed)
            if not fed.changed:
                return event.encode()
        chunks, changed = self._edit(event, fed)
        return self._write(chunks) if changed else event.encode()

    def chunks(self, event: Event) -> list[Chunk]:
        """What the reader gets for `event`, as chunks. Raises `ApiError`."""
        return self._edit(event)[0]

    def _learn_frame(self, event: Event, fed: _Fed) -> None:
        self._frame = None
        if self._num_choices == 1 and not event.name and self._frames_left and not fed.channel.cut:
            self._frames_left -= 1
            self._frame = _frame_of(event.data, fed)

    def _feed_framed(self, frame: _Frame, event: Event) -> bytes | None:
        """The commonest chunk: the one before with another text. None if it is not that."""
        data = event.data
        try:
            text = _text(data[len(frame.before) : -len(frame.after)])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        channel = frame.channel
        if channel.flushed or not text:
            return None
        given = channel.feed(text)
        if channel.cut:
            self._frame = None
            chunks, _ = self._edit(event, _Fed(frame.state, channel, text, given, changed=True))
            return self._write(chunks)
        if given == text:
            return event.encode()
        return b"data: %b%b%b\n\n" % (frame.before, _encode(given), frame.after) if given else b""

    def _feed_plain(self, view: ChunkView) -> _Fed | None:
        """Feeds the text of a chunk that only goes on with the text of the chunk before."""
        if len(view.choices) != 1 or view.usage or view.error:
            return None
        choice = view.choices[0]
        state = self._choices.get(choice.index)
        if state is None or state.last is None or state.ended or choice.finish_reason:
            return None
        plain = choice.plain()
        slot, channel = state.last
        if plain is None or plain[0] != slot or channel.flushed:
            return None
        text = plain[1]
        given = channel.feed(text)
        return _Fed(state, channel, text, given, changed=given != text or channel.cut)

    def _edit(self, event: Event, fed: _Fed | None = None) -> tuple[list[Chunk], bool]:
        """What the reader gets for `event`, and whether that is anything else than what came."""
        if event.name == USED:
            self._note_usage(read_json(event.data))
            return [], True
        if event.data == b"[DONE]":
            self._done = True
            return [], True
        chunk = read_object(event.data)
        if error := chunk.get("error") or (chunk if chunk.get("object") == "error" else None):
            raise UpstreamRefusalError(
                502, error if isinstance(error, dict) else {"message": str(error)}
            )
        choices = _choices(chunk, "the upstream sent a chunk without choices")
        if self._resumed:
            chunk.update({name: value for name, value in self._head.items() if name in chunk})
            choices = chunk["choices"] = [choice for choice in choices if _goes_on(choice)]
            if not choices and not chunk.get("usage"):
                return [], True
        if isinstance(chunk.get("usage"), dict):
            self._note_usage(chunk["usage"])
            self._usage_given = True
        if not choices:
            return [chunk], self._resumed
        if not self._head:
            self._head = {name: chunk[name] for name in _HEAD if name in chunk}
        chunks, changed = self._filter(chunk, choices, fed)
        return chunks, changed or self._resumed

    def end(self) -> bytes:
        return self._write(self.last_chunks()) + DONE

    def last_chunks(self) -> list[Chunk]:
        """Held text of choices that never finished; after a cut the usage, if it was asked for and can no longer come."""
        waiting = [
            choice
            for state in self._choices.values()
            if state.waits
            for choice in state.end_short()
        ]
        last = [{**self._head, "choices": [choice]} for choice in waiting] + self._release()
        if self.cut and self._wants_usage and not self._usage_given:
            last.append({**self._head, "choices": [], "usage": self.usage()})
        return last

    def fail(self, error: ApiError) -> bytes:
        return self._write(self._release()) + encode(write_json(error.body()))

    def whole(self, body: bytes) -> bytes:
        body = as_text(body)
        response = read_object(body)
        choices = _choices(response, "the upstream's answer has no choices")
        if isinstance(response.get("usage"), dict):
            self._note_usage(response["usage"])
        changed = False
        for position, choice in enumerate(choices):
            changed = self._state(choice, position).filter(choice).changed or changed
        self._done = True
        return write_json(response) if changed else body

    def usage(self) -> dict[str, Any]:
        """As the engine reported it; estimated, and saying so, where it did not."""
        if self._usage:
            return self._usage
        return {**usage(self._prompt_tokens, self.num_tokens), "estimated": True}

    def _note_usage(self, reported: dict[str, Any]) -> None:
        """Of an answer that was resumed, all attempts count; what each began with was said already."""
        if self._used_before and (given := _count(reported, "completion_tokens")) is not None:
            reported.update(usage(self.input_tokens or 0, self._used_before + given))
            if self._estimated_before:
                reported["estimated"] = True
        self._usage = reported
        self.input_tokens, self.output_tokens = (
            _count(reported, "prompt_tokens"),
            _count(reported, "completion_tokens"),
        )

    def _state(self, choice: Choice, position: int) -> _ChoiceState:
        index = choice.get("index")
        index = index if isinstance(index, int) else position
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _ChoiceState(
                index, self._is_chat, self._editing, self._heals, self._keeps
            )
        return state

    def _filter(
        self, chunk: Chunk, choices: list[Choice], fed: _Fed | None
    ) -> tuple[list[Chunk], bool]:
        """What the reader gets for `chunk`: nothing, it, or it between others; and whether it is anything but `chunk`."""
        before: list[Choice] = []
        kept: list[Choice] = []
        after: list[Choice] = []
        changed = False
        for position, choice in enumerate(choices):
            outcome = self._state(choice, position).filter(choice, fed)
            before += outcome.before
            kept += outcome.kept
            after += outcome.after
            changed = changed or outcome.changed
        if fed is None:
            self._frame = None  # other text came between
        states = self._choices.values()
        self.over = (
            len(states) >= self._num_choices and all(state.ended for state in states) and self.cut
        )
        given = [{**self._head, "choices": [choice]} for choice in before]
        if kept:
            chunk["choices"] = kept
            given.append(chunk)
        return given + [{**self._head, "choices": [choice]} for choice in after], changed

    def _release(self) -> list[Chunk]:
        held = [choice for state in self._choices.values() for choice in state.release()]
        return [{**self._head, "choices": [choice]} for choice in held]

    @staticmethod
    def _write(chunks: list[Chunk]) -> bytes:
        return b"".join([encode(write_json(chunk)) for chunk in chunks])


def _goes_on(choice: Choice) -> bool:
    """Whether a choice's part of a chunk is more than the role with which a stream begins: the reader has that already."""
    delta = choice.get("delta")
    return (
        bool(choice.get("finish_reason"))
        or not isinstance(delta, dict)
        or any(delta[name] for name in delta if name != "role")
    )


def _choices(chunk: Chunk, otherwise: str) -> list[Choice]:
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise upstream_failed(otherwise)
    if any(
        not isinstance(choice.get(name), dict | None)
        for choice in choices
        for name in ("delta", "message")
    ):
        raise upstream_failed(otherwise)
    return choices


def _count(reported: dict[str, Any], name: str) -> int | None:
    value = reported.get(name)
    return value if isinstance(value, int) and value >= 0 else None
