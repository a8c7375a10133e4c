"""The containers of the rendered pods, each as a process: command, settings, probes and drain are
those that Helm renders. Mounts are folders, and the port is a free one. Where this process may
mount, theirs have a root that is read-only.
"""

import asyncio
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.external.chart.helm import VALUE_SETS, objects, of_kind
from tests.external.chart.process import Container, image, running
from tests.server.mock_upstream import Upstream, event, piece, upstream

SLOW_SECONDS = 10
GIVEN = {
    "llm-keys": {"clients": "sk-client\n", "upstream": "sk-upstream\n", "openai": "sk-openai\n"},
}


@dataclass
class SlowUpstream(Upstream):
    """Answers the model `slow` for some seconds, with a number in each piece."""

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] != "slow":
            return await super()._answer(request, body)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(SLOW_SECONDS * 4):
            await response.write(event(piece("slow", f"Word {number * 7919}. ", chat=True)))
            await asyncio.sleep(0.25)
        await response.write(event(piece("slow", "", True, 0, "stop")) + b"data: [DONE]\n\n")
        return response


@pytest.fixture(scope="module")
def model() -> Iterator[Upstream]:
    with upstream(SlowUpstream()) as mock:
        yield mock


def container(values: str, model: Upstream, folder: Path, *more: str) -> Container:
    """Return the container of a set of values, in front of the model in place of its upstream."""
    change = ("--set", f"config.upstream={model.url}")
    if values == "secret":
        change = ("--set", f"config.upstreams[0].url={model.url}")
    elif values == "existing":
        change = ()
    rendered = objects(values, *change, *more)
    pod = of_kind("Deployment", rendered)["spec"]["template"]["spec"]
    files: dict[str, Any] = {
        one["metadata"]["name"]: one["data"] for one in rendered if one["kind"] == "ConfigMap"
    }
    files["llm-settings"] = {"settings.toml": f'upstream = "{model.url}"\npolicy = "strict"\n'}
    (one,) = pod["containers"]
    return Container(one, pod["volumes"], {**files, **GIVEN}, folder)


def ask(url: str, model: str, key: str = "sk-client", **more: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    data = json.dumps(body).encode()
    return urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/chat/completions", data, headers), timeout=60
    )


class Reader:
    """A client that reads a stream in a thread."""

    def __init__(self, url: str, model: str) -> None:
        self.lines: list[str] = []
        self._response = ask(url, model, stream=True, repetition={"policy": "off"})
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._response:
            if line.strip():
                self.lines.append(line.decode().strip())

    def ended(self) -> list[str]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.lines


@pytest.mark.parametrize("values", VALUE_SETS)
def test_a_pod_serves_and_ends(values: str, model: Upstream, tmp_path: Path) -> None:
    if values == "ipv6" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with running(container(values, model, tmp_path)) as pod:
        name = "qwen3-32b" if values == "secret" else "novel"
        answer = json.load(ask(pod.url, name))
        assert "bridge was gone" in answer["choices"][0]["message"]["content"]
        if values == "ipv6":
            urllib.request.urlopen(f"http://[::1]:{pod.port}/health/live").close()
        has_keys = values in ("secret", "existing")
        if has_keys:
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(pod.url, name, key="sk-other")
        sent = {"existing": "Bearer sk-upstream", "secret": None}
        assert model.authorizations[-1] == sent.get(values, "Bearer sk-client")
        if values == "everything":
            with pytest.raises(urllib.error.HTTPError, match="404"):
                ask(pod.url, "unknown")
            assert json.load(ask(pod.url, "loop"))["choices"][0]["stop_reason"]
            assert (tmp_path / "loops" / "loops.jsonl").read_text().count("\n") == 1
        url = pod.url
        if values == "metrics":
            url = f"http://127.0.0.1:{pod.admin_port}"
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{pod.url}/metrics")
        with urllib.request.urlopen(f"{url}/metrics") as metrics:
            text = metrics.read().decode()
        assert "\ndedup_streams_in_progress{" in text
        pod.terminate()
        assert pod.process
        assert pod.process.wait(15) == 0, pod.log
    if values in ("least", "ipv6"):
        assert not list((tmp_path / "tmp").iterdir())


