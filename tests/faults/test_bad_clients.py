"""Clients that disconnect, are slow, send wrong lengths or invalid HTTP, or attempt to reach other
servers.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote

import pytest

from tests.faults.proxy import (
    Proxy,
    Reading,
    ask_raw,
    chat_body,
    chat_request,
    http_request,
    proxy,
    read_reply,
    statuses,
)
from tests.faults.raw_upstream import (
    DONE,
    EVENT_STREAM,
    NOVEL,
    Exchange,
    RawUpstream,
    Trap,
    chunked,
    finish,
    novel,
    say,
)

HEADER_TIMEOUT, BODY_TIMEOUT = 0.5, 0.5
MAX_BODY, MAX_HEADER = 1_000_000, 16 * 1024
POST = "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\n"


@pytest.fixture(scope="module")
def front(upstream: RawUpstream) -> Iterator[Proxy]:
    with proxy(
        upstream.url,
        header_timeout_seconds=HEADER_TIMEOUT,
        body_timeout_seconds=BODY_TIMEOUT,
        max_body_bytes=MAX_BODY,
        max_header_bytes=MAX_HEADER,
    ) as front:
        yield front


@pytest.fixture(scope="module")
def locked(upstream: RawUpstream) -> Iterator[Proxy]:
    with proxy(upstream.url, api_keys="sk-right,sk-also-right") as locked:
        yield locked


# --- Gone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stream", "reads_first"),
    [
        pytest.param("drip", True, True, id="in mid-stream"),
        pytest.param("stall", True, True, id="in mid-stream, nothing coming"),
        pytest.param("headers-only", True, False, id="before the first token"),
        pytest.param("silent", True, False, id="before the headers"),
        pytest.param("silent", False, False, id="not streaming"),
    ],
)
def test_a_client_that_disconnects_ends_the_generation(
    front: Proxy, upstream: RawUpstream, model: str, stream: bool, reads_first: bool
) -> None:
    name = f"{model}-{stream}-{reads_first}"
    upstream.scripts[name] = upstream.scripts[model]
    seen = upstream.seen[name]
    with front.connected() as connection:
        connection.sendall(chat_request(name, stream))
        assert seen.asked.wait(10)
        if reads_first:
            Reading(connection).until(b"content")
        else:
            time.sleep(0.2)
        assert not seen.hung_up.is_set()
        left_at = time.monotonic()
    assert seen.hung_up.wait(5)
    assert seen.hung_up_at - left_at < 1


def test_a_client_that_disconnects_is_counted(front: Proxy, upstream: RawUpstream) -> None:
    upstream.scripts["left"] = upstream.scripts["silent"]
    before = _clients_gone(front)
    with front.connected() as connection:
        connection.sendall(chat_request("left", True))
        assert upstream.seen["left"].asked.wait(10)
    for _ in range(100):
        if _clients_gone(front) == before + 1:
            break
        time.sleep(0.05)
    assert _clients_gone(front) == before + 1
    in_progress = re.findall(
        r"^dedup_streams_in_progress\{.*\} (.*)$", front.metrics(), re.MULTILINE
    )
    assert sum(map(float, in_progress)) == 0


def _clients_gone(front: Proxy) -> float:
    return sum(
        map(
            float,
            re.findall(
                r'^dedup_requests_total\{.*outcome="client_gone".*\} (.*)$',
                front.metrics(),
                re.MULTILINE,
            ),
        )
    )


# --- Slow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["off", "balanced"])
def test_a_client_that_does_not_read_pauses_the_upstream(
    front: Proxy, upstream: RawUpstream, policy: str
) -> None:
    name, most = f"endless-{policy}", 40_000_000  # the buffers of two connections may grow so large
    sent: list[str] = []
    enough = False

    def endless(exchange: Exchange) -> None:
        exchange.send(EVENT_STREAM)
        while not enough:
            sent.append(novel(len(sent)))
            exchange.send(say(sent[-1]))
        exchange.send(finish() + DONE)

    upstream.scripts[name] = endless
    seen = upstream.seen[name]
    with front.connected(receive_buffer=32 * 1024) as connection:
        connection.sendall(chat_request(name, True, repetition={"policy": policy}))
        assert seen.asked.wait(10)
        still_for = 0
        for _ in range(80):
            before = seen.written
            time.sleep(0.25)
            still_for = still_for + 1 if seen.written == before > 0 else 0
            if still_for == 4 or seen.written > most:
                break
        enough = True
        written = seen.written
        reply = read_reply(connection)
    assert written < most
    assert still_for == 4, "the upstream was never held back"
    reply.check_complete("".join(sent))


@pytest.mark.parametrize(
    "beginning", [b"", b"P", b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Slow: "]
)
def test_an_incomplete_head_times_out(front: Proxy, beginning: bytes) -> None:
    received, waited = _dripped(front, beginning, b"a" if len(beginning) > 1 else b"")
    assert waited < HEADER_TIMEOUT + 1
    assert statuses(received) in ([], [408])


@pytest.mark.parametrize(
    "beginning", [b"P", b"\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Slow: "]
)
def test_the_next_head_on_a_connection_times_out(front: Proxy, beginning: bytes) -> None:
    with front.connected() as connection:
        connection.sendall(chat_request("ok", True, "Connection: keep-alive"))
        read_reply(connection).check_complete(NOVEL)
        connection.sendall(beginning)
        connection.settimeout(HEADER_TIMEOUT + 1)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert statuses(received) in ([], [408])


@pytest.mark.parametrize(
    "lines", ["Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n3e8\r\n"]
)
def test_an_incomplete_body_is_a_408(front: Proxy, lines: str) -> None:
    received, waited = _dripped(front, f"{POST}{lines}".encode(), b" ")
    assert waited < BODY_TIMEOUT + 1
    assert statuses(received) == [408]
    assert set(json.loads(received.partition(b"\r\n\r\n")[2])) == {"error"}


def _dripped(front: Proxy, beginning: bytes, drop: bytes) -> tuple[bytes, float]:
    """Return what arrives while `drop` is sent repeatedly, and the time until it arrived or the
    connection closed.
    """
    received, began, waited = b"", time.monotonic(), 0.0
    with front.connected() as connection:
        connection.sendall(beginning)
        connection.settimeout(0.2)
        while time.monotonic() - began < 6:
            try:
                if drop and not received:
                    connection.sendall(drop)
                part = connection.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                part = b""
            waited = waited or time.monotonic() - began
            received += part
            if not part or received.endswith(b"}"):
                return received, waited
    raise AssertionError(f"the connection stays open; so far: {received!r}")


def test_a_long_response_does_not_time_out_the_request(front: Proxy, upstream: RawUpstream) -> None:
    def late(exchange: Exchange) -> None:
        exchange.pause(HEADER_TIMEOUT + 0.5)
        upstream.scripts["ok"](exchange)

    upstream.scripts["late"] = late
    front.post("late", True).check_complete(NOVEL)
    assert front.post("late").text == NOVEL


# --- Too large ------------------------------------------------------------------------------------


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
def test_a_body_with_a_too_large_length_is_not_read(front: Proxy, expect: str) -> None:
    with front.connected() as connection:
        connection.settimeout(3)
        connection.sendall(f"{POST}{expect}Content-Length: {10**12}\r\n\r\n".encode())
        read_reply(connection).check_refused(413)


def test_a_body_that_grows_too_large_is_a_413(front: Proxy) -> None:
    with front.connected() as connection:
        connection.sendall(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode())
        with suppress(ConnectionError):
            connection.sendall(chunked([b" " * 10_000] * (MAX_BODY // 10_000 + 1)))
        read_reply(connection).check_refused(413)


def test_a_body_of_the_limit_is_accepted(front: Proxy) -> None:
    padding = MAX_BODY - len(chat_body("ok", content=""))
    assert front.post("ok", content="a" * padding).text == NOVEL
    front.post("ok", content="a" * (padding + 1)).check_refused(413)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([f"X-Long: {'a' * MAX_HEADER}"], id="a long value"),
        pytest.param([f"X-{'a' * MAX_HEADER}: 1"], id="a long name"),
        pytest.param([f"X-{number}: 1" for number in range(5000)], id="many"),
        pytest.param([f"X-Long: {'a' * 10 * MAX_HEADER}"], id="a very long value"),
    ],
)
def test_a_head_over_the_limit_is_a_431(front: Proxy, lines: list[str]) -> None:
    with front.connected() as connection:
        with suppress(ConnectionError):
            connection.sendall(http_request("GET", "/v1/models", b"", *lines))
        read_reply(connection).check_refused(431)


def test_a_target_over_the_limit_is_refused(front: Proxy) -> None:
    with front.connected() as connection:
        with suppress(ConnectionError):
            connection.sendall(http_request("GET", "/v1/models?" + "a" * MAX_HEADER, b""))
        read_reply(connection).check_refused(414, 431)


def test_a_head_below_the_limit_is_accepted(front: Proxy) -> None:
    assert (
        front.post("ok", False, *[f"X-{number}: {'a' * 100}" for number in range(100)]).text
        == NOVEL
    )


# --- Broken HTTP ----------------------------------------------------------------------------------

FIRST = chat_body("smuggler")
SMUGGLED = chat_request("smuggled")
IN_CHUNKS = chunked([FIRST]) + b"0\r\n\r\n"
LENGTH = f"Content-Length: {len(FIRST)}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        pytest.param(
            f"Content-Length: {len(IN_CHUNKS + SMUGGLED)}\r\n{CHUNKED}",
            IN_CHUNKS,
            id="length, then chunked",
        ),
        pytest.param(f"{CHUNKED}Content-Length: 5\r\n", IN_CHUNKS, id="chunked, then length"),
        pytest.param(
            f"{LENGTH}Content-Length: {len(FIRST + SMUGGLED)}\r\n", FIRST, id="two lengths"
        ),
        pytest.param(
            f"Content-Length: {len(FIRST + SMUGGLED)}\r\n{LENGTH}",
            FIRST,
            id="two lengths, the longer first",
        ),
        pytest.param(
            f"Content-Length: {len(FIRST)}, {len(FIRST) + 5}\r\n",
            FIRST,
            id="two lengths in one line",
        ),
        pytest.param("Transfer-Encoding: chunked, identity\r\n", IN_CHUNKS, id="chunked, identity"),
        pytest.param("Transfer-Encoding: xchunked\r\n", IN_CHUNKS, id="xchunked"),
        pytest.param(f"{LENGTH}Transfer-Encoding: xchunked\r\n", FIRST, id="length and xchunked"),
        pytest.param(f"{LENGTH}Transfer-Encoding: identity\r\n", FIRST, id="length and identity"),
        pytest.param(
            f"{CHUNKED}Transfer-Encoding: identity\r\n", IN_CHUNKS, id="chunked and identity"
        ),
        pytest.param(
            "Transfer-Encoding: \x0bchunked\r\n", IN_CHUNKS, id="vertical tab before chunked"
        ),
        pytest.param("Transfer-Encoding:\r\n chunked\r\n", IN_CHUNKS, id="folded encoding"),
        pytest.param(f"{LENGTH}X-Folded: a\r\n b\r\n", FIRST, id="folded header"),
        pytest.param(f"{LENGTH}X-Bare: a\nX-Other: b\r\n", FIRST, id="bare LF"),
        pytest.param(f"{LENGTH}X-Bare: a\rX-Other: b\r\n", FIRST, id="bare CR"),
        pytest.param(f"{LENGTH}X-Null: a\x00b\r\n", FIRST, id="NUL"),
        pytest.param(
            f"Content-Length : {len(FIRST)}\r\n", FIRST, id="space before the colon of a length"
        ),
        pytest.param(
            "Transfer-Encoding : chunked\r\n", IN_CHUNKS, id="space before the colon of an encoding"
        ),
        pytest.param(f"{LENGTH}X-Space : a\r\n", FIRST, id="space before any colon"),
        pytest.param(f"{LENGTH}no colon at all\r\n", FIRST, id="no colon"),
        pytest.param("Content-Length: -1\r\n", FIRST, id="length -1"),
        pytest.param(f"Content-Length: +{len(FIRST)}\r\n", FIRST, id="length with a plus"),
        pytest.param(f"Content-Length: {len(FIRST):#x}\r\n", FIRST, id="length in hex"),
        pytest.param("Content-Length: \r\n", FIRST, id="empty length"),
        pytest.param(f"Content-Length: {len(FIRST)} 1\r\n", FIRST, id="length with a space inside"),
        pytest.param(
            f"Content-Length: {2**64 + len(FIRST)}\r\n", FIRST, id="length that wraps around"
        ),
        pytest.param(CHUNKED, b"xyz\r\n" + FIRST + b"\r\n0\r\n\r\n", id="chunk size xyz"),
        pytest.param(
            CHUNKED, b"-%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST), FIRST), id="chunk size below 0"
        ),
        pytest.param(
            CHUNKED, b"+%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST), FIRST), id="chunk size with a plus"
        ),
        pytest.param(
            CHUNKED, b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST), FIRST), id="chunk size with 0x"
        ),
        pytest.param(
            CHUNKED,
            b"1%016x\r\n%b\r\n0\r\n\r\n" % (len(FIRST), FIRST),
            id="chunk size that wraps around",
        ),
        pytest.param(
            CHUNKED, b"%x\n%b\r\n0\r\n\r\n" % (len(FIRST), FIRST), id="chunk size before a bare LF"
        ),
        pytest.param(
            CHUNKED, b"%x\r\n%bXX0\r\n\r\n" % (len(FIRST), FIRST), id="chunk longer than its size"
        ),
    ],
)
def test_a_request_of_ambiguous_length_is_refused(
    front: Proxy, upstream: RawUpstream, lines: str, body: bytes
) -> None:
    data = (
        f"{POST}Content-Type: application/json\r\n{lines}\r\n".encode("latin-1") + body + SMUGGLED
    )
    answer = ask_raw(front.port, data, 1.5)
    assert statuses(answer) in ([], [400])
    assert not upstream.seen["smuggled"].requests
    assert not upstream.seen["smuggler"].requests


def test_lines_that_end_in_a_bare_lf_are_refused(front: Proxy, upstream: RawUpstream) -> None:
    answer = ask_raw(front.port, chat_request("smuggler").replace(b"\r\n", b"\n") + SMUGGLED, 1.5)
    assert statuses(answer) in ([], [400])
    assert not upstream.seen["smuggled"].requests
    assert not upstream.seen["smuggler"].requests


@pytest.mark.parametrize(
    "data",
    [
        b"HELLO\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_invalid_http_is_a_400(front: Proxy, data: bytes) -> None:
    with front.connected() as connection:
        connection.sendall(data)
        read_reply(connection).check_refused(400)


@pytest.mark.parametrize("upgrade", [None, "h2c", "websocket"])
def test_hop_by_hop_headers_stay_on_their_hop(
    front: Proxy, upstream: RawUpstream, upgrade: str | None
) -> None:
    """Java's client offers h2c with every request; the body of the request must not be lost."""
    name = f"hops-{upgrade}"
    upstream.scripts[name] = upstream.scripts["ok"]
    own = {
        "x-foo": "1",
        "keep-alive": "timeout=99",
        "proxy-authorization": "Basic c2VjcmV0",
        "proxy-connection": "keep-alive",
        "te": "trailers",
        "trailer": "X-End",
        **({"upgrade": upgrade, "http2-settings": "AAMAAABkAARAAAAAAAIAAAAA"} if upgrade else {}),
    }
    connection = "Connection: close, x-foo" + (", Upgrade, HTTP2-Settings" if upgrade else "")
    reply = front.post(
        name, False, connection, *(f"{header}: {value}" for header, value in own.items())
    )
    assert reply.status == 200, reply.body
    assert reply.text == NOVEL
    (request,) = upstream.seen[name].requests
    assert not {header for header, _ in request.headers} & set(own)
    assert not any("foo" in value or "pgrade" in value for value in request.values("connection"))
    assert request.values("host") == [f"127.0.0.1:{upstream.port}"]
    assert request.values("content-length") == [str(len(request.body))]


