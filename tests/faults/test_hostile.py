"""Clients and upstreams that attack: each test is the evidence for a line of SECURITY.md."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dedup_server.errors import model_not_found
from tests.faults.proxy import Proxy, Reply, chat_body, http_request, proxy, read_reply
from tests.faults.raw_upstream import (
    DONE,
    EVENT_STREAM,
    NOVEL,
    Exchange,
    RawUpstream,
    Script,
    chunked,
    event,
    finish,
    head,
    say,
)

GUARDRAIL = "/beta/litellm_basic_guardrail_api"
IN_CHUNKS = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
MANY_TRAILERS = b"".join(b"X-%d: b\r\n" % number for number in range(20_000))
MAX_GROWTH_BYTES = 32 * 1024 * 1024


@pytest.fixture(scope="module")
def front(upstream: RawUpstream) -> Iterator[Proxy]:
    with proxy(upstream.url) as front:
        yield front


def _post(front: Proxy, path: str, body: object, *headers: str) -> Reply:
    with front.connected() as connection:
        connection.sendall(http_request("POST", path, json.dumps(body).encode(), *headers))
        return read_reply(connection)


def _last_line(front: Proxy, status: int) -> str:
    """Return the line of the last request, which is logged behind its response."""
    for _ in range(100):
        line = front.log.rstrip("\n").rpartition("\n")[2]
        if f"status={status} " in line:
            return line
        time.sleep(0.02)
    raise AssertionError(front.log[-2000:])


# --- Trailers: they come behind the checks of a head ----------------------------------------------


@pytest.mark.parametrize("pause_seconds", [0, 0.05])
def test_trailers_of_a_request_are_no_headers(
    front: Proxy, upstream: RawUpstream, pause_seconds: float
) -> None:
    with front.connected() as connection:
        connection.sendall(IN_CHUNKS + chunked([chat_body("ok")]))
        time.sleep(pause_seconds)
        connection.sendall(b"0\r\nX-Late: 1\r\nAuthorization: Bearer late\r\n\r\n")
        assert read_reply(connection).text == NOVEL
    names = {name for name, _ in upstream.seen["ok"].requests[-1].headers}
    assert not names & {"x-late", "authorization"}


def test_a_key_in_a_trailer_is_none(upstream: RawUpstream) -> None:
    with proxy(upstream.url, api_keys="sk-right") as locked, locked.connected() as connection:
        end = b"0\r\nAuthorization: Bearer sk-right\r\n\r\n"
        connection.sendall(IN_CHUNKS + chunked([chat_body("ok")]) + end)
        read_reply(connection).check_refused(401)


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(b"0\r\n" + MANY_TRAILERS, id="trailers"),
        pytest.param(b"0\r\nX-Long: " + b"a" * 100_000, id="a trailer"),
        pytest.param(b"1;a=" + b"a" * 100_000, id="a chunk's extension"),
    ],
)
def test_what_surrounds_chunks_is_bounded(
    front: Proxy, upstream: RawUpstream, endless: bytes
) -> None:
    before, sent = front.peak_memory_bytes, 0
    with front.connected() as connection, suppress(ConnectionError):
        connection.sendall(IN_CHUNKS + endless)
        while sent < 50_000_000:
            connection.sendall(b"a" * 100_000 if endless[-1:] == b"a" else MANY_TRAILERS)
            sent += 100_000
    assert sent < 50_000_000
    assert front.peak_memory_bytes - before < MAX_GROWTH_BYTES
    with suppress(ConnectionError):
        upstream.scripts["around"] = _around(endless)
        reply = front.post("around", True)
        assert "around a chunk" in reply.check_broken(NOVEL)["message"]
    assert upstream.seen["around"].written < 50_000_000
    assert front.peak_memory_bytes - before < MAX_GROWTH_BYTES


def _around(endless: bytes) -> Script:
    kind = "Content-Type: text/event-stream"
    begun = head("200 OK", kind, "Transfer-Encoding: chunked") + chunked([say(NOVEL)])

    def script(exchange: Exchange) -> None:
        exchange.send(begun + endless)
        while exchange.seen.written < 50_000_000:
            exchange.send(b"a" * 100_000 if endless[-1:] == b"a" else MANY_TRAILERS)

    return script


def test_trailers_of_an_upstream_are_no_headers(front: Proxy, upstream: RawUpstream) -> None:
    kind = "Content-Type: text/event-stream"
    body = chunked([say(NOVEL) + finish() + DONE]) + b"0\r\nX-Late: 1\r\n\r\n"
    upstream.scripts["trailing"] = lambda exchange: exchange.send(
        head("200 OK", kind, "Transfer-Encoding: chunked") + body
    )
    reply = front.post("trailing", True)
    reply.check_complete(NOVEL)
    assert "x-late" not in reply.headers


# --- Log and metrics ------------------------------------------------------------------------------


def test_a_line_of_the_log_is_bounded_and_is_one_line(front: Proxy, upstream: RawUpstream) -> None:
    name = "\x1b[31mred\nlevel=error status=200 " + "m" * 1_000_000
    front.post(name).check_refused(404)
    line = _last_line(front, 404)
    assert len(line) < 1500
    assert "\x1b" not in front.log
    assert r"model='\x1b[31mred\nlevel=error" in line

    upstream.scripts["types"] = lambda exchange: exchange.answer_json(
        {"error": {"message": "no", "type": "\x1b[31m\n" + "T" * 60_000}}, "400 Bad Request"
    )
    front.post("types").check_refused(400)
    assert len(_last_line(front, 400)) < 1500
    assert "\x1b" not in front.log
    front.get("/v1/" + "p" * 20_000)
    assert len(_last_line(front, 404)) < 1500


def test_an_address_that_a_proxy_passes_on_is_bounded(upstream: RawUpstream) -> None:
    with proxy(upstream.url, forwarded_allow_ips="*", requests_per_minute=1) as behind:
        assert behind.post("ok", False, "X-Forwarded-For: " + "a" * 40_000).text == NOVEL
        assert len(_last_line(behind, 200)) < 1500


def test_a_refusal_is_short() -> None:
    refusal = model_not_found("\0" * 1_000_000, ["m"] * 1000)
    assert len(refusal.message) < 1200
    assert refusal.message.endswith("m and 950 more")


# --- Texts without number -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stream"), [("choices", True), ("tool calls", False), ("choices in one event", True)]
)
def test_an_upstream_with_countless_texts_is_an_error(
    front: Proxy, upstream: RawUpstream, kind: str, stream: bool
) -> None:
    def script(exchange: Exchange) -> None:
        exchange.send(EVENT_STREAM)
        if kind == "choices in one event":
            choices = [{"index": n, "delta": {"content": "a"}} for n in range(10_000)]
            exchange.send(event({"choices": choices}))
        for number in range(5_000):
            call = {"index": number, "id": "i", "function": {"name": "f", "arguments": "{"}}
            chunk = {"index": number, "delta": {"content": "a"}}
            if kind == "tool calls":
                chunk = {"index": 0, "delta": {"tool_calls": [call]}}
            exchange.send(event({"choices": [chunk]}))
        exchange.send(DONE)

    name = f"countless {kind} {stream}"
    upstream.scripts[name] = script
    reply = front.post(name, stream)
    error = reply.chunks[-1]["error"] if reply.status == 200 else reply.check_refused(502)
    assert "more than 4096 texts" in error["message"]


@pytest.mark.parametrize(
    ("texts", "status"),
    [
        (["a"] * 128, 200),
        (["a"] * 129, 400),
        (["a"] * 1_000_000, 400),
        (["a b " * 10], 200),
        (["a" * 500_000, "b" * 500_001], 413),
    ],
)
def test_texts_of_a_guardrail_call_are_bounded(front: Proxy, texts: list[str], status: int) -> None:
    reply = _post(front, GUARDRAIL, {"input_type": "response", "texts": texts})
    assert reply.status == status, reply.body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", GUARDRAIL])
def test_a_body_of_countless_values_is_not_read(front: Proxy, path: str) -> None:
    """27 MB of empty lists took 0.6 GB and kept a worker for 5 s."""
    before = front.peak_memory_bytes
    body = b'{"model": "ok", "input_type": "request", "a": [' + b"[]," * 9_000_000 + b"0]}"
    with front.connected() as connection:
        connection.sendall(http_request("POST", path, body))
        assert "values" in read_reply(connection).check_refused(413)["message"]
    assert front.peak_memory_bytes - before < 4 * len(body)


# --- The page, and pages of others ----------------------------------------------------------------


def test_an_upstreams_page_cannot_act_as_ours(upstream: RawUpstream, front: Proxy) -> None:
    def script(exchange: Exchange) -> None:
        lines = ("Content-Type: text/html", "Access-Control-Allow-Origin: *")
        exchange.send(head("200 OK", *lines, "Content-Length: 2") + b"hi")

    upstream.scripts[""] = script
    headers = front.get("/v1/page", "Origin: https://evil.example").headers
    assert headers["content-security-policy"] == "sandbox"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_lets_no_page_read_answers(
    front: Proxy, upstream: RawUpstream, stream: bool
) -> None:
    """vLLM answers every page with `Access-Control-Allow-Origin: *` by default."""
    upstream.scripts["open"] = lambda exchange: exchange.send(
        head("200 OK", "Content-Type: text/event-stream", "Access-Control-Allow-Origin: *")
        + say(NOVEL)
        + finish()
        + DONE
    )
    reply = front.post("open", stream, "Origin: https://evil.example")
    assert reply.text == NOVEL
    assert "access-control-allow-origin" not in reply.headers
