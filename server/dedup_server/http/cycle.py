"""A request on a connection of the server, and its response."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from dedup_server.http.event import Event

if TYPE_CHECKING:
    from dedup_server.http.protocol import ServerProtocol

# Name of an ASGI extension: the request's `Cycle`.
DIRECT: Final = "dedup.direct"

Headers = list[tuple[bytes, bytes]]
Message = dict[str, Any]

_log: Final = logging.getLogger("dedup.server")

_PAUSE_BYTES: Final = 64 * 1024  # of a body that nobody reads
_SIZE_LINES: Final = [b"%x\r\n" % size for size in range(1024)]  # of the sizes streams consist of
_REASONS: Final = {int(status): status.phrase.encode() for status in HTTPStatus}


class Cycle:
    """A request and its response.

    An application reads and answers with ASGI's `receive` and `send`. Those take a message, a
    coroutine and often a task for every part, each of which costs more than the part: `body`,
    `begin`, `write`, `end` and `respond` do the same without them.

    Args:
        protocol: The connection.
        is_to_head: The request's method is HEAD: the response has no body.
        awaits_go: The client sends the body when it is told to (100 Continue).
        keeps_alive: The connection stays open behind the response.

    Attributes:
        is_lost: The client left before the end of the response.
        is_complete: The response is.
    """

    def __init__(
        self, protocol: "ServerProtocol", *, is_to_head: bool, awaits_go: bool, keeps_alive: bool
    ) -> None:
        self.keeps_alive = keeps_alive
        self.is_lost = False
        self.has_begun = False
        self.is_complete = False
        self._protocol = protocol
        self._transport = protocol.transport
        self._is_to_head = is_to_head
        self._awaits_go = awaits_go
        self._news = Event()  # there is something to receive
        self._body = b""
        self._has_come = False  # all of the body
        self._is_chunked = False
        self._num_unsent = 0  # bytes of the response's length

    async def answer(self, app: Callable[..., Awaitable[None]], scope: Message) -> None:
        """Have the application answer. What it leaves incomplete is an error."""
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            pass
        except Exception:
            _log.exception("the application failed")
        if self.is_complete or self.is_lost:
            return
        if self.has_begun:
            self._transport.close()
            return
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        self.keeps_alive = False
        self._send_head(500, headers)
        self._send_part(body, is_last=True)

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        """Call `on_leave` when the client leaves; None ends that."""
        self._protocol.on_leave = on_leave

    def body(self) -> bytes | None:
        """Return the request's body, if all of it has come. The connection keeps no copy."""
        if not self._has_come or self.is_lost:
            return None
        self._protocol.resume_reading()
        body, self._body = self._body, b""
        return body

    def begin(self, headers: Headers, part: bytes) -> Awaitable[None] | None:
        """Send the head of a streamed response and its first part together.

        Args:
            headers: Without line ends in their values.
            part: May be empty.

        Returns:
            What to await while the client is slow.
        """
        self.has_begun = self._is_chunked = True
        self._awaits_go = False
        if not self._transport.is_closing():
            first = _chunk(part) if part else b""
            head = self._head(200, headers)
            self._transport.write(b"%btransfer-encoding: chunked\r\n\r\n%b" % (head, first))
        return self.write(b"")  # sends nothing

    def write(self, part: bytes) -> Awaitable[None] | None:
        """Send a part of a streamed response. Returns what to await while the client is slow."""
        if part and not self._transport.is_closing():
            self._transport.write(_chunk(part))
        return self._protocol.drain() if self._protocol.is_slow else None

    async def end(self, part: bytes) -> None:
        """Send the last part, which may be empty, and end the response."""
        if self._protocol.is_slow and not self.is_lost:
            await self._protocol.drain()
        if not self.is_lost:
            self._transport.write((_chunk(part) if part else b"") + b"0\r\n\r\n")
            self._complete()

    async def respond(self, headers: Headers, body: bytes) -> None:
        """Send a whole response.

        Args:
            headers: Without line ends in their values.
            body: All of it.
        """
        if self._protocol.is_slow and not self.is_lost:
            await self._protocol.drain()
        self.has_begun = True
        self._awaits_go = False
        if not self._transport.is_closing():
            head = self._head(200, headers)
            self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self._complete()

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        if self._awaits_go and not self._transport.is_closing():
            self._awaits_go = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self.is_lost or self.is_complete):
            self._protocol.resume_reading()
            await self._news.wait()
            self._news.clear()
        if self.is_lost or self.is_complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        return {"type": "http.request", "body": body, "more_body": not self._has_come}

    async def send(self, message: Message) -> None:
        """ASGI's `send`."""
        if self._protocol.is_slow and not self.is_lost:
            await self._protocol.drain()
        if self.is_lost:
            return
        kind = message["type"]
        if kind != ("http.response.body" if self.has_begun else "http.response.start"):
            raise RuntimeError(f"{kind} is out of place")
        if self.is_complete:
            raise RuntimeError("the response is already complete")
        if self.has_begun:
            self._send_part(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            self._send_head(message["status"], list(message.get("headers", ())))

    def take(self, part: bytes) -> bool:
        """Keep a part of the request's body. Returns whether that is enough for now."""
        if self.is_complete:
            return False
        self._body += part
        self._news.set()
        return len(self._body) > _PAUSE_BYTES

    def take_end(self) -> None:
        """Note that all of the request's body has come."""
        self._has_come = True
        self._news.set()

    def lose(self) -> None:
        """Note that the client has left."""
        self.is_lost = not self.is_complete
        self._news.set()

    def _send_head(self, status: int, headers: Headers) -> None:
        lengths = []
        kept: Headers = []
        for name, value in headers:
            if (
                name.translate(None, b"\r\n\0:") != name
                or value.translate(None, b"\r\n\0") != value
            ):
                raise RuntimeError(f"the header {name!r} is not valid")
            name = name.lower()
            if name == b"connection":
                self.keeps_alive = self.keeps_alive and value.lower() != b"close"
                continue
            if name == b"content-length":
                lengths.append(int(value))
            kept.append((name, value))
        self.has_begun = True
        self._awaits_go = False
        self._num_unsent = lengths[0] if lengths else 0
        self._is_chunked = not (lengths or self._is_to_head or status in (204, 304))
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._is_chunked else b"\r\n"
        self._transport.write(self._head(status, kept) + framing)

    def _send_part(self, part: bytes, *, is_last: bool) -> None:
        if self._is_to_head:
            self._num_unsent = 0
        elif self._is_chunked:
            data = (_chunk(part) if part else b"") + (b"0\r\n\r\n" if is_last else b"")
            self._transport.write(data)
        elif len(part) > self._num_unsent:
            raise RuntimeError("the response is longer than its Content-Length")
        else:
            self._num_unsent -= len(part)
            self._transport.write(part)
        if is_last:
            if self._num_unsent:
                raise RuntimeError("the response is shorter than its Content-Length")
            self._complete()

    def _complete(self) -> None:
        self.is_complete = True
        self._news.set()
        if not self.keeps_alive:
            self._transport.close()
        self._protocol.end_cycle(self)

    def _head(self, status: int, headers: Headers) -> bytes:
        lines = [status_line(status)]
        lines += [b"%b: %b\r\n" % header for header in self._protocol.default_headers()]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if not self.keeps_alive:
            lines.append(b"connection: close\r\n")
        return b"".join(lines)


def _chunk(part: bytes) -> bytes:
    """Return `part`, which is not empty, as a chunk."""
    size = len(part)
    if size < len(_SIZE_LINES):
        return b"%b%b\r\n" % (_SIZE_LINES[size], part)
    return b"%x\r\n%b\r\n" % (size, part)


def status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b""))
