"""`dedup serve` as a process in front of an upstream, and clients on raw sockets."""

import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.demo_server import clean_environment, free_port

JSON = "Content-Type: application/json"


@dataclass
class Proxy:
    port: int
    process: "subprocess.Popen[bytes]"
    log_path: Path

    @property
    def log(self) -> str:
        """Standard output and error of the server."""
        return self.log_path.read_text("utf-8", "replace")

    @property
    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("needs /proc")
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found
        return int(found[1]) * 1024

    def get(self, path: str, *headers: str) -> "Reply":
        with self.connected() as connection:
            connection.sendall(http_request("GET", path, b"", *headers))
            return read_reply(connection)

    def post(
        self, model: str, stream: bool = False, *headers: str, content: str = "Hello", **fields: Any
    ) -> "Reply":
        with self.connected() as connection:
            connection.sendall(chat_request(model, stream, *headers, content=content, **fields))
            return read_reply(connection)

    def metrics(self) -> str:
        return self.get("/metrics").body.decode()

    @contextmanager
    def connected(self, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        with socket.socket() as connection:
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", self.port))
            yield connection


@contextmanager
def proxy(upstream_url: str, **settings: Any) -> Iterator[Proxy]:
    """Yield a ready server, with its settings in the environment. It must not log a traceback."""
    port = free_port()
    environment = {
        **clean_environment(),
        **{f"DEDUP_{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = [
        sys.executable,
        "-m",
        "dedup",
        "serve",
        "--upstream",
        upstream_url,
        "--port",
        str(port),
    ]
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        running = Proxy(port, process, log_path)
        try:
            _wait_until_ready(running)
            yield running
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
        finally:
            process.kill()
            process.wait()
        _, found, rest = running.log.partition("Traceback")
        assert not found, rest[:5000]


def _wait_until_ready(running: Proxy) -> None:
    for _ in range(1000):
        if "dedup listens" in running.log:
            return
        if running.process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"the proxy did not start: {running.log}")


@dataclass
class Reply:
    status: int
    headers: "http.client.HTTPMessage"
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The content of the completion, streamed or whole."""
        if not self.headers["Content-Type"].startswith("text/event-stream"):
            return str(self.json["choices"][0]["message"]["content"])
        choices = (choice for chunk in self.chunks for choice in chunk.get("choices", []))
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def events(self) -> list[str]:
        """The data of each event."""
        events = (
            [line[6:] for line in event.split("\n") if line.startswith("data: ")]
            for event in self.body.decode().split("\n\n")
        )
        return ["\n".join(lines) for lines in events if lines]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self.events if data != "[DONE]"]

    @property
    def finish_reasons(self) -> list[str]:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", [])]
        return [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]

    def check_complete(self, text: str) -> None:
        """Require a complete stream of `text`."""
        assert self.status == 200, self.body
        assert self.text == text
        assert self.finish_reasons == ["stop"]
        assert self.events[-1] == "[DONE]"
        assert self.body.endswith(b"data: [DONE]\n\n")
        assert not any("error" in chunk for chunk in self.chunks)

    def check_broken(self, text: str) -> dict[str, Any]:
        """Require a stream of `text` that ends with an error. Return the error."""
        assert self.status == 200, self.body
        assert self.chunks, "the stream ended without a word"
        error = _checked_error(self.chunks[-1])
        assert self.text == text
        assert self.finish_reasons == []
        assert "[DONE]" not in self.events
        return error

    def check_refused(self, *statuses: int) -> dict[str, Any]:
        """Require an error with one of these statuses, in OpenAI's shape. Return the error."""
        assert self.status in statuses, self.body
        return _checked_error(self.json)


def _checked_error(body: dict[str, Any]) -> dict[str, Any]:
    assert set(body) == {"error"}
    error = body["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert isinstance(error["message"], str)
    assert error["message"]
    return dict(error)


def http_request(method: str, path: str, body: bytes, *headers: str) -> bytes:
    """Return a request; the connection closes after it, unless `headers` say otherwise."""
    lines = [f"{method} {path} HTTP/1.1", "Host: proxy.test", *headers]
    if not any(header.lower().startswith("connection:") for header in headers):
        lines.append("Connection: close")
    if body:
        lines += [JSON, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chat_body(model: str, stream: bool = False, content: str = "Hello", **fields: Any) -> bytes:
    return json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "stream": stream,
            **fields,
        }
    ).encode()


def chat_request(
    model: str, stream: bool = False, *headers: str, content: str = "Hello", **fields: Any
) -> bytes:
    return http_request(
        "POST", "/v1/chat/completions", chat_body(model, stream, content, **fields), *headers
    )


def read_reply(connection: socket.socket) -> Reply:
    """Read the next response and keep the connection open. Nothing may follow the response."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        return Reply(response.status, response.headers, response.read())
    finally:
        response.close()


def ask_raw(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Return what the server sends until it closes the connection, or sends nothing for a while."""
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection,
        suppress(OSError),
    ):
        connection.sendall(data)
        while part := connection.recv(65536):
            received += part
    return received


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


@dataclass
class Reading:
    """A stream that is read as it arrives."""

    connection: socket.socket
    received: bytes = field(default=b"")

    def until(self, wanted: bytes) -> bytes:
        while wanted not in self.received:
            part = self.connection.recv(65536)
            assert part, f"the stream ended: {self.received[-500:]!r}"
            self.received += part
        return self.received
