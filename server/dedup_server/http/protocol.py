"""HTTP/1.1 on the server's side: connections with limits, and the requests on them.

uvicorn opens the port and ends in order. Its own protocol would take each request and each chunk
through several objects that are not compiled.

    bytes -> ServerProtocol (heads, bodies, order) -> Cycle (one request and its response) -> bytes
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

import httptools

from dedup.lenient_json import write_json
from dedup_server.errors import ApiError
from dedup_server.http.cycle import DIRECT, Cycle, Headers, Message, status_line
from dedup_server.http.event import Event

_FRAMING_HEADERS: Final = (b"content-length", b"transfer-encoding")

# Stages of the request that is read. Only callbacks of the parser move on.
_HEAD: Final = 0  # a head is awaited or being read
_BODY: Final = 1  # the head is complete; then the body, or nothing until the next head
_REPLAY: Final = 2  # a new parser is given the head that was already handled


class Limits:
    """Limits of one server's connections.

    Args:
        max_header_bytes: Of request line and headers together.
        header_timeout_seconds: Until a request's head is complete.
        idle_timeout_seconds: That a client may leave a response unread.

    Attributes:
        is_draining: The server stops: connections close behind their next response.
    """

    def __init__(
        self, max_header_bytes: int, header_timeout_seconds: float, idle_timeout_seconds: float
    ) -> None:
        self.max_header_bytes = max_header_bytes
        self.header_timeout_seconds = header_timeout_seconds
        self.idle_timeout_seconds = idle_timeout_seconds
        self.is_draining = False


class ServerProtocol:
    """A client's connection: reads requests, and has them answered one after the other.

    It refuses heads that are too long, too slow or ambiguous, and leaves clients that do not read.
    It is no subclass of `asyncio.Protocol`, which would make attribute access slow when compiled.

    Args:
        limits: The server's.
        config: uvicorn's.
        state: uvicorn's, of all connections of a server.
        app_state: The state of the application's lifespan.
    """

    def __init__(self, limits: Limits, config: Any, state: Any, app_state: dict[str, Any]) -> None:
        self.transport: Any = None
        self.is_slow = False  # the client does not read what was written
        self.on_leave: Callable[[], None] | None = None
        self._limits = limits
        self._app: Callable[..., Awaitable[None]] = config.loaded_app
        self._root_path: str = config.root_path
        self._keep_alive_seconds: float = config.timeout_keep_alive
        self._state = state
        self._app_state = app_state
        self._loop = asyncio.get_running_loop()
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int | None] | None = None
        self._scheme = "http"

        self._parser = self._new_parser()
        self._stage = _HEAD
        self._url = b""
        self._headers: Headers = []
        self._num_head_bytes = 0  # since the head, or the last piece of a body, began

        self._newest: Cycle | None = None  # until its response is complete
        self._running: Cycle | None = None
        self._waiting: deque[tuple[Cycle, Message]] = deque()  # behind the one that runs

        self._timer: asyncio.TimerHandle | None = None  # of a head, or of an idle connection
        self._is_idle = False
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_paused = False  # reading is
        self._writable = Event(is_set=True)

    def default_headers(self) -> Headers:
        """Return the headers of all responses; uvicorn sets the date every second."""
        headers: Headers = self._state.default_headers
        return headers

    async def drain(self) -> None:
        """Wait until the client has read."""
        await self._writable.wait()

    def resume_reading(self) -> None:
        """Read on, if reading is paused."""
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def end_cycle(self, cycle: Cycle) -> None:
        """Go on to the next request: the response to this one is complete."""
        self._state.total_requests += 1
        if self._newest is cycle:
            self._newest = None
        self._running = None
        if self.transport.is_closing():
            return
        self.resume_reading()
        if self._waiting:
            self._run(*self._waiting.popleft())
        elif self._timer is None:
            self._is_idle = True
            self._start_timer(self._keep_alive_seconds, self.transport.close)

    def shutdown(self) -> None:
        """Close the connection, behind the responses in progress. uvicorn calls this."""
        if self._newest is None:
            self.transport.close()
        else:
            self._newest.keeps_alive = False

    # The methods of `asyncio.Protocol`.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._state.connections.add(self)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if isinstance(peer, tuple):
            self._client = (str(peer[0]), int(peer[1]))
        if isinstance(own, tuple):
            self._server = (str(own[0]), int(own[1]))
        elif isinstance(own, str):
            self._server = (own, None)
        if transport.get_extra_info("sslcontext"):
            self._scheme = "https"
        self._start_timer(self._limits.header_timeout_seconds, self._refuse_slowness)

    def connection_lost(self, error: Exception | None) -> None:
        self._state.connections.discard(self)
        self._stop_timer()
        self._stop_write_timer()
        for cycle in (self._newest, self._running):
            if cycle is not None:
                cycle.lose()
        self._newest = self._running = None
        self._waiting.clear()
        self.is_slow = False
        self._writable.set()
        self._parser = None
        if self.on_leave is not None:
            self.on_leave()

    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            self._is_idle = False
            self._stop_timer()
        self._num_head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse(ApiError(400, "this is not a valid HTTP request", code="invalid_http"))
        if (
            self._num_head_bytes > self._limits.max_header_bytes
        ):  # a head, or what surrounds a chunk
            self._refuse_head_size()
        elif self._timer is None and self._awaits_head():
            # Started here and not at the head's first byte: nearly every head comes in one read.
            self._start_timer(self._limits.header_timeout_seconds, self._refuse_slowness)

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None:
        self.is_slow = True
        self._writable.clear()
        self._stop_write_timer()
        seconds = self._limits.idle_timeout_seconds
        self._write_timer = self._loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        self.is_slow = False
        self._writable.set()

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        if self._stage == _REPLAY:
            return
        self._stage = _HEAD
        self._url = b""
        self._headers = []
        self._num_head_bytes = 0

    def on_url(self, url: bytes) -> None:
        if self._stage != _REPLAY:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage == _HEAD:  # trailers, behind the body, are dropped
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._stage == _REPLAY:
            return
        self._stage = _BODY
        self._num_head_bytes = 0
        self._stop_timer()
        size = len(self._url)
        for name, value in self._headers:
            size += len(name) + len(value) + 4
        self._newest = None  # a refused request's body is nobody's
        if size > self._limits.max_header_bytes:
            self._refuse_head_size()
        elif (reason := _ambiguity(self._headers)) is not None:
            self._refuse(ApiError(400, reason, code="invalid_http"))
        elif not self.transport.is_closing():
            self._begin_cycle()

    def on_body(self, body: bytes) -> None:
        self._num_head_bytes = 0
        if self._newest is not None and self._newest.take(body):
            self._pause_reading()

    def on_message_complete(self) -> None:
        # After an offer to upgrade, the parser takes the body for data of the other protocol.
        is_offer = self._parser.should_upgrade() and self._framing()
        if self._newest is not None and not is_offer:
            self._newest.take_end()

    def _begin_cycle(self) -> None:
        parser = self._parser
        version: str = parser.get_http_version()
        method: str = parser.get_method().decode("ascii")
        url: Any = httptools.parse_url(self._url)  # its types say that nothing is None
        if url.path is None:
            self._refuse(ApiError(400, "the request's URL has no path", code="invalid_http"))
            return
        path = url.path.decode("ascii")
        keeps_alive = version != "1.0" and parser.should_keep_alive()
        cycle = Cycle(
            self,
            is_to_head=method == "HEAD",
            awaits_go=any(
                name == b"expect" and value.lower() == b"100-continue"
                for name, value in self._headers
            ),
            keeps_alive=keeps_alive and not self._limits.is_draining,
        )
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": method,
            "root_path": self._root_path,
            "path": self._root_path + (unquote(path) if "%" in path else path),
            "raw_path": self._root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": self._app_state.copy(),
            "extensions": {DIRECT: cycle},
        }
        self._newest = cycle
        if self._running is None:
            self._run(cycle, scope)
        else:
            self._pause_reading()
            self._waiting.append((cycle, scope))

    def _run(self, cycle: Cycle, scope: Message) -> None:
        self._running = cycle
        task = self._loop.create_task(cycle.answer(self._app, scope))
        tasks = self._state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What follows a request that closes the connection is not worth an error: it is not read.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _framing(self) -> Headers:
        """Return the headers that tell the length of the body; none if there is no body."""
        return [header for header in self._headers if header[0] in _FRAMING_HEADERS]

    def _decline_upgrade(self, rest: bytes) -> None:
        """Answer in HTTP/1.1 a client that offers another protocol; Java's client offers HTTP/2.

        A parser cannot continue after an offer. A new one gets a head with the same framing, and
        then `rest`, which follows the head.
        """
        self._parser = self._new_parser()
        if framing := self._framing():
            self._stage = _REPLAY
            lines = b"".join([b"%b: %b\r\n" % header for header in framing])
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % lines)
            self._stage = _BODY
        if rest:
            self.data_received(rest)

    def _awaits_head(self) -> bool:
        """Return whether a head is being read, or data came behind the last response, such as a
        blank line before the next head.
        """
        return self._stage == _HEAD or self._newest is None

    def _pause_reading(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def _start_timer(self, seconds: float, due: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(seconds, due)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse_slowness(self) -> None:
        self._timer = None
        if not self._num_head_bytes:
            self.transport.close()
            return
        seconds = self._limits.header_timeout_seconds
        message = f"no complete request came within {seconds:g} s"
        self._refuse(ApiError(408, message, code="too_slow"))

    def _refuse_head_size(self) -> None:
        message = f"the request's head is larger than {self._limits.max_header_bytes} bytes"
        self._refuse(ApiError(431, message, code="headers_too_large"))

    def _refuse(self, error: ApiError) -> None:
        """Answer outside of the application and close: the rest of the connection cannot be
        trusted.
        """
        if self.transport.is_closing():
            return
        # While a response is being written, the error would land in its middle.
        if self._running is None:
            body = write_json(error.body())
            self.transport.write(
                b"%bcontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status_line(error.status), len(body), body)
            )
        self.transport.close()


def _ambiguity(headers: Headers) -> str | None:
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


def protocol_with(limits: Limits) -> Callable[..., ServerProtocol]:
    """Return what makes the protocol of a connection, as uvicorn's `http` setting takes it."""

    def new(config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> ServerProtocol:
        return ServerProtocol(limits, config, server_state, app_state)

    return new
