"""With `log_format = "json"`, whatever a server writes is JSON, line by line."""

import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.demo_server import clean_environment, free_port
from tests.faults.raw_upstream import RawUpstream

NOISE = """
import logging, sys, threading, warnings
from dedup_server.logs import configure
configure("json")
logging.getLogger("other").warning("a warning of %s", "another package")
own = logging.getLogger("own")
own.addHandler(logging.StreamHandler())
own.propagate = False
own.warning("a handler of its own")
warnings.warn("a warning of Python")
print("printed", 1)
print("a bar 10%\\rto standard error", file=sys.stderr)
raise ValueError("the end\\nof it")
"""


def lines_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def started(path: Path, *arguments: str, **settings: str) -> "subprocess.Popen[bytes]":
    variables = {f"DEDUP_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "dedup", "serve", *arguments]
    environment = {**clean_environment(), "DEDUP_LOG_FORMAT": "json", **variables}
    with path.open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def post(port: int, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("kind", ["one process", "two workers", "local"])
def test_a_server_writes_nothing_but_json(upstream: RawUpstream, tmp_path: Path, kind: str) -> None:
    port, path = free_port(), tmp_path / "log"
    arguments = ["--port", str(port)]
    if kind != "local":
        arguments += ["--upstream", upstream.url]
    if kind == "two workers":
        arguments += ["--workers", "2"]
    server = started(path, *arguments)
    try:
        for _ in range(1000):
            if "dedup listens" in path.read_text() or server.poll() is not None:
                break
            time.sleep(0.05)
        assert post(port, b"{") == 400
        assert post(port, b'{"messages": 3}') == 400
        server.send_signal(signal.SIGHUP)
        while "reloaded" not in path.read_text():
            time.sleep(0.05)
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
    lines = lines_of(path.read_text())
    listens = next(line for line in lines if line["event"] == "dedup listens")
    assert listens["url"] == f"http://127.0.0.1:{port}"
    assert [line["status"] for line in lines if line["event"] == "request"] == [400, 400]
    assert all(line.keys() >= {"time", "level", "event"} for line in lines)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_does_not_start_says_so_in_json(
    upstream: RawUpstream, tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "log"
    taken = upstream.url.rpartition(":")[2].partition("/")[0]
    with started(path, "--upstream", upstream.url, "--workers", workers, port=taken) as server:
        assert server.wait(60) == 1
    (line,) = lines_of(path.read_text())
    assert line["level"] == "error"
    assert "cannot listen on" in line["event"]


def test_what_other_code_writes_is_json_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    lines = lines_of(done.stderr)
    assert [line["event"].partition("<string>")[0] for line in lines] == [
        "a warning of another package",
        "a handler of its own",
        "",
        "printed 1",
        "a bar 10%",
        "to standard error",
        "the process failed",
    ]
    assert "a warning of Python" in lines[2]["event"]
    assert "ValueError: the end\nof it" in lines[-1]["exception"]
