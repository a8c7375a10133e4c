"""An HTTP/1.1 client for answers that come in many small pieces: one read, one hand-over, no copy between.

What it is for decides what it does: keep-alive, TLS, chunked bodies, back-pressure, deadlines, hanging up at once. It follows no
redirect, keeps no cookie, knows no proxy and asks for no compression. Measured beside others in docs/proxy.md.
"""

import asyncio
import ssl
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httptools

Headers = list[tuple[bytes, bytes]]
Take = Callable[[bytes], Awaitable[None] | None]

_MAX_IDLE_SECONDS: Final = 4.0  # uvicorn, and so vLLM, closes an idle connection after 5
_MAX_IDLE_CONNECTIONS: Final = 1024
_MAX_HEAD_BYTES: Final = 64 * 1024
_PAUSE_BYTES: Final = 64 * 1024  # what may wait for a slow reader
_SKIP_SECONDS: Final = 1.0
_MAX_SIZE_DIGITS: Final = 7  # of a chunk in the one form that is not parsed
_INFLATE_BYTES: Final = 256 * 1024  # at a time: a decompression bomb must not go off in one read


class ConnectError(Exception):
    """The server cannot be reached."""


class BrokenError(Exception):
    """The connection ended, or went wrong, in the middle of an answer."""


class StaleError(BrokenError):
    """A kept connection was closed before a byte of the answer came: the request may be sent again."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. first: from the request to the first byte of the body. idle: between two reads. total: of the whole exchange."""

    connect: float
    first: float
    idle: float
    total: float | None = None


class Response:
    """An answer whose head has come. `read` its body to the end, or `close` it: then the server is hung up on."""

    def __init__(self, connection: "_Connection") -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection: _Connection | None = connection
        encoding = self.header(b"content-encoding") or b"identity"
        self._inflater = _inflater(encoding)

    def header(self, name: bytes) -> bytes | None:
        """The first header called `name` (lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    async def read(self) -> bytes:
        """What has come since the last read; nothing at the end. Raises `BrokenError`, `TimeoutError`."""
        while (received := self.take()) is None:
            await self.more()
        return received

    def take(self) -> bytes | None:
        """What has come, at once: nothing at the end, None where there is `more` to wait for. Raises `BrokenError`, `TimeoutError`."""
        inflater = self._inflater
        if inflater is None:
            return self.take_raw()
        while not inflater.unconsumed_tail:
            received = self.take_raw()
            if not received:
                return received
            if inflated := self._inflate(inflater, received):
                return inflated
        return self._inflate(inflater, inflater.unconsumed_tail)

    async def pour(self, take: Take) -> None:
        """Gives `take` the body as it comes, straight from the socket's callback: to wake a task for each piece costs more than the
        piece does. What `take` returns is awaited before more is read. Raises `BrokenError`, `TimeoutError` and what `take` raises.
        """
        while (received := self.take()) != b"":
            if received is not None:
                if (pause := take(received)) is not None:
                    await pause
            elif self._inflater is None and self._connection is not None:
                await self._connection.pour(take)
            else:
                await self.more()

    def take_raw(self) -> bytes | None:
        """Like `take`, but compressed as it came."""
        if self._connection is None:
            return b""
        received = self._connection.take()
        if received == b"":
            self._connection = None
        return received

    def more(self) -> "asyncio.Future[None]":
        """Done when there is something to `take`."""
        assert self._connection
        return self._connection.more()

    def close(self) -> None:
        """Hangs up, unless the answer was read to its end."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def finish(self) -> None:
        """The rest of the body says nothing: it is read past, so that the connection can be used again."""
        if self._connection is not None:
            self._connection.skip()
            self._connection = None

    def _inflate(self, inflater: "zlib._Decompress", received: bytes) -> bytes:
        try:
            return inflater.decompress(received, _INFLATE_BYTES)
        except zlib.error as error:
            raise BrokenError(f"its compression is broken: {error}") from None


