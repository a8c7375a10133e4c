"""Ray Serve with server/deploy/ray_serve.py, and the proxy in front of it as plain HTTP."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.demo_server import clean_environment, free_port, serving
from tests.faults.proxy import proxy

DEPLOY = Path(__file__).parents[2] / "server" / "deploy"
BIN = Path(sys.executable).parent
PROMPTS = [
    "She had not slept since the night when her brother disappeared.",
    "夜深了，屋里只点着一盏灯。",
    "The train left the station at noon.",
]
CONFIG = """
proxy_location: HeadOnly
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - {{name: dedup, route_prefix: /, import_path: "ray_serve:app"}}
"""


@contextmanager
def ray_serve(folder: Path) -> Iterator[str]:
    """Run a cluster of one node that serves; give its base URL."""
    port, gcs = free_port(), free_port()
    config = folder / "serve.yaml"
    config.write_text(CONFIG.format(port=port))
    environment = (
        clean_environment()
        | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": f"127.0.0.1:{gcs}",
            "PYTHONPATH": str(DEPLOY),
            "DEDUP_POLICY": "off",  # unless a request says otherwise: a model server that filters nothing
        }
    )
    head = [str(BIN / "ray"), "start", "--head", f"--port={gcs}", "--node-ip-address=127.0.0.1"]
    head += ["--num-cpus=4", "--object-store-memory=100000000", "--include-dashboard=false"]
    with (folder / "ray.log").open("wb") as log:
        node = subprocess.Popen([*head, "--block"], stdout=log, stderr=log, env=environment)
        serve = subprocess.Popen(
            [str(BIN / "serve"), "run", str(config)], stdout=log, stderr=log, env=environment
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(360):
                try:
                    urllib.request.urlopen(f"{url}/health/ready", timeout=2).close()
                    break
                except OSError:
                    assert serve.poll() is None, (folder / "ray.log").read_text()
                    time.sleep(0.5)
            else:
                raise AssertionError((folder / "ray.log").read_text())
            yield url
        finally:
            for process in (serve, node):
                process.terminate()
                process.wait(60)


def ask(url: str, prompt: str, stream: bool, **fields: Any) -> str:
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 200,
        "stream": stream,
        **fields,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer = response.read().decode()
    if not stream:
        return str(json.loads(answer)["choices"][0]["message"]["content"])
    events = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The server without Ray, and on Ray."""
    with serving() as alone, ray_serve(tmp_path_factory.mktemp("ray")) as on_ray:
        yield alone, on_ray


@pytest.mark.parametrize("policy", ["off", "balanced"])
@pytest.mark.parametrize("stream", [True, False])
def test_the_answers_are_those_without_ray(
    urls: tuple[str, str], stream: bool, policy: str
) -> None:
    alone, on_ray = urls
    for prompt in PROMPTS:
        fields = {"repetition": {"policy": policy, "heal": False}}
        expected = ask(alone, prompt, stream, **fields)
        assert {ask(on_ray, prompt, stream, **fields) for _ in range(4)} == {expected}  # both


@pytest.mark.parametrize("stream", [True, False])
def test_the_proxy_filters_in_front_of_serve(urls: tuple[str, str], stream: bool) -> None:
    alone, on_ray = urls
    with proxy(f"{on_ray}/v1", policy="loops", heal="false") as front:
        for prompt in PROMPTS:
            fields = {"repetition": {"policy": "loops", "heal": False}}
            assert ask(
                f"http://127.0.0.1:{front.port}", prompt, stream, model="demo", **fields
            ) == ask(alone, prompt, stream, **fields)
