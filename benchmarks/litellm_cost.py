"""CPU that the guardrail costs LiteLLM's proxy, in its process and over HTTP.

    python benchmarks/litellm_cost.py

Run it in the environment that `make test-integration-litellm` builds: `.venv-integrations/litellm/bin/python`. Three proxies with one
scripted upstream: LiteLLM alone, and with each configuration of docs/integrations/litellm.md. A stream has some 400 chunks of six
characters without repetition. CPU is that of LiteLLM's process (user and system) for a chunk; the server's own CPU, over HTTP, is listed
apart. The proxies take turns; ratios are medians of the rounds against LiteLLM alone in the same round.
"""

import argparse
import json
import statistics
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.demo_server import free_port  # noqa: E402
from tests.docs_snippets import snippets_in  # noqa: E402
from tests.external.integrations.litellm import proxy  # noqa: E402
from tests.external.integrations.litellm.upstream import deltas  # noqa: E402

MODEL = "long"


def cpu_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def stream(url: str) -> None:
    """Read a stream to its end."""
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {proxy.KEY}"}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        assert b"[DONE]" in response.read()


def configurations() -> dict[str, str]:
    page = ROOT / "docs" / "integrations" / "litellm.md"
    blocks = [
        one.text for one in snippets_in(page.name, page.read_text()) if one.language == "yaml"
    ]
    return {
        "alone": blocks[0].partition("guardrails:")[0],
        "in its process": blocks[0],
        "over HTTP": blocks[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4, help="of a proxy in a round")
    arguments = parser.parse_args()
    num_chunks = arguments.streams * len(deltas(MODEL))
    results: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_url = stack.enter_context(proxy.upstream(folder))
        server_url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "dedup", "serve", "--port", str(port)]
        command += ["--upstream", f"{upstream_url}/v1"]
        ready = f"{server_url}/health/ready"
        server = stack.enter_context(proxy.running(command, ready, folder / "dedup.log", folder))
        proxies: dict[str, tuple[str, Any]] = {}
        for number, (name, config) in enumerate(configurations().items()):
            config = config.replace("http://127.0.0.1:8001", upstream_url)
            config = config.replace("http://127.0.0.1:8000", server_url)
            own = folder / str(number)
            own.mkdir()
            proxies[name] = stack.enter_context(proxy.litellm(config, own))
        for url, _ in proxies.values():
            stream(url)  # warm
        for _ in range(arguments.rounds):
            for name, (url, process) in proxies.items():
                before, server_before = cpu_seconds(process.pid), cpu_seconds(server.pid)
                for _ in range(arguments.streams):
                    stream(url)
                used = cpu_seconds(process.pid) - before
                results.setdefault(name, []).append(used / num_chunks * 1e6)
                if name == "over HTTP":
                    used = cpu_seconds(server.pid) - server_before
                    results.setdefault("the server, over HTTP", []).append(used / num_chunks * 1e6)
    print("| LiteLLM | µs a chunk | against LiteLLM alone |\n| --- | ---: | ---: |")
    for name, found in results.items():
        ratios = [one / alone for one, alone in zip(found, results["alone"], strict=True)]
        median, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(
            f"| {name} | {statistics.median(found):.0f} | {median:.2f} ({low:.2f} to {high:.2f}) |"
        )


if __name__ == "__main__":
    main()
