"""OpenAI's Responses API: a list of items with parts, in events or whole.

Each text stands there many times over: in its deltas, when it is done, and when its part, its item
and the response are. Wherever it stands again it must be what the deltas gave.
"""

import time
import uuid
from dataclasses import dataclass, field
from typing import Final

from dedup.answer.answer import Answer
from dedup.answer.frame import Decision, Delta, Finish, Frame, Start
from dedup.answer.usage import estimate_tokens
from dedup.lenient_json import write_json
from dedup_server.errors import ApiError
from dedup_server.wire.reading import refusal_in
from dedup_server.wire.responses_reader import (
    ANNOTATION,
    BY_CHANNEL,
    BY_DELTA,
    LAST,
    OUTPUT_TEXT,
    PARTS,
    PARTS_DONE,
    ItemKey,
    Json,
    Kind,
    Place,
    Source,
    index_of,
    part_place,
)
from dedup_server.wire.sse import Event, encode

STOP_REASON: Final = "repetition_detected"
_OF_ERRORS: Final = ("message", "code", "param")


@dataclass(slots=True)
class _Text:
    """A text on its way to the reader.

    head: The fields of its events that tell which text they are about.
    last: Its last delta; held text comes in a copy of it.
    is_done: The reader was told that it ends.
    """

    kind: Kind
    part: str
    head: Json
    last: Json = field(default_factory=dict)
    is_done: bool = False
    pieces: list[str] = field(default_factory=list)
    num_in: int = 0
    num_out: int = 0

    def take(self, delta: Delta) -> None:
        self.num_in += len(delta.text)
        self.give(delta.given)

    def give(self, text: str) -> None:
        self.num_out += len(text)
        self.pieces.append(text)

    @property
    def given(self) -> str:
        return "".join(self.pieces)

    @property
    def is_edited(self) -> bool:
        """Return whether the reader got less than came; at its end only, for some may be held."""
        return self.num_in != self.num_out


@dataclass(slots=True)
class _Part:
    """A part of an item. `begun`: the event that began it."""

    begun: Json
    part: Json
    is_done: bool = False


@dataclass(slots=True)
class _Item:
    """An item of the output, as far as it has come. `begun`: the event that began it."""

    begun: Json = field(default_factory=dict)
    item: Json | None = None
    is_done: bool = False
    choice: int = 0
    texts: dict[tuple[Kind, int], _Text] = field(default_factory=dict)
    parts: dict[tuple[str, int], _Part] = field(default_factory=dict)  # by their list and place


