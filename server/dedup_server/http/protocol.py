"""uvicorn's HTTP/1.1 protocol with limits.

It refuses heads that are too long, too slow or ambiguous, and leaves clients that do not read.
"""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from dedup.lenient_json import write_json
from dedup_server.errors import ApiError
from dedup_server.http.chunked import body_writer, chunk
from dedup_server.http.event import Event

# Name of an ASGI extension: a `Direct`.
DIRECT = "dedup.direct"

Headers = list[tuple[bytes, bytes]]

_FRAMING_HEADERS = (b"content-length", b"transfer-encoding")

# uvicorn's log messages about requests and responses that are broken off on purpose.
_EXPECTED = (
    "Invalid HTTP request",
    "without completing response",
    "Unsupported upgrade",
    "No supported WebSocket",
)
logging.getLogger("uvicorn.error").addFilter(
    lambda record: not any(message in record.getMessage() for message in _EXPECTED)
)


class _Stage(Enum):
    """Stage of the request that is read. Only callbacks of the parser move on."""

    HEAD = auto()  # a head is awaited or being read
    BODY = auto()  # the head is complete; then the body, or nothing until the next head
    REPLAY = auto()  # a new parser is given the head that was already handled


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the limits of one server, which `guarded_by` sets in a subclass.

    Attributes:
        is_draining: the server stops: connections close behind their next response.
    """

    is_draining: ClassVar[bool] = False

    max_header_bytes: int
    header_timeout_seconds: float
    idle_timeout_seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow._is_writable_event = Event(is_set=True)  # type: ignore[assignment]
        self._stage = _Stage.HEAD
        self._num_head_bytes = 0  # since the head, or the last piece of a body, began
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._on_leave: Callable[[], None] | None = None
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)
        if self._on_leave is not None:
            self._on_leave()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._num_head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(ApiError(400, "this is not a valid HTTP request", code="invalid_http"))
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
        if self._num_head_bytes > self.max_header_bytes:  # a head, or what surrounds a chunk
            self._refuse_head_size()
        elif self._head_timer is None and self._awaits_head():
            # Started here and not at the head's first byte: nearly every head comes in one read.
            self._start_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cancel_write_timer()
        self._write_timer = self.loop.call_later(self.idle_timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        if self._stage is _Stage.REPLAY:
            return
        super().on_message_begin()
        self._stage = _Stage.HEAD
        self._num_head_bytes = 0

    def on_url(self, url: bytes) -> None:
        if self._stage is not _Stage.REPLAY:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage is _Stage.HEAD:  # trailers, behind the body, are dropped
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._stage is _Stage.REPLAY:
            return
        self._stage = _Stage.BODY
        self._num_head_bytes = 0
        self._cancel_head_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.max_header_bytes:
            self._refuse_head_size()
        elif (reason := _ambiguity(self.headers)) is not None:
            self._refuse(ApiError(400, reason, code="invalid_http"))
        elif not self.transport.is_closing():
            super().on_headers_complete()
            self.cycle.message_event = Event()  # type: ignore[assignment]
            if self.is_draining:
                self.cycle.keep_alive = False
            self.scope["extensions"] = {DIRECT: Direct(self.cycle, self)}  # type: ignore[dict-item]
            return
        self.cycle = _RefusedCycle()  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._num_head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        # After an offer to upgrade, the parser takes the body for data of the other protocol.
        if not (self.parser.should_upgrade() and self._framing()):
            super().on_message_complete()

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        """Call `on_leave` when the connection is lost; None ends that."""
        self._on_leave = on_leave

    def _framing(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that tell the length of the body; none if there is no body."""
        return [header for header in self.headers if header[0] in _FRAMING_HEADERS]

    def _decline_upgrade(self, rest: bytes) -> None:
        """Answer in HTTP/1.1 a client that offers another protocol; Java's client offers HTTP/2.

        A parser cannot continue after an offer. A new one gets a head with the same framing, and
        then `rest`, which follows the head.
        """
        self.parser = httptools.HttpRequestParser(self)
        if framing := self._framing():
            self._stage = _Stage.REPLAY
            lines = b"".join([b"%b: %b\r\n" % header for header in framing])
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % lines)
            self._stage = _Stage.BODY
        if rest:
            self.data_received(rest)

    def _awaits_head(self) -> bool:
        """Return whether a head is being read, or data came behind the last response, such as a
        blank line before the next head.
        """
        return self._stage is _Stage.HEAD or bool(self.cycle and self.cycle.response_complete)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout_seconds, self._refuse_slowness)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse_slowness(self) -> None:
        self._head_timer = None
        if not self._num_head_bytes:
            self.transport.close()
            return
        message = f"no complete request came within {self.header_timeout_seconds:g} s"
        self._refuse(ApiError(408, message, code="too_slow"))

    def _refuse_head_size(self) -> None:
        message = f"the request's head is larger than {self.max_header_bytes} bytes"
        self._refuse(ApiError(431, message, code="headers_too_large"))

    def _refuse(self, error: ApiError) -> None:
        """Answer outside of the application and close: the rest of the connection cannot be
        trusted.
        """
        if self.transport.is_closing():
            return
        # While a response is being written, the error would land in its middle.
        if self.cycle is None or self.cycle.response_complete:
            body = write_json(error.body())
            status = STATUS_LINE.get(error.status, b"HTTP/1.1 %d \r\n" % error.status)
            self.transport.write(
                b"%bcontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, len(body), body)
            )
        self.transport.close()


