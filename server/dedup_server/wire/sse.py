"""Server-sent events: bytes to events and back. Sans-IO; does not reconnect, knows no ids.

Lines end at CR, LF or CRLF and nowhere else: U+2028 inside JSON is text.
"""

import re
from typing import Final

from dedup.lenient_json import as_text

DONE: Final = b"data: [DONE]\n\n"

_BOM: Final = b"\xef\xbb\xbf"
_LF: Final = 10
_CR: Final = 13
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class Event:
    """name: of the event, empty where it has none. A comment has no data; its text, colon included, stands as the name. raw: the
    bytes it came as, where they are just what `encode` would write."""

    def __init__(self, data: bytes, name: bytes = b"", raw: bytes = b"") -> None:
        self.data = data
        self.name = name
        self.raw = raw

    def encode(self) -> bytes:
        return self.raw or encode(self.data, self.name)

    def as_text(self) -> "Event":
        """Return the event with U+FFFD for bytes that are not UTF-8: clients give up on those."""
        data = as_text(self.data)
        return self if data is self.data else Event(data, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and (self.data, self.name) == (other.data, other.name)

    def __repr__(self) -> str:
        return f"Event({self.data!r}, {self.name!r})"


class EventTooLongError(ValueError):
    """An event is longer than the decoder keeps."""


class SSEDecoder:
    """Takes bytes as they come, gives each event that has ended."""

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._max = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._name = b""
        self._begun = False

    @property
    def is_between(self) -> bool:
        """Return whether no event has begun."""
        return self._begun and not (self._rest or self._data or self._name)

    def feed(self, received: bytes) -> list[Event]:
        """The events that `received` completes. Raises `EventTooLongError`."""
        if (
            self.is_between
            and received.startswith(b"data: ")
            and received.endswith(b"\n\n")
            and _CR not in received
        ):
            # What nearly every read is: whole events of one data line each.
            data = received[6:-2]
            if _LF not in data:
                return [Event(data, b"", received)]
            parts = data.split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * (len(parts) - 1):
                return [Event(part) for part in parts]
        events: list[Event] = []
        # What was searched before holds no line end but perhaps a last CR: a long line stays linear to search.
        search_from = max(0, len(self._rest) - 1)
        buffer = self._rest + received
        if not self._begun:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._rest = buffer
                return events
            self._begun = True
            buffer, search_from = buffer.removeprefix(_BOM), 0
        at = 0
        while found := _LINE_END.search(buffer, search_from):
            if found.end() == len(buffer) and found.group() == b"\r":
                break  # an LF may follow
            self._line(buffer[at : found.start()], events)
            at = search_from = found.end()
        self._rest = buffer[at:]
        if len(self._rest) + sum(map(len, self._data)) > self._max:
            raise EventTooLongError(f"an event of more than {self._max} bytes")
        return events

    def flush(self) -> list[Event]:
        """The event that the end of the stream completes, if any: a last event may lack its blank line."""
        events: list[Event] = []
        self._line(self._rest.rstrip(b"\r"), events)
        self._rest = b""
        self._line(b"", events)
        return events

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(b"\n".join(self._data), self._name))
                self._data = []
            self._name = b""
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            self._name = line[6:].removeprefix(b" ")
        elif line.startswith(b":"):
            events.append(Event(b"", line))


def encode(data: bytes, name: bytes = b"") -> bytes:
    """One event, as bytes."""
    if not data:
        return name + b"\n\n"
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data