def _inflater(encoding: bytes) -> "zlib._Decompress | None":
    """Compression was not asked for, but some servers compress all the same."""
    if encoding == b"identity":
        return None
    if encoding in (b"gzip", b"x-gzip", b"deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    raise BrokenError(f"it is encoded as {encoding.decode('latin-1')}, which was not asked for")


class HttpClient:
    """Connections to one server. Raises `ConnectError`, `BrokenError`, `TimeoutError`; ValueError for a bad URL."""

    def __init__(self, url: str, timeouts: Timeouts) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        self._host_header = parts.netloc.rpartition("@")[2].encode(
            "idna" if not parts.netloc.isascii() else "ascii"
        )
        self._timeouts = timeouts
        self._idle: deque[_Connection] = deque()
        self._closed = False

    async def request(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        timeouts: Timeouts | None = None,
    ) -> Response:
        """Sends a request and waits for the head of its answer. path: below the base URL's, with its query."""
        head = [
            b"%b %b HTTP/1.1\r\nhost: %b\r\n"
            % (method.encode(), (self._path + path).encode("latin-1"), self._host_header)
        ]
        head += [b"%b: %b\r\n" % header for header in headers]
        if body or method in ("POST", "PUT", "PATCH"):
            head.append(b"content-length: %d\r\n" % len(body))
        head.append(b"\r\n")
        head.append(body)
        message = b"".join(head)
        timeouts = timeouts or self._timeouts
        while connection := self._take():
            try:
                return await self._exchange(connection, message, method, timeouts)
            except StaleError:
                continue
        return await self._exchange(await self._connect(timeouts), message, method, timeouts)

    def close(self) -> None:
        """Closes the connections that wait, and those in use as soon as their answers have ended."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    async def _exchange(
        self, connection: "_Connection", message: bytes, method: str, timeouts: Timeouts
    ) -> Response:
        try:
            await connection.send(message, method, timeouts)
            return Response(connection)
        except BaseException:
            connection.abort()
            raise

    async def _connect(self, timeouts: Timeouts) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeouts.connect):
                _, connection = await loop.create_connection(
                    self._new, self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise TimeoutError("it could not be connected to in time") from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(_reason(error)) from None
        return cast(_Connection, connection)

    def _new(self) -> Any:
        return _Connection(self._keep)

    def _take(self) -> "_Connection | None":
        oldest = time.monotonic() - _MAX_IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()  # the freshest: the others age and go
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    def _keep(self, connection: "_Connection") -> None:
        if self._closed or len(self._idle) >= _MAX_IDLE_CONNECTIONS:
            connection.abort()
            return
        oldest = connection.idle_since - _MAX_IDLE_SECONDS
        while self._idle and (not self._idle[0].usable or self._idle[0].idle_since < oldest):
            self._idle.popleft().abort()
        self._idle.append(connection)


class _Connection:
    """One connection, as an asyncio protocol; at most one exchange at a time."""

    def __init__(self, keep: "Callable[[_Connection], None]") -> None:
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reused = False
        self.idle_since = 0.0
        self._busy = False
        self._reset("GET")

    def _reset(self, method: str) -> None:
        self.status = 0
        self.headers: Headers = []
        self._parser = httptools.HttpResponseParser(self)
        self._no_body = method == "HEAD"
        self._head_bytes = 0
        self._head_done = self._done = False
        self._until_close = self._keeps = False
        self._error: Exception | None = None
        self._received: list[bytes] = []
        self._num_received = 0
        self._between_chunks = False
        self._paused = False
        self._skipping = False
        self._taker: Take | None = None
        self._pause: Awaitable[None] | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._busy and not self._transport.is_closing()

    async def send(self, message: bytes, method: str, timeouts: Timeouts) -> None:
        """Sends a request and waits for the head of its answer."""
        assert self._transport
        self._reset(method)
        self._busy = True
        self._timeouts = timeouts
        self._began = self._heard = self._loop.time()
        self._limit = timeouts.first
        self._watch()
        self._transport.write(message)
        while not self._head_done:
            if self._error:
                raise self._error
            await self.more()

    def take(self) -> bytes | None:
        if self._received:
            received = self._received[0] if len(self._received) == 1 else b"".join(self._received)
            self._received.clear()
            self._num_received = 0
            if self._paused and self._transport:
                self._paused = False
                self._heard = self._loop.time()
                self._transport.resume_reading()
            return received
        if self._error:
            raise self._error
        if self._done:
            self._release()
            return b""
        return None

    def more(self) -> "asyncio.Future[None]":
        self._waiter = self._loop.create_future()
        return self._waiter

    async def pour(self, take: Take) -> None:
        """Gives `take` what comes, until it says that the reader is slow, the answer ends or something fails."""
        self._taker = take
        try:
            await self.more()
        finally:
            self._taker = None
        if self._pause is not None:
            pause, self._pause = self._pause, None
            await pause

    def skip(self) -> None:
        """Drops the rest of the answer, if it comes soon and is short; else the connection."""
        if self._done:
            self._release()
            return
        self._skipping = True
        self._unwatch()
        self._timer = self._loop.call_later(_SKIP_SECONDS, self.abort)
        if self._paused and self._transport:
            self._transport.resume_reading()

    def abort(self) -> None:
        self._unwatch()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # asyncio.Protocol: not a base, since a compiled class would be a slow one with it

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._done:  # nobody asked
            self.abort()
            return
        if self._skipping:
            self._skip(data)
            return
        self._heard = self._loop.time()
        if self._between_chunks and (body := whole_chunks(data)) is not None:
            self._received.append(body)
            self._num_received += len(body)
        else:
            self._parse(data)
        if self._taker is not None and self._received:
            self._hand_over(self._taker)
            if self._taker is not None and not self._done:
                return
        if self._num_received > _PAUSE_BYTES and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def _parse(self, data: bytes) -> None:
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(BrokenError("it wants to speak another protocol"))
        except httptools.HttpParserError as error:
            self._fail(BrokenError(f"it does not speak HTTP: {error}"))
        if not self._head_done and self._head_bytes > _MAX_HEAD_BYTES:
            self._fail(BrokenError(f"its head is longer than {_MAX_HEAD_BYTES} bytes"))

    def _hand_over(self, take: Take) -> None:
        received = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received.clear()
        self._num_received = 0
        try:
            self._pause = take(received)
        except Exception as error:  # for the task that pours
            self._fail(error)
        if self._pause is not None:
            self._taker = None  # what comes until then waits

    def _skip(self, data: bytes) -> None:
        self._num_received = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()
            return
        self._received.clear()
        if self._done:
            self._release()
        elif self._num_received > _PAUSE_BYTES:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._busy and not self._done:
            if self._head_done and self._until_close and error is None:
                self._done = True
            elif self._head_bytes == 0 and self._reused:
                self._fail(StaleError("it closed the connection"))
            else:
                self._fail(BrokenError(_reason(error) if error else "it closed the connection"))
        self._wake()

    # httptools

    def on_status(self, status: bytes) -> None:
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return  # another head follows
        names = {name for name, _ in self.headers}
        self._until_close = not names & {
            b"content-length",
            b"transfer-encoding",
        } and self.status not in (204, 304)
        self._head_done = True
        if self._no_body:
            self._done = True

    def on_body(self, body: bytes) -> None:
        if self._limit is not self._timeouts.idle:
            self._limit = self._timeouts.idle
        self._received.append(body)
        self._num_received += len(body)

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        if self._head_done:
            self._done = True
            self._keeps = self._parser.should_keep_alive() and not self._until_close

    def _release(self) -> None:
        """The exchange is over: the connection may be used again."""
        self._unwatch()
        self._busy = False
        self._reused = True
        self.idle_since = time.monotonic()
        if self._transport is None or self._no_body or not self._keeps:
            self.abort()
        else:
            self._keep(self)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _watch(self) -> None:
        """Looks now and then whether too much time has gone by: a timer an exchange, not one a read."""
        now = self._loop.time()
        if self._paused:
            self._heard = now  # the reader is slow, not the server
        due = self._heard + self._limit
        if self._timeouts.total is not None:
            due = min(due, self._began + self._timeouts.total)
        if now >= due:
            self._timer = None
            total = self._timeouts.total is not None and now >= self._began + self._timeouts.total
            reason = (
                f"it took longer than {self._timeouts.total:g} s"
                if total
                else f"it said nothing for {self._limit:g} s"
            )
            self._fail(TimeoutError(reason))
        else:
            self._timer = self._loop.call_at(due, self._watch)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def whole_chunks(data: bytes) -> bytes | None:
    """The body in `data`, where that is whole chunks and not the last one; else None, and the parser looks at it.

    That is what nearly every read of a stream is. The parser need not see such reads: behind them it is where it was, between chunks.
    """
    end = len(data)
    parts: list[bytes] = []
    at = 0
    while at < end:
        size = 0
        start = at
        while at < end and at < start + _MAX_SIZE_DIGITS:
            digit = data[at]
            if 48 <= digit <= 57:
                size = 16 * size + digit - 48
            elif 97 <= digit <= 102:
                size = 16 * size + digit - 87
            elif 65 <= digit <= 70:
                size = 16 * size + digit - 55
            else:
                break
            at += 1
        stop = at + 2 + size
        if size == 0 or stop + 2 > end or not (_ends_line(data, at) and _ends_line(data, stop)):
            return None
        parts.append(data[at + 2 : stop])
        at = stop + 2
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _ends_line(data: bytes, at: int) -> bool:
    return data[at] == 13 and data[at + 1] == 10


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
