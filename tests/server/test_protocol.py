"""The server's side of HTTP/1.1, with a transport and an application of the tests' own."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dedup_server.http.cycle import DIRECT
from dedup_server.http.protocol import Limits, protocol_with

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"


class Transport:
    """A transport that keeps what is written, and notes what is asked of it."""

    def __init__(self) -> None:
        self.written = b""
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("1.2.3.4", 5), "sockname": ("127.0.0.1", 80)}.get(name)

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


class Client:
    """A connection to an application."""

    def __init__(self, app: App, keep_alive_seconds: float = 9.0) -> None:
        config = SimpleNamespace(
            loaded_app=app, root_path="", timeout_keep_alive=keep_alive_seconds
        )
        self.state = SimpleNamespace(
            connections=set(), tasks=set(), default_headers=[(b"date", b"now")], total_requests=0
        )
        self.limits = Limits(1000, 9.0, 9.0)
        self.protocol = protocol_with(self.limits)(config, self.state, {})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)

    async def send(self, *data: bytes) -> bytes:
        """Send data; return what the server has written since the last call."""
        for one in data:
            self.protocol.data_received(one)
        for _ in range(5):
            await asyncio.sleep(0)
        written, self.transport.written = self.transport.written, b""
        return written


async def whole(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the request, past ASGI."""
    cycle = scope["extensions"][DIRECT]
    await cycle.respond([(b"a", b"b")], scope["path"].encode() + (cycle.body() or b""))


async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
    for _ in range(2):
        await asyncio.sleep(0)
    await whole(scope, receive, send)


