"""All replicas behind a gateway are restarted, one after another, while streams are open."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from tests.external.gateways.gateways import envoy, nginx
from tests.external.gateways.replicas import Replica, replicas, upstream
from tests.external.gateways.streams import Streams

NUM_STREAMS = int(os.environ.get("GATEWAY_STREAMS", "2000"))
_WORDS, _EVERY_MS = 15, 1000


async def roll(streams: Streams, behind: list[Replica]) -> None:
    running = asyncio.create_task(streams.run(ramp_seconds=_WORDS * _EVERY_MS / 1000))
    while streams.num_open < streams.number:
        await asyncio.sleep(0.1)
        assert not running.done()
    for one in behind:
        await asyncio.to_thread(one.stop)
        await asyncio.to_thread(one.start)
        await asyncio.sleep(3)  # until it gets streams
    streams.is_last = True
    await running


def check(streams: Streams, gateway: str) -> None:
    print(
        f"\n{gateway}: {streams.peak} streams at once, {streams.num_ended} whole,"
        f" {len(streams.problems)} others {sorted(set(streams.problems))[:5]}"
    )
    assert streams.problems == []
    assert streams.peak == streams.number
    assert streams.num_ended > streams.number


@pytest.fixture(autouse=True)
def _files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_envoy_loses_and_refuses_no_stream(tmp_path: Path) -> None:
    with (
        upstream(tmp_path) as upstream_port,
        replicas([1, 1, 1], upstream_port, tmp_path) as behind,
        envoy([one.port for one in behind], tmp_path) as (port, _),
    ):
        streams = Streams(port, NUM_STREAMS, _WORDS, _EVERY_MS)
        asyncio.run(roll(streams, behind))
        check(streams, "Envoy")


def test_nginx_loses_and_refuses_no_stream(tmp_path: Path) -> None:
    with (
        upstream(tmp_path) as upstream_port,
        replicas([1, 1, 1], upstream_port, tmp_path) as behind,
        nginx([one.port for one in behind], tmp_path) as port,
    ):
        streams = Streams(port, min(NUM_STREAMS, 300), _WORDS, _EVERY_MS)
        asyncio.run(roll(streams, behind))
        check(streams, "nginx")
