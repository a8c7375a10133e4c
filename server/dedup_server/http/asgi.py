"""What ASGI leaves to an application: reading a body, answering whole, and clients that leave."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from starlette.types import Receive, Send

from dedup_server.errors import ApiError

Headers = list[tuple[bytes, bytes]]

_LINGER_SECONDS = 2.0


class Watch:
    """Cancels the task that opened it as soon as the client leaves.

    Nothing of that is seen outside of the `async with`.

    Args:
        receive: ASGI's; the body has been read.
        on_leave: Called first when the client leaves.
    """

    def __init__(self, receive: Receive, on_leave: Callable[[], None] | None = None) -> None:
        self._receive = receive
        self._on_leave = on_leave
        self._has_left = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = asyncio.create_task(self._until_left())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._watching:
            self._watching.cancel()
        # The traceback of that task holds this object: without a way back, all of the request is
        # freed now and not by the garbage collector.
        self._watching = self._on_leave = None
        task, self._task = self._task, None
        if self._has_left and task is not None:
            task.uncancel()
        return self._has_left and kind is asyncio.CancelledError

    async def _until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._has_left = True
            if self._on_leave:
                self._on_leave()
            self._task.cancel()


async def read_body(
    receive: Receive, headers: Headers, max_bytes: int, timeout_seconds: float
) -> bytes:
    """Return the body of a request.

    Raises:
        ApiError: (413) It is too long. (408) It comes too slowly.
    """
    for name, value in headers:
        if name == b"content-length" and int(value) > max_bytes:
            raise _too_large(max_bytes)
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
                    raise _too_large(max_bytes)
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


class SendParts:
    """`dedup_server.http.protocol.InParts` where another server runs the application."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def begin(self, headers: Headers, part: bytes) -> Awaitable[None]:
        return asyncio.ensure_future(self._begin(headers, part))

    def write(self, part: bytes) -> Awaitable[None]:
        return asyncio.ensure_future(self._write(part, more=True))

    async def end(self, part: bytes) -> None:
        await self._write(part, more=False)

    async def _begin(self, headers: Headers, part: bytes) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(part, more=True)

    async def _write(self, part: bytes, *, more: bool) -> None:
        message: dict[str, Any] = {"type": "http.response.body", "body": part, "more_body": more}
        await self._send(message)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body is larger than {max_bytes} bytes", code="body_too_large")
