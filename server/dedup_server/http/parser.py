"""Parser of HTTP/1.1 responses: bytes in, status, headers and body out. No I/O."""

from typing import Final

import httptools

from dedup_server.http.errors import BrokenError

Headers = list[tuple[bytes, bytes]]

# Stages of a response. Callbacks of httptools move on, in this order; a chunked body alternates
# between BODY and BETWEEN_CHUNKS. A 1xx response leaves HEAD where it is: another head follows.
HEAD: Final = 0
BODY: Final = 1
BETWEEN_CHUNKS: Final = 2
END: Final = 3

_MAX_HEAD_BYTES: Final = 64 * 1024  # and of what surrounds a chunk: extensions, trailers
_MAX_SIZE_DIGITS: Final = 7  # of a chunk that bypasses httptools


class ResponseParser:
    """Parser of the responses on one connection: `begin` one, then `feed` it."""

    def __init__(self) -> None:
        self.begin("GET")

    def begin(self, method: str) -> None:
        """Expect the response to a request with `method`."""
        self.stage = HEAD
        self.status = 0
        self.headers: Headers = []  # names in lower case
        self.keeps_alive = False
        self.num_head_bytes = 0
        self._num_framing_bytes = 0  # since the last piece of the body
        self._body: list[bytes] = []  # parsed and not yet returned
        self._is_to_head = method == "HEAD"
        self._ends_with_connection = False
        self._http = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Parse `data` and return the part of the body in it.

        Raises:
            BrokenError: `data` does not continue a valid response. `take` returns the body before
                the error.
        """
        if self.stage == BETWEEN_CHUNKS:
            whole, end = whole_chunks(data)
            if end == len(data):
                return whole
            if end:
                self._body.append(whole)
                data = data[end:]
        if self.stage == HEAD:
            self.num_head_bytes += len(data)
        else:
            self._num_framing_bytes += len(data)
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BrokenError("it switched to another protocol") from None
        except httptools.HttpParserCallbackError:  # only `on_message_begin` raises
            raise BrokenError("it sent more than one response") from None
        except httptools.HttpParserError as error:
            raise BrokenError(f"its response is not valid HTTP: {error}") from None
        if self.stage == HEAD and self.num_head_bytes > _MAX_HEAD_BYTES:
            raise BrokenError(f"the head of its response is longer than {_MAX_HEAD_BYTES} bytes")
        if self._num_framing_bytes > _MAX_HEAD_BYTES:
            raise BrokenError(f"it sent more than {_MAX_HEAD_BYTES} bytes around a chunk")
        return self.take()

    def feed_eof(self) -> bool:
        """Return whether the response is complete when the connection ends here."""
        if self.stage == BODY and self._ends_with_connection:
            self.stage = END
        return self.stage == END

    def take(self) -> bytes:
        """Return the body that was parsed and not returned before."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return body

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        if self.stage == END:
            raise BrokenError("it sent more than one response")

    def on_status(self, status: bytes) -> None:
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage == HEAD:  # trailers are dropped
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._http.get_status_code()
        if self.status < 200:
            return
        names = {name for name, _ in self.headers}
        has_length = bool(names & {b"content-length", b"transfer-encoding"})
        self._ends_with_connection = not has_length and self.status not in (204, 304)
        self.stage = END if self._is_to_head else BODY

    def on_body(self, body: bytes) -> None:
        self._num_framing_bytes = 0
        self._body.append(body)

    def on_chunk_header(self) -> None:
        self.stage = BODY

    def on_chunk_complete(self) -> None:
        self.stage = BETWEEN_CHUNKS

    def on_message_complete(self) -> None:
        if self.stage == HEAD:
            return
        self.stage = END
        # A response to HEAD may be followed by a body all the same.
        self.keeps_alive = (
            self._http.should_keep_alive()
            and not self._ends_with_connection
            and not self._is_to_head
        )


def whole_chunks(data: bytes) -> tuple[bytes, int]:
    """Return the body in the whole chunks that `data` begins with, and where they end.

    Nearly every read of a stream consists of chunks without extensions. httptools can skip them:
    behind them, its parser stands between two chunks, as before them. Everything else, the last
    chunk too, is left to httptools.
    """
    length = len(data)
    parts: list[bytes] = []
    end = 0
    while end < length:
        size = 0
        at = end
        while at < length and at < end + _MAX_SIZE_DIGITS:
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
        if size == 0 or stop + 2 > length or not (_ends_line(data, at) and _ends_line(data, stop)):
            break
        parts.append(data[at + 2 : stop])
        end = stop + 2
    return (parts[0] if len(parts) == 1 else b"".join(parts)), end


def _ends_line(data: bytes, at: int) -> bool:
    return data[at] == 13 and data[at + 1] == 10
