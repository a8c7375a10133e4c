"""Limits: concurrent completions, requests per minute, labels of metrics, time to stop."""

import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.faults.proxy import Proxy, Reading, chat_body, chat_request, http_request, proxy
from tests.faults.raw_upstream import NOVEL, TIMED_TEXT, raw_upstream

MAX_MODEL_LABELS = 110
NUM_MODELS = 10_000


def test_too_many_concurrent_completions_are_a_429() -> None:
    with raw_upstream() as upstream, proxy(upstream.url, max_streams=2) as front:
        with ExitStack() as answers:
            for model, stream in (("stall", True), ("silent", False)):
                answers.enter_context(front.connected()).sendall(chat_request(model, stream))
                assert upstream.seen[model].asked.wait(10)
            for stream in (True, False):
                reply = front.post("ok", stream)
                reply.check_refused(429)
                assert int(reply.headers["Retry-After"]) >= 1
            assert not upstream.seen["ok"].requests
            assert front.get("/v1/models").status == 200
            assert front.get("/health/live").status == 200
        _until_accepted(front)
        for _ in range(5):  # a completed stream frees its place, too
            front.post("ok", True).check_complete(NOVEL)
            assert front.post("ok").text == NOVEL
        for _ in range(5):
            front.post("no-such-model").check_refused(404)
        assert front.post("ok").text == NOVEL


def _until_accepted(front: Proxy) -> None:
    """Wait until disconnected clients no longer count."""
    for _ in range(40):
        if front.post("ok").status == 200:
            return
        time.sleep(0.05)
    raise AssertionError("places of clients that left are not given back")


@pytest.mark.parametrize("trusted", ["127.0.0.1", "10.0.0.0/8", None])
def test_the_address_behind_a_trusted_proxy_counts(trusted: str | None) -> None:
    settings = {"forwarded_allow_ips": trusted} if trusted else {}
    with (
        raw_upstream() as upstream,
        proxy(upstream.url, requests_per_minute=1, **settings) as front,
    ):

        def ask(*addresses: str) -> int:
            return front.post("ok", False, f"X-Forwarded-For: {', '.join(addresses)}").status

        assert ask("203.0.113.5") == 200
        # What a client makes up stands before what the proxy adds.
        assert ask("198.51.100.9", "203.0.113.5") == 429
        assert ask("203.0.113.6") == (200 if trusted == "127.0.0.1" else 429)
        client = "203.0.113.5" if trusted == "127.0.0.1" else "127.0.0.1"
        assert f"client={client} " in front.log


def test_too_many_requests_per_minute_are_a_429() -> None:
    with (
        raw_upstream() as upstream,
        proxy(upstream.url, api_keys="sk-one,sk-two", requests_per_minute=3) as front,
    ):

        def ask(key: str, stream: bool = False) -> int:
            reply = front.post("ok", stream, f"Authorization: Bearer {key}")
            if reply.status != 200:
                reply.check_refused(429, 401)
            if reply.status == 429:
                assert 1 <= int(reply.headers["Retry-After"]) <= 60
            return reply.status

        assert [ask("sk-one") for _ in range(3)] == [200] * 3
        assert ask("sk-one") == 429
        assert ask("sk-one", stream=True) == 429
        assert [ask("sk-wrong") for _ in range(5)] == [401] * 5
        assert [ask("sk-two") for _ in range(3)] == [200] * 3
        assert ask("sk-two") == 429
        assert len(upstream.seen["ok"].requests) == 6


def test_model_labels_are_bounded() -> None:
    with raw_upstream() as upstream, proxy(upstream.url) as front:
        for number in range(300):
            upstream.scripts[f"listed-{number}"] = upstream.scripts["echo"]

        def ask(numbers: range) -> None:
            with front.connected() as connection:
                for number in numbers:
                    name = f"{('listed', 'unheard-of')[number % 2]}-{number}"
                    connection.sendall(
                        http_request(
                            "POST",
                            "/v1/chat/completions",
                            chat_body(name),
                            "Connection: keep-alive",
                        )
                    )
                    _skip_answer(connection)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, (range(start, NUM_MODELS, 4) for start in range(4))))
        front.get("/v1/models")
        assert sum(len(seen.requests) for seen in upstream.seen.values()) == NUM_MODELS
        exposed = front.metrics()
    assert len(set(re.findall(r'model="([^"]*)"', exposed))) <= MAX_MODEL_LABELS
    counted = re.findall(r"^dedup_requests_total\{.*\} (.*)$", exposed, re.MULTILINE)
    assert sum(map(float, counted)) == NUM_MODELS


def _skip_answer(connection: socket.socket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        assert part
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length, head
    left = int(length[1]) - len(body)
    while left > 0:
        part = connection.recv(65536)
        assert part
        left -= len(part)


@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_finishes_every_stream_and_exits_with_0(workers: int) -> None:
    num_streams = 20
    with (
        raw_upstream() as upstream,
        proxy(upstream.url, **({"workers": workers} if workers > 1 else {})) as front,
    ):
        begun = threading.Semaphore(0)

        def read(_: int) -> bytes:
            with front.connected() as connection:
                connection.sendall(chat_request("timed", True))
                reading = Reading(connection)
                reading.until(b"content")
                begun.release()
                return reading.until(b"[DONE]\n\n")

        with ThreadPoolExecutor(num_streams) as pool:
            answers = [pool.submit(read, number) for number in range(num_streams)]
            for _ in range(num_streams):
                assert begun.acquire(timeout=10)
            front.process.send_signal(signal.SIGTERM)
            told_at = time.monotonic()
            _until_refused(front.port)
            assert time.monotonic() - told_at < 1
            received = [answer.result(20) for answer in answers]
        assert front.process.wait(10) == 0
        assert len(upstream.seen["timed"].requests) == num_streams
    last_words = TIMED_TEXT.split()[-1].encode()
    assert all(
        b'"stop"' in stream and last_words in stream and b'"error"' not in stream
        for stream in received
    )


def _until_refused(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("connections are still accepted")
