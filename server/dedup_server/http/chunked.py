"""Chunked bodies, without a parser or a task between them and the socket."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

_SIZE_LINES: Final = [b"%x\r\n" % size for size in range(1024)]  # of the sizes streams consist of
_MAX_SIZE_DIGITS: Final = 7


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


def whole_chunks(data: bytes) -> bytes | None:
    """Return the body in `data` if `data` is whole chunks without extensions, and not the last one.

    Nearly every read of a stream is of this form. The HTTP parser can skip such a read: behind it,
    the parser stands between two chunks, as before it. Everything else is left to the parser.

    Returns:
        The body, or None if the parser has to read `data`.
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
