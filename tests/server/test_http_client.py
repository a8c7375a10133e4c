"""The HTTP client: chunks that bypass the parser, and the stages of a connection."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_server.http.client import BrokenError, Response, StaleError, Timeouts
from dedup_server.http.connection import Connection
from dedup_server.http.parser import whole_chunks

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
def test_chunks_that_bypass_the_parser_are_read_as_it_would(data: bytes, missing: int) -> None:
    """The parser would have read the same body from what it is not given, and stood between two
    chunks again.
    """
    data = data[: len(data) - missing]
    body, end = whole_chunks(data)
    if end:
        parsed = Parsed(data[:end])
        assert (parsed.body, parsed.between, parsed.ended) == (body, True, False)
    else:
        assert body == b""


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_whole_chunks_need_no_parser(bodies: list[bytes]) -> None:
    """Whole chunks are read without the parser; the last chunk, of size 0, is not."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies)
    assert whole_chunks(data) == (b"".join(bodies), len(data))
    assert whole_chunks(data + b"0\r\n\r\n") == (b"".join(bodies), len(data))
    assert whole_chunks(data + b"5\r\nhal") == (b"".join(bodies), len(data))


class FakeTransport:
    """A transport that records what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def is_closing(self) -> bool:
        return "abort" in self.calls

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append(name)


class Exchange:
    """One connection, a fake transport, and the connections that were kept for reuse."""

    def __init__(self) -> None:
        self.kept: list[Connection] = []
        self.connection = Connection(self.kept.append)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    async def send(self, data: bytes, timeouts: Timeouts = Timeouts(9, 9, 9)) -> Response:  # noqa: B008
        sending = asyncio.create_task(self.connection.send(b"", "GET", timeouts))
        await asyncio.sleep(0)
        self.connection.data_received(data)
        await sending
        return Response(self.connection)


CHUNK, LAST = b"2\r\nok\r\n", b"0\r\n\r\n"
WHOLE = HEAD + CHUNK + LAST


async def test_a_connection_is_kept_for_the_next_exchange() -> None:
    exchange = Exchange()
    for _ in range(2):
        response = await exchange.send(WHOLE)
        assert [await response.read(), await response.read()] == [b"ok", b""]
    assert exchange.kept == [exchange.connection] * 2
    assert exchange.connection.is_usable


async def test_a_finished_response_is_skipped_and_its_connection_kept() -> None:
    exchange = Exchange()
    response = await exchange.send(HEAD + CHUNK)
    response.finish()
    exchange.connection.data_received(CHUNK)
    assert not exchange.kept
    exchange.connection.data_received(LAST)
    assert exchange.kept
    response = await exchange.send(WHOLE)
    assert await response.read() == b"ok"


async def test_a_finished_response_that_is_long_costs_the_connection() -> None:
    exchange = Exchange()
    (await exchange.send(HEAD)).finish()
    exchange.connection.data_received(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
    assert "abort" in exchange.transport.calls
    assert not exchange.kept


async def test_reading_goes_on_after_a_response_that_a_slow_consumer_left() -> None:
    exchange = Exchange()
    body = b"20000\r\n" + b"x" * 0x20000 + b"\r\n"
    (await exchange.send(HEAD + body + LAST)).finish()
    assert exchange.transport.calls[-2:] == ["pause_reading", "resume_reading"]
    assert exchange.connection.is_usable


async def test_data_that_nobody_requested_closes_the_connection() -> None:
    exchange = Exchange()
    response = await exchange.send(WHOLE)
    exchange.connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
    assert exchange.transport.calls[-1] == "abort"
    assert [await response.read(), await response.read()] == [b"ok", b""]
    assert not exchange.kept


async def test_a_second_response_in_the_same_read_is_an_error() -> None:
    exchange = Exchange()
    response = await exchange.send(WHOLE + WHOLE)
    assert await response.read() == b"ok"
    with pytest.raises(BrokenError, match="more than one response"):
        await response.read()
    assert exchange.transport.calls[-1] == "abort"


@pytest.mark.parametrize(("num_before", "error"), [(0, BrokenError), (1, StaleError)])
async def test_a_connection_that_is_closed_before_the_response(
    num_before: int, error: type[BrokenError]
) -> None:
    """Only a connection that served an exchange before is stale: the request may be sent again."""
    exchange = Exchange()
    for _ in range(num_before):
        response = await exchange.send(WHOLE)
        assert [await response.read(), await response.read()] == [b"ok", b""]
    sending = asyncio.create_task(exchange.connection.send(b"", "GET", Timeouts(9, 9, 9)))
    await asyncio.sleep(0)
    exchange.connection.connection_lost(None)
    with pytest.raises(BrokenError) as raised:
        await sending
    assert type(raised.value) is error


async def test_a_connection_lost_before_the_request_is_an_error() -> None:
    exchange = Exchange()
    exchange.connection.connection_lost(None)
    with pytest.raises(BrokenError):
        await exchange.connection.send(b"", "GET", Timeouts(9, 9, 9))


async def test_what_arrives_while_the_consumer_is_slow_waits() -> None:
    exchange = Exchange()
    response = await exchange.send(HEAD)
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pieces: list[bytes] = []

    def consume(piece: bytes) -> Awaitable[None] | None:
        pieces.append(piece)
        return ready if len(pieces) == 1 else None

    pouring = asyncio.create_task(response.pour(consume))
    await asyncio.sleep(0)
    exchange.connection.data_received(CHUNK)
    exchange.connection.data_received(CHUNK + CHUNK)
    exchange.connection.data_received(LAST)
    await asyncio.sleep(0)
    assert pieces == [b"ok"]
    ready.set_result(None)
    await pouring
    assert pieces == [b"ok", b"okok"]
    assert exchange.kept


@pytest.mark.parametrize(
    ("timeouts", "reason"),
    [(Timeouts(9, 0.02, 9), "sent nothing"), (Timeouts(9, 9, 9, total=0.02), "took longer")],
)
async def test_deadlines(timeouts: Timeouts, reason: str) -> None:
    exchange = Exchange()
    response = await exchange.send(HEAD, timeouts)
    with pytest.raises(TimeoutError, match=reason):
        await response.read()
    assert exchange.transport.calls[-1] == "abort"


async def test_a_slow_consumer_does_not_expire_the_server() -> None:
    exchange = Exchange()
    body = b"20000\r\n" + b"x" * 0x20000 + b"\r\n"
    response = await exchange.send(HEAD + body, Timeouts(9, 9, 0.02))
    await asyncio.sleep(0.1)
    assert await response.read()
    with pytest.raises(TimeoutError, match="sent nothing"):
        await response.read()