class Direct:
    """A request's connection, without ASGI's messages between.

    `receive` and `send` do the same with a message, a coroutine and a task for every part, each of
    which costs more than the part. `begin` and `write` return what to await while the client is
    slow.
    """

    def __init__(self, cycle: RequestResponseCycle, protocol: GuardedProtocol) -> None:
        # The cycle holds this object: a strong reference back would leave both to the collector.
        self._cycle: RequestResponseCycle = weakref.proxy(cycle)
        self._protocol: GuardedProtocol = weakref.proxy(protocol)
        self.write = body_writer(cycle.transport, cycle.flow)

    @property
    def is_lost(self) -> bool:
        """Return whether the client has left."""
        return self._cycle.disconnected

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        """Call `on_leave` when the client leaves; None ends that."""
        self._protocol.watch(on_leave)

    def body(self) -> bytes | None:
        """Return the request's body, if all of it has come. The connection keeps no copy."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected:
            return None
        cycle.flow.resume_reading()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def begin(self, headers: Headers, part: bytes) -> Awaitable[None] | None:
        """Send the head of a streamed response and its first part together.

        Args:
            headers: without line ends in their values.
            part: may be empty.
        """
        cycle = self._cycle
        cycle.response_started = cycle.chunked_encoding = True
        cycle.waiting_for_100_continue = False
        if not cycle.transport.is_closing():
            first = chunk(part) if part else b""
            head = self._head(headers)
            cycle.transport.write(b"%btransfer-encoding: chunked\r\n\r\n%b" % (head, first))
        return self.write(b"")  # sends nothing

    async def end(self, part: bytes) -> None:
        """Send the last part, which may be empty, and end the response."""
        await self._cycle.send({"type": "http.response.body", "body": part, "more_body": False})

    async def send(self, headers: Headers, body: bytes) -> None:
        """Send a whole response."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        if not cycle.transport.is_closing():
            head = self._head(headers)
            cycle.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def _head(self, headers: Headers) -> bytes:
        cycle = self._cycle
        lines = [b"%b: %b\r\n" % header for header in [*cycle.default_headers, *headers]]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        return STATUS_LINE[200] + b"".join(lines)


class _RefusedCycle:
    """Stand-in for the cycle of a refused request, which drops the rest of the request."""

    response_complete = True
    keep_alive = False

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


def _ambiguity(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return why two servers could find different ends of the request (request smuggling)."""
    lengths, encodings, num_hosts = [], [], 0
    for name, value in headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            encodings.append(value.strip().lower())
        elif name == b"host":
            num_hosts += 1
    if lengths and encodings:
        return "the request has both Content-Length and Transfer-Encoding"
    if len(lengths) > 1:
        return "the request has more than one Content-Length"
    if lengths and not lengths[0].strip().isdigit():
        return "the request's Content-Length is not a number"
    if encodings and encodings != [b"chunked"]:
        return "the request's Transfer-Encoding is not chunked"
    if num_hosts > 1:
        return "the request has more than one Host"
    return None


def guarded_by(
    max_header_bytes: int, header_timeout_seconds: float, idle_timeout_seconds: float
) -> type[GuardedProtocol]:
    """Return the protocol with the limits of one server.

    Args:
        max_header_bytes: of request line and headers together.
        header_timeout_seconds: until a request's head is complete.
        idle_timeout_seconds: that a client may leave a response unread.
    """
    limits: dict[str, Any] = {
        "max_header_bytes": max_header_bytes,
        "header_timeout_seconds": header_timeout_seconds,
        "idle_timeout_seconds": idle_timeout_seconds,
    }
    return type("GuardedProtocol", (GuardedProtocol,), limits)
