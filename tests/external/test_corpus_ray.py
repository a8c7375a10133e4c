"""An audit on a Ray cluster of two nodes on this machine, beside one worker and four.

The nodes share the machine's disk, as those of a cluster share theirs.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from datatrove.pipeline.base import PipelineStep

from dedup.corpus.audit import Measure, MergeRepeats, collect
from dedup.corpus.jobs import Job, audit
from dedup.corpus.readers import open_corpus
from dedup.corpus.repeats import NUM_PARTITIONS
from dedup.corpus.run import run_pipeline
from dedup.corpus.thresholds import DEFAULT
from tests.corpus import planted
from tests.corpus.texts import ROOT

RAY = Path(sys.executable).parent / "ray"


class KillActorOnce(PipelineStep):  # type: ignore[misc]
    """A step that kills its Ray actor in the middle of a task, the first time that it runs."""

    name = "Kill"
    type = "test"

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        for number, doc in enumerate(data):
            if rank == 2 and number == 5 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getppid(), signal.SIGKILL)  # datatrove runs a task in the actor's child
                os.kill(os.getpid(), signal.SIGKILL)
            yield doc


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two nodes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    address = f"127.0.0.1:{port}"
    path = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    environment = os.environ | {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    limits = ["--num-cpus=2", "--object-store-memory=100000000", "--block"]
    head = ["--head", f"--port={port}", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    nodes: list[subprocess.Popen[bytes]] = []
    log = (tmp_path_factory.mktemp("ray") / "log").open("wb")
    try:
        for options in (head, [f"--address={address}"]):
            command = [str(RAY), "start", *options, *limits]
            nodes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            wait_for_nodes(address, len(nodes), environment)
        yield address
    finally:
        ray.shutdown()  # a driver whose cluster ends is ended with it
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.wait(60)
        log.close()


def wait_for_nodes(address: str, count: int, environment: dict[str, str]) -> None:
    code = (
        "import ray, sys, time\n"
        "for _ in range(120):\n"
        "    try:\n"
        f"        ray.init({address!r}, log_to_driver=False)\n"
        f"        sys.exit(sum(node['Alive'] for node in ray.nodes()) < {count})\n"
        "    except ConnectionError:\n"
        "        time.sleep(1)\n"
        "sys.exit(2)\n"
    )
    for _ in range(30):
        if not subprocess.run(
            [sys.executable, "-c", code], env=environment, check=False
        ).returncode:
            return
    raise AssertionError(f"no {count} nodes at {address}")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write(tmp_path_factory.mktemp("planted") / "corpus")


def test_workers_and_a_cluster_find_the_same(corpus: Path, cluster: str, tmp_path: Path) -> None:
    one = audit(Job(str(corpus), str(tmp_path / "one"), workers=1))
    four = audit(Job(str(corpus), str(tmp_path / "four"), workers=4))
    many = audit(Job(str(corpus), str(tmp_path / "ray"), workers=4, ray_address=cluster))
    assert one == four == many
    assert one["totals"]["documents"] == len(planted.rows())


def test_a_killed_actor_changes_nothing(corpus: Path, cluster: str, tmp_path: Path) -> None:
    expected = audit(Job(str(corpus), str(tmp_path / "one"), workers=1))
    opened, folder = open_corpus(str(corpus)), str(tmp_path / "ray")
    pipeline = [opened.reader, KillActorOnce(tmp_path / "marker"), Measure(folder, DEFAULT)]
    run_pipeline(pipeline, opened.tasks, f"{folder}/measure", workers=4, ray_address=cluster)
    run_pipeline([MergeRepeats(folder)], NUM_PARTITIONS, f"{folder}/merge")
    assert (tmp_path / "marker").exists()
    del expected["read"], expected["totals"]["invalid_rows"]
    assert collect(folder, opened.tasks) == expected