def memory_megabytes(pid: int) -> float:
    """Return the memory of a process and its children; what they share counts once."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in (pid, *children)]
    return sum(int(re.findall(r"^Pss: +(\d+) kB$", text, re.M)[0]) for text in texts) / 1000


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_loses_no_stream(workers: int, model: Upstream, tmp_path: Path) -> None:
    """The preStop command leaves the pod serving; then streams in progress end, and it ends."""
    more = ("--set", f"terminationGracePeriodSeconds=30,config.workers={workers}")
    with running(container("least", model, tmp_path, *more)) as pod:
        assert pod.process
        print(f"\n{workers} worker(s), idle: {memory_megabytes(pod.process.pid):.0f} MB")
        began = time.monotonic()
        stopping = threading.Thread(target=pod.pre_stop)
        stopping.start()
        time.sleep(4)
        late = Reader(pod.url, "slow")  # balancers may send requests until then
        assert pod.probe("readinessProbe") == 200
        stopping.join()
        pod.terminate()
        time.sleep(1)
        assert pod.probe("readinessProbe") == 503
        assert json.load(ask(pod.url, "novel"))["choices"]  # of a balancer that is late
        time.sleep(5)
        assert pod.probe("livenessProbe") == 0  # it listens no more
        lines = late.ended()
        assert lines[-1] == "data: [DONE]", (lines[-3:], pod.log)
        assert sum("Word" in line for line in lines) == SLOW_SECONDS * 4
        assert pod.process.wait(5) == 0, pod.log
        assert 4 + SLOW_SECONDS <= time.monotonic() - began < 30


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_that_does_not_end_is_told_before_the_pod_is_killed(
    workers: int, model: Upstream, tmp_path: Path
) -> None:
    more = ("--set", f"terminationGracePeriodSeconds=30,config.workers={workers}")
    with running(container("least", model, tmp_path, *more)) as pod:
        assert pod.process
        reader = Reader(pod.url, "stall")
        began = time.monotonic()
        pod.terminate()
        lines = reader.ended()
        assert '"error"' in lines[-1], lines[-3:]
        assert pod.process.wait(10) == 0, pod.log
        env = {one["name"]: one.get("value") for one in pod.spec["env"]}
        seconds = int(env["DEDUP_SHUTDOWN_DELAY_SECONDS"]) + int(env["DEDUP_GRACE_SECONDS"])
        assert time.monotonic() - began <= seconds + 1


def test_a_pod_is_not_ready_and_alive_while_no_upstream_answers(
    model: Upstream, tmp_path: Path
) -> None:
    pod = container("least", Upstream(url="http://127.0.0.1:9/v1"), tmp_path)
    pod.start()
    assert pod.process
    try:
        pod.pass_probe("startupProbe")
        assert pod.probe("livenessProbe") == 200
        assert pod.probe("readinessProbe") == 503
    finally:
        pod.process.kill()
        pod.process.wait()


def test_links_of_a_service_named_dedup_would_be_settings(model: Upstream, tmp_path: Path) -> None:
    """This is why pods have enableServiceLinks: false."""
    pod = container("least", model, tmp_path)
    pod.spec["env"] = [*pod.spec["env"], {"name": "DEDUP_SERVICE_HOST", "value": "10.0.0.7"}]
    pod.start()
    assert pod.process
    assert pod.process.wait(30) == 1
    assert "DEDUP_SERVICE_HOST: unknown setting" in pod.log


@pytest.mark.parametrize("values", VALUE_SETS)
def test_pods_run_as_the_images_user(values: str) -> None:
    pod = of_kind("Deployment", objects(values))["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert context["runAsNonRoot"]
    if values != "openshift":
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == image().user
    assert image().env[
        "HOME"
    ]  # without it nltk cannot be imported: the user has no entry in passwd
    assert pod["enableServiceLinks"] is False
