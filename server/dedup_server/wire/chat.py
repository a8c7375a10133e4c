"""Chat and text completions: several choices, each with texts of its own, in chunks or whole.

A chunk is looked at through a typed view. One whose text stays as it is leaves as the bytes it came
as; all others are read in full, edited and written again.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from dedup.answer.answer import Answer
from dedup.answer.frame import ChannelName, Decision, Delta, Finish, Frame, Start
from dedup.answer.usage import Spent
from dedup.lenient_json import as_text, write_json
from dedup_server.errors import ApiError, upstream_failed
from dedup_server.wire.base import Reader
from dedup_server.wire.chat_body import MergedBody, index_of
from dedup_server.wire.reading import charged, count, read_object, refusal_in
from dedup_server.wire.sse import DONE, Event, encode
from dedup_server.wire.view import ChunkView, read_view

Json = dict[str, Any]

_HEAD: Final = ("id", "object", "created", "model", "system_fingerprint")  # of every chunk
_MAX_TEMPLATES: Final = 16  # where each chunk has another, learning them costs more than it saves
_MAX_LEARNED: Final = 4  # chunks of a read that are read one by one until there is a template
_DATA: Final = b"data: "
_IS_DONE: Final = b"[DONE]"
STOP_REASON: Final = "repetition_detected"

_text: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.Encoder().encode


class Template:
    """The bytes around the text of a chunk that carries nothing else."""

    def __init__(self, delta: Delta, before: bytes, after: bytes) -> None:
        self.choice = delta.choice
        self.channel: ChannelName = delta.channel
        self.part = delta.part
        self.before = before
        self.after = after


class Place:
    """Place of a delta's text in a chunk."""

    def __init__(self, choice: Json, holder: Json, slot: str) -> None:
        self.choice = choice
        self.holder = holder
        self.slot = slot


class Source:
    """A chunk as it came, read in full only where somebody wants to change it."""

    def __init__(
        self, event: Event, template: Template | None = None, chunk: Json | None = None
    ) -> None:
        self.event = event
        self.template = template
        self._chunk = chunk

    @property
    def chunk(self) -> Json:
        """Return the chunk, for the writer to edit."""
        if self._chunk is None:
            self._chunk = read_object(self.event.data)
        return self._chunk


