"""Replicas of `dedup serve` in front of one scripted upstream, each a process that can be stopped,
killed and started again on its port.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.demo_server import clean_environment, free_port
from tests.external.gateways.rig import RIG

ROOT = Path(__file__).parents[3]

# Of a real replica behind the gateways' files, in little: three checks of a second each.
SETTINGS = {"shutdown_delay_seconds": 3, "grace_seconds": 25, "log_format": "json"}


def get(port: int, path: str, seconds: float = 5.0) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=seconds) as response:
        return bytes(response.read())


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def answers(port: int, path: str) -> bool:
    try:
        get(port, path, 2.0)
    except OSError:
        return False
    return True


def wait_for(port: int, path: str, process: "subprocess.Popen[bytes] | None" = None) -> None:
    for _ in range(600):
        if answers(port, path):
            return
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers at port {port}")


@contextmanager
def process(command: list[str], log: Path, **settings: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command until the block ends."""
    environment = clean_environment() | {
        f"DEDUP_{name.upper()}": str(value) for name, value in settings.items()
    }
    with log.open("ab") as file:
        running = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=ROOT, start_new_session=True
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@contextmanager
def upstream(folder: Path, texts: list[str] | None = None) -> Iterator[int]:
    """Run the load rig's upstream; give its port.

    Args:
        texts: answers that a request selects by `replay=NUMBER`.
    """
    port = free_port()
    command = [sys.executable, str(RIG), "upstream", str(port)]
    if texts:
        path = folder / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        command.append(str(path))
    with process(command, folder / "upstream.log"):
        wait_for(port, "/v1/models")
        yield port


@dataclass
class Replica:
    """One server, and its runs one after another."""

    name: str
    upstream_port: int
    folder: Path
    settings: dict[str, Any]
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    number: int = 0  # of its runs
    running: "subprocess.Popen[bytes] | None" = None

    @property
    def log_path(self) -> Path:
        """Log of the present run."""
        return self.folder / f"{self.name}-{self.number}.log"

    def start(self) -> None:
        self.number += 1
        command = [sys.executable, "-m", "dedup", "serve"]
        command += ["--upstream", f"http://127.0.0.1:{self.upstream_port}/v1"]
        command += ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        environment = clean_environment() | {
            f"DEDUP_{name.upper()}": str(value) for name, value in self.settings.items()
        }
        with self.log_path.open("wb") as log:
            self.running = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=ROOT, start_new_session=True
            )
        try:
            wait_for(self.port, "/health/ready", self.running)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {self.log_path.read_text()}") from None

    def stop(self) -> None:
        """Stop as an operator does, and wait for the end."""
        assert self.running
        self.running.terminate()
        assert self.running.wait(60) == 0, self.log_path.read_text()[-2000:]

    def kill(self) -> None:
        """End without a word: the server and its workers."""
        assert self.running
        os.killpg(self.running.pid, signal.SIGKILL)
        self.running.wait()

    def kill_worker(self, chance: random.Random) -> None:
        """End one of several workers without a word; the server starts another."""
        assert self.running
        children = Path(f"/proc/{self.running.pid}/task/{self.running.pid}/children")
        os.kill(int(chance.choice(children.read_text().split())), signal.SIGKILL)

    def signal(self, sig: int) -> None:
        assert self.running
        self.running.send_signal(sig)

    def metrics(self) -> str:
        return get(self.admin_port, "/metrics").decode()


@contextmanager
def replicas(workers: Sequence[int], upstream_port: int, folder: Path) -> Iterator[list[Replica]]:
    """Run replicas with so many workers each."""
    all_of_them = [
        Replica(f"replica-{index}", upstream_port, folder, SETTINGS | {"workers": number})
        for index, number in enumerate(workers)
    ]
    with ExitStack() as stack:
        for one in all_of_them:
            stack.callback(_end, one)
            one.start()
        yield all_of_them


def _end(replica: Replica) -> None:
    if replica.running is not None and replica.running.poll() is None:
        replica.kill()
