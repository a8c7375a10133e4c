"""A machine without a compiler: install, configure, start as the systemd unit does, ask once.

python -m tests.external.release.fresh dist/dedup_llm-0.2.0-py3-none-any.whl
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.demo_server import clean_environment, free_port
from tests.external.release.checks import ReleaseError

DEPLOY = Path(__file__).parents[3] / "server" / "deploy"
EXEC_START = "/opt/dedup/bin/dedup serve --config /etc/dedup/dedup.toml"
MAX_SECONDS = 120
SENTENCE = "The river rose in the night, and by morning the bridge was gone. "


@dataclass(frozen=True)
class Installed:
    """An environment with this project and its extra `server` alone."""

    folder: Path
    seconds: float

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next((self.folder / "lib").glob("python*")) / "site-packages"


def without_compiler() -> dict[str, str]:
    """Return an environment in which no compiler is found."""
    environment = clean_environment() | {"CC": "/bin/false", "CXX": "/bin/false"}
    environment.pop("PYTHONPATH", None)
    return environment


def install(wheel: Path, folder: Path) -> Installed:
    """Install a wheel with the extra `server` into a new environment.

    Raises:
        ReleaseError: It does not install; nothing of it may be compiled.
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    path = f"{folder / 'bin'}"
    pip = [folder / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    done = subprocess.run(
        [*map(str, pip), "--only-binary", ":all:", f"{wheel.resolve()}[server]"],
        env=without_compiler() | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(f"pip install: {done.stderr.strip().splitlines()[-1]}")
    return Installed(folder, time.monotonic() - began)


def serve(installed: Installed) -> str:
    """Start the server as the unit does, and send a request.

    Returns:
        The times.

    Raises:
        ReleaseError: No answer, a wrong one, or more than two minutes with the installation.
    """
    began = time.monotonic()
    answered = ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    threading.Thread(target=answered.serve_forever, daemon=True).start()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dedup.toml"
        config.write_text(_config(port, answered.server_address[1]))
        command = _exec_start(installed.folder / "bin" / "dedup", config)
        environment = {"PATH": "/nonexistent", "LANG": "C.UTF-8"}
        log = Path(folder) / "log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, cwd="/", umask=0o077
            )
        try:
            text = _first_answer(port, server, log)
            started = time.monotonic() - began
        finally:
            server.terminate()
            server.wait(30)
            answered.shutdown()
    if text.count("river") != 1:
        raise ReleaseError(f"the answer was not filtered: {text!r}")
    total = installed.seconds + started
    if total > MAX_SECONDS:
        raise ReleaseError(
            f"{total:.0f} s from nothing to the first answer, more than {MAX_SECONDS}"
        )
    by = "the unit's ExecStart" if (DEPLOY / "dedup.service").exists() else "dedup serve --config"
    return f"install {installed.seconds:.0f} s, first answer {started:.1f} s behind it, by {by}"


def _exec_start(dedup: Path, config: Path) -> list[str]:
    unit = DEPLOY / "dedup.service"
    line = EXEC_START
    if unit.exists():
        match = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        if match is None:
            raise ReleaseError("dedup.service has no ExecStart")
        line = match[1]
    known = {"/opt/dedup/bin/dedup": str(dedup), "/etc/dedup/dedup.toml": str(config)}
    return [known.get(word, word) for word in shlex.split(line)]


def _config(port: int, upstream_port: int) -> str:
    """Return the configuration that is shipped, with another port and upstream."""
    shipped = DEPLOY / "dedup.toml"
    text = shipped.read_text() if shipped.exists() else ""
    text = re.sub(r"^(host|port|upstream) = .*\n", "", text, flags=re.MULTILINE)
    url = f"http://127.0.0.1:{upstream_port}/v1"
    return f'host = "127.0.0.1"\nport = {port}\nupstream = "{url}"\n{text}'


def _first_answer(port: int, server: "subprocess.Popen[bytes]", log: Path) -> str:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}).encode()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    until = time.monotonic() + MAX_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except OSError:
            time.sleep(0.1)
    last = log.read_text().strip().splitlines()[-1:] or ["it did not listen"]
    raise ReleaseError(f"the server does not answer: {last[0]}")


class _Upstream(BaseHTTPRequestHandler):
    """A model that says the same sentence three times."""

    def do_GET(self) -> None:
        self._send("application/json", b'{"data": [{"id": "m"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        events = [{"index": 0, "delta": {"content": SENTENCE}} for _ in range(3)]
        events.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        lines = [json.dumps({"id": "1", "model": "m", "choices": [one]}) for one in events]
        text = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
        self._send("text/event-stream", text.encode())

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Stay silent."""


def main() -> None:
    wheel = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(serve(install(wheel, Path(folder) / "venv")))
        except ReleaseError as fault:
            sys.exit(str(fault))


if __name__ == "__main__":
    main()
