"""Our server in front of an upstream, asked by the openai client over real sockets."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dedup_server.process.serve import run
from dedup_server.settings import StartupError, load
from tests.server.mock_upstream import LOOP, NOVEL, USAGE, Upstream, proxy

ASK: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=url + "/v1", api_key="client-key", max_retries=0, timeout=20
    ) as client:
        yield client


def fetch(
    url: str, body: bytes | None = None, method: str | None = None
) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def metrics(url: str) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(url + "/metrics", timeout=20) as response:
        families = text_string_to_metric_families(response.read().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_not_streaming(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="novel", messages=ASK)
    assert answer.choices[0].message.content == NOVEL
    assert answer.usage
    assert answer.usage.total_tokens == USAGE["total_tokens"]


def test_streaming_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="novel", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == NOVEL
    )
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == USAGE["total_tokens"]


def test_several_choices(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="novel", messages=ASK, stream=True, n=2):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: NOVEL, 1: NOVEL}


def test_text_completions(client: openai.OpenAI) -> None:
    assert client.completions.create(model="novel", prompt="Once").choices[0].text == NOVEL
    assert (
        "".join(
            chunk.choices[0].text
            for chunk in client.completions.create(model="novel", prompt="Once", stream=True)
        )
        == NOVEL
    )


@pytest.mark.parametrize("n", [1, 2])
def test_a_loop_is_cut_and_the_upstream_hung_up_on(
    client: openai.OpenAI, mock: Upstream, n: int
) -> None:
    mock.hung_up.clear()
    stream = client.chat.completions.create(
        model="loop", messages=ASK, stream=True, n=n, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    finishes = [choice for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert [finish.finish_reason for finish in finishes] == ["stop"] * n
    assert all(
        finish.model_extra and finish.model_extra["stop_reason"] == "repetition_detected"
        for finish in finishes
    )
    text = "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == 0
    )
    assert text.count(LOOP.strip()) == 1
    assert chunks[-1].usage
    assert chunks[-1].usage.model_extra == {"estimated": True}
    assert mock.hung_up.wait(5)


def test_a_loop_in_a_whole_answer_is_cut(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(model="loop", messages=ASK).choices[0]
    assert (choice.message.content or "").count(LOOP.strip()) == 1
    assert choice.model_extra
    assert choice.model_extra["stop_reason"] == "repetition_detected"


def test_the_upstream_gets_what_the_client_sent(client: openai.OpenAI, mock: Upstream) -> None:
    extra = {"repetition": {"policy": "off"}, "top_k": 5, "x_vendor": {"a": [1]}}
    client.chat.completions.create(model="novel", messages=ASK, stop=["END"], extra_body=extra)
    assert mock.bodies[-1] == {
        "model": "novel",
        "messages": ASK,
        "stop": ["END"],
        "top_k": 5,
        "x_vendor": {"a": [1]},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert mock.authorizations[-1] == "Bearer client-key"


def test_keys_of_clients_and_of_the_upstream(
    mock: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEDUP_UPSTREAM_API_KEY", "upstream-key")
    monkeypatch.setenv("DEDUP_API_KEYS", "client-key")
    with (
        proxy(mock.url) as url,
        openai.OpenAI(
            base_url=url + "/v1", api_key="client-key", max_retries=0, timeout=20
        ) as client,
    ):
        client.chat.completions.create(model="novel", messages=ASK)
        assert mock.authorizations[-1] == "Bearer upstream-key"
        with pytest.raises(openai.AuthenticationError, match="API key"):
            client.with_options(api_key="other").chat.completions.create(
                model="novel", messages=ASK
            )


def test_a_clients_key_for_us_is_never_passed_on(
    mock: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEDUP_API_KEYS", "client-key")
    with (
        proxy(mock.url) as url,
        openai.OpenAI(
            base_url=url + "/v1", api_key="client-key", max_retries=0, timeout=20
        ) as client,
    ):
        client.chat.completions.create(model="novel", messages=ASK)
        assert mock.authorizations[-1] is None


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["novel", "loop", "stutter"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_upstreams_refusals_come_back(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist") as not_found:
        client.chat.completions.create(model="unknown", messages=ASK, stream=stream)
    assert not_found.value.param == "model"
    with pytest.raises(openai.RateLimitError) as busy:
        client.chat.completions.create(model="busy", messages=ASK, stream=stream)
    assert busy.value.response.headers["Retry-After"] == "7"
    with pytest.raises(openai.InternalServerError, match="gateway down"):
        client.chat.completions.create(model="plain", messages=ASK, stream=stream)
    with pytest.raises(openai.InternalServerError, match="302"):
        client.chat.completions.create(model="moved", messages=ASK, stream=stream)


@pytest.mark.parametrize(
    ("path", "body", "method", "status", "word"),
    [
        ("/nothing", None, "GET", 404, "/nothing"),
        ("/metrics", b"", "POST", 405, "POST"),
        ("/v1/chat/completions", b"{oops", "POST", 400, "JSON"),
        ("/v1/chat/completions", b"[1]", "POST", 400, "object"),
        ("/v1/chat/completions", b"[" * 100_000, "POST", 400, "JSON"),
        ("/v1/chat/completions", b"\xff\xfe", "POST", 400, "JSON"),
        ("/v1/chat/completions", b"{}", "POST", 400, "messages"),
        (
            "/v1/chat/completions",
            b'{"messages":[{"role":"user"}],"stream":"yes"}',
            "POST",
            400,
            "stream",
        ),
    ],
)
def test_errors_come_in_openais_shape(
    url: str, path: str, body: bytes | None, method: str, status: int, word: str
) -> None:
    got, answer = fetch(url + path, body, method)
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert word in answer["error"]["message"]


def test_a_body_that_is_too_large_is_refused(mock: Upstream) -> None:
    with proxy(mock.url, max_body_bytes=2000) as url:
        assert fetch(url + "/v1/chat/completions", b'{"messages":"' + b"x" * 3000 + b'"}')[0] == 413


def test_a_taken_port_is_said_in_one_line() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(StartupError, match=r"cannot listen on .* --port"),
    ):
        run(lambda: load(port=taken.getsockname()[1]))


def test_health_and_root(url: str) -> None:
    assert fetch(url + "/health/live") == (200, {"status": "ok"})
    assert fetch(url + "/health/ready") == (200, {"status": "ok"})
    assert "/v1/chat/completions" in fetch(url + "/")[1]["routes"]


def test_metrics_count_what_the_client_counted(mock: Upstream) -> None:
    with (
        proxy(mock.url) as url,
        openai.OpenAI(base_url=url + "/v1", api_key="k", max_retries=0, timeout=20) as client,
    ):
        chars = cuts = 0
        for model in ("novel", "novel", "loop"):
            for chunk in client.chat.completions.create(model=model, messages=ASK, stream=True):
                for choice in chunk.choices:
                    chars += len(choice.delta.content or "")
                    cuts += (choice.model_extra or {}).get("stop_reason") == "repetition_detected"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="unknown", messages=ASK)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="novel", messages=ASK, n=0)
        counted = metrics(url)

    def total(name: str, *labels: str) -> float:
        return sum(
            value
            for key, value in counted.items()
            if key[0] == name and set(labels) <= set(key[1:])
        )

    assert total("dedup_requests_total", "chat", "ok", "novel") == 2
    assert total("dedup_requests_total", "chat", "cut", "loop") == 1 == cuts
    assert total("dedup_requests_total", "rejected", "other") == 1
    assert total("dedup_requests_total", "rejected", "novel") == 1
    assert total("dedup_output_chars_total", "content") == chars
    assert total("dedup_loops_total", "loop", "cut") == 1
    assert total("dedup_repetition_ratio_count") == 3
    assert total("dedup_time_to_first_token_seconds_count") == 3
    assert total("dedup_upstream_requests_total", "200") == 3
    assert total("dedup_upstream_requests_total", "404") == 1
    assert total("dedup_upstream_up") == 1
    assert total("dedup_streams_in_progress") == 0
    assert total("dedup_build_info") == 1
