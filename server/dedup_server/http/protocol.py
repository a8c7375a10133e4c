"""uvicorn's HTTP/1.1 with a guard at the door: heads that are too long, too slow or two things at once, readers that do not read."""

import asyncio
import logging
import weakref
from collections.abc import Awaitable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from dedup.lenient_json import write_json
from dedup_server.errors import ApiError
from dedup_server.http.chunked import body_writer, chunk

# The name of an ASGI extension: an `InParts`.
IN_PARTS = "dedup.in_parts"

# What uvicorn says of requests and answers that are broken off on purpose.
_EXPECTED = (
    "Invalid HTTP request",
    "without completing response",
    "Unsupported upgrade",
    "No supported WebSocket",
)
logging.getLogger("uvicorn.error").addFilter(
    lambda record: not any(words in record.getMessage() for words in _EXPECTED)
)


class GuardedProtocol(HttpToolsProtocol):
    """`limits` are set by a subclass for one server (`guarded_by`)."""

    max_header_bytes: int
    header_timeout_seconds: float
    idle_timeout_seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = True
        self._resuming = False
        self._first_parser = self.parser
        self._head_bytes = 0
        self._stuck: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self._unstick()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(ApiError(400, "this is not a valid HTTP request", code="invalid_http"))
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
        if self._in_head and self._head_bytes > self.max_header_bytes:
            self._refuse_head_size()
        elif self._slow is None and (
            self._in_head or (self.cycle and self.cycle.response_complete)
        ):
            self._await_head()  # that of the rest of a head, for nearly every one comes at once; or of one after a lone line end

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        self._in_head = False
        self._settle()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.max_header_bytes:
            self._refuse_head_size()
        elif (reason := _ambiguous(self.headers)) is not None:
            self._refuse(ApiError(400, reason, code="invalid_http"))
        elif not self.transport.is_closing():
            super().on_headers_complete()
            self.scope["extensions"] = {IN_PARTS: InParts(self.cycle)}  # type: ignore[dict-item]
            return
        self.cycle = _Refused()  # type: ignore[assignment]

    def on_url(self, url: bytes) -> None:
        if not self._resuming:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._resuming:
            super().on_header(name, value)

    def on_message_complete(self) -> None:
        if self.parser is self._first_parser and self.parser.should_upgrade() and self._has_body():
            return  # the parser takes what follows for another protocol's: the body is still to come
        super().on_message_complete()

    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _decline_upgrade(self, rest: bytes) -> None:
        """A client that offers another protocol (Java's offers HTTP/2) gets its answer in this one. The parser cannot go on after
        an offer, so another one does, from the end of the head."""
        framing = [
            header
            for header in self.headers
            if header[0] in (b"content-length", b"transfer-encoding")
        ]
        has_body = self._has_body()
        self.parser = httptools.HttpRequestParser(self)
        if has_body:
            self._resuming = True
            head = (
                b"POST / HTTP/1.1\r\n"
                + b"".join(b"%b: %b\r\n" % header for header in framing)
                + b"\r\n"
            )
            self.parser.feed_data(head)
            self._resuming = False
        if rest:
            self.data_received(rest)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unstick()
        self._stuck = self.loop.call_later(self.idle_timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._unstick()
        super().resume_writing()

    def _await_head(self) -> None:
        self._slow = self.loop.call_later(self.header_timeout_seconds, self._refuse_slowness)

    def _settle(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _refuse_slowness(self) -> None:
        self._slow = None
        if self._head_bytes:
            self._refuse(
                ApiError(
                    408,
                    f"no complete request came within {self.header_timeout_seconds:g} s",
                    code="too_slow",
                )
            )
        else:
            self.transport.close()

    def _refuse_head_size(self) -> None:
        message = f"the request's head is larger than {self.max_header_bytes} bytes"
        self._refuse(ApiError(431, message, code="headers_too_large"))

    def _refuse(self, error: ApiError) -> None:
        """Answers outside of the application and closes: what may follow on this connection cannot be trusted."""
        if self.transport.is_closing():
            return
        if (
            self.cycle is None or self.cycle.response_complete
        ):  # else it would land in the middle of another answer
            body = write_json(error.body())
            head = STATUS_LINE.get(error.status, b"HTTP/1.1 %d \r\n" % error.status)
            head += (
                b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                % len(body)
            )
            self.transport.write(head + body)
        self.transport.close()


class InParts:
    """An answer that is sent in parts as they come, straight to the socket; what `begin` and `write` return is to be awaited while the
    client is slow. ASGI's `send` does the same, at the price of a message, a coroutine and a task to run it, each of them dearer than
    the part.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        # The cycle holds this: with a way back, both would stay until the next collection.
        self._cycle: RequestResponseCycle = weakref.proxy(cycle)
        self.write = body_writer(cycle.transport, cycle.flow)

    def begin(self, headers: list[tuple[bytes, bytes]], part: bytes) -> Awaitable[None] | None:
        """Sends the head and the first part at once. headers: their values hold no line end."""
        cycle = self._cycle
        cycle.response_started = cycle.chunked_encoding = True
        cycle.waiting_for_100_continue = False
        head = b"".join([b"%b: %b\r\n" % header for header in [*cycle.default_headers, *headers]])
        closes = b"" if cycle.keep_alive else b"connection: close\r\n"
        if not cycle.transport.is_closing():
            first = chunk(part) if part else b""
            cycle.transport.write(
                b"%b%b%btransfer-encoding: chunked\r\n\r\n%b"
                % (STATUS_LINE[200], head, closes, first)
            )
        return self.write(b"")  # nothing, but what to await

    async def end(self, part: bytes) -> None:
        await self._cycle.send({"type": "http.response.body", "body": part, "more_body": False})


class _Refused:
    """Stands where a request would: what still comes of it is dropped."""

    response_complete = True
    keep_alive = False

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


def _ambiguous(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Why two servers could read the request's length in two ways (request smuggling), if they could."""
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
    """The protocol with one server's limits."""
    limits: dict[str, Any] = {
        "max_header_bytes": max_header_bytes,
        "header_timeout_seconds": header_timeout_seconds,
        "idle_timeout_seconds": idle_timeout_seconds,
    }
    return type("GuardedProtocol", (GuardedProtocol,), limits)
