"""A server that is stopped while requests are in progress."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from tests.demo_server import clean_environment, free_port

LONG = {
    "messages": [
        {
            "role": "user",
            "content": "She had not slept since the night when her brother disappeared.",
        }
    ],
    "n": 100,
    "max_tokens": 900,
    "temperature": 0,
    "repetition": {"policy": "off"},
}


def ask(url: str, stream: bool) -> tuple[int, bytes]:
    body = json.dumps({**LONG, "stream": stream}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_second_signal_ends_every_request_with_an_error_and_exits_with_0() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "dedup", "serve", "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean_environment()
    ) as server:
        assert server.stdout is not None
        try:
            for line in iter(server.stdout.readline, b""):
                if line.startswith(b"dedup listens"):
                    break
            with ThreadPoolExecutor(2) as pool:
                asked = [pool.submit(ask, url, stream) for stream in (True, False)]
                while (
                    "dedup_streams_in_progress" not in (numbers := metrics(url))
                    or numbers["dedup_streams_in_progress"] < 2
                ):
                    time.sleep(0.05)
                server.send_signal(signal.SIGTERM)
                for line in iter(server.stdout.readline, b""):
                    if b"waiting up to 25 s for 2 requests" in line:
                        break
                server.send_signal(signal.SIGTERM)
                (streamed, stream), (status, whole) = (answer.result(30) for answer in asked)
            assert server.wait(30) == 0
            rest = server.stdout.read()
        finally:
            server.kill()
    assert streamed == 200
    last = stream.split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
    assert status == 503
    assert json.loads(whole)["error"]["code"] == "shutting_down"
    assert b"Traceback" not in rest


def metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.split("{")[0]: float(value) for name, value in samples}
