"""Faults of upstreams and clients, as openai-python reports them."""

import http.client
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.server.mock_upstream import NOVEL, Upstream, proxy, upstream

ASK: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def mock() -> Iterator[Upstream]:
    with upstream() as mock:
        yield mock


@pytest.fixture(scope="module")
def url(mock: Upstream) -> Iterator[str]:
    with proxy(mock.url) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0, timeout=20) as client:
        yield client


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("reset", "broke"),
        ("truncated", "ended before"),
        ("malformed", "not JSON"),
        ("error-event", "out of memory"),
    ],
)
def test_a_stream_that_fails_ends_with_its_text_and_the_error(
    client: openai.OpenAI, model: str, word: str
) -> None:
    text, finishes = "", []

    def read() -> None:
        nonlocal text
        for chunk in client.chat.completions.create(model=model, messages=ASK, stream=True):
            text += chunk.choices[0].delta.content or ""
            finishes.append(chunk.choices[0].finish_reason)

    with pytest.raises(openai.APIError, match=word):
        read()
    assert len(text) > 50
    assert NOVEL.startswith(text)
    assert not any(finishes)


def test_an_unreachable_upstream_is_a_502() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with (
            proxy(address) as url,
            openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0, timeout=20) as client,
        ):
            assert client.models.list().data == []
            with pytest.raises(openai.InternalServerError, match="cannot be reached") as raised:
                client.chat.completions.create(model="m", messages=ASK)
            assert raised.value.status_code == 502
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
            connection.request("GET", "/health/ready")
            assert connection.getresponse().status == 503
            connection.close()


def test_a_silent_upstream_is_a_504(mock: Upstream) -> None:
    with (
        proxy(mock.url, first_token_timeout_seconds=0.3, idle_timeout_seconds=0.3) as url,
        openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0, timeout=20) as client,
    ):
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model="silent", messages=ASK)
        assert raised.value.status_code == 504
        stream = client.chat.completions.create(model="stall", messages=ASK, stream=True)
        with pytest.raises(openai.APIError, match=r"sent nothing for 0\.3 s"):
            list(stream)


@pytest.mark.parametrize(
    ("model", "stream"), [("silent", False), ("silent", True), ("stall", True)]
)
def test_a_client_that_disconnects_ends_the_generation(
    url: str, mock: Upstream, model: str, stream: bool
) -> None:
    mock.hung_up.clear()
    mock.asked.clear()
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    body = json.dumps({"model": model, "messages": ASK, "stream": stream})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    assert mock.asked.wait(10)
    if model == "stall":
        response = connection.getresponse()
        assert response.read(10)
        response.close()
    connection.close()
    assert mock.hung_up.wait(1.0)


def test_a_client_that_disconnects_is_counted(mock: Upstream) -> None:
    with proxy(mock.url) as url:
        mock.asked.clear()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        body = json.dumps({"model": "silent", "messages": ASK})
        connection.request(
            "POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        assert mock.asked.wait(10)
        connection.close()
        counted = b""
        for _ in range(200):
            with urllib.request.urlopen(url + "/metrics", timeout=20) as response:
                counted = response.read()
            if b'outcome="client_gone"' in counted:
                break
            time.sleep(0.02)
    assert b'outcome="client_gone"} 1.0' in counted
    assert b'dedup_streams_in_progress{model="other"} 0.0' in counted