class ResponsesWriter:
    """Writes a response.

    An answer of several choices, which the API does not know, is a response with an item for each.

    Args:
        answer: The answer that is written.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._response: Json = {}  # as the engine announced it, and at the end as it is
        self._items: dict[ItemKey, _Item] = {}
        self._texts: dict[str, _Text] = {}  # by choice and part
        self._last_number: int | None = None  # that the reader got; None where events have none
        self._shift = 0  # events added less events dropped
        self._running: set[int] = set()  # choices of an answer that is made here
        self._is_continued = False
        self._is_closed = False
        self._is_whole = False  # the engine sent the response at its end
        self._cut_off: set[int] = set()  # choices that ended at their limit
        self._whole: list[tuple[_Text, Json]] = []  # the texts of a body, and what holds them
        self._raw = b""

    def write(self, frame: Frame, decision: Decision) -> bytes:
        if self._is_closed:
            return b""
        source = frame.source
        if not isinstance(source, Source) or self._is_continued:
            return self._make(frame, decision)
        message = source.message
        kind = message.get("type")
        if not message or not isinstance(kind, str):
            return self._pass(source.event, message)
        written = self._held(decision.before)
        texts = [self._text_at(place) for place in source.places]
        if not frame.has_failed:
            for text, delta in zip(texts, frame.deltas, strict=True):
                text.take(delta)
        if kind in BY_DELTA and texts:
            return written + self._write_delta(source, frame.deltas[0], texts[0], decision)
        if kind in LAST:
            return written + self._write_last(source, texts, kind)
        if kind.endswith(".done"):
            return written + self._write_done(source, texts, decision, kind)
        if kind == ANNOTATION and not self._annotates(source):
            return self._drop(message)
        self._note(source, kind)
        return written + self._pass(source.event, message)

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
        written = self._held(list(self._answer.release()))
        last = {"type": "error", "code": error.code, "message": error.message}
        return written + self._made({**last, "param": error.param, "sequence_number": 0})

    def resume(self) -> None:
        self._is_continued = True
        self._running = self._running or {0}

    def add(self, frame: Frame, decision: Decision) -> None:
        source = frame.source
        if not isinstance(source, Source) or self._is_continued:
            self._make(frame, decision)
            return
        if not frame.is_whole:
            if frame.has_failed and not isinstance(source.message.get("response"), dict):
                raise refusal_in({name: source.message.get(name) for name in _OF_ERRORS})
            self.write(frame, decision)
            return
        self._response = source.message["response"]
        for place, delta in zip(source.places, frame.deltas, strict=True):
            text = self._text_at(place)
            text.take(delta)
            self._whole.append((text, place.holder))
        if not decision.is_changed:
            self._raw = source.event.data

    def whole(self) -> bytes:
        if self._raw:
            return self._raw
        response = self._response
        self._held(self._answer.flush())
        if not self._whole:  # it came in events, or was made here
            if not (self._is_closed or self._is_whole):
                self._close()
            return write_json(self._response)
        for text, holder in self._whole:
            self._settle(text, holder)
        if self._is_continued:
            response["status"], response["incomplete_details"] = "completed", None
            if self._cut_off:
                response["status"] = "incomplete"
                response["incomplete_details"] = {"reason": "max_output_tokens"}
                for item in response["output"][-1:]:  # the one that was continued
                    if isinstance(item, dict) and "status" in item:
                        item["status"] = "incomplete"
            made = [item for item in self._items.values() if item.begun]
            for item in made:
                self._close_item(item)
            response["output"] += [item.item for item in made]
            response["usage"] = self._usage()
        self._report(response)
        return write_json(response)

    # Events of another server, in which something changes

    def _write_delta(self, source: Source, delta: Delta, text: _Text, decision: Decision) -> bytes:
        message = source.message
        text.last = message
        if delta.given == delta.text and not decision.is_changed:
            return self._pass(source.event, message)
        is_cut = _is_cut(decision)
        if decision.dropped:
            return self._drop(message)
        if delta.given:
            written = self._pass(source.event, _with_delta(message, delta.given), is_changed=True)
        else:
            written = self._drop(message)
        return written + (self._held(decision.after) + self._close() if is_cut else b"")

    def _write_done(
        self, source: Source, texts: list[_Text], decision: Decision, kind: str
    ) -> bytes:
        """Write the end of a text, a part or an item."""
        message, item = source.message, self._item(source.item)
        if kind == "response.output_item.done" and isinstance(message.get("item"), dict):
            item.begun = item.begun or message
            item.item = message["item"]
        elif kind in PARTS_DONE and part_place(message) in item.parts:
            part = message.get("part")
            item.parts[part_place(message)].part = part if isinstance(part, dict) else {}
        if _is_cut(decision):
            return self._drop(message) + self._held(decision.after) + self._close()
        if decision.dropped:
            return self._drop(message)
        is_changed = False
        for text, place in zip(texts, source.places, strict=True):
            is_changed = self._settle(text, place.holder) or is_changed
        if kind == "response.output_item.done":
            item.is_done = True
        elif kind in PARTS_DONE and part_place(message) in item.parts:
            item.parts[part_place(message)].is_done = True
        return self._pass(source.event, message, is_changed=is_changed)

    def _write_last(self, source: Source, texts: list[_Text], kind: str) -> bytes:
        """Write the event with the whole response."""
        message, event, answer = source.message, source.event, self._answer
        response = message.get("response")
        if isinstance(response, dict):
            self._response, self._is_whole = response, True
        is_changed = False
        for text, place in zip(texts, source.places, strict=True):
            is_changed = self._settle(text, place.holder) or is_changed
        if isinstance(response, dict) and kind != "response.failed":
            is_changed = self._report(response) or is_changed
            if answer.is_cut and kind == "response.completed" and self._is_unusable():
                message["type"] = "response.incomplete"
                event = Event(event.data, event.name and b"response.incomplete")
        self._is_closed = answer.is_cut
        return self._pass(event, message, is_changed=is_changed)

    def _note(self, source: Source, kind: str) -> None:
        """Note what an event says has begun."""
        message = source.message
        if kind in PARTS and isinstance(message.get("part"), dict):
            item = self._item(source.item)
            item.parts[part_place(message)] = _Part(message, message["part"])
        elif kind == "response.output_item.added" and isinstance(message.get("item"), dict):
            item = self._item(source.item)
            item.begun, item.item = message, message["item"]
        elif isinstance(message.get("response"), dict):
            self._response = message["response"]

    def _annotates(self, source: Source) -> bool:
        """Return whether an annotation is about what the reader got."""
        message, item = source.message, self._item(source.item)
        index, annotation = index_of(message, "content_index"), message.get("annotation")
        text, part = item.texts.get((OUTPUT_TEXT, index)), item.parts.get(("content", index))
        if text and not self._fits(text, annotation):
            return False
        if part and isinstance(part.part.get("annotations"), list):
            part.part["annotations"].append(annotation)
        return True

    def _settle(self, text: _Text, holder: Json) -> bool:
        """Put what the reader got of a text that has ended; return whether that differs."""
        text.is_done = True
        if text.is_edited:
            self._put(text, holder)
        return text.is_edited

    def _put(self, text: _Text, holder: Json) -> None:
        """Make a part, an item or an event hold what the reader got.

        Logprobs go with the text that they belong to, and so do annotations of places behind the
        first that was removed.
        """
        holder[text.kind.field] = text.given
        if not text.is_edited:
            return
        if holder.get("logprobs"):
            holder["logprobs"] = []
        if isinstance(holder.get("annotations"), list):
            annotations = holder["annotations"]
            holder["annotations"] = [one for one in annotations if self._fits(text, one)]

    def _fits(self, text: _Text, annotation: object) -> bool:
        """Return whether the annotation is about a place before all that was removed."""
        if not isinstance(annotation, dict):
            return True
        names = ["start_index", "end_index", "index"]
        if annotation.get("type") == "file_path":
            names.pop()
        channel = self._answer.choices[0].parts.get(text.part)
        removed = channel.first_removed if channel is not None else None
        places = [annotation[name] for name in names if type(annotation.get(name)) is int]
        return removed is None or all(place <= removed for place in places)

    # The rest of a response that ends here

    def _close(self) -> bytes:
        statuses = [self._status_of(choice) for choice in self._answer.choices]
        status = "incomplete" if "incomplete" in statuses else "completed"
        open_items = [item for item in self._items.values() if not item.is_done]
        written = b"".join([self._close_item(item) for item in open_items])
        output = [item.item for item in self._items.values() if item.item is not None]
        response = {**self._response, "status": status, "output": output, "usage": self._usage()}
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        self._report(response)
        self._response = response
        self._is_closed = True
        return written + self._made({"type": f"response.{status}", "response": response})

    def _status_of(self, choice: int) -> str:
        """Return the status of a choice's items: `incomplete` where no client may use them."""
        answer = self._answer
        is_unusable = answer.is_cut and answer.is_unusable(choice)
        return "incomplete" if is_unusable or choice in self._cut_off else "completed"

    def _close_item(self, item: _Item) -> bytes:
        written = b""
        for text in item.texts.values():
            if not text.is_done:
                text.is_done = True
                logprobs: Json = {"logprobs": []} if text.kind.name == OUTPUT_TEXT.name else {}
                done = {"type": f"response.{text.kind.name}.done", **text.head}
                written += self._made({**done, text.kind.field: text.given, **logprobs})
        filled = self._filled(item)
        for part in item.parts.values():
            if not part.is_done:
                part.is_done = True
                kind = PARTS[part.begun["type"]]
                written += self._made({**part.begun, "type": kind, "part": part.part})
        item.is_done = True
        if item.item is not None:
            item.item = filled
            done = {**item.begun, "type": "response.output_item.done", "item": filled}
            written += self._made(done)
        return written

    def _filled(self, item: _Item) -> Json:
        """Return the item with the texts that the reader got."""
        filled = dict(item.item or {})
        parts = {place: part.part for place, part in item.parts.items()}
        for (kind, index), text in item.texts.items():
            if kind.part:
                self._put(text, parts.setdefault((kind.parts, index), _new_part(kind)))
            else:
                self._put(text, filled)
        for name in {name for name, _ in parts}:
            filled[name] = [parts[place] for place in sorted(parts) if place[0] == name]
        if "status" in filled:
            filled["status"] = self._status_of(item.choice)
        return filled

    def _report(self, response: Json) -> bool:
        """Make the response report what became of its texts; return whether that is anything."""
        answer = self._answer
        texts = list(self._texts.values())
        is_edited = any(text.is_edited for text in texts)
        if not (answer.is_cut or is_edited or answer.has_report()):
            return False
        if isinstance(response.get("output_text"), str):
            contents = [text.given for text in texts if text.kind.name == OUTPUT_TEXT.name]
            response["output_text"] = "".join(contents)
        if answer.is_cut:
            response["stop_reason"] = STOP_REASON
            if self._is_unusable():
                response["status"] = "incomplete"
                response["incomplete_details"] = {"reason": "max_output_tokens"}
                self._mark_incomplete(response)
        elif answer.is_stopped:
            response["stop_reason"] = STOP_REASON
        if loop := answer.first_loop:  # for clients that pass on the API's own fields alone
            told = f"{loop}; {'cut' if answer.is_cut else 'healed'}"
            response["metadata"] = {**(response.get("metadata") or {}), "repetition": told}
        response["repetition"] = answer.summary()
        return True

    def _mark_incomplete(self, response: Json) -> None:
        """Mark the items in which a text was cut."""
        output = response.get("output")
        items = [item for item in output if isinstance(item, dict)] if output else []
        for name, text in self._texts.items():
            choice, _, part = name.partition("/")
            channel = self._answer.choices[int(choice)].parts.get(part)
            if channel is None or not channel.is_cut:
                continue
            for index, item in enumerate(items):
                is_it = item.get("id", "") == text.head.get("item_id")
                if "status" in item and (is_it or index == text.head.get("output_index")):
                    item["status"] = "incomplete"

    def _is_unusable(self) -> bool:
        """Return whether the cut left something that no client may take for complete."""
        return any(self._answer.is_unusable(index) for index in self._answer.choices)

    def _usage(self) -> Json:
        """Return the usage; estimated, and saying so, where the engine reported none."""
        answer = self._answer
        reasoning = [channel.bytes_in for channel in answer.channels if channel.name == "reasoning"]
        input_tokens = answer.tokens.known_input
        usage: Json = {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answer.num_tokens,
            "output_tokens_details": {"reasoning_tokens": estimate_tokens(sum(reasoning))},
            "total_tokens": input_tokens + answer.num_tokens,
        }
        if answer.tokens.is_estimated:
            usage["estimated"] = True
        return usage

    # Events that are made here: an engine in this process, or a stream that continues the answer

    def _make(self, frame: Frame, decision: Decision) -> bytes:
        written = b""
        if frame.start is not None:
            written += self._start(frame.start)
        written += self._held(decision.before)
        for delta in frame.deltas:
            if delta.choice not in decision.dropped:
                written += self._piece(delta)
        written += self._held(decision.after)
        for finish in decision.ends(frame):
            self._running.discard(finish.choice)
            if finish.reason == "length" and not finish.is_cut:
                self._cut_off.add(finish.choice)
        # The usage of another server's stream comes behind the end of its text.
        has_usage = frame.output_tokens is not None or not self._is_continued
        if not self._running and has_usage and not self._whole:
            written += self._close()
        return written

    def _start(self, start: Start) -> bytes:
        self._running = set(range(start.num_choices))
        self._last_number = -1
        self._response = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": start.model,
            "output": [],
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": None,
            **start.extra,
        }
        kinds = ("response.created", "response.in_progress")
        return b"".join(
            [self._made({"type": kind, "response": dict(self._response)}) for kind in kinds]
        )

    def _piece(self, delta: Delta) -> bytes:
        """Return the events of a piece of text, and of the item that begins with it."""
        if not delta.given and not delta.tool:
            return b""
        written = b""
        text = self._texts.get(_key(delta))
        if text is None:
            text, written = self._begin(delta)
        text.take(delta)
        if not delta.given:
            return written
        return written + self._made(self._delta_of(text, delta.given))

    def _begin(self, delta: Delta) -> tuple[_Text, bytes]:
        """Begin an item with a text of its own; return the text and the events."""
        kind = BY_CHANNEL[delta.channel]
        index = len(self._items)
        item = _new_item(delta)
        head: Json = {"item_id": item["id"], "output_index": index}
        begun = {"type": "response.output_item.added", "output_index": index, "item": dict(item)}
        entry = self._items[index] = _Item(begun, item, choice=delta.choice)
        written = self._made(dict(begun))
        if kind.part:
            head[kind.place] = 0
            part = _new_part(kind)
            part[kind.field] = ""
            begun = {"type": "response.content_part.added", **head, "part": dict(part)}
            entry.parts[kind.parts, 0] = _Part(begun, part)
            written += self._made(dict(begun))
        text = _Text(kind, delta.part, head)
        entry.texts[kind, 0] = self._texts[_key(delta)] = text
        return text, written

    def _held(self, pieces: "list[Delta] | list[Delta | Finish]") -> bytes:
        """Return the events of held text."""
        written = b""
        for piece in pieces:
            if isinstance(piece, Delta):
                text = self._texts.get(_key(piece))
                if text is None:
                    written += self._piece(piece)
                else:
                    text.give(piece.text)
                    written += self._made(self._delta_of(text, piece.text))
        return written

    def _delta_of(self, text: _Text, given: str) -> Json:
        """Return an event with a piece of a text, like the last one of that text."""
        if text.last.get("type") in BY_DELTA:
            return _with_delta(dict(text.last), given)
        logprobs: Json = {"logprobs": []} if text.kind.name == OUTPUT_TEXT.name else {}
        return {
            "type": f"response.{text.kind.name}.delta",
            **text.head,
            "delta": given,
            **logprobs,
        }

    # What has begun

    def _item(self, key: ItemKey) -> _Item:
        item = self._items.get(key)
        if item is None:
            item = self._items[key] = _Item()
        return item

    def _text_at(self, place: Place) -> _Text:
        item = self._item(place.item)
        text = item.texts.get((place.kind, place.number))
        if text is None:
            names = ("item_id", "output_index", place.kind.place)
            head = {name: place.head[name] for name in names if name in place.head}
            text = _Text(place.kind, place.part, head)
            item.texts[place.kind, place.number] = self._texts[f"0/{place.part}"] = text
        return text

    # Events on their way

    def _pass(self, event: Event, message: Json, *, is_changed: bool = False) -> bytes:
        """Return the event under its number: as it came, where nothing in it changes."""
        number = message.get("sequence_number")
        if type(number) is int:
            self._last_number = number + self._shift
            if self._shift:
                message["sequence_number"] = self._last_number
                is_changed = True
        return encode(write_json(message), event.name) if is_changed else event.encode()

    def _drop(self, message: Json) -> bytes:
        """Leave out an event: those behind it move up by a number."""
        if type(message.get("sequence_number")) is int:
            self._shift -= 1
        return b""

    def _made(self, message: Json) -> bytes:
        """Return an event of our own."""
        if self._last_number is not None:
            self._last_number += 1
            self._shift += 1
            message["sequence_number"] = self._last_number
        return encode(write_json(message), message["type"].encode())


def _is_cut(decision: Decision) -> bool:
    """Return whether the response ends at a loop."""
    return any(isinstance(piece, Finish) for piece in decision.after)


def _with_delta(message: Json, delta: str) -> Json:
    """Return the event with another delta, and without logprobs of the one that it had."""
    message["delta"] = delta
    if message.get("logprobs"):
        message["logprobs"] = []
    return message


def _new_part(kind: Kind) -> Json:
    if kind.name == OUTPUT_TEXT.name:
        return {"type": kind.part, "annotations": []}
    return {"type": kind.part}


def _new_item(delta: Delta) -> Json:
    """Return an item as it begins."""
    name = uuid.uuid4().hex
    if delta.channel == "content":
        item = {"id": f"msg_{name}", "type": "message", "role": "assistant"}
        return {**item, "status": "in_progress", "content": []}
    if delta.channel == "reasoning":
        return {"id": f"rs_{name}", "type": "reasoning", "summary": [], "content": []}
    call, function = delta.tool or (f"call_{name}", "")
    item = {"id": f"fc_{name}", "type": "function_call", "status": "in_progress"}
    return {**item, "call_id": call, "name": function, "arguments": ""}


def _key(delta: Delta) -> str:
    return f"{delta.choice}/{delta.part}"
