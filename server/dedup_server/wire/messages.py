"""Answers of Anthropic's Messages API.

A thinking block is signed, and refused when it comes back changed: thinking is cut at a loop, but nothing in it is edited.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from dedup.config import Policy
from dedup.lenient_json import write_json
from dedup_server.channel import Channel, Editing
from dedup_server.errors import ApiError, upstream_failed
from dedup_server.schema import estimate_tokens
from dedup_server.telemetry import ChannelName
from dedup_server.wire import report
from dedup_server.wire.body import asked, read_object, said
from dedup_server.wire.sse import Event, encode

STOP_DETAILS = {"type": "repetition_detected"}

Message = dict[str, Any]

_INPUT = "input_json_delta"
# By the type of a delta: the channel of its text, and the field that has it.
_DELTAS: dict[str, tuple[ChannelName, str]] = {
    "text_delta": ("content", "text"),
    "thinking_delta": ("reasoning", "thinking"),
    _INPUT: ("tool_arguments", "partial_json"),
}
_ERRORS = (
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
)


def messages_editing(body: Message, policy: Policy) -> Editing:
    """How the answer to the request `body` is to be edited."""
    messages = body.get("messages")
    return Editing(policy, asked(messages), said(messages, "assistant"))


@dataclass(slots=True)
class _Text:
    """A text of a block, and its last delta: held text comes in a copy of it."""

    channel: Channel
    field: str
    last: Message


@dataclass(slots=True)
class _Block:
    index: Any
    texts: dict[str, _Text] = field(default_factory=dict)  # by the type of its deltas


class MessagesAnswer:
    """One message, streamed or whole."""

    def __init__(self, editing: Editing) -> None:
        self.channels: list[Channel] = []
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.complete = False
        self.over = False
        self.failed = False  # the engine has said so itself
        self._editing = editing
        self._open: dict[str, _Block] = {}  # the blocks that have begun and not stopped

    @property
    def cut(self) -> bool:
        return any(channel.cut for channel in self.channels)

    def feed(self, event: Event) -> bytes:
        if self.over:
            return b""
        if not event.data or event.data == b"[DONE]":
            return event.encode()
        message = read_object(event.data)
        match message.get("type"):
            case "content_block_delta":
                return self._delta(event, message)
            case "content_block_start":
                self._block(message)
            case "content_block_stop":
                return self._stop(event, message)
            case "message_start":
                started = message.get("message")
                self._count(
                    started.get("usage") if isinstance(started, dict) else None, "input_tokens"
                )
            case "message_delta":
                return self._ending(event, message)
            case "message_stop":
                self.complete = True
            case "error":
                self.complete = self.failed = True
                return self._release_all() + event.encode()
            case None if message.get("error"):
                raise upstream_failed("the upstream failed in the middle of its answer")
        return event.encode()

    def end(self) -> bytes:
        return b"" if self.over else self._release_all()

    def fail(self, error: ApiError) -> bytes:
        if self.over:
            return b""
        kind = error.type if error.type in _ERRORS else "api_error"
        return self._release_all() + _made(
            {"type": "error", "error": {"type": kind, "message": error.message}}
        )

    def whole(self, body: bytes) -> bytes:
        message = read_object(body)
        content = message.get("content")
        if not isinstance(content, list):
            raise upstream_failed("the upstream's answer has no content")
        self.complete = True
        self._count(message.get("usage"))
        changed = [self._edit_block(block) for block in content if isinstance(block, dict)]
        if not any(changed) and not self.cut:
            return body
        if self.cut:
            message["stop_reason"] = self._stop_reason(message.get("stop_reason"))
            message["stop_details"] = STOP_DETAILS
        message["repetition"] = self._summary()
        return write_json(message)

    def _delta(self, event: Event, message: Message) -> bytes:
        block = self._block(message)
        delta = message.get("delta")
        kind = delta.get("type") if isinstance(delta, dict) else None
        if kind == "signature_delta":  # the thinking that it signs has ended
            sent = self._release(block)
            return sent + (self._close() if self.cut else event.encode())
        if not isinstance(delta, dict) or not isinstance(kind, str) or kind not in _DELTAS:
            return event.encode()
        name, slot = _DELTAS[kind]
        if not isinstance(delta.get(slot), str):
            return event.encode()
        text = block.texts.get(kind)
        if text is None:
            text = block.texts[kind] = _Text(self._channel(name), slot, message)
        given = _feed(text.channel, delta[slot])
        text.last = message
        if given == delta[slot] and not text.channel.cut:
            return event.encode()
        delta[slot] = given
        sent = encode(write_json(message), event.name) if given else b""
        return sent + (self._close() if text.channel.cut else b"")

    def _stop(self, event: Event, message: Message) -> bytes:
        block = self._block(message)
        sent = self._release(block)
        if self.cut:
            return sent + self._close()
        del self._open[_key(message)]
        return sent + event.encode()

    def _ending(self, event: Event, message: Message) -> bytes:
        """What closes the message, but for its last event: why it stopped, and what it took."""
        self._count(message.get("usage"))
        sent = self._release_all()
        if self.cut:
            return sent + self._close()
        delta = message.get("delta")
        if not isinstance(delta, dict) or not any(
            channel.filter.removed for channel in self.channels
        ):
            return sent + event.encode()
        delta["repetition"] = self._summary()
        return sent + encode(write_json(message), event.name)

    def _close(self) -> bytes:
        """The rest of a message that ends at a loop."""
        sent = self._release_all()
        delta = {
            "stop_reason": self._stop_reason(None),
            "stop_sequence": None,
            "stop_details": STOP_DETAILS,
            "repetition": self._summary(),
        }
        if self.output_tokens is None:
            usage: Message = {
                "output_tokens": estimate_tokens(sum(channel.bytes_in for channel in self.channels))
            }
            usage["estimated"] = True
        else:
            usage = {"output_tokens": self.output_tokens}
        for block in self._open.values():
            sent += _made({"type": "content_block_stop", "index": block.index})
        self.complete = self.over = True
        return (
            sent
            + _made({"type": "message_delta", "delta": delta, "usage": usage})
            + _made({"type": "message_stop"})
        )

    def _edit_block(self, block: Message) -> bool:
        """Edits a block that came whole, and says whether it changed. The input of a tool is an object: it is left alone."""
        kind = block.get("type")
        if kind not in ("text", "thinking") or not isinstance(block.get(kind), str):
            return False
        # What is signed is only measured.
        channel = self._channel(
            "content" if kind == "text" else "reasoning", signed=bool(block.get("signature"))
        )
        given = channel.feed(block[kind]) + channel.flush()
        if given == block[kind]:
            return False
        block[kind] = given
        return True

    def _block(self, message: Message) -> _Block:
        key = _key(message)
        if key not in self._open:
            self._open[key] = _Block(message.get("index", 0))
        return self._open[key]

    def _channel(self, name: ChannelName, signed: bool = False) -> Channel:
        editing = self._editing
        if name == "reasoning" and editing.policy not in ("off", "watch"):
            editing = replace(editing, policy="watch" if signed else "loops")
        channel = editing.channel(name)
        self.channels.append(channel)
        return channel

    def _release(self, block: _Block) -> bytes:
        """What the block's texts held, which have ended."""
        sent = b""
        for text in block.texts.values():
            if given := text.channel.flush():
                sent += _made({**text.last, "delta": {**text.last["delta"], text.field: given}})
        return sent

    def _release_all(self) -> bytes:
        return b"".join(self._release(block) for block in self._open.values())

    def _stop_reason(self, given: object) -> object:
        """`max_tokens` where what was cut is unusable, so that no client takes it for complete."""
        open_calls = [
            block.texts[_INPUT].channel for block in self._open.values() if _INPUT in block.texts
        ]
        if report.is_unusable(self.channels, self._editing, open_calls):
            return "max_tokens"
        return given or ("tool_use" if report.has_calls(self.channels) else "end_turn")

    def _summary(self) -> Message:
        return report.summary(self._editing.policy, self.channels)

    def _count(self, usage: object, *names: str) -> None:
        """Remembers what the engine says it took. The output's tokens that a message starts with are not yet its number."""
        for name in names or ("input_tokens", "output_tokens"):
            if isinstance(usage, dict) and type(usage.get(name)) is int:
                setattr(self, name, usage[name])


def _feed(channel: Channel, text: str) -> str:
    """What comes for a text after its end passes as it is."""
    return text if channel.flushed else channel.feed(text)


def _key(message: Message) -> str:
    return repr(message.get("index", 0))  # whatever the engine may have put there


def _made(message: Message) -> bytes:
    return encode(write_json(message), message["type"].encode())
