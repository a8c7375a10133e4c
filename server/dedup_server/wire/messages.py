"""Anthropic's Messages API: one message of blocks, in events or whole.

A thinking block is signed, and refused when it comes back changed: thinking is cut at a loop, but
nothing in it is edited (`Editing.locks_reasoning`).
"""

import uuid
from typing import Any, Final

from dedup.answer.answer import Answer
from dedup.answer.frame import CallStart, ChannelName, Decision, Delta, Finish, Frame, Start
from dedup.answer.usage import Spent
from dedup.lenient_json import read_json, write_json
from dedup_server.errors import ApiError, upstream_failed
from dedup_server.wire.base import Reader
from dedup_server.wire.reading import charged, count, read_object, refusal_in
from dedup_server.wire.sse import Event, encode

Json = dict[str, Any]

# By the type of a delta: the channel of its text, and the field that holds it.
_DELTAS: Final[dict[str, tuple[ChannelName, str]]] = {
    "text_delta": ("content", "text"),
    "thinking_delta": ("reasoning", "thinking"),
    "input_json_delta": ("tool_arguments", "partial_json"),
}
_DELTA_OF: Final[dict[str, str]] = {channel: kind for kind, (channel, _) in _DELTAS.items()}
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Source:
    """An event as it came. `holders`: of each delta, the dict that holds its text."""

    def __init__(self, event: Event, message: Json, holders: list[Json]) -> None:
        self.event = event
        self.message = message
        self.holders = holders


class MessagesReader(Reader):
    """Reads events and bodies of the Messages API."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, list[tuple[str, ChannelName]]] = {}  # of the blocks that are open

    def read(self, event: Event) -> Frame:
        if not event.data or event.data == b"[DONE]":
            return Frame([], None, Source(event, {}, []))
        event = event.as_text()
        message = read_object(event.data)
        kind = message.get("type")
        if kind == "content_block_delta":
            return self._read_delta(event, message)
        source = Source(event, message, [])
        if kind == "content_block_start":
            return Frame(self._begin(message), None, source)
        if kind == "content_block_stop":
            ended = self._parts.pop(_block_of(message), [])
            return Frame(_ends(ended), None, source)
        if kind == "message_start":
            started = message.get("message")
            usage = started.get("usage") if isinstance(started, dict) else None
            return Frame([], None, source, input_tokens=count(usage, "input_tokens"))
        if kind == "message_delta":
            delta, usage = message.get("delta"), message.get("usage")
            reason = delta.get("stop_reason") if isinstance(delta, dict) else None
            return Frame(
                [],
                [Finish(0, reason if isinstance(reason, str) else None)],
                source,
                input_tokens=count(usage, "input_tokens"),
                output_tokens=count(usage, "output_tokens"),
            )
        if kind == "message_stop":
            return Frame([], None, source, is_last=True)
        if kind == "error":
            return Frame([], None, source, is_last=True, has_failed=True)
        if message.get("object") == "error" or (kind is None and message.get("error")):
            raise refusal_in(message)
        return Frame([], None, source)

    def read_whole(self, body: bytes) -> Frame:
        message = read_object(body)
        content = message.get("content")
        if not isinstance(content, list):
            raise upstream_failed("the upstream's answer has no content")
        deltas: list[Delta] = []
        holders: list[Json] = []
        for position, block in enumerate(content):
            kind = block.get("type") if isinstance(block, dict) else None
            if kind not in ("text", "thinking") or not isinstance(block.get(kind), str):
                continue  # the input of a tool is an object: it is left alone
            if block[kind]:
                channel: ChannelName = "content" if kind == "text" else "reasoning"
                is_locked = bool(block.get("signature"))
                part = f"{position}/{kind}_delta"
                deltas.append(Delta(0, channel, part, block[kind], ends=True, is_locked=is_locked))
                holders.append(block)
        usage, reason = message.get("usage"), message.get("stop_reason")
        calls: list[CallStart] = []
        for position, block in enumerate(content):
            if isinstance(block, dict) and block.get("type") == "tool_use":
                name = str(block.get("name"))
                calls.append(CallStart(0, f"{position}/input_json_delta", name, block.get("input")))
        return Frame(
            deltas,
            [Finish(0, reason if isinstance(reason, str) else None)],
            Source(Event(body), message, holders),
            input_tokens=count(usage, "input_tokens"),
            output_tokens=count(usage, "output_tokens"),
            is_last=True,
            is_whole=True,
            calls=calls or None,
        )

    def charge(self, frame: Frame, spent: Spent) -> None:
        source = frame.source
        if not isinstance(source, Source) or (
            frame.input_tokens is None and frame.output_tokens is None
        ):
            return
        message = source.message
        started = message.get("message")
        holder = started if isinstance(started, dict) else message
        more = {"input_tokens": spent.input_tokens}
        if holder is message:  # the beginning of a message counts no output yet
            more["output_tokens"] = spent.output_tokens
        holder["usage"] = charged(holder["usage"], spent, **more)
        source.event = Event(write_json(message), source.event.name)

    def _read_delta(self, event: Event, message: Json) -> Frame:
        block = _block_of(message)
        open_parts = self._parts.setdefault(block, [])
        delta = message.get("delta")
        kind = delta.get("type") if isinstance(delta, dict) else None
        if kind == "signature_delta":  # the thinking that it signs has ended
            return Frame(_ends(open_parts), None, Source(event, message, []))
        if not isinstance(delta, dict) or not isinstance(kind, str) or kind not in _DELTAS:
            return Frame([], None, Source(event, message, []))
        channel, field = _DELTAS[kind]
        text = delta.get(field)
        if not isinstance(text, str):
            return Frame([], None, Source(event, message, []))
        part = f"{block}/{kind}"
        if (part, channel) not in open_parts:
            open_parts.append((part, channel))
        return Frame([Delta(0, channel, part, text)], None, Source(event, message, [delta]))

    def _begin(self, message: Json) -> list[Delta]:
        """Return the piece that a new block has: the id and the name of a tool call."""
        key, block = _block_of(message), message.get("content_block")
        self._parts.setdefault(key, [])
        if not isinstance(block, dict) or block.get("type") != "tool_use":
            return []
        tool = (str(block.get("id")), str(block.get("name")))
        return [Delta(0, "tool_arguments", f"{key}/input_json_delta", "", tool=tool)]


class _Block:
    """A block that the reader has begun to get. `last`: the last event of each of its texts."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.last: dict[str, Json] = {}


