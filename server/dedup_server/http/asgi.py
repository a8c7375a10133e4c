"""ASGI helpers: reading a body, answering whole, and clients that leave."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol

from starlette.types import Receive, Send

from dedup_server.errors import ApiError

Headers = list[tuple[bytes, bytes]]

_LINGER_SECONDS = 2.0


class Connection(Protocol):
    """Way to answer a request: `dedup_server.http.cycle.Cycle`, or ASGI's messages."""

    @property
    def is_lost(self) -> bool: ...

    def watch(self, on_leave: Callable[[], None] | None) -> None: ...

    def body(self) -> bytes | None: ...

    def begin(self, headers: Headers, part: bytes) -> Awaitable[None] | None: ...

    def write(self, part: bytes) -> Awaitable[None] | None: ...

    async def end(self, part: bytes) -> None: ...

    async def respond(self, headers: Headers, body: bytes) -> None: ...


class Watch:
    """Cancels the task that opened it as soon as the client leaves.

    Nothing of that is seen outside of the `with`.

    Args:
        connection: The client's.
        on_leave: Called first when the client leaves.
    """

    def __init__(self, connection: Connection, on_leave: Callable[[], None] | None = None) -> None:
        self._connection = connection
        self._on_leave = on_leave
        self._task: asyncio.Task[Any] | None = None
        self._has_left = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._connection.watch(self._leave)
        if self._connection.is_lost:
            self._leave()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._connection.watch(None)
        self._on_leave = None  # without a way back, all of the request is freed now
        task, self._task = self._task, None
        if self._has_left and task is not None:
            task.uncancel()
        return self._has_left and kind is asyncio.CancelledError

    def _leave(self) -> None:
        if self._task is not None and not self._has_left:
            self._has_left = True
            if self._on_leave:
                self._on_leave()
            self._task.cancel()


def check_length(headers: Headers, max_bytes: int) -> None:
    """Raise `ApiError` (413) if the headers of a request announce a body that is too long."""
    for name, value in headers:
        if name == b"content-length" and int(value) > max_bytes:
            raise too_large(max_bytes)


async def read_body(receive: Receive, max_bytes: int, timeout_seconds: float) -> bytes:
    """Return the body of a request.

    Raises:
        ApiError: (413) It is too long. (408) It comes too slowly.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    reason = "the client left before its request was complete"
                    raise ApiError(400, reason, code="client_gone")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > max_bytes:
                    raise too_large(max_bytes)
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        reason = f"the body did not come within {timeout_seconds:g} s"
        raise ApiError(408, reason, code="too_slow") from None


async def send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a response in one piece."""
    headers = [*clean(headers), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_early(
    receive: Receive, send: Send, status: int, body: bytes, headers: Headers
) -> None:
    """Send a response while the request's body is still coming.

    The rest of that is taken for a while, so that its sender gets to read the response.
    """
    headers = [
        *clean(headers),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def has_body(headers: Headers) -> bool:
    """Return whether the headers of a request announce a body."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def clean(headers: Headers) -> Headers:
    """Return the headers with values that cannot end a line.

    What an upstream sends then says something in its own place only.
    """
    return [(name, value.translate(None, b"\r\n\0")) for name, value in headers]


class AsgiConnection:
    """A `Connection` where another server than ours runs the application."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._watching: asyncio.Task[None] | None = None
        self.is_lost = False

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if on_leave is not None:
            self._watching = asyncio.create_task(self._watch(on_leave))

    def body(self) -> bytes | None:
        return None  # it comes by `receive`

    def begin(self, headers: Headers, part: bytes) -> Awaitable[None]:
        return asyncio.ensure_future(self._begin(headers, part))

    def write(self, part: bytes) -> Awaitable[None]:
        return asyncio.ensure_future(self._write(part, more=True))

    async def end(self, part: bytes) -> None:
        await self._write(part, more=False)

    async def respond(self, headers: Headers, body: bytes) -> None:
        await send_whole(self._send, 200, body, headers)

    async def _watch(self, on_leave: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_lost = True
        on_leave()

    async def _begin(self, headers: Headers, part: bytes) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(part, more=True)

    async def _write(self, part: bytes, *, more: bool) -> None:
        message: dict[str, Any] = {"type": "http.response.body", "body": part, "more_body": more}
        await self._send(message)


def too_large(max_bytes: int) -> ApiError:
    """Return the refusal of a body that is too long."""
    return ApiError(413, f"the body is larger than {max_bytes} bytes", code="body_too_large")
