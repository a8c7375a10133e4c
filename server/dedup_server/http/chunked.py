"""Parts of a chunked body, straight to the socket."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

_SIZES: Final = [b"%x\r\n" % size for size in range(1024)]  # of the parts that streams are made of


def chunk(part: bytes) -> bytes:
    """`part`, which is not empty, as a chunk."""
    size = len(part)
    return b"%b%b\r\n" % (_SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size, part)


def body_writer(transport: Any, flow: Any) -> Callable[[bytes], Awaitable[None] | None]:
    """Gives the function that writes parts of an answer's body, and returns what to await while the client is slow.

    transport: asyncio's. flow: uvicorn's `FlowControl` of it.
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
