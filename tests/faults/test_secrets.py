"""Keys and prompts never appear in logs, metrics and errors."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.proxy import (
    Proxy,
    Reply,
    ask_raw,
    chat_body,
    chat_request,
    http_request,
    proxy,
    read_reply,
)
from tests.faults.raw_upstream import (
    DONE,
    EVENT_STREAM,
    NOVEL,
    Exchange,
    RawUpstream,
    Script,
    event,
    finish,
    head,
    replies,
    say,
)

CLIENT_KEY, UPSTREAM_KEY, PROMPT = "sk-client-SECRET", "sk-upstream-SECRET", "PROMPT-SECRET"
BEARER = f"Authorization: Bearer {CLIENT_KEY}"


@pytest.fixture(scope="module")
def front(upstream: RawUpstream) -> Iterator[Proxy]:
    with proxy(upstream.url, api_keys=CLIENT_KEY, upstream_api_key=UPSTREAM_KEY) as front:
        yield front
        _check_silent(front)


def _check_silent(front: Proxy) -> None:
    """Require that log and metrics contain no secret."""
    assert "SECRET" not in front.log
    assert "SECRET" not in front.metrics()


def _checked(reply: Reply, *statuses: int) -> str:
    """Return the message of an error that contains no secret."""
    assert b"SECRET" not in reply.body
    assert "SECRET" not in str(reply.headers)
    return str(reply.check_refused(*statuses)["message"])


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer(front: Proxy, upstream: RawUpstream, stream: bool) -> None:
    upstream.seen["ok"].requests.clear()
    reply = front.post("ok", stream, BEARER, content=PROMPT)
    assert reply.text == NOVEL
    assert b"SECRET" not in reply.body
    assert "SECRET" not in str(reply.headers)
    (request,) = upstream.seen["ok"].requests
    assert request.values("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert CLIENT_KEY not in str(request.headers)
    _check_silent(front)


@pytest.mark.parametrize(
    "key", [f"{CLIENT_KEY}x", "sk-other-SECRET", f"{CLIENT_KEY},x", "é-SECRET"]
)
def test_a_wrong_key(front: Proxy, key: str) -> None:
    _checked(front.post("ok", False, f"Authorization: Bearer {key}", content=PROMPT), 401)
    _checked(front.post("ok", False, f"Authorization: {key}", content=PROMPT), 401)
    _check_silent(front)


def test_a_key_in_the_wrong_place(front: Proxy) -> None:
    assert front.get(f"/v1/models?api_key={CLIENT_KEY}").status == 401
    _checked(front.get(f"/v1/nowhere?api_key={CLIENT_KEY}", BEARER), 404)
    _check_silent(front)


def test_an_unknown_model(front: Proxy) -> None:
    _checked(front.post("no-such-model", False, BEARER, content=PROMPT), 404)
    _check_silent(front)


@pytest.mark.parametrize(
    "body",
    [
        f'{{"messages": [{{"role": "user", "content": "{PROMPT}"'.encode(),
        f'"{PROMPT}"'.encode(),
        json.dumps({"model": "ok", "messages": PROMPT}).encode(),
        json.dumps({"model": "ok", "messages": [PROMPT]}).encode(),
        json.dumps({"model": 5, "messages": [{"role": "user", "content": PROMPT}]}).encode(),
        json.dumps(
            {"model": "ok", "messages": [{"role": "user", "content": PROMPT}], "stream": PROMPT}
        ).encode(),
        json.dumps(
            {
                "model": "ok",
                "messages": [{"role": "user", "content": PROMPT}],
                "repetition": {"policy": PROMPT},
            }
        ).encode(),
    ],
)
def test_a_body_that_is_wrong(front: Proxy, body: bytes) -> None:
    with front.connected() as connection:
        connection.sendall(http_request("POST", "/v1/chat/completions", body, BEARER))
        _checked(read_reply(connection), 400)
    _check_silent(front)


def test_broken_http(front: Proxy) -> None:
    data = http_request(
        "POST",
        "/v1/chat/completions",
        chat_body("ok", content=PROMPT),
        BEARER,
        f"X-Key : {CLIENT_KEY}",
    )
    assert b"SECRET" not in ask_raw(front.port, data, 2)
    assert b"SECRET" not in ask_raw(front.port, b"SECRET " + data, 2)
    _check_silent(front)


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_answers_nothing(
    front: Proxy, upstream: RawUpstream, stream: bool
) -> None:
    upstream.scripts["mute"] = replies()
    _checked(front.post("mute", stream, BEARER, content=PROMPT), 502)
    _check_silent(front)


def _heard(exchange: Exchange) -> str:
    """Return everything of an upstream that may repeat a secret."""
    authorization = exchange.request.values("authorization")[0]
    assert UPSTREAM_KEY in authorization
    return f"Incorrect API key provided: {authorization}."


def _echo_error(exchange: Exchange) -> None:
    error = {
        "message": _heard(exchange),
        "type": _heard(exchange),
        "param": _heard(exchange),
        "code": "invalid_api_key",
    }
    exchange.answer_json(
        {"error": {**error, "more": [{"headers": _heard(exchange)}]}}, "401 Unauthorized"
    )


def _echo_text(exchange: Exchange) -> None:
    exchange.send(
        head("500 Oops", "Content-Type: text/plain", "Connection: close")
        + _heard(exchange).encode()
    )


def _echo_far_back(exchange: Exchange) -> None:
    """Quote a key at the place where a message is truncated, so that half of it is left."""
    text = _heard(exchange).rjust(210)
    exchange.send(
        head("500 Oops", "Content-Type: text/plain", "Connection: close") + b"x" + text.encode()
    )


def _echo_escaped(exchange: Exchange) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in _heard(exchange))
    error = f'{{"message": "{escaped}", "type": "t", "param": null, "code": null}}'
    body = f'{{"error": {error}}}'.encode()
    exchange.send(
        head("401 Unauthorized", "Content-Type: application/json", f"Content-Length: {len(body)}")
        + body
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [_echo_error, _echo_text, _echo_far_back, _echo_escaped])
def test_an_upstream_that_repeats_our_key(
    front: Proxy, upstream: RawUpstream, script: Script, stream: bool
) -> None:
    upstream.scripts["tells"] = script
    reply = front.post("tells", stream, BEARER, content=PROMPT)
    message = _checked(reply, 401, 500)
    assert "sk-up" not in message
    assert script is _echo_far_back or "Incorrect API key" in message
    _check_silent(front)


def test_an_upstream_that_repeats_our_key_in_a_stream(front: Proxy, upstream: RawUpstream) -> None:
    def script(exchange: Exchange) -> None:
        exchange.send(
            EVENT_STREAM
            + say(NOVEL)
            + event({"error": {"message": _heard(exchange), "code": 401}})
            + DONE
        )

    upstream.scripts["tells-late"] = script
    reply = front.post("tells-late", True, BEARER, content=PROMPT)
    assert b"SECRET" not in reply.body
    assert "Incorrect API key" in reply.check_broken(NOVEL)["message"]
    _check_silent(front)


@pytest.mark.parametrize(
    "data",
    [
        "{PROMPT-SECRET",
        '{"choices": "PROMPT-SECRET"}',
        '"PROMPT-SECRET"',
        '{"choices": ["PROMPT-SECRET"]}',
    ],
)
def test_a_stream_that_is_wrong(front: Proxy, upstream: RawUpstream, data: str) -> None:
    upstream.scripts["wrong"] = replies(
        EVENT_STREAM + say(NOVEL) + f"data: {data}\n\n".encode() + finish() + DONE
    )
    reply = front.post("wrong", True, BEARER, content=PROMPT)
    assert b"SECRET" not in reply.body
    reply.check_broken(NOVEL)
    _check_silent(front)


def test_a_client_that_leaves(front: Proxy, upstream: RawUpstream) -> None:
    with front.connected() as connection:
        connection.sendall(chat_request("silent", True, BEARER, content=PROMPT))
        assert upstream.seen["silent"].asked.wait(10)
    assert upstream.seen["silent"].hung_up.wait(2)
    _check_silent(front)


def test_an_upstream_that_is_not_there() -> None:
    with socket.socket() as taken, ExitStack() as stack:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        front = stack.enter_context(proxy(url, api_keys=CLIENT_KEY, upstream_api_key=UPSTREAM_KEY))
        for stream in (False, True):
            _checked(front.post("m", stream, BEARER, content=PROMPT), 502)
        for path in ("/", "/v1/models", "/health/ready"):
            assert b"SECRET" not in front.get(path, BEARER).body
        _check_silent(front)


def test_a_password_in_the_upstreams_url(upstream: RawUpstream) -> None:
    """A password in the URL is refused or accepted, but never shown."""
    try:
        with proxy(upstream.url.replace("//", "//SECRET-user:SECRET-password@")) as front:
            assert "SECRET" not in str(front.get("/").body)
            _check_silent(front)
    except RuntimeError as refusal:
        assert "SECRET" not in str(refusal)  # noqa: PT017
