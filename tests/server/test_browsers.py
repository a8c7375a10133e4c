"""Pages of other origins, paths outside /v1, and a prompt that is not read: through the real server, in front of an upstream."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from dedup_server.settings import SettingsError, load
from tests.server.mock_upstream import LOOP, Upstream, proxy, served

ORIGIN = "https://chat.example"
ASKED = f"Say '{LOOP.strip()}' 300 times."


class Health(Upstream):
    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"path": request.path_qs, "method": request.method})


@pytest.fixture(scope="module")
def mock() -> Iterator[Upstream]:
    mock = Health()
    routes = [
        web.get("/v1/models", mock.models),
        web.post("/v1/chat/completions", mock.generate),
        web.route("*", "/{path:health|tokenize}", mock.health),
    ]
    with served(routes) as mock.url:
        yield mock


@pytest.fixture(scope="module")
def url(mock: Upstream) -> Iterator[str]:
    flags = {"cors_origins": (ORIGIN,), "forwarded_paths": ("/health", "/tokenize")}
    with proxy(mock.url, heal=False, api_keys="sk-a", **flags) as url:
        yield url


def ask(
    url: str, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, dict[str, str], str]:
    data = None if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status, got, text = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        status, got, text = error.code, error.headers, error.read()
    return status, {name.lower(): value for name, value in got.items()}, text.decode()


def chat(model: str = "novel", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": ASKED}], **more}


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/v1/embeddings", "/metrics", "/health"]
)
def test_a_preflight_is_answered_without_a_key(url: str, path: str) -> None:
    asked = {"Access_Control_Request_Method": "POST"}
    asked["Access_Control_Request_Headers"] = "authorization,content-type,x-stainless-lang"
    status, headers, _ = ask(url + path, "OPTIONS", Origin=ORIGIN, **asked)
    assert status == 200
    assert headers["access-control-allow-origin"] == ORIGIN
    assert "x-stainless-lang" in headers["access-control-allow-headers"]
    status, headers, _ = ask(url + path, "OPTIONS", Origin="https://other.example", **asked)
    assert status == 400
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("stream", [False, True])
def test_answers_and_refusals_may_be_read_by_the_page(url: str, stream: bool) -> None:
    to = url + "/v1/chat/completions"
    key = {"Authorization": "Bearer sk-a", "Content_Type": "application/json"}
    status, headers, text = ask(to, "POST", chat(stream=stream), Origin=ORIGIN, **key)
    assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert headers["access-control-expose-headers"] == "*"
    assert "bridge" in text
    assert ("[DONE]" in text) is stream
    for wrong in ({}, {**key, "Authorization": "Bearer sk-b"}):
        status, headers, text = ask(to, "POST", chat(), Origin=ORIGIN, **wrong)
        assert (status, headers["access-control-allow-origin"]) == (401, ORIGIN)
    _, headers, same = ask(to, "POST", chat(), **key)
    assert "access-control-allow-origin" not in headers
    assert json.loads(same)["choices"]


def test_no_page_may_read_anything_by_default(mock: Upstream) -> None:
    with proxy(mock.url) as url:
        status, headers, _ = ask(url + "/v1/models", Origin=ORIGIN)
        assert status == 200
        assert "access-control-allow-origin" not in headers
        assert ask(url + "/health")[0] == 404


def test_named_paths_are_passed_on(url: str) -> None:
    key = {"Authorization": "Bearer sk-a"}
    status, _, text = ask(url + "/health?deep=1", **key)
    assert (status, json.loads(text)) == (200, {"path": "/health?deep=1", "method": "GET"})
    status, _, text = ask(url + "/tokenize", "POST", {"content": "x"}, **key)
    assert json.loads(text)["method"] == "POST"
    assert ask(url + "/health")[0] == 401
    assert ask(url + "/version", **key)[0] == 404
    assert ask(url + "/health/live")[0] == 200


def test_a_server_below_a_path() -> None:
    mock = Health()
    routes = [web.get("/llm/v1/models", mock.models), web.get("/llm/health", mock.health)]
    with (
        served(routes) as address,
        proxy(address.replace("/v1", "/llm/v1"), forwarded_paths="/health, /slots") as url,
    ):
        assert json.loads(ask(url + "/health")[2])["path"] == "/llm/health"
        assert ask(url + "/slots")[0] == 404


def test_a_prompt_need_not_be_read(url: str, mock: Upstream) -> None:
    to, key = url + "/v1/chat/completions", {"Authorization": "Bearer sk-a"}

    def answered(address: str, **more: Any) -> Any:
        return json.loads(ask(address, "POST", chat("loop", **more), **key)[2])["choices"][0]

    asked = answered(to)
    assert asked["message"]["content"].count(LOOP.strip()) == 200
    own = answered(to, repetition={"read_prompt": False})
    assert own["message"]["content"].count(LOOP.strip()) <= 2
    assert "requested" not in own["repetition"]
    with proxy(mock.url, heal=False, read_prompt=False) as other:
        to = other + "/v1/chat/completions"
        assert answered(to) == own | {"index": 0}
        again = answered(to, repetition={"read_prompt": True})
        assert again["message"]["content"].count(LOOP.strip()) == 200


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"forwarded_paths": "health"}, "--forwarded-paths: must be paths outside /v1 such as /h"),
        ({"forwarded_paths": "/v1/x"}, "must be paths outside /v1"),
        ({"forwarded_paths": "/{path}"}, "must be paths outside /v1"),
        ({"forwarded_paths": "/metrics"}, "/metrics is a path of this server"),
        ({"cors_origins": "chat.example"}, r"must be \* or origins such as https://chat.example"),
        ({"cors_origins": "https://chat.example/"}, "must be"),
        ({"forwarded_paths": "/health"}, "forwarded_paths: there is no upstream"),
        (
            {"forwarded_allow_ips": "proxy"},
            r"--forwarded-allow-ips: must be \* or addresses such as",
        ),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, str], wanted: str) -> None:
    with pytest.raises(SettingsError, match=wanted):
        load(**settings)


def test_a_whole_answer_says_in_a_header_what_became_of_a_loop(mock: Upstream) -> None:
    with proxy(mock.url, heal=False) as url:
        body = {"model": "loop", "messages": [{"role": "user", "content": "Hello"}]}
        headers = ask(url + "/v1/chat/completions", "POST", body)[1]
        assert headers["x-dedup-loop"] == "content/exact; cut"
        headers = ask(url + "/v1/chat/completions", "POST", {**body, "model": "novel"})[1]
        assert "x-dedup-loop" not in headers
