"""The Responses API's events and bodies, read: kinds of texts, and where each stands."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from dedup.answer.frame import CallStart, ChannelName, Delta, Finish, Frame
from dedup.lenient_json import write_json
from dedup_server.errors import upstream_failed
from dedup_server.wire.base import Reader
from dedup_server.wire.reading import add_tokens, count, read_object, refusal_in
from dedup_server.wire.sse import Event

Json = dict[str, Any]
ItemKey = int | str  # an item's place in the output; its id, where the engine does not say


class Kind(NamedTuple):
    """A kind of text.

    Args:
        name: Its name in the types of events.
        channel: Its channel.
        field: The field that holds all of it.
        part: The type of the part that it is, if it is one.
        parts: The list of its item that the part is in.
    """

    name: str
    channel: ChannelName
    field: str
    part: str = ""
    parts: str = ""

    @property
    def place(self) -> str:
        """Return the field of an event that tells which part it is about."""
        return f"{self.parts}_index"


_KINDS: Final = (
    Kind("output_text", "content", "text", "output_text", "content"),
    Kind("refusal", "content", "refusal", "refusal", "content"),
    Kind("reasoning_text", "reasoning", "text", "reasoning_text", "content"),
    Kind("reasoning_summary_text", "reasoning", "text", "summary_text", "summary"),
    Kind("function_call_arguments", "tool_arguments", "arguments"),
    Kind("mcp_call_arguments", "tool_arguments", "arguments"),
    Kind("custom_tool_call_input", "tool_arguments", "input"),
)
OUTPUT_TEXT: Final = _KINDS[0]
BY_CHANNEL: Final = {"content": _KINDS[0], "reasoning": _KINDS[2], "tool_arguments": _KINDS[4]}
BY_DELTA: Final = {f"response.{kind.name}.delta": kind for kind in _KINDS}
_BY_DONE: Final = {f"response.{kind.name}.done": kind for kind in _KINDS}
_BY_PART: Final = {kind.part: kind for kind in _KINDS if kind.part}
_BY_ITEM: Final = dict(
    zip(("function_call", "mcp_call", "custom_tool_call"), _KINDS[4:], strict=True)
)
_BEGUN: Final = ("content_part", "reasoning_summary_part", "reasoning_part")  # vLLM has the last
# By the event that says a part begins: the one that says it is done.
PARTS: Final = {f"response.{part}.added": f"response.{part}.done" for part in _BEGUN}
PARTS_DONE: Final = frozenset(PARTS.values())
_ENDINGS: Final = ("completed", "incomplete", "failed", "cancelled")
LAST: Final = frozenset(f"response.{status}" for status in _ENDINGS)
ANNOTATION: Final = "response.output_text.annotation.added"


class Place(NamedTuple):
    """Place of a text in an event: its name, its item, and the dict that holds it.

    `head`: the fields of an event that tell which text it is about.
    """

    part: str
    kind: Kind
    number: int
    item: ItemKey
    holder: Json
    head: Json


class Source:
    """An event as it came, the item that it is about, and the texts that stand in it."""

    def __init__(
        self, event: Event, message: Json, item: ItemKey = 0, places: list[Place] | None = None
    ) -> None:
        self.event = event
        self.message = message
        self.item = item
        self.places: list[Place] = places or []


class ResponsesReader(Reader):
    """Reads events and bodies of the Responses API."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, ItemKey] = {}  # by an item's id
        self._known: set[str] = set()  # texts that have begun

    def read(self, event: Event) -> Frame:
        if not event.data or event.data == b"[DONE]":
            return Frame([], None, Source(event, {}))
        event = event.as_text()
        message = read_object(event.data)
        kind = message.get("type")
        if message.get("object") == "error":
            raise refusal_in(message)
        if not isinstance(kind, str):
            if message.get("error"):
                raise refusal_in(message)
            return Frame([], None, Source(event, message))
        if kind in BY_DELTA:
            return self._read_delta(event, message, BY_DELTA[kind])
        if kind in LAST:
            return self._read_last(event, message, kind)
        if kind == "error":
            return Frame([], None, Source(event, message), is_last=True, has_failed=True)
        if kind.endswith(".done"):
            item = self._item(message)
            places = list(self._in_done(message, kind, item))
            return Frame(self._ends(places), None, Source(event, message, item, places))
        if kind in PARTS or kind in (ANNOTATION, "response.output_item.added"):
            item = self._item(message)
            calls = list(_calls_in(item, message.get("item")))
            return Frame([], None, Source(event, message, item), calls=calls or None)
        return Frame([], None, Source(event, message))

    def read_whole(self, body: bytes) -> Frame:
        response = read_object(body)
        if not isinstance(response.get("output"), list):
            raise upstream_failed("the upstream's answer has no output")
        frame = self._read_response(Event(body), {"response": response}, response)
        frame.is_whole = True
        return frame

    def _read_delta(self, event: Event, message: Json, kind: Kind) -> Frame:
        delta = message.get("delta")
        if not isinstance(delta, str):
            return Frame([], None, Source(event, message))
        item = self._item(message)
        place = _place(item, kind, index_of(message, kind.place), message, message)
        self._known.add(place.part)
        source = Source(event, message, item, [place])
        return Frame([Delta(0, kind.channel, place.part, delta)], None, source)

    def _read_last(self, event: Event, message: Json, kind: str) -> Frame:
        response = message.get("response")
        if isinstance(response, dict):
            frame = self._read_response(event, message, response)
        else:
            frame = Frame([], [Finish(0, None)], Source(event, message), is_last=True)
        frame.has_failed = kind == "response.failed"
        return frame

    def _read_response(self, event: Event, message: Json, response: Json) -> Frame:
        places: list[Place] = []
        calls: list[CallStart] = []
        output = response.get("output")
        for position, item in enumerate(output if isinstance(output, list) else []):
            if isinstance(item, dict):
                name = item.get("id")
                key = self._keys.get(name, position) if isinstance(name, str) else position
                places += self._in_item(key, item, {"output_index": position})
                calls += _calls_in(key, item)
        usage, status = response.get("usage"), response.get("status")
        return Frame(
            self._ends(places),
            [Finish(0, status if isinstance(status, str) else None)],
            Source(event, message, 0, places),
            input_tokens=count(usage, "input_tokens"),
            output_tokens=count(usage, "output_tokens"),
            is_last=True,
            calls=calls or None,
        )

    def charge(self, frame: Frame, input_tokens: int, output_tokens: int) -> None:
        source = frame.source
        if not isinstance(source, Source) or frame.output_tokens is None:
            return
        response = source.message["response"]
        usage = response["usage"] = dict(response["usage"])
        add_tokens(
            usage,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=input_tokens + output_tokens,
        )
        is_whole = frame.is_whole
        data = write_json(response if is_whole else source.message)
        source.event = Event(data, source.event.name)

    def _ends(self, places: list[Place]) -> list[Delta]:
        """Return the ends of the texts that stand in an event; all of one that had no deltas."""
        deltas = []
        for place in places:
            text = "" if place.part in self._known else place.holder[place.kind.field]
            self._known.add(place.part)
            deltas.append(Delta(0, place.kind.channel, place.part, text, ends=True))
        return deltas

    def _in_done(self, message: Json, kind: str, item: ItemKey) -> Iterator[Place]:
        """Yield the texts that stand in an event which ends one."""
        if kind in _BY_DONE:
            known = _BY_DONE[kind]
            yield from self._find(item, known, index_of(message, known.place), message, message)
        elif kind in PARTS_DONE and isinstance(message.get("part"), dict):
            yield from self._in_part(item, message["part"], part_place(message)[1], message)
        elif kind == "response.output_item.done" and isinstance(message.get("item"), dict):
            yield from self._in_item(item, message["item"], message)

    def _in_item(self, key: ItemKey, item: Json, head: Json) -> Iterator[Place]:
        if isinstance(item.get("id"), str):
            head = {**head, "item_id": item["id"]}
        for name in ("summary", "content"):
            parts = item.get(name)
            for index, part in enumerate(parts if isinstance(parts, list) else []):
                if isinstance(part, dict):
                    yield from self._in_part(key, part, index, {**head, f"{name}_index": index})
        kind = item.get("type")
        if isinstance(kind, str) and kind in _BY_ITEM:
            yield from self._find(key, _BY_ITEM[kind], 0, item, head)

    def _in_part(self, key: ItemKey, part: Json, index: int, head: Json) -> Iterator[Place]:
        kind = part.get("type")
        if isinstance(kind, str) and kind in _BY_PART:
            yield from self._find(key, _BY_PART[kind], index, part, head)

    def _find(
        self, key: ItemKey, kind: Kind, index: int, holder: Json, head: Json
    ) -> Iterator[Place]:
        place = _place(key, kind, index, holder, head)
        text = holder.get(kind.field)
        if place.part in self._known or (isinstance(text, str) and text):
            yield place

    def _item(self, message: Json) -> ItemKey:
        """Return the key of the item that an event is about."""
        item, key = message.get("item"), message.get("output_index")
        name = item.get("id") if isinstance(item, dict) else message.get("item_id")
        if type(key) is not int:
            key = self._keys.get(name, name) if isinstance(name, str) else 0
        if isinstance(name, str) and name:
            self._keys[name] = key
        return key


def _calls_in(key: ItemKey, item: object) -> Iterator[CallStart]:
    """Yield the tool call that an item is."""
    kind = item.get("type") if isinstance(item, dict) else None
    if isinstance(item, dict) and kind in ("function_call", "custom_tool_call"):
        place = _place(key, _BY_ITEM[kind], 0, item, {})
        yield CallStart(0, place.part, str(item.get("name")))


def _place(item: ItemKey, kind: Kind, index: int, holder: Json, head: Json) -> Place:
    return Place(f"{item}/{kind.name}/{index}", kind, index, item, holder, head)


def index_of(message: Json, name: str) -> int:
    index = message.get(name)
    return index if type(index) is int else 0


def part_place(message: Json) -> tuple[str, int]:
    name = "summary" if "summary_index" in message else "content"
    return name, index_of(message, f"{name}_index")
