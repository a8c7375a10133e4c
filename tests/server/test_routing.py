"""Several upstreams, other names for models, and everything that is passed through untouched."""

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from aiohttp import web

from tests.server.mock_upstream import LOOP, NOVEL, Upstream, proxy, upstream

ASK: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def other() -> Iterator[Upstream]:
    with upstream() as mock:
        yield mock


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0, timeout=20)


def fetch(
    url: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[Any, bytes]:
    request = urllib.request.Request(
        url, body, {name.replace("_", "-"): value for name, value in headers.items()}, method=method
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return response, response.read()


@pytest.mark.parametrize(
    ("owner", "settings", "line"),
    [
        ("llamacpp", {}, "one (llama.cpp) continues answers that loop"),
        (
            "nobody",
            {},
            "one is not known to continue answers: loops are cut and not healed (goes_on)",
        ),
        ("nobody", {"goes_on": "vllm"}, "one (vLLM) continues answers that loop"),
        ("llamacpp", {"goes_on": "no"}, "one is not known to continue answers"),
    ],
)
def test_the_log_names_at_start_who_continues_answers(
    owner: str,
    settings: dict[str, Any],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "dedup.server")
    with upstream(Upstream(owned_by=owner)) as mock:
        upstreams = [{"url": mock.url, "name": "one", **settings}]
        monkeypatch.setenv("DEDUP_UPSTREAMS", json.dumps(upstreams))
        with proxy(None):
            pass
        told = [one.getMessage() for one in caplog.records if "continue" in one.getMessage()]
        assert len(told) == 1
        assert told[0].startswith(line)
        caplog.clear()
        with proxy(None, heal=False):
            pass
        assert "continue" not in caplog.text


class LoadingUpstream(Upstream):
    """Answers 503 when it is asked for its models first, as a server does while its model loads."""

    num_asked = 0

    async def models(self, request: web.Request) -> web.Response:
        self.num_asked += 1
        if self.num_asked == 1:
            return web.json_response({"error": {"message": "Loading model"}}, status=503)
        return await super().models(request)


def test_an_upstream_that_starts_later_heals_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dedup.server")
    with upstream(LoadingUpstream(owned_by="llamacpp")) as mock, proxy(mock.url) as url:
        assert "continues answers" not in caplog.text
        deadline = time.monotonic() + 20
        while "continues answers" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.1)
        client_of(url).chat.completions.create(model="loop", messages=ASK)
    assert "(llama.cpp) continues answers that loop" in caplog.text
    assert len(mock.bodies) > 1  # it was asked to go on behind the loop


def test_the_model_decides_which_upstream_is_asked(
    mock: Upstream, other: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "other-key")
    monkeypatch.setenv(
        "DEDUP_UPSTREAMS",
        json.dumps(
            [
                {"url": mock.url, "name": "one", "models": ["novel"]},
                {"url": other.url, "name": "two", "models": ["lo*"], "api_key_env": "OTHER_KEY"},
            ]
        ),
    )
    monkeypatch.setenv("DEDUP_ALIASES", '{"gpt-4o": "loop"}')
    with proxy(None) as url, client_of(url) as client:
        assert [model.id for model in client.models.list()] == ["gpt-4o", "novel", "loop"]
        client.chat.completions.create(model="novel", messages=ASK)
        assert (mock.bodies[-1]["model"], mock.authorizations[-1]) == ("novel", "Bearer k")
        client.chat.completions.create(model="gpt-4o", messages=ASK)
        assert (other.bodies[-1]["model"], other.authorizations[-1]) == ("loop", "Bearer other-key")
        with pytest.raises(openai.NotFoundError, match="there is: gpt-4o, novel, loop"):
            client.chat.completions.create(model="none", messages=ASK)
        _, metrics = fetch(url + "/metrics")
    assert b'dedup_upstream_up{upstream="one"} 1.0' in metrics
    assert b'dedup_upstream_requests_total{code="200",upstream="two"} 1.0' in metrics


def test_what_is_not_for_us_goes_through_untouched(mock: Upstream) -> None:
    body = b'{ "model": "novel",\n "input": ["a", 1e3] }'
    with proxy(mock.url) as url:
        response, echoed = fetch(
            url + "/v1/embeddings?a=1&b=%20", "POST", body, Content_Type="application/json"
        )
        assert (response.status, echoed) == (201, body)
        assert (response.headers["X-Path"], response.headers["X-Method"]) == (
            "/v1/embeddings?a=1&b=%20",
            "POST",
        )
        form = b"--x\r\ncontent-disposition: form-data; name=file\r\n\r\n\x00\xff\r\n--x--\r\n"
        response, echoed = fetch(
            url + "/v1/files/f%2F1", "PUT", form, Content_Type="multipart/form-data; boundary=x"
        )
        assert (response.headers["X-Path"], response.headers["X-Kind"]) == (
            "/v1/files/f%2F1",
            "multipart/form-data; boundary=x",
        )
        assert echoed == form


def test_the_answer_carries_the_request_id_of_the_client(mock: Upstream) -> None:
    with proxy(mock.url) as url:
        body = json.dumps({"model": "novel", "messages": ASK}).encode()
        response, _ = fetch(
            url + "/v1/chat/completions",
            "POST",
            body,
            Content_Type="application/json",
            X_Request_Id="abc-1",
        )
        assert response.headers["X-Request-Id"] == "abc-1"
        response, _ = fetch(
            url + "/v1/chat/completions",
            "POST",
            body,
            Content_Type="application/json",
            X_Request_Id='a" b',
        )
        assert len(response.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize("stream_upstream", [False, True])
def test_a_loop_in_an_answer_that_is_not_streamed_can_be_hung_up_on(
    mock: Upstream, stream_upstream: bool
) -> None:
    mock.hung_up.clear()
    with proxy(mock.url, stream_upstream=stream_upstream) as url, client_of(url) as client:
        done = client.chat.completions.create(model="loop", messages=ASK)
        assert (done.choices[0].message.content or "").count(LOOP.strip()) == 1
        assert done.choices[0].model_extra
        assert done.choices[0].model_extra["stop_reason"] == "repetition_detected"
        assert done.usage
        assert mock.hung_up.wait(1) == stream_upstream
        answer = client.chat.completions.create(model="novel", messages=ASK, n=2)
        assert [choice.message.content for choice in answer.choices] == [NOVEL, NOVEL]
        assert bool(mock.bodies[-1].get("stream")) == stream_upstream


def test_responses_and_messages_are_answered(mock: Upstream) -> None:
    with proxy(mock.url) as url, client_of(url) as client:
        assert client.responses.create(model="novel", input="Hello").output_text == NOVEL
        events = client.responses.create(model="novel", input="Hello", stream=True)
        assert [event.delta for event in events if event.type == "response.output_text.delta"] == [
            NOVEL
        ]
        body = json.dumps({"model": "novel", "messages": ASK, "max_tokens": 9}).encode()
        _, answer = fetch(
            url + "/v1/messages", "POST", body, Content_Type="application/json", X_Api_Key="k"
        )
        assert json.loads(answer)["content"][0]["text"] == NOVEL
