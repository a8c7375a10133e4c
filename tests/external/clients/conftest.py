"""The proxy under test and its upstream: the scripted one, or a real server.

CLIENTS_UPSTREAM and CLIENTS_MODEL name a real server (vLLM, llama.cpp, ... with the demo model), or
CLIENTS_SERVER is a command that starts one on a port. With a real server, tests of the script are
skipped.
"""

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.demo_server import free_port, serving
from tests.external.clients import upstream as script

PROMPT = "She had not slept since the night when her brother disappeared."
SHORT = 24  # tokens: before the demo model loops
LONG = 256

REAL_UPSTREAM = os.environ.get("CLIENTS_UPSTREAM", "").rstrip("/")
SERVER = os.environ.get("CLIENTS_SERVER", "")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scripted: needs the scripted upstream")
    config.addinivalue_line("filterwarnings", "default")  # the clients' own deprecations


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REAL_UPSTREAM or SERVER:
        for item in items:
            if item.get_closest_marker("scripted"):
                item.add_marker(
                    pytest.mark.skip(
                        reason="needs the scripted upstream; CLIENTS_UPSTREAM is a real server"
                    )
                )


@dataclass
class Target:
    """The proxy at `url`, and the properties of its upstream."""

    url: str
    upstream_url: str
    novel: str  # the model that does not loop
    loop: str  # the model that loops
    scripted: bool

    def ask_upstream(self, path: str, **body: Any) -> dict[str, Any]:
        """Send a request to the upstream, without the proxy."""
        data = json.dumps({"temperature": 0, **body}).encode()
        headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
        request = urllib.request.Request(f"{self.upstream_url}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            return dict(json.load(response))

    def upstream_chat(self, model: str, max_tokens: int) -> str:
        """Return the upstream's completion of PROMPT."""
        messages = [{"role": "user", "content": PROMPT}]
        answer = self.ask_upstream(
            "chat/completions", model=model, messages=messages, max_tokens=max_tokens
        )
        return str(answer["choices"][0]["message"]["content"])

    def upstream_text(self, model: str, max_tokens: int) -> str:
        answer = self.ask_upstream("completions", model=model, prompt=PROMPT, max_tokens=max_tokens)
        return str(answer["choices"][0]["text"])

    @cached_property
    def gives_stream_usage(self) -> bool:
        """Return whether the upstream ends a stream with usage."""
        messages = [{"role": "user", "content": PROMPT}]
        asked = {"model": self.novel, "messages": messages, "max_tokens": 2, "stream": True}
        data = json.dumps({**asked, "stream_options": {"include_usage": True}}).encode()
        headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.upstream_url}/chat/completions", data, headers)
        ) as response:
            return b'"total_tokens"' in response.read()

    @cached_property
    def takes_max_completion_tokens(self) -> bool:
        """Return whether the upstream itself supports max_completion_tokens."""
        messages = [{"role": "user", "content": PROMPT}]
        answer = self.ask_upstream(
            "chat/completions", model=self.novel, messages=messages, max_completion_tokens=3
        )
        return self.scripted or answer["usage"]["completion_tokens"] <= 4

    def require_several_choices(self) -> None:
        """Skip the test if the upstream itself returns one choice for n = 2."""
        messages = [{"role": "user", "content": PROMPT}]
        try:
            answer = self.ask_upstream(
                "chat/completions",
                model=self.novel,
                messages=messages,
                max_tokens=2,
                n=2,
                temperature=0.9,
            )
        except urllib.error.HTTPError as error:
            pytest.skip(f"the upstream refuses n = 2: {error.code}")
        if len(answer["choices"]) != 2:
            pytest.skip("the upstream does not know n")

    def assert_cut(self, text: str | None, full: str) -> None:
        """Require that `text` is `full`, the upstream's completion, up to its loop."""
        assert text
        if self.scripted:
            assert text.rstrip() == (script.OPENING + script.CIRCLE).rstrip()
        assert full.strip().startswith(text.strip())
        assert len(text) < len(full) / 2

    def stats(self, model: str) -> dict[str, int]:
        with urllib.request.urlopen(
            self.upstream_url.removesuffix("/v1") + "/stats", timeout=10
        ) as response:
            return {"requests": 0, "chunks": 0, "hang_ups": 0, **json.load(response).get(model, {})}

    @contextmanager
    def hangs_up(self, model: str) -> Iterator[None]:
        """Require that the proxy closes one connection to the upstream within the block, soon after
        a loop.
        """
        if not self.scripted:
            yield
            return
        before = self.stats(model)
        yield
        deadline = time.monotonic() + 10
        while (after := self.stats(model))["hang_ups"] == before[
            "hang_ups"
        ] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert after["hang_ups"] - before["hang_ups"] == 1
        assert after["chunks"] - before["chunks"] < 500


@contextmanager
def _scripted_upstream() -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("upstream.py"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http"), "the scripted upstream did not start"
        yield url
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextmanager
def _real_upstream() -> Iterator[str]:
    if not SERVER:
        yield REAL_UPSTREAM
        return
    port = free_port()
    process = subprocess.Popen([*shlex.split(SERVER), str(port)])
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/models", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, "the server has ended"
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    if REAL_UPSTREAM or SERVER:
        model = os.environ.get("CLIENTS_MODEL", "demo")
        # The tests are about cuts; completions of vLLM would be healed.
        with (
            _real_upstream() as upstream_url,
            serving("--upstream", upstream_url, heal="false") as url,
        ):
            yield Target(f"{url}/v1", upstream_url, model, model, scripted=False)
        return
    with _scripted_upstream() as upstream_url, serving("--upstream", upstream_url) as url:
        yield Target(f"{url}/v1", upstream_url, "novel", "loop", scripted=True)
