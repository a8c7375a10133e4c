"""A part of a chunked body, straight to the socket."""

from collections.abc import Awaitable, Callable
from typing import Any


def body_writer(transport: Any, flow: Any) -> Callable[[bytes], Awaitable[None] | None]:
    """Gives the function that writes parts of an answer's body, and returns what to await while the client is slow.

    transport: asyncio's. flow: uvicorn's `FlowControl` of it.
    """
    write: Callable[[bytes], None] = transport.write
    is_closing: Callable[[], bool] = transport.is_closing

    def write_body(part: bytes) -> Awaitable[None] | None:
        if part and not is_closing():
            write(b"%x\r\n%b\r\n" % (len(part), part))
        if flow.write_paused:
            drained: Awaitable[None] = flow.drain()
            return drained
        return None

    return write_body
