"""uvicorn's HTTP/1.1 with a guard at the door: heads that are too long, too slow or two things at once, readers that do not read."""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.errors import ApiError
from server.sse import write_json

# What uvicorn says of requests and answers that are broken off on purpose.
_EXPECTED = ("Invalid HTTP request", "without completing response", "Unsupported upgrade", "No supported WebSocket")
logging.getLogger("uvicorn.error").addFilter(lambda record: not any(words in record.getMessage() for words in _EXPECTED))


class GuardedProtocol(HttpToolsProtocol):
    """`limits` are set by a subclass for one server (`guarded_by`)."""

    max_header_bytes: int
    header_timeout_seconds: float
    idle_timeout_seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = True
        self._head_bytes = 0
        self._stuck: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self._unstick()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.max_header_bytes:
            self._refuse_head_size()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._slow is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._settle()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.max_header_bytes:
            self._refuse_head_size()
        elif (reason := _ambiguous(self.headers)) is not None:
            self._refuse(ApiError(400, reason, code="invalid_http"))
        elif not self.transport.is_closing():
            super().on_headers_complete()
            return
        self.cycle = _Refused()  # type: ignore[assignment]

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "this is not a valid HTTP request", code="invalid_http"))

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
            self._refuse(ApiError(408, f"no complete request came within {self.header_timeout_seconds:g} s", code="too_slow"))
        else:
            self.transport.close()

    def _refuse_head_size(self) -> None:
        message = f"the request's head is larger than {self.max_header_bytes} bytes"
        self._refuse(ApiError(431, message, code="headers_too_large"))

    def _refuse(self, error: ApiError) -> None:
        """Answers outside of the application and closes: what may follow on this connection cannot be trusted."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else it would land in the middle of another answer
            body = write_json(error.body())
            head = STATUS_LINE.get(error.status, b"HTTP/1.1 %d \r\n" % error.status)
            head += b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(head + body)
        self.transport.close()


class _Refused:
    """Stands where a request would: what still comes of it is dropped."""

    response_complete = True
    keep_alive = False


def _ambiguous(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Why two servers could read the request's length in two ways (request smuggling), if they could."""
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if lengths and encodings:
        return "the request has both Content-Length and Transfer-Encoding"
    if len(lengths) > 1:
        return "the request has more than one Content-Length"
    if lengths and not lengths[0].strip().isdigit():
        return "the request's Content-Length is not a number"
    if encodings and encodings != [b"chunked"]:
        return "the request's Transfer-Encoding is not chunked"
    if sum(name == b"host" for name, _ in headers) > 1:
        return "the request has more than one Host"
    return None


def guarded_by(max_header_bytes: int, header_timeout_seconds: float, idle_timeout_seconds: float) -> type[GuardedProtocol]:
    """The protocol with one server's limits."""
    limits: dict[str, Any] = {
        "max_header_bytes": max_header_bytes,
        "header_timeout_seconds": header_timeout_seconds,
        "idle_timeout_seconds": idle_timeout_seconds,
    }
    return type("GuardedProtocol", (GuardedProtocol,), limits)
