"""nginx with server/deploy/nginx.conf in front of three replicas."""

import asyncio
from pathlib import Path

from tests.external.gateways.gateways import nginx
from tests.external.gateways.replicas import replicas, status, upstream
from tests.external.gateways.streams import Streams


def test_nginx_streams_and_asks_another_replica(tmp_path: Path) -> None:
    with (
        upstream(tmp_path) as upstream_port,
        replicas([1, 1, 1], upstream_port, tmp_path) as behind,
        nginx([one.port for one in behind], tmp_path) as port,
    ):
        slow = Streams(port, 1, n=4, every=500)
        asyncio.run(_once(slow))
        assert slow.problems == []
        assert slow.ttfts[0] < 1 < slow.seconds[0]  # not kept until its end
        assert status(port, "/metrics") == 404
        behind[0].kill()
        quick = Streams(port, 60, n=5, every=1)
        asyncio.run(_once(quick))
        assert quick.problems == []
        assert quick.num_ended >= 60


async def _once(streams: Streams) -> None:
    running = asyncio.create_task(streams.run(ramp_seconds=0))
    await asyncio.sleep(0.5)
    streams.is_last = True
    await running