def test_offers_to_upgrade_on_one_connection(front: Proxy) -> None:
    """A client may repeat its offer with every request on a connection."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with front.connected() as connection:
        for content in ("the first", "the second", "the third"):
            connection.sendall(chat_request("echo", False, *offer, content=content))
            assert content in read_reply(connection).text


# --- Broken bodies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not JSON",
        b"null",
        b"[]",
        b'"text"',
        b"17",
        b"{}",
        b'{"messages": 5}',
        b'{"messages": [5]}',
        b'{"model": 5, "messages": [{"role": "user", "content": "Hello"}]}',
        b'{"model": "ok", "messages": "Hello"}',
        b'{"model": "ok", "messages": [{"role": "user", "content": "Hello"}], "stream": "perhaps"}',
        b'{"model": "ok", "messages": [{"role": "user", "content": "Hello"}], "stream": NaN}',
        b'{"model": "ok", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"model": "ok", "messages": [{"role": "user", "content": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}]}",
    ],
    ids=lambda body: repr(body[:60]),
)
def test_an_invalid_body_is_a_400(front: Proxy, body: bytes) -> None:
    with front.connected() as connection:
        lines = [
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        connection.sendall((POST + "\r\n".join([*lines, "", ""])).encode() + body)
        read_reply(connection).check_refused(400)


# --- Keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        b"sk-wrong",
        b"sk-righ",
        b"sk-right2",
        b"sk-right,sk-also-right",
        b"",
        b"\xe9\xff\xfe",
        "钥匙".encode(),
        b"sk-right\xc3\xa9",
        "sk-right\u200b".encode(),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
def test_a_wrong_key_is_a_401(locked: Proxy, upstream: RawUpstream, path: str, key: bytes) -> None:
    upstream.scripts["never"] = upstream.scripts["ok"]
    line = b"Authorization: Bearer " + key
    method, body = ("GET", b"") if path == "/v1/models" else ("POST", chat_body("never"))
    with locked.connected() as connection:
        connection.sendall(http_request(method, path, body, line.decode("latin-1")))
        read_reply(connection).check_refused(401)
    assert not upstream.seen["never"].requests


def test_no_key_is_a_401_and_every_valid_key_is_accepted(locked: Proxy) -> None:
    locked.post("ok").check_refused(401)
    for key in ("sk-right", "sk-also-right"):
        assert locked.post("ok", False, f"Authorization: Bearer {key}").text == NOVEL


# --- Wanting to be sent elsewhere -----------------------------------------------------------------


def test_a_request_cannot_reach_another_server(
    front: Proxy, upstream: RawUpstream, evil: Trap
) -> None:
    elsewhere = f"127.0.0.1:{evil.port}"
    paths = [
        f"http://{elsewhere}/v1/chat/completions",
        f"//{elsewhere}/v1/chat/completions",
        f"//{elsewhere}/",
        f"/@{elsewhere}/v1/chat/completions",
        f"/v1/@{elsewhere}/chat/completions",
        f"/v1/chat/completions@{elsewhere}",
        f":80@{elsewhere}/v1/chat/completions",
        f"/v1/chat/completions?url=http://{elsewhere}/",
        f"/v1/models/http://{elsewhere}/",
        f"/v1/models/@{elsewhere}",
        "/v1/../../x",
        "/v1/%2e%2e/%2e%2e/x",
        "/v1/chat/completions/../../../x",
        "/v1/chat/..%2f..%2fx",
        "/v1/models/../../x",
        "/v1/models/..%2f..%2fx",
        "/v1/models/ok%0d%0aX-Injected:%201",
        "/v1\\..\\x",
        "*",
    ]
    before = len(upstream.requests)
    for path in paths:
        for method, body in (("GET", b""), ("POST", chat_body("ok"))):
            for host in ("proxy.test", elsewhere):
                request = http_request(
                    method, path, body, f"X-Forwarded-Host: {elsewhere}"
                ).replace(b"proxy.test", host.encode())
                answer = ask_raw(front.port, request, 3)
                assert all(200 <= status < 500 for status in statuses(answer)), (path, answer)
    ask_raw(front.port, f"CONNECT {elsewhere} HTTP/1.1\r\nHost: {elsewhere}\r\n\r\n".encode(), 1)
    assert evil.num_connections == 0
    for asked in upstream.requests[before:]:
        assert asked.target.startswith("/v1/")
        assert ".." not in re.split(r"[/\\?]", unquote(asked.target))
        assert asked.values("host") == [f"127.0.0.1:{upstream.port}"]
        assert not asked.values("x-injected")


# --- Kept or closed -------------------------------------------------------------------------------


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_the_head_of_a_stream_declares_the_stream(front: Proxy, connection: str) -> None:
    with front.connected() as socket:
        socket.sendall(
            chat_request(
                "ok", True, f"Connection: {connection}", "Expect: 100-continue", "X-Request-Id: one"
            )
        )
        reply = read_reply(socket)
        reply.check_complete(NOVEL)
        names = [name.lower() for name in reply.headers]
        assert len(names) == len(set(names))
        assert reply.status == 200
        assert reply.headers["X-Request-Id"] == "one"
        assert reply.headers["Transfer-Encoding"] == "chunked"
        assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "date" in names
        assert reply.headers["Connection"] == ("close" if connection == "close" else None)
        if connection == "close":
            assert socket.recv(1) == b""
        else:
            socket.sendall(chat_request("ok", True))
            read_reply(socket).check_complete(NOVEL)


# --- Pipelined ------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_one_write", [True, False])
def test_pipelined_requests_are_answered_in_order(front: Proxy, in_one_write: bool) -> None:
    keep = "Connection: keep-alive"
    requests = [
        chat_request("echo-late", False, keep, content="the first"),
        chat_request("echo", False, keep, content="the second"),
        chat_request("ok", True, keep),
        chat_request("echo-late", False, keep, content="the fourth"),
        http_request("GET", "/nowhere", b"", keep),
        chat_request("echo", False, content="the last"),
    ]
    with front.connected() as connection:
        for data in [b"".join(requests)] if in_one_write else requests:
            connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert statuses(received) == [200, 200, 200, 200, 404, 200]
    found = [
        received.find(text)
        for text in (b"the first", b"the second", b"[DONE]", b"the fourth", b"the last")
    ]
    assert -1 not in found
    assert found == sorted(found)
