"""Answers of OpenAI's Responses API.

An answer is a list of items, an item has parts, and each text is said many times over: in its deltas, when it is done, when its part,
its item and the response are. Wherever it is said again it must be what the deltas said.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dedup.config import Policy
from dedup.lenient_json import write_json
from dedup_server.channel import Channel, Editing
from dedup_server.errors import ApiError, upstream_failed
from dedup_server.schema import estimate_tokens
from dedup_server.telemetry import ChannelName
from dedup_server.wire import report
from dedup_server.wire.body import asked, read_object, said
from dedup_server.wire.sse import Event, encode

STOP_REASON = "repetition_detected"

Message = dict[str, Any]
ItemKey = int | str  # an item's place in the output; its id, where the engine does not say


class _Kind(NamedTuple):
    """A kind of text. field: what has all of it. part: the type of the part that it is. parts: the list of its item that has it."""

    name: str
    channel: ChannelName
    field: str
    part: str = ""
    parts: str = ""

    @property
    def place(self) -> str:
        """The field of an event that says which part it is about."""
        return f"{self.parts}_index"


_KINDS = (
    _Kind("output_text", "content", "text", "output_text", "content"),
    _Kind("refusal", "content", "refusal", "refusal", "content"),
    _Kind("reasoning_text", "reasoning", "text", "reasoning_text", "content"),
    _Kind("reasoning_summary_text", "reasoning", "text", "summary_text", "summary"),
    _Kind("function_call_arguments", "tool_arguments", "arguments"),
    _Kind("mcp_call_arguments", "tool_arguments", "arguments"),
    _Kind("custom_tool_call_input", "tool_arguments", "input"),
)
_BY_DELTA = {f"response.{kind.name}.delta": kind for kind in _KINDS}
_BY_DONE = {f"response.{kind.name}.done": kind for kind in _KINDS}
_BY_PART = {kind.part: kind for kind in _KINDS if kind.part}
_BY_ITEM = dict(zip(("function_call", "mcp_call", "custom_tool_call"), _KINDS[4:], strict=True))
# By the event that says a part begins: the one that says it is done. vLLM has the last.
_PARTS = {
    f"response.{part}.added": f"response.{part}.done"
    for part in ("content_part", "reasoning_summary_part", "reasoning_part")
}
_PARTS_DONE = frozenset(_PARTS.values())
_LAST = frozenset(
    f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled")
)


def responses_editing(body: Message, policy: Policy) -> Editing:
    """How the answer to the request `body` is to be edited."""
    given, text = body.get("input"), body.get("text")
    prompt = given if isinstance(given, str) else asked(given)
    form = text.get("format") if isinstance(text, dict) else None
    wants_json = isinstance(form, dict) and str(form.get("type", "")).startswith("json")
    return Editing(policy, prompt, said(given, "assistant"), wants_json)


@dataclass(slots=True)
class _Text:
    """A text on its way. head: what its events say of its place. last: its last delta; held text comes in a copy of it."""

    kind: _Kind
    channel: Channel
    head: Message
    last: Message = field(default_factory=dict)
    done: bool = False  # the reader was told
    _given: list[str] = field(default_factory=list)
    _num_in: int = 0
    _num_out: int = 0

    def feed(self, text: str) -> str:
        self._num_in += len(text)
        return self._give(text if self.channel.flushed else self.channel.feed(text))

    def flush(self) -> str:
        return self._give(self.channel.flush())

    @property
    def given(self) -> str:
        return "".join(self._given)

    @property
    def edited(self) -> bool:
        """Whether the reader got less than came. Only at its end: until then some may be held."""
        return self._num_in != self._num_out

    def put(self, holder: Message) -> None:
        """Makes `holder`, a part, an item or an event, say what the reader got.

        Logprobs go with the text that they belong to, and so do annotations of places behind the first that was removed.
        """
        holder[self.kind.field] = self.given
        if self.edited and holder.get("logprobs"):
            holder["logprobs"] = []
        if self.edited and isinstance(holder.get("annotations"), list):
            holder["annotations"] = [
                annotation for annotation in holder["annotations"] if self.fits(annotation)
            ]

    def fits(self, annotation: object) -> bool:
        """Whether the annotation is about a place before all that was removed."""
        if not isinstance(annotation, dict):
            return True
        places = (
            ("start_index", "end_index")
            if annotation.get("type") == "file_path"
            else ("start_index", "end_index", "index")
        )
        removed = self.channel.filter.removed
        return not removed or all(
            annotation[name] <= removed[0].start
            for name in places
            if type(annotation.get(name)) is int
        )

    def _give(self, text: str) -> str:
        self._num_out += len(text)
        self._given.append(text)
        return text


@dataclass(slots=True)
class _Part:
    """A part of an item. begun: the event that began it."""

    begun: Message
    part: Message
    done: bool = False


@dataclass(slots=True)
class _Item:
    """An item of the output, as far as it has come. begun: the event that began it. item: None until it is known."""

    begun: Message = field(default_factory=dict)
    item: Message | None = None
    done: bool = False
    texts: dict[tuple[_Kind, int], _Text] = field(default_factory=dict)
    parts: dict[tuple[str, int], _Part] = field(
        default_factory=dict
    )  # by the list they are in and their place there

    def filled(self, status: str) -> Message:
        """The item with the texts that the reader got."""
        item = dict(self.item or {})
        parts = {place: part.part for place, part in self.parts.items()}
        for (kind, index), text in self.texts.items():
            text.put(parts.setdefault((kind.parts, index), _new_part(kind)) if kind.part else item)
        for name in {name for name, _ in parts}:
            item[name] = [parts[place] for place in sorted(parts) if place[0] == name]
        if "status" in item:
            item["status"] = status
        return item


class ResponsesAnswer:
    """One response, streamed or whole."""

    def __init__(self, editing: Editing) -> None:
        self.channels: list[Channel] = []
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.complete = False
        self.over = False
        self.failed = False  # the engine has said so itself
        self._editing = editing
        self._response: Message = {}  # as the engine announced it
        self._items: dict[ItemKey, _Item] = {}
        self._keys: dict[str, ItemKey] = {}  # by an item's id
        self._last_number: int | None = (
            None  # the last sequence number that the reader got; None where events have none
        )
        self._shift = 0  # events added less events dropped

    @property
    def cut(self) -> bool:
        return any(channel.cut for channel in self.channels)

    def feed(self, event: Event) -> bytes:
        if self.over:
            return b""
        if not event.data or event.data == b"[DONE]":
            return event.encode()
        message = read_object(event.data)
        kind = message.get("type")
        if not isinstance(kind, str):
            if message.get("error"):
                raise upstream_failed("the upstream failed in the middle of its answer")
            return self._pass(event, message)
        if kind in _BY_DELTA:
            return self._delta(event, message, _BY_DELTA[kind])
        if kind in _LAST:
            return self._finish(event, message, kind)
        if kind.endswith(".done"):
            return self._done(event, message, kind)
        if kind == "response.output_text.annotation.added" and not self._annotates(message):
            return self._drop(message)
        if kind == "error":
            self.complete = self.failed = True
            return self._release_all() + self._pass(event, message)
        self._note(message, kind)
        return self._pass(event, message)

    def end(self) -> bytes:
        return b"" if self.over else self._release_all()

    def fail(self, error: ApiError) -> bytes:
        if self.over:
            return b""
        last = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": 0,
        }
        return self._release_all() + self._made(last)

    def whole(self, body: bytes) -> bytes:
        response = read_object(body)
        if not isinstance(response.get("output"), list):
            raise upstream_failed("the upstream's answer has no output")
        self.complete = True
        self._count(response)
        for text, holder in self._in_response(response):
            self._settle(text, holder)
        return write_json(response) if self._report(response) else body

    def _delta(self, event: Event, message: Message, kind: _Kind) -> bytes:
        delta = message.get("delta")
        if not isinstance(delta, str):
            return self._pass(event, message)
        item, index = self._item(message), _index(message, kind.place)
        text = item.texts.get((kind, index)) or self._begin(item, kind, index, message)
        given = text.feed(delta)
        text.last = message
        cut = text.channel.cut and not text.done
        if given == delta and not cut:
            return self._pass(event, message)
        sent = (
            self._pass(event, _with_delta(message, given), changed=True)
            if given
            else self._drop(message)
        )
        return sent + (self._close() if cut else b"")

    def _done(self, event: Event, message: Message, kind: str) -> bytes:
        """A text, a part or an item has ended."""
        item, sent, changed = self._item(message), b"", False
        places = self._in_done(item, message, kind)
        for text, holder in places:
            sent += self._release(text)
            if text.channel.cut and not text.done:
                return sent + self._drop(message) + self._close()
            changed = self._settle(text, holder) or changed
        if kind == "response.output_item.done":
            item.done = True
        elif kind in _PARTS_DONE and (part := item.parts.get(_part_place(message))):
            part.done = True
        return sent + self._pass(event, message, changed)

    def _finish(self, event: Event, message: Message, kind: str) -> bytes:
        """The event with the whole response."""
        response, sent, changed = message.get("response"), b"", False
        if isinstance(response, dict):
            self._count(response)
            for text, holder in self._in_response(response):
                sent += self._release(text)
                changed = self._settle(text, holder) or changed
        sent += self._release_all()
        self.complete, self.failed = True, kind == "response.failed"
        if isinstance(response, dict) and not self.failed:
            changed = self._report(response) or changed
            if self.cut and kind == "response.completed" and self._is_unusable():
                message["type"] = "response.incomplete"
                event = Event(event.data, event.name and b"response.incomplete")
        self.over = self.cut
        return sent + self._pass(event, message, changed)

    def _close(self) -> bytes:
        """The rest of a response that ends at a loop."""
        status = "incomplete" if self._is_unusable() else "completed"
        sent = b"".join(
            self._close_item(item, status) for item in self._items.values() if not item.done
        )
        output = [item.item for item in self._items.values() if item.item is not None]
        response = {
            **self._response,
            "status": status,
            "output": output,
            "usage": self._estimated_usage(),
        }
        self._report(response)
        self.complete = self.over = True
        return sent + self._made({"type": f"response.{status}", "response": response})

    def _close_item(self, item: _Item, status: str) -> bytes:
        sent = b""
        for text in item.texts.values():
            if not text.done:
                text.done = True
                sent += self._release(text)
                logprobs: Message = {"logprobs": []} if text.kind.name == "output_text" else {}
                done = {
                    "type": f"response.{text.kind.name}.done",
                    **text.head,
                    text.kind.field: text.given,
                    **logprobs,
                }
                sent += self._made(done)
        filled = item.filled(status)
        for part in item.parts.values():
            if not part.done:
                part.done = True
                sent += self._made(
                    {**part.begun, "type": _PARTS[part.begun["type"]], "part": part.part}
                )
        item.done = True
        if item.item is not None:
            item.item = filled
            sent += self._made({**item.begun, "type": "response.output_item.done", "item": filled})
        return sent

    def _report(self, response: Message) -> bool:
        """Makes the response say what became of its texts. Returns whether that is anything."""
        texts = [text for item in self._items.values() for text in item.texts.values()]
        if not self.cut and not any(text.edited for text in texts):
            return False
        if isinstance(response.get("output_text"), str):
            response["output_text"] = "".join(
                text.given for text in texts if text.kind.name == "output_text"
            )
        if self.cut:
            response["stop_reason"] = STOP_REASON
            if self._is_unusable():
                response["status"] = "incomplete"
                response["incomplete_details"] = {"reason": "max_output_tokens"}
                for item in self._items.values():
                    if (
                        item.item
                        and "status" in item.item
                        and any(text.channel.cut for text in item.texts.values())
                    ):
                        item.item["status"] = "incomplete"
        response["repetition"] = report.summary(self._editing.policy, self.channels)
        return True

    def _is_unusable(self) -> bool:
        """Whether the cut left something that no client may take for complete."""
        texts = [text for item in self._items.values() for text in item.texts.values()]
        open_calls = [
            text.channel
            for text in texts
            if text.kind.channel == "tool_arguments" and not text.done
        ]
        return report.is_unusable(self.channels, self._editing, open_calls)

    # Where a text is said again

    def _in_done(self, item: _Item, message: Message, kind: str) -> Iterator[tuple[_Text, Message]]:
        """The texts of an event that ends one, each with what has all of it."""
        if kind in _BY_DONE:
            yield from self._find(
                item, _BY_DONE[kind], _index(message, _BY_DONE[kind].place), message, message
            )
        elif kind in _PARTS_DONE and isinstance(message.get("part"), dict):
            place = _part_place(message)
            if place in item.parts:
                item.parts[place].part = message["part"]
            yield from self._in_part(item, message["part"], place[1], message)
        elif kind == "response.output_item.done" and isinstance(message.get("item"), dict):
            item.begun = item.begun or message
            yield from self._in_item(item, message["item"], message)

    def _in_response(self, response: Message) -> Iterator[tuple[_Text, Message]]:
        output = response.get("output")
        for position, whole in enumerate(output if isinstance(output, list) else []):
            if isinstance(whole, dict):
                key = (
                    self._keys.get(whole["id"], position)
                    if isinstance(whole.get("id"), str)
                    else position
                )
                yield from self._in_item(
                    self._items.setdefault(key, _Item()), whole, {"output_index": position}
                )

    def _in_item(
        self, item: _Item, whole: Message, head: Message
    ) -> Iterator[tuple[_Text, Message]]:
        item.item = whole
        head = {**head, "item_id": whole["id"]} if isinstance(whole.get("id"), str) else head
        for name in ("summary", "content"):
            parts = whole.get(name)
            for index, part in enumerate(parts if isinstance(parts, list) else []):
                if isinstance(part, dict):
                    yield from self._in_part(item, part, index, {**head, f"{name}_index": index})
        kind = whole.get("type")
        if isinstance(kind, str) and kind in _BY_ITEM:
            yield from self._find(item, _BY_ITEM[kind], 0, whole, head)

    def _in_part(
        self, item: _Item, part: Message, index: int, head: Message
    ) -> Iterator[tuple[_Text, Message]]:
        kind = part.get("type")
        if isinstance(kind, str) and kind in _BY_PART:
            yield from self._find(item, _BY_PART[kind], index, part, head)

    def _find(
        self, item: _Item, kind: _Kind, index: int, holder: Message, head: Message
    ) -> Iterator[tuple[_Text, Message]]:
        text = item.texts.get((kind, index))
        whole = holder.get(kind.field)
        if text is None and isinstance(whole, str) and whole:  # it came without deltas
            text = self._begin(item, kind, index, head)
            text.feed(whole)
            text.flush()
        if text is not None:
            yield text, holder

    def _settle(self, text: _Text, holder: Message) -> bool:
        """Puts what the reader got of a text that has ended. Returns whether that is anything else."""
        text.flush()
        text.done = True
        if text.edited:
            text.put(holder)
        return text.edited

    # What has begun

    def _note(self, message: Message, kind: str) -> None:
        if kind in _PARTS and isinstance(message.get("part"), dict):
            self._item(message).parts[_part_place(message)] = _Part(message, message["part"])
        elif kind == "response.output_item.added" and isinstance(message.get("item"), dict):
            item = self._item(message)
            item.begun, item.item = message, message["item"]
        elif isinstance(message.get("response"), dict):
            self._response = message["response"]

    def _annotates(self, message: Message) -> bool:
        """Whether an annotation is about what the reader got."""
        item, index, annotation = (
            self._item(message),
            _index(message, "content_index"),
            message.get("annotation"),
        )
        text, part = (
            item.texts.get((_BY_PART["output_text"], index)),
            item.parts.get(("content", index)),
        )
        if text and not text.fits(annotation):
            return False
        if part and isinstance(part.part.get("annotations"), list):
            part.part["annotations"].append(annotation)
        return True

    def _item(self, message: Message) -> _Item:
        """The item that an event is about."""
        whole, key = message.get("item"), message.get("output_index")
        name = whole.get("id") if isinstance(whole, dict) else message.get("item_id")
        if type(key) is not int:
            key = self._keys.get(name, name) if isinstance(name, str) else 0
        if isinstance(name, str) and name:
            self._keys[name] = key
        item = self._items.get(key)
        if item is None:
            item = self._items[key] = _Item()
        return item

    def _begin(self, item: _Item, kind: _Kind, index: int, message: Message) -> _Text:
        channel = self._editing.channel(kind.channel)
        self.channels.append(channel)
        head = {
            name: message[name]
            for name in ("item_id", "output_index", kind.place)
            if name in message
        }
        text = item.texts[kind, index] = _Text(kind, channel, head)
        return text

    def _count(self, response: Message) -> None:
        usage = response.get("usage")
        for name in ("input_tokens", "output_tokens"):
            if isinstance(usage, dict) and type(usage.get(name)) is int:
                setattr(self, name, usage[name])

    def _estimated_usage(self) -> Message:
        """The engine will report none."""
        reasoning = sum(
            channel.bytes_in for channel in self.channels if channel.name == "reasoning"
        )
        output_tokens = estimate_tokens(sum(channel.bytes_in for channel in self.channels))
        conversation = "".join((*self._editing.history, self._editing.prompt))
        input_tokens = self.input_tokens or estimate_tokens(
            len(conversation.encode("utf-8", "replace"))
        )
        return {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": estimate_tokens(reasoning)},
            "total_tokens": input_tokens + output_tokens,
            "estimated": True,
        }

    # Events on their way

    def _pass(self, event: Event, message: Message, changed: bool = False) -> bytes:
        """The event under its number: the very same, where nothing in it has changed."""
        number = message.get("sequence_number")
        if type(number) is int:
            self._last_number = number + self._shift
            if self._shift:
                message["sequence_number"] = self._last_number
                changed = True
        return encode(write_json(message) if changed else event.data, event.name)

    def _drop(self, message: Message) -> bytes:
        if type(message.get("sequence_number")) is int:
            self._shift -= 1
        return b""

    def _made(self, message: Message) -> bytes:
        """An event of our own."""
        if self._last_number is not None:
            self._last_number += 1
            self._shift += 1
            message["sequence_number"] = self._last_number
        return encode(write_json(message), message["type"].encode())

    def _release(self, text: _Text) -> bytes:
        """What was held of a text that has ended."""
        given = text.flush()
        return self._made(_with_delta(dict(text.last), given)) if given else b""

    def _release_all(self) -> bytes:
        return b"".join(
            self._release(text) for item in self._items.values() for text in item.texts.values()
        )


def _with_delta(message: Message, delta: str) -> Message:
    """The message with another delta, and without logprobs of the one it had."""
    message["delta"] = delta
    if message.get("logprobs"):
        message["logprobs"] = []
    return message


def _new_part(kind: _Kind) -> Message:
    return (
        {"type": kind.part, "annotations": []}
        if kind.name == "output_text"
        else {"type": kind.part}
    )


def _index(message: Message, name: str) -> int:
    index = message.get(name)
    return index if type(index) is int else 0


def _part_place(message: Message) -> tuple[str, int]:
    name = "summary" if "summary_index" in message else "content"
    return name, _index(message, f"{name}_index")
