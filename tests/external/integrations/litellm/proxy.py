"""LiteLLM's proxy as a process of its own."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.demo_server import free_port

KEY = "sk-0123456789abcdefghijkl"
HERE = Path(__file__).parent


@contextmanager
def running(
    command: list[str], url: str, log: Path, cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; `url` is one that it answers when it is ready."""
    environment = dict(os.environ, LITELLM_MASTER_KEY=KEY, LITELLM_LOCAL_MODEL_COST_MAP="True")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=environment
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def upstream(folder: Path) -> Iterator[str]:
    """Run the scripted upstream; give its address."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, str(HERE / "upstream.py"), str(port)]
    with running(command, f"{url}/stats", folder / "upstream.log", folder):
        yield url


@contextmanager
def litellm(config: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run LiteLLM with a configuration; give its address and its process."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    (folder / "config.yaml").write_text(config)
    command = [str(Path(sys.executable).parent / "litellm"), "--config", "config.yaml"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with running(command, f"{url}/health/liveliness", folder / "litellm.log", folder) as process:
        yield url, process