def answered(*messages: dict[str, Any]) -> App:
    """Return an application that sends these messages."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def test_the_application_gets_the_request_and_the_client_its_answer() -> None:
    scopes = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)
        await whole(scope, receive, send)

    client = Client(app)
    written = await client.send(GET)
    assert written == b"HTTP/1.1 200 OK\r\ndate: now\r\na: b\r\ncontent-length: 4\r\n\r\n/a b"
    scope = scopes[0]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")
    assert (scope["client"], scope["server"]) == (("1.2.3.4", 5), ("127.0.0.1", 80))
    assert scope["headers"] == [(b"host", b"h")]
    assert client.state.total_requests == 1
    assert not client.state.tasks


async def test_requests_in_one_read_are_answered_in_order() -> None:
    client = Client(slow)
    client.protocol.data_received(GET + POST + GET)
    assert client.transport.calls == ["pause_reading"]
    written = b"".join([await client.send() for _ in range(4)])
    bodies = [one.partition(b"\r\n\r\n")[2] for one in written.split(b"HTTP/1.1 200 OK")]
    assert bodies == [b"", b"/a b", b"/body", b"/a b"]
    assert client.transport.calls == ["pause_reading", "resume_reading"]


async def test_the_body_of_a_refused_request_is_nobodys() -> None:
    bodies = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        bodies.append(scope["extensions"][DIRECT].body())

    twice = b"POST / HTTP/1.1\r\nHost: h\r\nHost: i\r\nContent-Length: 4\r\n\r\nevil"
    client = Client(app)
    client.protocol.data_received(POST + twice)
    assert client.transport.is_closing()
    await client.send()
    assert bodies == [b"body"]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_request_may_come_in_pieces(size: int) -> None:
    client = Client(whole)
    pieces = [POST[at : at + size] for at in range(0, len(POST), size)]
    written = await client.send(*pieces)
    assert written.endswith(b"\r\n\r\n/body")
    assert written.count(b"HTTP/1.1 200") == 1


async def test_a_client_is_told_to_send_the_body() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        message = await receive()
        while message["more_body"]:
            message = await receive()
        await send(start())
        await send(part(message["body"]))

    client = Client(app)
    head = b"POST / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    assert await client.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.send(b"body")).endswith(b"\r\n\r\n4\r\nbody\r\n0\r\n\r\n")


async def test_a_body_that_nobody_reads_stops_the_reading() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.sleep(9)

    client = Client(app)
    await client.send(b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + b"x" * 70_000)
    assert client.transport.calls == ["pause_reading"]
    client.protocol.connection_lost(None)
    for task in client.state.tasks:
        task.cancel()


@pytest.mark.parametrize(
    ("request_line", "messages", "expected"),
    [
        (b"GET", [start(), part(b"a", more=True), part(b"b")], b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
        (b"GET", [start((b"Content-Length", b"2")), part(b"ab")], b"ab"),
        (b"GET", [start(status=204), part(b"")], b""),
        (b"HEAD", [start((b"content-length", b"2")), part(b"ab")], b""),
    ],
)
async def test_bodies_are_framed(
    request_line: bytes, messages: list[dict[str, Any]], expected: bytes
) -> None:
    client = Client(answered(*messages))
    written = await client.send(request_line + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
    head, _, body = written.partition(b"\r\n\r\n")
    assert body == expected
    assert (b"transfer-encoding: chunked" in head) == (expected[:3] == b"1\r\n")
    assert not client.transport.is_closing()


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", []),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", []),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", [(b"Connection", b"close")]),
    ],
)
async def test_a_connection_closes_where_one_side_says_so(
    head: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    client = Client(answered(start(*headers), part(b"a")))
    written = await client.send(head)
    assert written.count(b"connection: close\r\n") == 1
    assert client.transport.calls[-1] == "close"


async def test_a_server_that_stops_closes_connections_behind_their_responses() -> None:
    client = Client(whole)
    client.limits.is_draining = True
    assert b"connection: close" in await client.send(GET)
    assert client.transport.is_closing()


async def test_a_server_that_shuts_down_closes_idle_connections_and_waits_for_others() -> None:
    idle, busy = Client(whole), Client(slow)
    idle.protocol.shutdown()
    assert idle.transport.is_closing()
    busy.protocol.data_received(GET)
    busy.protocol.shutdown()
    assert not busy.transport.is_closing()
    assert b"connection: close" in await busy.send()
    assert busy.transport.is_closing()


@pytest.mark.parametrize(
    ("messages", "status", "closes"),
    [
        ([], b"500", True),
        ([start(), part(b"half", more=True)], b"200", True),
        ([start((b"content-length", b"9")), part(b"short")], b"200", True),
        ([start((b"content-length", b"1")), part(b"long")], b"200", True),
        ([start((b"a", b"b\r\nc: d")), part(b"")], b"500", True),
        ([start((b"a\r\nc", b"d")), part(b"")], b"500", True),
        ([part(b"too soon")], b"500", True),
        ([start(), start()], b"200", True),
        ([start(), part(b""), part(b"")], b"200", False),
    ],
)
async def test_what_an_application_does_wrong_never_passes_for_an_answer(
    messages: list[dict[str, Any]], status: bytes, closes: bool
) -> None:
    client = Client(answered(*messages))
    written = await client.send(GET)
    assert written.startswith(b"HTTP/1.1 " + status)
    assert b"\nc: d" not in written
    assert client.transport.is_closing() == closes
    if closes and status == b"200":
        assert not written.endswith(b"0\r\n\r\n")


async def test_a_client_that_leaves_is_noticed() -> None:
    left = []
    message: dict[str, Any] = {}

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        cycle = scope["extensions"][DIRECT]
        cycle.watch(lambda: left.append(cycle.is_lost))
        await receive()
        message.update(await receive())
        await send(start())

    client = Client(app)
    await client.send(GET)
    client.protocol.connection_lost(None)
    assert await client.send() == b""
    assert left == [True]
    assert message == {"type": "http.disconnect"}
    assert not client.state.connections


async def test_a_writer_waits_for_a_client_that_does_not_read() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        cycle = scope["extensions"][DIRECT]
        for pause in (cycle.begin([], b""), cycle.write(b"1")):
            assert pause is not None
            await pause
        assert cycle.write(b"2") is None
        await cycle.end(b"3")

    client = Client(app)
    client.protocol.data_received(GET)
    client.protocol.pause_writing()
    assert (await client.send()).endswith(b"chunked\r\n\r\n1\r\n1\r\n")
    client.protocol.resume_writing()
    assert await client.send() == b"1\r\n2\r\n1\r\n3\r\n0\r\n\r\n"


async def test_an_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    client = Client(whole, keep_alive_seconds=0.05)
    await client.send(GET)
    await asyncio.sleep(0.03)
    await client.send(GET)
    await asyncio.sleep(0.03)
    assert not client.transport.is_closing()
    await asyncio.sleep(0.05)
    assert client.transport.is_closing()