class MessagesWriter:
    """Writes a message.

    An answer of several choices, which the API does not know, is a message with a block for each.

    Args:
        answer: The answer that is written.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._blocks: dict[str, _Block] = {}  # that are open
        self._of_part: dict[str, str] = {}  # by choice and part: the block that has the text
        self._num_blocks = 0
        self._is_made = False  # an engine in this process generates the answer
        self._is_continued = False
        self._is_closed = False
        self._running: set[int] = set()
        self._reasons: list[str] = []
        self._message: Json = {"content": []}  # the body of an answer that is not streamed
        self._open: dict[str, Json] = {}  # its blocks that came in events, by their index
        self._raw = b""

    def write(self, frame: Frame, decision: Decision) -> bytes:
        source = frame.source
        if self._is_closed:
            return b""
        if not isinstance(source, Source) or self._is_continued:
            return self._make(frame, decision)
        message = source.message
        self._note(message)
        written = self._held(decision.before)
        is_edited = False
        for delta, holder in zip(_with_text(frame.deltas), source.holders, strict=True):
            self._blocks[_block_of(message)].last[delta.part] = message
            if delta.given != delta.text:
                is_edited = True
                holder[_field_of(holder)] = delta.given
        if _is_cut(frame, decision):
            if _has_given(frame):
                written += encode(write_json(message), source.event.name)
            return written + self._held(decision.after) + self._close()
        if message.get("type") == "content_block_stop":
            del self._blocks[_block_of(message)]
        if frame.finishes and isinstance(message.get("delta"), dict) and self._answer.has_report(0):
            message["delta"]["repetition"] = self._answer.summary()
            return written + encode(write_json(message), source.event.name)
        if decision.dropped or (is_edited and not _has_given(frame)):
            return written
        if is_edited:
            return written + encode(write_json(message), source.event.name)
        return written + source.event.encode()

    def end(self) -> bytes:
        if self._is_closed:
            return b""
        pieces = self._answer.flush()
        written = self._held(pieces)
        if self._is_continued or any(isinstance(piece, Finish) for piece in pieces):
            written += self._close()
        return written

    def fail(self, error: ApiError) -> bytes:
        if self._is_closed:
            return b""
        if self._is_continued and not self._running:
            return self._close()  # only its usage is missing
        return self._held(list(self._answer.release())) + _event(error_body(error))

    def resume(self) -> None:
        self._is_continued = True
        self._running = self._running or {0}

    def add(self, frame: Frame, decision: Decision) -> None:
        source = frame.source
        if frame.is_whole and isinstance(source, Source) and not self._is_continued:
            if not decision.is_changed:
                self._raw = source.event.data
            self._message = source.message
            for delta, holder in zip(_with_text(frame.deltas), source.holders, strict=True):
                holder[str(holder["type"])] = delta.given
                self._blocks[delta.part] = _Block(0)
                self._of_part[_key(delta)] = delta.part
                self._blocks[delta.part].last[delta.part] = holder
            return
        is_made = not isinstance(source, Source) or self._is_continued
        if isinstance(source, Source) and not is_made:
            self._add_event(source, frame)
        for delta in decision.before:
            self._add(delta)
        for delta in frame.deltas:
            if delta.choice not in decision.dropped:
                self._add(delta)
        for piece in decision.after:
            if isinstance(piece, Delta):
                self._add(piece)
        if frame.start is not None:
            self._message = self._started(frame.start)
            del self._message["usage"]  # it is known at the end
        for finish in frame.finishes or ():
            if is_made and finish.choice not in decision.dropped:
                self._reasons.append(_stop_reason(finish.reason))

    def whole(self) -> bytes:
        for piece in self._answer.flush():
            if isinstance(piece, Delta):
                self._add(piece)
        answer, message = self._answer, self._message
        if self._raw:
            return self._raw
        message["stop_reason"] = self._reason(message.get("stop_reason"))
        if answer.has_report():
            message["repetition"] = answer.summary()
        for block in message["content"]:
            if isinstance(block, dict) and isinstance(block.get("input"), str):
                _parse_input(block)
        usage = message.get("usage")
        if self._is_continued or not usage or answer.tokens.output is None:
            if not isinstance(usage, dict) or self._is_continued:
                usage = {"input_tokens": answer.tokens.known_input}
            message["usage"] = {**usage, **self._usage()}
        return write_json(message)

    # Events of another server, in which something changes

    def _note(self, message: Json) -> None:
        """Note the block that an event is about."""
        kind = message.get("type")
        if kind in ("content_block_start", "content_block_delta", "content_block_stop"):
            key = _block_of(message)
            if key not in self._blocks:
                self._blocks[key] = _Block(message.get("index", 0))
                self._num_blocks += 1

    def _held(self, pieces: "list[Delta] | list[Delta | Finish]") -> bytes:
        """Return the events of held text: copies of the last event of the same text."""
        written = b""
        for piece in pieces:
            if not isinstance(piece, Delta):
                continue
            block = self._blocks.get(self._of_part.get(_key(piece), piece.part.rpartition("/")[0]))
            last = block.last.get(piece.part) if block is not None else None
            if last is None:
                written += self._piece(piece)
            else:
                delta = {**last["delta"], _field_of(last["delta"]): piece.text}
                written += _event({**last, "delta": delta})
        return written

    def _close(self) -> bytes:
        """Return the rest of a message that ends here."""
        answer = self._answer
        delta: Json = {"stop_reason": self._reason(None), "stop_sequence": None}
        if answer.has_report():
            delta["repetition"] = answer.summary()
        written = b""
        for block in self._blocks.values():
            written += _event({"type": "content_block_stop", "index": block.index})
        self._blocks.clear()
        self._is_closed = True
        written += _event({"type": "message_delta", "delta": delta, "usage": self._usage()})
        return written + _event({"type": "message_stop"})

    def _reason(self, reason: object) -> object:
        """Return why the message ends; `reason` is what its body says, or None.

        That is `max_tokens` where what was cut is unusable, so that no client takes it for complete.
        """
        answer = self._answer
        if not self._reasons and not answer.is_cut:
            return reason
        is_unusable = any(answer.is_unusable(index) for index in answer.choices)
        if "max_tokens" in self._reasons or (answer.is_cut and is_unusable):
            return "max_tokens"
        if self._reasons:
            reason = self._reasons[-1]
        if reason and reason != "end_turn":
            return reason
        has_calls = any(answer.has_calls(index) for index in answer.choices)
        return "tool_use" if has_calls else "end_turn"  # else no client would make the call

    def _usage(self) -> Json:
        usage: Json = {"output_tokens": self._answer.num_tokens}
        if self._is_made:  # some clients look at the last event alone
            usage["input_tokens"] = self._answer.tokens.known_input
        if self._answer.tokens.is_estimated:
            usage["estimated"] = True
        return usage

    # Events that are made here: an engine in this process, or a stream that continues the answer

    def _make(self, frame: Frame, decision: Decision) -> bytes:
        written = b""
        if frame.start is not None:
            self._is_made = True
            self._running = set(range(frame.start.num_choices))
            written += _event({"type": "message_start", "message": self._started(frame.start)})
        written += self._held(decision.before)
        for delta in frame.deltas:
            if (delta.given or delta.tool) and delta.choice not in decision.dropped:
                written += self._piece(delta)
        written += self._held(decision.after)
        for finish in decision.ends(frame):
            self._running.discard(finish.choice)
            self._reasons.append(_stop_reason(finish.reason))
        # The usage of another server's stream comes behind the end of its text.
        if not self._running and not (self._is_continued and frame.output_tokens is None):
            written += self._close()
        return written

    def _started(self, start: Start) -> Json:
        return {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": start.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._answer.tokens.known_input, "output_tokens": 0},
            **start.extra,
        }

    def _piece(self, delta: Delta) -> bytes:
        """Return the events of a piece of text, and of the block that begins with it."""
        written = b""
        key = self._of_part.get(_key(delta))
        if key is None and delta.part.rpartition("/")[0] in self._blocks:
            key = delta.part.rpartition("/")[0]  # of the answer that is continued
        if key is None or key not in self._blocks:
            written += self._end_blocks(delta.choice)
            key = f"made {self._num_blocks}"
            self._of_part[_key(delta)] = key
            self._blocks[key] = _Block(self._num_blocks)
            begun = {"type": "content_block_start", "index": self._num_blocks}
            written += _event({**begun, "content_block": _new_block(delta)})
            self._num_blocks += 1
        if not delta.given:
            return written
        kind = _DELTA_OF[delta.channel]
        return written + _event(
            {
                "type": "content_block_delta",
                "index": self._blocks[key].index,
                "delta": {"type": kind, _DELTAS[kind][1]: delta.given},
            }
        )

    def _end_blocks(self, choice: int) -> bytes:
        """Return the ends of the blocks of a choice that are open: its next one begins behind them."""
        written = b""
        for part, key in self._of_part.items():
            if key in self._blocks and part.startswith(f"{choice}/"):
                block = self._blocks.pop(key)
                written += _event({"type": "content_block_stop", "index": block.index})
        return written

    def _add_event(self, source: Source, frame: Frame) -> None:
        """Add what an event says to the body, all but the texts that are filtered."""
        event = source.message
        kind = event.get("type")
        if frame.has_failed:
            raise refusal_in(event)
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._message = event["message"]
            self._message["content"] = []
        elif kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            block = self._open[_block_of(event)] = event["content_block"]
            self._message["content"].append(block)
            self._note_parts(frame, block)
        elif kind == "content_block_delta":
            opened = self._open.get(_block_of(event))
            if opened is not None:
                self._note_parts(frame, opened)
                if not source.holders and isinstance(event.get("delta"), dict):
                    _add_fields(opened, event["delta"])
        elif kind == "message_delta":
            if isinstance(event.get("delta"), dict):
                self._message.update(event["delta"])
            if isinstance(event.get("usage"), dict):
                self._message["usage"] = {**(self._message.get("usage") or {}), **event["usage"]}

    def _note_parts(self, frame: Frame, block: Json) -> None:
        """Note which block of the body has the texts of a frame."""
        for delta in frame.deltas:
            if not delta.ends and delta.part not in self._blocks:
                self._blocks[delta.part] = _Block(0)
                self._blocks[delta.part].last[""] = block
                self._of_part[_key(delta)] = delta.part

    def _add(self, delta: Delta) -> None:
        """Add a piece to the body of an answer that is not streamed."""
        if not delta.given and not delta.tool:
            return
        key = self._of_part.get(_key(delta), _key(delta))
        self._of_part[_key(delta)] = key
        if key not in self._blocks:
            block = self._blocks[key] = _Block(len(self._blocks))
            block.last[""] = _new_block(delta)
            self._message["content"].append(block.last[""])
        if not delta.given:
            return
        holder = next(iter(self._blocks[key].last.values()))
        field = {"content": "text", "reasoning": "thinking"}.get(delta.channel, "input")
        given = holder.get(field)
        holder[field] = (given if isinstance(given, str) else "") + delta.given


def _add_fields(block: Json, delta: Json) -> None:
    """Add a delta that is not filtered, such as a signature, to its block."""
    for name, value in delta.items():
        if name == "citation":
            block["citations"] = [*(block.get("citations") or ()), value]
        elif name != "type" and isinstance(value, str) and isinstance(block.get(name), str):
            block[name] += value
        elif name != "type":
            block[name] = value


def error_body(error: ApiError) -> Json:
    """Return an error in the API's own shape."""
    kind = _ERRORS.get(error.status)
    if kind is None and error.type in _ERRORS.values():
        kind = error.type  # as an upstream of this API has it
    if kind is None:
        kind = "api_error" if error.status >= 500 else "invalid_request_error"
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _is_cut(frame: Frame, decision: Decision) -> bool:
    """Return whether the message ends with the frame, at a loop."""
    return any(finish.is_cut for finish in decision.ends(frame))


