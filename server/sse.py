"""Server-sent events: bytes to events and back. Sans-IO; does not reconnect, knows no ids and no event names.

Lines end at CR, LF or CRLF and nowhere else: U+2028 inside JSON is text.
"""

import re

DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLongError(ValueError):
    """An event is longer than the decoder keeps."""


class SSEDecoder:
    """Takes bytes as they come, gives the data of each event that has ended."""

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._max = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._begun = False

    def feed(self, received: bytes) -> list[bytes]:
        """The data of the events that `received` completes. Raises `EventTooLongError`."""
        events: list[bytes] = []
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

    def flush(self) -> list[bytes]:
        """The event that the end of the stream completes, if any: a last event may lack its blank line."""
        events: list[bytes] = []
        self._line(self._rest.rstrip(b"\r"), events)
        self._rest = b""
        self._line(b"", events)
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))


def encode(data: bytes) -> bytes:
    """One event. `data` is JSON on one line."""
    return b"data: " + data + b"\n\n"
