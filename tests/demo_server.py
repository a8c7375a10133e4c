"""The real server with the demo model, as `dedup serve` starts it, for tests that ask it over a real socket."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DEDUP_")}


@contextmanager
def serving(*arguments: str, **settings: str) -> Iterator[str]:
    """`dedup serve` with these arguments, and settings in its environment, ready; gives its base URL. Ends it as an operator would, with
    SIGTERM."""
    port = free_port()
    environment = clean_environment() | {
        f"DEDUP_{name.upper()}": value for name, value in settings.items()
    }
    command = [sys.executable, "-m", "dedup", "serve", "--port", str(port), *arguments]
    url = f"http://127.0.0.1:{port}"
    # A pipe that nobody reads would block a server that logs much.
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{url}/health/ready", timeout=2).close()
                    break
                except OSError:
                    if server.poll() is not None:
                        break
                    time.sleep(0.25)
            else:
                raise TimeoutError("the server did not get ready")
            if server.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"dedup serve exited {server.returncode}: {log.read().decode()}")
            yield url
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()
            server.wait()