def _has_given(frame: Frame) -> bool:
    return any(delta.given for delta in frame.deltas)


def _with_text(deltas: list[Delta]) -> list[Delta]:
    """Return the deltas that have a place in their event."""
    return [delta for delta in deltas if not delta.tool and (delta.text or not delta.ends)]


def _ends(parts: list[tuple[str, ChannelName]]) -> list[Delta]:
    return [Delta(0, channel, part, "", ends=True) for part, channel in parts]


def _field_of(delta: Json) -> str:
    return _DELTAS[delta["type"]][1]


def _new_block(delta: Delta) -> Json:
    """Return a block as it begins."""
    if delta.channel == "content":
        return {"type": "text", "text": ""}
    if delta.channel == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    call, name = delta.tool or (f"toolu_{uuid.uuid4().hex}", "")
    return {"type": "tool_use", "id": call, "name": name, "input": {}}


def _parse_input(block: Json) -> None:
    """Make the input of a tool the object that its JSON is; half of one stays text."""
    try:
        block["input"] = read_json(block["input"].encode("utf-8", "surrogatepass"))
    except ValueError:
        return


def _stop_reason(reason: str | None) -> str:
    """Return the API's own stop reason for that of another API."""
    return _STOP_REASONS.get(reason or "stop", reason or "end_turn")


def _key(delta: Delta) -> str:
    return f"{delta.choice}/{delta.part}"


def _block_of(message: Json) -> str:
    return repr(message.get("index", 0))  # whatever the engine may have put there


def _event(message: Json) -> bytes:
    return encode(write_json(message), message["type"].encode())
