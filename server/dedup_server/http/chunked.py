"""Chunked bodies of responses, written straight to the socket."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

_SIZE_LINES: Final = [b"%x\r\n" % size for size in range(1024)]  # of the sizes streams consist of


def chunk(part: bytes) -> bytes:
    """Return `part`, which is not empty, as a chunk."""
    size = len(part)
    if size < len(_SIZE_LINES):
        return b"%b%b\r\n" % (_SIZE_LINES[size], part)
    return b"%x\r\n%b\r\n" % (size, part)


def body_writer(transport: Any, flow: Any) -> Callable[[bytes], Awaitable[None] | None]:
    """Return the function that writes a part of a response's body.

    The function returns what to await while the client reads slowly, else None.

    Args:
        transport: asyncio's transport of the connection.
        flow: uvicorn's `FlowControl` of the transport.
    """
    write: Callable[[bytes], None] = transport.write
    is_closing: Callable[[], bool] = transport.is_closing

    def write_body(part: bytes) -> Awaitable[None] | None:
        if part and not is_closing():
            write(chunk(part))
        if flow.write_paused:
            drained: Awaitable[None] = flow.drain()
            return drained
        return None

    return write_body
