"""Upstreams that are unreachable, slow, broken or hostile: the client gets all text that arrived,
and a broken stream never looks complete.
"""

import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from nltk.tokenize.punkt import PunktSentenceTokenizer

from tests.faults.proxy import Proxy, Reading, Reply, chat_request, proxy
from tests.faults.raw_upstream import (
    DONE,
    EVENT_STREAM,
    NOVEL,
    Exchange,
    RawUpstream,
    Script,
    Trap,
    chunked,
    deltas,
    event,
    finish,
    head,
    piece,
    raw_upstream,
    replies,
    say,
    whole,
)
from tests.server import mock_upstream

HELD = " The river rose"  # may become a repeated sentence: the filter holds it
BEGUN = NOVEL + HELD
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHINESE = "河水在夜里涨了起来,到了早上,桥已经不见了。村里没有人听见它倒下。𠮷野家🙂"
MAX_MEMORY_BYTES = 400 * 1024 * 1024

Play = Callable[..., Reply]


@pytest.fixture(scope="module")
def patient(upstream: RawUpstream) -> Iterator[Proxy]:
    with proxy(upstream.url) as patient:
        yield patient


@pytest.fixture(scope="module")
def impatient(upstream: RawUpstream) -> Iterator[Proxy]:
    limits = {
        "first_token_timeout_seconds": 0.5,
        "idle_timeout_seconds": 0.5,
        "total_timeout_seconds": 1.5,
    }
    with proxy(upstream.url, **limits) as impatient:
        yield impatient


@pytest.fixture(scope="module")
def play(upstream: RawUpstream, patient: Proxy) -> Play:
    """Run a script of the upstream for one request. Return what the client gets."""

    def play(script: Script, stream: bool = True) -> Reply:
        name = f"script-{len(upstream.scripts)}"
        upstream.scripts[name] = script
        return patient.post(name, stream)

    return play


# --- No connection, no answer ---------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_refuses_the_connection_is_a_502(refusing: Proxy, stream: bool) -> None:
    refusing.post("m", stream).check_refused(502)


@pytest.fixture(scope="module")
def refusing() -> Iterator[Proxy]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        with proxy(f"http://127.0.0.1:{taken.getsockname()[1]}/v1") as refusing:
            yield refusing


def test_an_upstream_that_accepts_no_connection_is_a_504() -> None:
    with (
        _full_listener() as port,
        proxy(f"http://127.0.0.1:{port}/v1", connect_timeout_seconds=0.5) as waiting,
    ):
        began = time.monotonic()
        waiting.post("m").check_refused(504)
        assert time.monotonic() - began < 2


