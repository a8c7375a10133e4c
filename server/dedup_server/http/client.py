"""An HTTP/1.1 client for responses that arrive in many small pieces.

One read of the socket is one call of the consumer, without a copy or a task between them. It has
keep-alive, TLS, chunked bodies, back-pressure and deadlines, and hangs up at once. It follows no
redirects, keeps no cookies, knows no proxies and asks for no compression. docs/evidence/cost.md compares
its cost with other clients.
"""

import asyncio
import ssl
import time
import zlib
from collections import deque
from typing import Any, Final, cast
from urllib.parse import urlsplit

from dedup_server.http.connection import Connection, Consumer
from dedup_server.http.deadline import Timeouts
from dedup_server.http.errors import (
    BrokenError,
    ConnectError,
    HttpClientError,
    StaleError,
    reason,
)
from dedup_server.http.parser import Headers

__all__ = [
    "BrokenError",
    "ConnectError",
    "Headers",
    "HttpClient",
    "HttpClientError",
    "Response",
    "StaleError",
    "Timeouts",
]

_MAX_IDLE_SECONDS: Final = 4.0  # uvicorn, and so vLLM, closes an idle connection after 5
_MAX_IDLE_CONNECTIONS: Final = 1024
_INFLATE_BYTES: Final = 256 * 1024  # per step, against decompression bombs


class Response:
    """A response whose head has arrived. `read` its body to the end, or `close` it.

    Args:
        connection: the connection that the body is read from.

    Raises:
        BrokenError: the body has an encoding that was not requested and is unknown.
    """

    def __init__(self, connection: Connection) -> None:
        self.status = connection.parser.status
        self.headers = connection.parser.headers
        self._connection: Connection | None = connection  # None after the end of the body
        self._inflater = _inflater(self.header(b"content-encoding") or b"identity")

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first header `name`, in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    async def read(self) -> bytes:
        """Return the part of the body that has arrived since the last read; b"" at its end.

        Raises:
            BrokenError, TimeoutError: the response is incomplete.
        """
        while (received := self.take()) is None:
            await self.more()
        return received

    def take(self) -> bytes | None:
        """Return what `read` would, without waiting: None if there is `more` to wait for.

        Raises:
            BrokenError, TimeoutError: the response is incomplete.
        """
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

    async def pour(self, consumer: Consumer) -> None:
        """Pass the body on to `consumer`, piece by piece, straight from the socket's callback.

        Goal: no task is woken for a piece, which would cost more than the piece itself.

        Args:
            consumer: returns what to await before more is read, or None.

        Raises:
            BrokenError, TimeoutError: the response is incomplete.
            Exception: the consumer's own.
        """
        while (received := self.take()) != b"":
            if received is not None:
                if (pause := consumer(received)) is not None:
                    await pause
            elif self._inflater is None and self._connection is not None:
                await self._connection.pour(consumer)
            else:
                await self.more()

    def take_raw(self) -> bytes | None:
        """Return what `take` would, but compressed as received."""
        if self._connection is None:
            return b""
        received = self._connection.take()
        if received == b"":
            self._connection = None
        return received

    def more(self) -> "asyncio.Future[None]":
        """Return a future that is done when there is something to `take`."""
        assert self._connection
        return self._connection.more()

    def close(self) -> None:
        """Close the connection, unless the body was read to its end."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def finish(self) -> None:
        """Leave the rest of the body, which is irrelevant, to be skipped, so that the connection
        can be reused.
        """
        if self._connection is not None:
            self._connection.skip()
            self._connection = None

    def _inflate(self, inflater: "zlib._Decompress", received: bytes) -> bytes:
        try:
            return inflater.decompress(received, _INFLATE_BYTES)
        except zlib.error as error:
            raise BrokenError(f"its compressed body is corrupt: {error}") from None


def _inflater(encoding: bytes) -> "zlib._Decompress | None":
    """Return a decompressor for `encoding`: some servers compress without being asked to."""
    if encoding == b"identity":
        return None
    if encoding in (b"gzip", b"x-gzip", b"deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    raise BrokenError(f"its encoding {encoding.decode('latin-1')} was not requested")


class HttpClient:
    """A pool of connections to one server.

    Args:
        url: the base URL, `http` or `https`.
        timeouts: of requests that bring none of their own.

    Raises:
        ValueError: `url` is not valid.
    """

    def __init__(self, url: str, timeouts: Timeouts) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        netloc = parts.netloc.rpartition("@")[2]
        self._host_header = netloc.encode("ascii" if netloc.isascii() else "idna")
        self._timeouts = timeouts
        self._idle: deque[Connection] = deque()
        self._closed = False

    async def request(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        timeouts: Timeouts | None = None,
        *,
        at_root: bool = False,
    ) -> Response:
        """Send a request and wait for the head of its response.

        Args:
            path: below the path of the base URL, with the query.
            timeouts: instead of the client's.
            at_root: the path is below the base URL without its `/v1`.

        Raises:
            ConnectError: there is no connection to the server.
            BrokenError, TimeoutError: there is no response.
        """
        base = self._path.removesuffix("/v1") if at_root else self._path
        head = [
            b"%b %b HTTP/1.1\r\nhost: %b\r\n"
            % (method.encode(), (base + path).encode("latin-1"), self._host_header)
        ]
        head += [b"%b: %b\r\n" % header for header in headers]
        if body or method in ("POST", "PUT", "PATCH"):
            head.append(b"content-length: %d\r\n" % len(body))
        head.append(b"\r\n")
        head.append(body)
        message = b"".join(head)
        timeouts = timeouts or self._timeouts
        while connection := self._take_idle():
            try:
                return await self._exchange(connection, message, method, timeouts)
            except StaleError:
                continue
        return await self._exchange(await self._connect(timeouts), message, method, timeouts)

    def close(self) -> None:
        """Close idle connections now, and those in use when their responses end."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    async def _exchange(
        self, connection: Connection, message: bytes, method: str, timeouts: Timeouts
    ) -> Response:
        try:
            await connection.send(message, method, timeouts)
            return Response(connection)
        except BaseException:
            connection.abort()
            raise

    async def _connect(self, timeouts: Timeouts) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeouts.connect):
                _, connection = await loop.create_connection(
                    self._new, self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise TimeoutError(f"no connection within {timeouts.connect:g} s") from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(reason(error)) from None
        return cast(Connection, connection)

    def _new(self) -> Any:
        return Connection(self._keep)

    def _take_idle(self) -> Connection | None:
        """Return the connection that was used last, so that the others age and are closed."""
        oldest = time.monotonic() - _MAX_IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    def _keep(self, connection: Connection) -> None:
        if self._closed or len(self._idle) >= _MAX_IDLE_CONNECTIONS:
            connection.abort()
            return
        oldest = connection.idle_since - _MAX_IDLE_SECONDS
        while self._idle and (not self._idle[0].is_usable or self._idle[0].idle_since < oldest):
            self._idle.popleft().abort()
        self._idle.append(connection)
