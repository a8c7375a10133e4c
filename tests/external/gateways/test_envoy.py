"""Envoy with server/deploy/envoy.yaml in front of three replicas."""

import asyncio
import http.client
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.external.gateways.gateways import envoy
from tests.external.gateways.replicas import Replica, get, replicas, status, upstream
from tests.external.gateways.rig import PROSE
from tests.external.gateways.streams import Streams


@dataclass
class Front:
    port: int
    admin_port: int
    behind: list[Replica]

    def stat(self, name: str) -> int:
        stats = get(self.admin_port, f"/stats?filter=^cluster.dedup.{name}$").decode()
        found = re.search(r": (\d+)$", stats.strip())
        return int(found[1]) if found else 0

    def ask(self, spec: str, stream: bool = True) -> "urllib.request.Request":
        body = {"model": "mock", "messages": [{"role": "user", "content": spec}], "stream": stream}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return urllib.request.Request(
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with (
        upstream(tmp_path) as upstream_port,
        replicas([1, 1, 1], upstream_port, tmp_path) as behind,
        envoy([one.port for one in behind], tmp_path) as (port, admin_port),
    ):
        yield Front(port, admin_port, behind)


def test_streams_are_not_buffered_and_metrics_are_not_public(front: Front) -> None:
    began = time.monotonic()
    with urllib.request.urlopen(front.ask("n=4 every=500 first=0"), timeout=30) as response:
        arrived = [time.monotonic() - began for line in response if line.startswith(b"data: ")]
    assert arrived[-1] - arrived[0] > 1  # seconds that the upstream took
    for path in ("/metrics", "/stats"):
        assert status(front.port, path) == 404
    assert json.loads(get(front.port, "/health/ready")) == {"status": "ok"}


def test_a_replica_that_is_gone_is_not_noticed_and_is_ejected(front: Front) -> None:
    front.behind[0].kill()

    async def ask_many() -> Streams:
        streams = Streams(front.port, 60, n=5, every=1)
        asyncio.get_running_loop().call_later(1, setattr, streams, "is_last", True)
        await streams.run(ramp_seconds=0)
        return streams

    streams = asyncio.run(ask_many())
    assert streams.problems == []
    assert streams.num_ended > 60
    assert front.stat("upstream_rq_retry_success") >= 5
    assert front.stat("outlier_detection.ejections_enforced_consecutive_local_origin_failure") == 1
    front.behind[0].start()
    for _ in range(200):
        if front.stat("membership_healthy") == 3:
            return
        time.sleep(0.1)
    raise AssertionError("the replica did not come back")


def test_a_stream_that_has_begun_breaks_visibly_and_is_not_begun_again(front: Front) -> None:
    with urllib.request.urlopen(front.ask("n=100 every=200 first=0"), timeout=30) as response:
        line = response.readline()
        assert line.startswith(b"data: ")
        for one in front.behind:
            one.kill()
        with pytest.raises(http.client.IncompleteRead):  # else it would look whole
            response.read()
    assert front.stat("upstream_rq_retry") == 0


def test_a_replica_that_stops_gets_no_request_and_ends_its_streams(front: Front) -> None:
    with urllib.request.urlopen(front.ask("n=12 every=500 first=0"), timeout=60) as response:
        response.readline()
        streaming = [one for one in front.behind if b"in_progress" in one.metrics().encode()]
        busy = next(one for one in streaming if re.search(r"in_progress\{.*\} 1", one.metrics()))
        busy.signal(15)
        for _ in range(30):
            if front.stat("membership_healthy") == 2:
                break
            time.sleep(0.1)
        assert front.stat("membership_healthy") == 2  # before its port closes
        for _ in range(20):
            with urllib.request.urlopen(front.ask("n=3 every=0 first=0"), timeout=30) as other:
                assert other.read().endswith(b"data: [DONE]\n\n")
        text = response.read().decode()
    assert text.endswith("data: [DONE]\n\n")
    assert PROSE[11] in text
    assert front.stat("upstream_rq_retry") == 0