@contextmanager
def _full_listener() -> Iterator[int]:
    """Yield a port whose accept queue is full: connections wait forever."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            connection = waiting.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        time.sleep(0.05)
        with socket.socket() as probe:
            probe.settimeout(0.3)
            with pytest.raises(TimeoutError):
                probe.connect(listener.getsockname())
        yield int(listener.getsockname()[1])


def test_no_response_before_the_first_token_timeout_is_a_504(impatient: Proxy) -> None:
    began = time.monotonic()
    impatient.post("silent", True).check_refused(504)
    assert time.monotonic() - began < 2


def test_headers_but_no_event_before_the_first_token_timeout_is_an_error(
    impatient: Proxy, upstream: RawUpstream
) -> None:
    began = time.monotonic()
    reply = impatient.post("headers-only", True)
    if reply.status == 200:
        reply.check_broken("")
    else:
        reply.check_refused(504)
    assert time.monotonic() - began < 2
    assert upstream.seen["headers-only"].hung_up.wait(1)


def test_no_whole_response_before_the_total_timeout_is_a_504(impatient: Proxy) -> None:
    began = time.monotonic()
    impatient.post("silent", False).check_refused(504)
    assert time.monotonic() - began < 3


def test_a_stream_that_stalls_ends_with_its_text_and_an_error(
    impatient: Proxy, upstream: RawUpstream
) -> None:
    began = time.monotonic()
    upstream.scripts["falls-silent"] = replies(EVENT_STREAM + say(*deltas(BEGUN)), 30.0)
    impatient.post("falls-silent", True).check_broken(BEGUN)
    assert time.monotonic() - began < 2
    assert upstream.seen["falls-silent"].hung_up.wait(1)


def test_an_endless_stream_ends_at_the_total_timeout(
    impatient: Proxy, upstream: RawUpstream
) -> None:
    began = time.monotonic()
    reply = impatient.post("drip", True)
    assert 1 < time.monotonic() - began < 3
    reply.check_broken(reply.text)
    assert len(reply.text) > 1000
    assert upstream.seen["drip"].hung_up.wait(1)


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 403, 404, 422, 429, 500, 503, 529])
def test_a_refusal_is_passed_on(play: Play, status: int, stream: bool) -> None:
    said = {
        "message": "too much, too soon",
        "type": "some_type",
        "param": "messages",
        "code": "some_code",
    }
    body = json.dumps({"error": said}).encode()
    lines = ["Content-Type: application/json", f"Content-Length: {len(body)}", "Retry-After: 17"]
    reply = play(replies(head(f"{status} Whatever", *lines) + body), stream)
    assert reply.check_refused(status) == said
    assert reply.headers["Retry-After"] == "17"


@pytest.mark.parametrize(
    "body",
    [b"the model is on fire", b"", b'"on fire"', b"[]", b"\xff\xfe", b'{"detail": "on fire"}'],
)
def test_a_refusal_in_another_shape_keeps_its_status(play: Play, body: bytes) -> None:
    reply = play(
        replies(
            head(
                "503 Service Unavailable",
                "Content-Type: text/plain",
                f"Content-Length: {len(body)}",
            )
            + body
        )
    )
    error = reply.check_refused(503)
    assert b"on fire" not in body or "on fire" in json.dumps(error)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(play: Play, evil: Trap, status: int, stream: bool) -> None:
    location = f"Location: http://127.0.0.1:{evil.port}/v1/chat/completions"
    play(replies(head(f"{status} Moved", location, "Content-Length: 0")), stream).check_refused(502)
    assert evil.num_connections == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_of_another_type_is_a_502_that_names_it(play: Play, stream: bool) -> None:
    page = b"<html><body>Please log in</body></html>"
    script = replies(
        head("200 OK", "Content-Type: text/html; charset=utf-8", f"Content-Length: {len(page)}")
        + page
    )
    assert "text/html" in play(script, stream).check_refused(502)["message"]


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'{"choices": 5}', b'{"choices": [5]}', b"{oops", b"\x00" * 100]
)
def test_an_invalid_whole_response_is_a_502(play: Play, body: bytes) -> None:
    script = replies(
        head("200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
    )
    play(script, stream=False).check_refused(502)


# --- Streams that break off -----------------------------------------------------------------------

BEGINNING = EVENT_STREAM + say(*deltas(BEGUN))


def _reset(exchange: Exchange) -> None:
    exchange.send(BEGINNING)
    exchange.pause(0.2)  # a reset loses what is not read yet
    exchange.reset()


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(_reset, id="reset"),
        pytest.param(replies(BEGINNING), id="end without finish_reason"),
        pytest.param(replies(CHUNKED + chunked([say(*deltas(BEGUN))])), id="no last chunk"),
        pytest.param(
            replies(CHUNKED + chunked([say(*deltas(BEGUN))]), 0.2, b"zz\r\n"),
            id="broken chunk size",
        ),
        pytest.param(
            replies(CHUNKED + chunked([say(*deltas(BEGUN))]) + b"400\r\ndata: {"),
            id="end inside a chunk",
        ),
        pytest.param(
            replies(BEGINNING + b'data: {"choices": [{"delta": {"con'), id="end inside an event"
        ),
        pytest.param(
            replies(
                head("200 OK", "Content-Type: text/event-stream", "Content-Length: 99999")
                + say(*deltas(BEGUN))
            ),
            id="shorter than its Content-Length",
        ),
    ],
)
def test_a_stream_that_breaks_ends_with_its_text_and_an_error(play: Play, script: Script) -> None:
    play(script).check_broken(BEGUN)


@pytest.mark.parametrize(
    "data",
    [
        b"{oops",
        b"null",
        b"[1, 2]",
        b'"text"',
        b"17",
        b'{"choices": 5}',
        b'{"choices": [5]}',
        b'{"choices": [{"index": 0, "delta": 5}]}',
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda data: data[:40].decode(),
)
def test_invalid_data_ends_the_stream_with_an_error(play: Play, data: bytes) -> None:
    play(replies(BEGINNING + b"data: " + data + b"\n\n" + finish() + DONE)).check_broken(BEGUN)


@pytest.mark.parametrize("error", [{"message": "out of memory", "code": 500}, "out of memory"])
def test_an_error_in_the_stream_is_passed_on(play: Play, error: object) -> None:
    reply = play(replies(BEGINNING + event({"error": error}) + DONE))
    assert "out of memory" in json.dumps(reply.check_broken(BEGUN))


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_that_closes_at_once_is_a_502(play: Play, stream: bool) -> None:
    play(replies(), stream).check_refused(502)


def test_a_response_shorter_than_its_content_length_is_a_502(play: Play) -> None:
    body = json.dumps(whole(NOVEL)).encode()
    length = f"Content-Length: {len(body) + 1}"
    play(
        replies(head("200 OK", "Content-Type: application/json", length) + body), stream=False
    ).check_refused(502)


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.7\r\n", b"\x16\x03\x01\x02\x00", b"HTTP/9.9 abc\r\n\r\n", b"\r\n\r\n"],
)
def test_invalid_http_is_a_502(play: Play, answer: bytes) -> None:
    play(replies(answer)).check_refused(502)


def test_an_endless_head_is_a_502(play: Play) -> None:
    play(
        replies(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 100_000)
    ).check_refused(502)


# --- Odd but right --------------------------------------------------------------------------------

WHOLE_STREAM = say(*deltas(NOVEL)) + finish() + DONE


def test_a_stream_may_end_without_done(play: Play) -> None:
    play(replies(EVENT_STREAM + say(*deltas(NOVEL)) + finish())).check_complete(NOVEL)


def test_a_stream_may_end_without_the_last_blank_line(play: Play) -> None:
    play(replies(EVENT_STREAM + WHOLE_STREAM.rstrip(b"\n"))).check_complete(NOVEL)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_other_line_ends(play: Play, line_end: bytes) -> None:
    play(replies(EVENT_STREAM + WHOLE_STREAM.replace(b"\n", line_end))).check_complete(NOVEL)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_split_line_ends(play: Play, line_end: bytes) -> None:
    stream = (say(NOVEL) + finish() + DONE).replace(b"\n", line_end)
    play(_byte_by_byte(EVENT_STREAM, stream)).check_complete(NOVEL)


def _byte_by_byte(beginning: bytes, rest: bytes, in_chunks: bool = False) -> Script:
    """Send every byte in its own write, with time to arrive alone."""

    def script(exchange: Exchange) -> None:
        exchange.send(beginning)
        for at in range(len(rest)):
            byte = rest[at : at + 1]
            exchange.send(chunked([byte]) if in_chunks else byte)
            time.sleep(0.0005)
        if in_chunks:
            exchange.send(b"0\r\n\r\n")

    return script


def test_comments_are_passed_on(patient: Proxy, upstream: RawUpstream) -> None:
    upstream.scripts["pings"] = replies(EVENT_STREAM + b": ping 1\n\n", 60.0)
    upstream.scripts["pings-later"] = replies(BEGINNING + b": ping 2\n\n", 60.0)
    for model, ping in (("pings", b": ping 1\n"), ("pings-later", b": ping 2\n")):
        with patient.connected() as connection:
            connection.settimeout(3)
            connection.sendall(chat_request(model, True))
            Reading(connection).until(ping)


def test_comments_leave_the_text_as_it_is(play: Play) -> None:
    pieces = b": ping\n\n".join(say(part) for part in deltas(NOVEL))
    play(
        replies(EVENT_STREAM + b": OPENROUTER PROCESSING\n\n" + pieces + b":\n\n" + finish() + DONE)
    ).check_complete(NOVEL)


def test_two_data_lines_are_one_event(play: Play) -> None:
    torn = event(piece(NOVEL)).replace(b', "choices"', b',\ndata: "choices"')
    assert torn.count(b"data: ") == 2
    play(replies(EVENT_STREAM + torn + finish() + DONE)).check_complete(NOVEL)


def test_other_fields_are_skipped(play: Play) -> None:
    stream = b"event: message\nid: 7\nretry: 100\n" + say(NOVEL) + b"unknown\n\n" + finish() + DONE
    play(replies(EVENT_STREAM + stream)).check_complete(NOVEL)


def test_a_byte_order_mark_is_skipped(play: Play) -> None:
    play(replies(EVENT_STREAM + b"\xef\xbb\xbf" + WHOLE_STREAM)).check_complete(NOVEL)


def test_line_separators_inside_text_are_text(play: Play) -> None:
    text = "one\u2028two\u2029three\u0085four\x0bfive\x0csix"
    assert "\u2028".encode() in say(text)
    reply = play(replies(EVENT_STREAM + say(text) + finish() + DONE))
    reply.check_complete(text)


@pytest.mark.parametrize("in_chunks", [False, True])
def test_split_characters(play: Play, in_chunks: bool) -> None:
    stream = say(CHINESE) + finish() + DONE
    play(_byte_by_byte(CHUNKED if in_chunks else EVENT_STREAM, stream, in_chunks)).check_complete(
        CHINESE
    )


def test_invalid_utf_8_becomes_replacement_characters(play: Play) -> None:
    streamed = EVENT_STREAM + say("a caf? au lait").replace(b"?", b"\xe9") + finish() + DONE
    play(replies(streamed)).check_complete("a caf\ufffd au lait")
    body = json.dumps(whole("a caf? au lait")).encode().replace(b"?", b"\xe9")
    answer = head("200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}") + body
    reply = play(replies(answer), stream=False)
    assert reply.status == 200
    assert reply.text == "a caf\ufffd au lait"


def test_interim_responses_are_skipped(play: Play) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" + head(
        "103 Early Hints", "Link: </style.css>; rel=preload"
    )
    play(replies(interim + EVENT_STREAM + WHOLE_STREAM)).check_complete(NOVEL)
    play(replies(interim, 0.1, EVENT_STREAM + WHOLE_STREAM)).check_complete(NOVEL)


def test_chunk_extensions_and_trailers_are_skipped(play: Play) -> None:
    body = b"".join(
        b'%x;name=value;other="a b"\r\n%b\r\n' % (len(part), part)
        for part in (say(NOVEL), finish(), DONE)
    )
    play(replies(CHUNKED + body + b"0;last\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n")).check_complete(
        NOVEL
    )


def test_a_stream_whose_type_is_in_capitals_is_a_stream(play: Play) -> None:
    answer = (
        head("200 OK", "content-type: Text/Event-Stream;Charset=UTF-8", "Connection: close")
        + WHOLE_STREAM
    )
    play(replies(answer)).check_complete(NOVEL)


# --- Compression ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("coding", "window"), [("gzip", 31), ("deflate", 15)])
def test_a_compressed_stream_is_decompressed_as_it_arrives(
    patient: Proxy, upstream: RawUpstream, coding: str, window: int
) -> None:
    packer = zlib.compressobj(wbits=window)
    parts = [
        packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
        for data in (say("Hello, "), say("world."), finish() + DONE)
    ]
    beginning = head(
        "200 OK",
        "Content-Type: text/event-stream",
        f"Content-Encoding: {coding}",
        "Transfer-Encoding: chunked",
    )
    ending = chunked([parts[1], parts[2], packer.flush()]) + b"0\r\n\r\n"
    upstream.scripts[coding] = replies(beginning + chunked([parts[0]]), 1.0, ending)
    with patient.connected() as connection:
        connection.sendall(chat_request(coding, True))
        began = time.monotonic()
        reading = Reading(connection)
        reading.until(b"Hello")
        assert time.monotonic() - began < 0.9
        assert b"world" in reading.until(b"[DONE]")


@pytest.mark.parametrize("status", [200, 400])
def test_a_compressed_response_is_decompressed(play: Play, status: int) -> None:
    error = {"message": "no such thing", "type": "t", "param": None, "code": None}
    body = _gzip(json.dumps(whole(NOVEL) if status == 200 else {"error": error}).encode())
    lines = [
        "Content-Type: application/json",
        "Content-Encoding: gzip",
        f"Content-Length: {len(body)}",
    ]
    reply = play(replies(head(f"{status} Whatever", *lines) + body), stream=False)
    if status == 200:
        assert reply.status == 200, reply.body
        assert reply.text == NOVEL
    else:
        assert reply.check_refused(400) == error


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("stream", [False, True])
def test_invalid_gzip_is_a_502(play: Play, stream: bool) -> None:
    kind = "text/event-stream" if stream else "application/json"
    lines = [f"Content-Type: {kind}", "Content-Encoding: gzip", "Connection: close"]
    reply = play(replies(head("200 OK", *lines) + b"this is not gzip"), stream)
    if reply.status == 200:
        reply.check_broken("")
    else:
        reply.check_refused(502)


def _bomb() -> bytes:
    """Return a gigabyte of zeros, gzipped."""
    packer = zlib.compressobj(wbits=-15)
    mega = packer.compress(bytes(1024 * 1024)) + packer.flush(
        zlib.Z_FULL_FLUSH
    )  # a flushed piece can be repeated
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + mega * 1024


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, "text/event-stream"), (200, "application/json"), (500, "application/json")],
)
def test_a_decompression_bomb_ends_in_an_error_and_bounded_memory(
    play: Play, patient: Proxy, status: int, kind: str
) -> None:
    lines = [f"Content-Type: {kind}", "Content-Encoding: gzip", "Connection: close"]
    reply = play(replies(head(f"{status} Whatever", *lines) + _bomb()), kind == "text/event-stream")
    assert patient.peak_memory_bytes < MAX_MEMORY_BYTES
    if reply.status == 200:
        reply.check_broken("")
    else:
        reply.check_refused(500, 502)


def test_an_endless_line_is_an_error_and_bounded_memory(play: Play, patient: Proxy) -> None:
    reply = play(replies(BEGINNING + b"data: " + b"a" * 50_000_000))
    assert patient.peak_memory_bytes < MAX_MEMORY_BYTES
    reply.check_broken(BEGUN)


def test_an_endless_response_is_an_error_and_bounded_memory(play: Play, patient: Proxy) -> None:
    answer = (
        head("200 OK", "Content-Type: application/json", "Connection: close")
        + b'{"a": "'
        + b"a" * 200_000_000
    )
    reply = play(replies(answer), stream=False)
    assert patient.peak_memory_bytes < MAX_MEMORY_BYTES
    reply.check_refused(502)


# --- Connections that are kept --------------------------------------------------------------------


def _closed_afterwards(exchange: Exchange) -> None:
    exchange.answer_json(whole(NOVEL))
    exchange.stays_open = False


def _closed_at_the_next_request(exchange: Exchange) -> None:
    if exchange.request.number == 0:
        exchange.answer_json(whole(NOVEL))
    else:
        exchange.reset()


@pytest.mark.parametrize("script", [_closed_afterwards, _closed_at_the_next_request])
def test_a_stale_connection_fails_no_request(script: Script) -> None:
    with raw_upstream(dies=script) as upstream, proxy(upstream.url) as front:
        replies = [front.post("dies", content=f"Hello {number}") for number in range(10)]
    assert [reply.status for reply in replies] == [200] * 10
    assert all(reply.text == NOVEL for reply in replies)


def test_the_unread_rest_of_a_response_is_not_the_next_response(play: Play) -> None:
    """The rest of an abandoned stream must not be read as the response to the next request."""
    for _ in range(5):
        play(
            replies(
                BEGINNING + event({"error": {"message": "out of memory"}}) + say("stolen"),
                0.05,
                say("stolen"),
            )
        )
        play(replies(EVENT_STREAM + WHOLE_STREAM)).check_complete(NOVEL)


# --- A fault of our own ---------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", [" Then came Dr. Smith, and all was well.", " Then came Dr. Smith"])
def test_a_filter_that_raises_loses_no_text_and_is_counted(
    upstream: RawUpstream, monkeypatch: pytest.MonkeyPatch, end: str, stream: bool
) -> None:
    """The filter fails within a text, and at its end, which alone completes the word Smith."""
    asked = 0

    def fails(self: PunktSentenceTokenizer, text: str) -> bool:
        nonlocal asked
        asked += 1
        raise ZeroDivisionError

    text = NOVEL + end
    upstream.scripts["begun"] = replies(EVENT_STREAM + say(*deltas(text)) + finish() + DONE)
    upstream.scripts["begun-whole"] = lambda exchange: exchange.answer_json(whole(text))
    with mock_upstream.proxy(upstream.url) as url:
        front = Proxy(int(url.rpartition(":")[2]), process=None, log_path=None)  # type: ignore[arg-type]
        monkeypatch.setattr(PunktSentenceTokenizer, "text_contains_sentbreak", fails)
        if stream:
            front.post("begun", True).check_complete(text)
        else:
            reply = front.post("begun-whole")
            assert reply.status == 200
            assert reply.text == text
        assert asked
        counted = re.findall(
            r"^dedup_filter_failures_total(?:\{.*\})? (.*)$", front.metrics(), re.MULTILINE
        )
    assert sum(map(float, counted)) == 1