class ChatReader(Reader):
    """Reads chunks and bodies of chat and text completions."""

    def __init__(self) -> None:
        super().__init__()
        self._template: Template | None = None
        self._templates_left = _MAX_TEMPLATES
        self._last = (-1, "")  # choice and part of the last chunk
        self._running: set[int] = set()
        self._ended: set[int] = set()

    def feed(self, received: bytes) -> list[Frame]:
        if not self.gathers:
            return super().feed(received)
        frames: list[Frame] = []
        for _ in range(_MAX_LEARNED):  # the first chunks, up to two that are alike
            end = 0 if self._template is not None else received.find(b"\n\n") + 2
            if end < 2 or end == len(received):
                break
            frames += super().feed(received[:end])
            received = received[end:]
            if frames and frames[-1].error is not None:
                return frames
        if self._template is not None and self._decoder.is_between:
            received, num_pieces = _gathered(received, self._template)
            read = super().feed(received)
            if num_pieces > 1 and read[0].deltas:
                read[0].deltas[0].num_pieces = num_pieces
            return [*frames, *read] if frames else read
        return [*frames, *super().feed(received)] if frames else super().feed(received)

    def read(self, event: Event) -> Frame:
        data = event.data
        template = self._template
        if (
            template is not None
            and data.startswith(template.before)
            and data.endswith(template.after)
        ):
            text = _text_between(data, len(template.before), len(data) - len(template.after))
            if text:
                delta = Delta(template.choice, template.channel, template.part, text)
                return Frame([delta], None, Source(event, template))
        if not data:  # a comment, which keeps the connection alive
            return Frame([], None, Source(event))
        try:
            view = read_view(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._read(event.as_text())
        frame = self._read_plain(event, view)
        if frame is None:
            frame = self._read(event)
        return frame

    def read_whole(self, body: bytes) -> Frame:
        event = Event(as_text(body))
        response = read_object(event.data)
        _check_choices(response, "the upstream's answer has no choices")
        return self._frame_of(Source(event, None, response), response, is_whole=True)

    def charge(self, frame: Frame, spent: Spent) -> None:
        source = frame.source
        if not isinstance(source, Source) or frame.output_tokens is None:
            return
        source.chunk["usage"] = charged(
            source.chunk["usage"],
            spent,
            prompt_tokens=spent.input_tokens,
            completion_tokens=spent.output_tokens,
            total_tokens=spent.input_tokens + spent.output_tokens,
        )
        source.event = Event(write_json(source.chunk), source.event.name)

    def _read_plain(self, event: Event, view: ChunkView) -> Frame | None:
        """Return the frame of a chunk that carries a piece of one text; None if it is another."""
        if len(view.choices) != 1 or view.usage or view.error:
            return None
        choice = view.choices[0]
        if choice.finish_reason:
            return None
        plain = choice.plain()
        if plain is None:
            return None
        part, text = plain
        self._running.add(choice.index)
        delta = Delta(choice.index, _CHANNELS[part], part, text)
        last, self._last = self._last, (choice.index, part)
        if self._last == last and not event.name and self._templates_left:
            self._templates_left -= 1
            self._template = _template_of(event.data, delta)
        return Frame([delta], None, Source(event))

    def _read(self, event: Event) -> Frame:
        if event.data == _IS_DONE:
            return Frame([], None, Source(event), is_last=True)
        chunk = read_object(event.data)
        if chunk.get("error") or chunk.get("object") == "error":
            raise refusal_in(chunk)
        _check_choices(chunk, "the upstream sent a chunk without choices")
        self._template = None  # a chunk of another kind came between
        return self._frame_of(Source(event, None, chunk), chunk, is_whole=False)

    def _frame_of(self, source: Source, chunk: Json, *, is_whole: bool) -> Frame:
        deltas: list[Delta] = []
        finishes: list[Finish] = []
        for position, choice in enumerate(chunk["choices"]):
            index = index_of(choice, position)
            self._running.add(index)
            for part, tool in _new_calls(choice):
                deltas.append(Delta(index, "tool_arguments", part, "", tool=tool))
            for channel, part, holder, slot in _texts(choice):
                deltas.append(Delta(index, channel, part, holder[slot]))
            reason = choice.get("finish_reason")
            if is_whole or reason:
                finishes.append(Finish(index, reason or None))
                self._ended.add(index)
        reported = chunk.get("usage")
        usage: Json = reported if isinstance(reported, dict) else {}
        return Frame(
            deltas,
            finishes or None,
            source,
            input_tokens=count(usage, "prompt_tokens"),
            output_tokens=count(usage, "completion_tokens"),
            is_last=is_whole or (bool(self._running) and self._running == self._ended),
            is_whole=is_whole,
        )


class ChatWriter:
    """Writes chat or text completions.

    Args:
        answer: The answer that is written.
        is_chat: Chat, and not text completions.
        wants_usage: A stream ends with its usage.
    """

    def __init__(self, answer: Answer, *, is_chat: bool, wants_usage: bool) -> None:
        self._answer = answer
        self._is_chat = is_chat
        self._wants_usage = wants_usage
        self._head: Json = {}
        self._extra: Json = {}
        self._first: Source | None = None
        self._is_made = False  # an engine in this process generates the answer
        self._is_continued = False
        self._has_usage = False
        self._offsets: dict[int, int] = {}  # characters that log-probabilities were given for
        self._is_collected = False  # nothing is streamed to the reader
        self._body = MergedBody(is_chat=is_chat)
        self._raw = b""

    def write(self, frame: Frame, decision: Decision) -> bytes:
        source = frame.source
        if isinstance(source, Source) and not self._is_continued:
            event = source.event
            if not decision.is_changed:
                if self._first is None and (frame.deltas or frame.finishes):
                    self._first = source
                if event.data == _IS_DONE:
                    return b""
                if frame.output_tokens is not None:
                    self._has_usage = True
                return event.encode()
            template = source.template
            if template is not None and not decision.after and not decision.before:
                given = frame.deltas[0].given
                if not given or decision.dropped:
                    return b""
                return b"data: %b%b%b\n\n" % (template.before, _encode(given), template.after)
        return _write(self._chunks(frame, decision))

    def end(self) -> bytes:
        return _write(self._last_chunks()) + DONE

    def fail(self, error: ApiError) -> bytes:
        held = [self._made(delta) for delta in self._answer.release()]
        return _write(held) + encode(write_json(error.body()))

    def resume(self) -> None:
        self._is_continued = True
        self._learn_head()

    def add(self, frame: Frame, decision: Decision) -> None:
        source = frame.source
        self._is_collected = True
        if isinstance(source, Source) and not self._is_continued:
            template = source.template
            if template is not None and not (decision.before or decision.after or decision.dropped):
                self._body.add_text(template.choice, template.part, frame.deltas[0].given)
                return
            if frame.is_whole:
                if not decision.is_changed:
                    self._raw = source.event.data
                self._body.begin(source.chunk)
                self._has_usage = True  # or it has none, as it came
                self._first = source
                self._edit(source.chunk, frame, decision)
                return
        for chunk in self._chunks(frame, decision):
            self._body.add(chunk)

    def whole(self) -> bytes:
        last = self._last_chunks()
        if self._raw and not last:
            return self._raw
        for chunk in last:
            self._body.add(chunk)
        response = self._body.response()
        for position, choice in enumerate(response["choices"]):
            if choice.get("logprobs") and self._answer.has_removals(index_of(choice, position)):
                choice["logprobs"] = None  # they belong to the text as it came
        if self._body.is_begun and self._is_continued:
            response["usage"] = {**(response.get("usage") or {}), **self._usage()}
        elif not self._body.is_begun:
            response["usage"] = response.get("usage") or self._usage()
        return write_json(response)

    def _chunks(self, frame: Frame, decision: Decision) -> list[Json]:
        """Return the chunks for a frame: none, one, or one between others."""
        source = frame.source
        if isinstance(source, Source):
            if source.event.data == _IS_DONE or not source.event.data:
                return []
            chunk = source.chunk
            if self._first is None and chunk["choices"]:
                self._first = source
        else:
            if frame.start is not None:
                return self._start(frame.start)
            if not frame.deltas and not frame.finishes:
                return []
            chunk = self._made_chunk(frame)
        if self._is_continued:
            self._continue(chunk, frame)
            if not chunk["choices"] and not chunk.get("usage"):
                return []
        has_usage = isinstance(chunk.get("usage"), dict)
        if not chunk["choices"]:
            self._has_usage = self._has_usage or has_usage
            return [chunk]
        self._edit(chunk, frame, decision)
        chunks = [self._made(delta) for delta in decision.before]
        if chunk["choices"]:
            self._has_usage = self._has_usage or has_usage
            chunks.append(chunk)
        return chunks + [self._made(piece) for piece in decision.after]

    def _edit(self, chunk: Json, frame: Frame, decision: Decision) -> None:
        """Put what the reader gets into a chunk or body that came, or was made for the frame."""
        answer = self._answer
        kept = []
        deltas = iter([delta for delta in frame.deltas if delta.text])
        for position, choice in enumerate(chunk["choices"]):
            index = index_of(choice, position)
            is_edited = False
            places = list(_texts(choice))
            for _, _, holder, slot in places:
                delta = next(deltas)
                holder[slot] = delta.given
                is_edited = is_edited or delta.given != delta.text
            if index in decision.dropped:
                continue
            if is_edited and choice.get("logprobs") and not self._is_collected:
                choice["logprobs"] = None  # they belong to the text as it came
            finish: Finish | None = None
            for one in frame.finishes or ():
                if one.choice == index:
                    finish = one
            if finish is not None and finish.is_cut:
                choice.update(self._cut(index, finish.reason))
            elif finish is not None and answer.has_report(index):
                choice["repetition"] = answer.summary(index)
                if answer.is_stopped:
                    choice["stop_reason"] = STOP_REASON
            if finish is not None or not is_edited or self._is_collected or _carries(choice):
                kept.append(choice)
        chunk["choices"] = kept

    def _continue(self, chunk: Json, frame: Frame) -> None:
        """Make a chunk of another stream one of this answer's."""
        head = self._learn_head()
        chunk.update({name: value for name, value in head.items() if name in chunk})
        chunk["choices"] = [choice for choice in chunk["choices"] if _continues(choice)]
        if isinstance(chunk.get("usage"), dict) and frame.output_tokens is not None:
            chunk["usage"].update(self._usage())
            _bound_details(chunk["usage"])
        if not self._wants_usage:
            chunk.pop("usage", None)  # this server asked for it

    def _last_chunks(self) -> list[Json]:
        """Return what is left to write at the end: held text, cuts, and the usage."""
        answer = self._answer
        chunks = [self._made(piece) for piece in answer.flush()]
        if self._wants_usage and not self._has_usage and (answer.is_cut or self._is_made):
            head = self._learn_head()
            chunks.append({**head, "choices": [], "usage": self._usage(), **self._extra})
        return chunks

    def _usage(self) -> Json:
        """Return the usage as the engine reported it; estimated, and saying so, where it did not."""
        answer = self._answer
        input_tokens = answer.tokens.known_input
        usage = {
            "prompt_tokens": input_tokens,
            "completion_tokens": answer.num_tokens,
            "total_tokens": input_tokens + answer.num_tokens,
        }
        if answer.tokens.is_estimated:
            usage["estimated"] = True
        return usage

    def _learn_head(self) -> Json:
        """Return the fields that every chunk of the answer has."""
        if not self._head and self._first is not None:
            chunk = self._first.chunk
            self._head = {name: chunk[name] for name in _HEAD if name in chunk}
        return self._head

    def _cut(self, index: int, reason: str | None) -> Json:
        """Return the fields of a choice that ends at a loop."""
        return {
            "finish_reason": self._finish_reason(index, reason),
            "stop_reason": STOP_REASON,
            "repetition": self._answer.summary(index),
        }

    def _finish_reason(self, index: int, reason: str | None) -> str:
        """Return `length` where what was cut is unusable, so that no client takes it for complete."""
        if self._answer.is_unusable(index, reason):
            return "length"
        if reason and reason != "length":
            return reason
        if not self._answer.has_calls(index):
            return "stop"
        parts = self._answer.choices[index].parts
        return "function_call" if "function_call" in parts else "tool_calls"

    # Chunks that are made here

    def _start(self, start: Start) -> list[Json]:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        prefix = "chatcmpl-" if self._is_chat else "cmpl-"
        self._head = {
            "id": prefix + uuid.uuid4().hex,
            "object": kind,
            "created": int(time.time()),
            "model": start.model,
        }
        self._extra = start.extra
        self._is_made = True
        if not self._is_chat:
            return []
        role = {"role": "assistant", "content": ""}
        return [self._chunk(index, {"delta": dict(role)}) for index in range(start.num_choices)]

    def _made(self, piece: Delta | Finish) -> Json:
        """Return the chunk of a held piece, or of a cut."""
        if isinstance(piece, Delta):
            return self._chunk(piece.choice, self._body_of(piece.part, piece.text))
        body: Json = {"delta": {}} if self._is_chat else {"text": ""}
        chunk = self._chunk(piece.choice, body)
        chunk["choices"][0].update(self._cut(piece.choice, piece.reason))
        return chunk

    def _made_chunk(self, frame: Frame) -> Json:
        """Return the chunk of a frame of an engine in this process."""
        indices = [delta.choice for delta in frame.deltas]
        indices += [finish.choice for finish in frame.finishes or ()]
        body: Json = {"delta": {}} if self._is_chat else {"text": ""}
        logprobs: Any = None
        for delta in frame.deltas:
            if delta.tool is not None:
                body = _begun_call(delta)
            elif delta.text:
                body = self._body_of(delta.part, delta.text)
            if delta.logprobs is not None:
                logprobs = self._logprobs(delta.choice, delta.logprobs)
        chunk = self._chunk(indices[0], body)
        choice = chunk["choices"][0]
        choice["logprobs"] = logprobs
        for finish in frame.finishes or ():
            choice["finish_reason"] = finish.reason
        return chunk

    def _chunk(self, index: int, body: Json) -> Json:
        choice = {"index": index, **body, "logprobs": None, "finish_reason": None}
        if self._is_collected and not self._is_made:
            del choice["logprobs"]  # of other servers only some have it
        return {**self._learn_head(), "choices": [choice], **self._extra}

    def _body_of(self, part: str, text: str) -> Json:
        """Return the text at its place in a choice of a chunk."""
        if not self._is_chat:
            return {"text": text}
        slot, _, call = part.partition(".")
        if slot == "tool_calls":
            return {
                "delta": {"tool_calls": [{"index": int(call), "function": {"arguments": text}}]}
            }
        if slot == "function_call":
            return {"delta": {slot: {"arguments": text}}}
        return {"delta": {"reasoning_content" if slot == "reasoning_text" else slot: text}}

    def _logprobs(self, index: int, logprobs: Sequence[Any]) -> Json:
        if self._is_chat:
            return {"content": [one.as_chat() for one in logprobs], "refusal": None}
        offsets = []
        top = [one.top_by_text() for one in logprobs if one.top]
        for one in logprobs:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(one.text)
        return {
            "tokens": [one.text for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": top or None,
            "text_offset": offsets,
        }


def error_body(error: ApiError) -> Json:
    """Return an error in OpenAI's shape."""
    return error.body()


_CHANNELS: Final[dict[str, ChannelName]] = {
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "content": "content",
    "refusal": "content",
    "text": "content",
}
_SLOTS: Final = ("reasoning_content", "reasoning", "content", "refusal")  # reasoning comes first


def _texts(choice: Json) -> Iterator[tuple[ChannelName, str, Json, str]]:
    """Yield the texts of a choice: channel, part, and the dict and the field that hold the text."""
    if isinstance(choice.get("text"), str) and choice["text"]:
        yield "content", "text", choice, "text"
    body = choice.get("message") or choice.get("delta")
    if not isinstance(body, dict):
        return
    for slot in _SLOTS:
        if isinstance(body.get(slot), str) and body[slot]:
            yield _CHANNELS[slot], slot, body, slot
    calls = body.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else []):
        function: Any = call.get("function") if isinstance(call, dict) else None
        if _has_arguments(function):
            yield "tool_arguments", f"tool_calls.{index_of(call, position)}", function, "arguments"
    function = body.get("function_call")
    if _has_arguments(function):
        yield "tool_arguments", "function_call", function, "arguments"


def _new_calls(choice: Json) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the part of each tool call that begins in a choice, and its id and name."""
    body = choice.get("message") or choice.get("delta")
    calls = body.get("tool_calls") if isinstance(body, dict) else None
    for position, call in enumerate(calls if isinstance(calls, list) else []):
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            function = call.get("function")
            name = function.get("name") if isinstance(function, dict) else None
            yield f"tool_calls.{index_of(call, position)}", (call["id"], str(name or ""))


def _begun_call(delta: Delta) -> Json:
    """Return a tool call that begins, in a choice of a chunk."""
    name, function = delta.tool or ("", "")
    index = int(delta.part.rpartition(".")[2])
    call = {"index": index, "id": name, "type": "function"}
    return {
        "delta": {"tool_calls": [{**call, "function": {"name": function, "arguments": delta.text}}]}
    }


def _has_arguments(function: Any) -> bool:
    if not isinstance(function, dict):
        return False
    return isinstance(function.get("arguments"), str) and bool(function["arguments"])


def _carries(choice: Json) -> bool:
    """Return whether anything is left in an edited choice that a reader needs."""
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    calls = delta.get("tool_calls")
    if not calls:
        calls = [{"function": delta["function_call"]}] if delta.get("function_call") else []
    for call in calls:
        if isinstance(call, dict) and (
            call.get("id") or any((call.get("function") or {}).values())
        ):
            return True
    return any(delta[name] for name in delta if name not in ("tool_calls", "function_call"))


def _bound_details(usage: Json) -> None:
    """Bound what an engine tells of a continuation's prompt, which is longer than the client's."""
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict):
        for name, value in details.items():
            if type(value) is int:
                details[name] = min(value, usage["prompt_tokens"])


def _continues(choice: Json) -> bool:
    """Return whether a choice of a chunk is more than the role, which the reader has already."""
    delta = choice.get("delta")
    if choice.get("finish_reason") or not isinstance(delta, dict):
        return True
    return any(delta[name] for name in delta if name != "role")


def _template_of(data: bytes, delta: Delta) -> Template | None:
    """Return the template of the next chunks, if they are like `data`."""
    text = _encode(delta.text)
    before, found, after = data.partition(text)
    name = b'"%b":' % delta.part.encode()
    if not found or text in after or b"\n" in data or not before.rstrip().endswith(name):
        return None
    choice = read_object(data)["choices"][0]
    if "text" in choice:
        choice["text"] = ""
    else:
        choice["delta"][delta.part] = ""
    has_list = any(isinstance(value, list) and value for value in choice.values())
    if _carries(choice) or choice.get("logprobs") or has_list:
        return None
    return Template(delta, before, after)


def _gathered(received: bytes, template: Template) -> tuple[bytes, int]:
    """Make one event of those at the beginning, if all but the last few differ in their text only.

    Returns:
        The bytes, and how many events with text the first one was.
    """
    before, after = _DATA + template.before + b'"', b'"' + template.after
    lines = received.split(b"\n")  # of one byte: several times as fast as of two
    num_alike = len(lines) // 2  # events, each with an empty line behind it
    while num_alike > 1 and not lines[2 * num_alike - 2].endswith(after):
        num_alike -= 1
    if num_alike < 2 or not received.startswith(before):
        return received, 1
    start, end = len(before), len(after)
    texts = [line[start : max(start, len(line) - end)] for line in lines[: 2 * num_alike : 2]]
    after += b"\n\n"
    alike = b"".join([before, (after + before).join(texts), after])
    text = b"".join(texts)
    is_cut = b"\\" in text and any(one.endswith(b"\\") for one in texts)  # maybe in an escape
    # Compared as a whole, which is faster than part by part.
    if (
        is_cut
        or not received.startswith(alike)
        or not _text_between(b'"%b"' % text, 0, len(text) + 2)
    ):
        return received, 1
    return b"".join([before, text, after, received[len(alike) :]]), num_alike - texts.count(b"")


def _text_between(data: bytes, start: int, end: int) -> str:
    """Return the JSON string at `start:end`; empty if there is none."""
    if start >= end:
        return ""
    try:
        return _text(data[start:end])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _check_choices(chunk: Json, otherwise: str) -> None:
    """Raise `ApiError` unless a chunk or body has well-formed choices."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        raise upstream_failed(otherwise)
    for choice in choices:
        if not isinstance(choice, dict):
            raise upstream_failed(otherwise)
        for name in ("delta", "message"):
            if not isinstance(choice.get(name), dict | None):
                raise upstream_failed(otherwise)


def _write(chunks: list[Json]) -> bytes:
    return b"".join([encode(write_json(chunk)) for chunk in chunks])
