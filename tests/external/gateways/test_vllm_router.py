"""The proxy in front of vLLM's router, with two scripted servers behind it."""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from tests.demo_server import free_port
from tests.external.gateways.replicas import process, replicas, status, wait_for
from tests.server.mock_upstream import NOVEL, Upstream, served

ROUTER = Path(sys.executable).parent / "vllm-router"


async def _healthy(request: web.Request) -> web.Response:
    return web.Response()


@pytest.fixture
def servers() -> Iterator[list[Upstream]]:
    with ExitStack() as stack:
        servers = [Upstream(owned_by="vllm"), Upstream(owned_by="vllm")]
        for one in servers:
            routes = [
                web.get("/health", _healthy),
                web.get("/v1/models", one.models),
                web.post("/v1/chat/completions", one.generate),
            ]
            one.url = stack.enter_context(served(routes))
        yield servers


def ask(port: int, model: str, stream: bool) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def message_of(answer: bytes) -> str:
    return str(json.loads(answer)["choices"][0]["message"]["content"])


def text_of(stream: bytes) -> str:
    *events, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_both_servers_are_asked_and_a_loop_ends_at_the_server(
    servers: list[Upstream], tmp_path: Path
) -> None:
    port = free_port()
    urls = [one.url.removesuffix("/v1") for one in servers]
    command = [str(ROUTER), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", *urls, "--prometheus-port", str(free_port())]
    with process(command, tmp_path / "router.log") as running:
        wait_for(port, "/v1/models", running)
        with replicas([1], port, tmp_path) as (front,):
            assert status(front.port, "/health/ready") == 200
            for stream in (True, False) * 2:
                answer = ask(front.port, "novel", stream)
                assert (text_of(answer) if stream else message_of(answer)) == NOVEL
            assert all(len(one.bodies) >= 2 for one in servers)
            cut = json.loads(ask(front.port, "loop", False))["choices"][0]
            assert cut["stop_reason"] == "repetition_detected"
            for _ in range(100):
                if any(one.hung_up.is_set() for one in servers):
                    return
                time.sleep(0.05)
            raise AssertionError("the router went on reading a loop that nobody wants")
