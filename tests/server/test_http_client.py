"""What is read past the HTTP parser is what the parser would have read."""

import httptools
from hypothesis import given
from hypothesis import strategies as st

from dedup_server.http.client import whole_chunks

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SIZES = st.sampled_from(
    [b"%x", b"%X", b"0%x", b"%x;a=b", b"+%x", b"0x%x", b" %x", b"%x ", b"%x_", b"-%x"]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b"\r\n\r\n"])


class Parsed:
    def __init__(self, data: bytes) -> None:
        self.body, self.between, self.ended = b"", True, False
        httptools.HttpResponseParser(self).feed_data(HEAD + data)

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_chunk_header(self) -> None:
        self.between = False

    def on_chunk_complete(self) -> None:
        self.between = True

    def on_message_complete(self) -> None:
        self.ended = True


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    body = draw(st.binary(max_size=20) | st.sampled_from([b"data: x\n\n", b"\r\n5\r\nhello\r\n"]))
    size = draw(SIZES) % (
        len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]) if body else st.just(0))
    )
    return size + draw(ENDS) + body + draw(ENDS)


@given(st.lists(chunks(), max_size=5).map(b"".join), st.integers(0, 3))
def test_what_goes_past_the_parser_is_what_it_would_have_given(data: bytes, missing: int) -> None:
    """Data is either left to the parser, or the parser would have given the same body of it and stood between two chunks again."""
    data = data[: len(data) - missing]
    if (body := whole_chunks(data)) is not None:
        parsed = Parsed(data)
        assert (parsed.body, parsed.between, parsed.ended) == (body, True, False)


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_whole_chunks_need_no_parser(bodies: list[bytes]) -> None:
    """What a server sends chunk by chunk is read without it; the last chunk, of no size, is not."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies)
    assert whole_chunks(data) == b"".join(bodies)
    assert whole_chunks(data + b"0\r\n\r\n") is None
