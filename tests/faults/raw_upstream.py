"""An upstream on a raw socket, scripted byte by byte. The requested model selects the script; all
requests are recorded.
"""

import json
import random
import select
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

NOVEL = (
    "The river rose in the night, and by morning the bridge was gone."
    " Nobody in the village had heard it fall."
)
EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache\r\nConnection: close\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"


class HungUpError(ConnectionError):
    """The client has closed the connection."""


@dataclass
class Request:
    method: str
    target: str
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes
    number: int  # on its connection, from 0

    def values(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given == name]

    @property
    def json(self) -> Any:
        with suppress(ValueError):
            return json.loads(self.body)
        return None

    @property
    def model(self) -> str:
        return str(self.json.get("model")) if isinstance(self.json, dict) else ""


@dataclass
class Seen:
    """Requests for one model, as the upstream saw them."""

    requests: list[Request] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    hung_up_at: float = 0.0
    written: int = 0  # bytes sent


class Exchange:
    """One request and its response."""

    def __init__(self, request: Request, connection: socket.socket, seen: Seen) -> None:
        self.request = request
        self.seen = seen
        self.stays_open = False  # for another request
        self._connection = connection

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = self._connection.send(view)
            self.seen.written += sent
            view = view[sent:]

    def pause(self, seconds: float) -> None:
        """Wait. Raise `HungUpError` as soon as the client closes the connection."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._connection], [], [], left)[0]:
                if not self._connection.recv(1, socket.MSG_PEEK):
                    raise HungUpError
                time.sleep(min(left, 0.01))  # another request waits

    def reset(self) -> None:
        """Close the connection with a RST."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def answer_json(self, body: Any, status: str = "200 OK", *headers: str) -> None:
        encoded = json.dumps(body).encode()
        self.send(
            head(
                status,
                f"Content-Type: application/json\r\nContent-Length: {len(encoded)}",
                *headers,
            )
            + encoded
        )
        self.stays_open = True


Script = Callable[[Exchange], None]


@dataclass
class RawUpstream:
    port: int
    scripts: dict[str, Script]
    seen: dict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))
    requests: list[Request] = field(default_factory=list)
    num_connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, request: Request, connection: socket.socket) -> bool:
        """Respond to a request. Return whether the connection stays open."""
        self.requests.append(request)
        if request.method == "GET" and request.target == "/v1/models":
            exchange = Exchange(request, connection, Seen())
            exchange.answer_json(
                {"object": "list", "data": [{"id": name} for name in self.scripts]}
            )
            return True
        seen = self.seen[request.model]
        seen.requests.append(request)
        seen.asked.set()
        exchange = Exchange(request, connection, seen)
        try:
            self.scripts.get(request.model, unknown_model)(exchange)
        except ConnectionError:
            seen.hung_up_at = time.monotonic()
            seen.hung_up.set()
            return False
        return exchange.stays_open


@contextmanager
def raw_upstream(**scripts: Script) -> Iterator[RawUpstream]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024
        )  # bounds what the network buffers
        upstream = RawUpstream(listener.getsockname()[1], {**SCRIPTS, **scripts})
        connections: set[socket.socket] = set()
        threads: list[threading.Thread] = []

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError, HungUpError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection.makefile("rb") as reader:
                    number = 0
                    while (request := _read_request(reader, number)) and upstream.answer(
                        request, connection
                    ):
                        number += 1
            connections.discard(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    upstream.num_connections += 1
                    connections.add(connection)
                    threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield upstream
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)
            for connection in list(connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)


def _read_request(reader: Any, number: int) -> Request | None:
    line = reader.readline()
    if not line:
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = []
    while (line := reader.readline().decode("latin-1").strip("\r\n")) != "":
        name, _, value = line.partition(":")
        headers.append((name.strip().lower(), value.strip()))
    request = Request(method, target, headers, b"", number)
    if request.values("transfer-encoding"):
        while size := int(reader.readline().split(b";")[0], 16):
            request.body += reader.read(size)
            reader.readline()
        while reader.readline().strip():
            pass
    else:
        request.body = reader.read(int((request.values("content-length") or ["0"])[0]))
    return request


@dataclass
class Trap:
    """A server that must not be connected to."""

    port: int
    num_connections: int = 0


@contextmanager
def trap() -> Iterator[Trap]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sprung = Trap(listener.getsockname()[1])

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    sprung.num_connections += 1
                    connection.close()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield sprung
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)


def head(status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    delta = {"content": text} if text is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "u1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


def say(*texts: str) -> bytes:
    """Return the events of these deltas."""
    return b"".join(event(piece(text)) for text in texts)


def finish(reason: str = "stop") -> bytes:
    return event(piece(None, reason))


def whole(text: str) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 5, "completion_tokens": 25, "total_tokens": 30}
    return {
        "id": "u1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def chunked(parts: Iterable[bytes]) -> bytes:
    """Return a chunked body without its last chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def deltas(text: str, size: int = 6) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@cache
def _words() -> list[str]:
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    syllables = [first + vowel for first in consonants for vowel in vowels]
    return [
        one + other + end for one in syllables for other in syllables[::3] for end in ("", "n", "s")
    ]


def novel(number: int, num_sentences: int = 12) -> str:
    """Return about a thousand characters that differ from those of any other number."""
    chance = random.Random(number)
    sentences = (
        " ".join(chance.choices(_words(), k=12)).capitalize() + ". " for _ in range(num_sentences)
    )
    return "".join(sentences)


def replies(*parts: bytes | float) -> Script:
    """Return a script that sends the bytes, waits and closes the connection."""

    def script(exchange: Exchange) -> None:
        for part in parts:
            if isinstance(part, bytes):
                exchange.send(part)
            else:
                exchange.pause(part)

    return script


def unknown_model(exchange: Exchange) -> None:
    message = f"The model `{exchange.request.model}` does not exist."
    error = {
        "message": message,
        "type": "NotFoundError",
        "param": "model",
        "code": "model_not_found",
    }
    exchange.answer_json({"error": error}, "404 Not Found")


def ok(exchange: Exchange) -> None:
    if exchange.request.json.get("stream"):
        exchange.send(EVENT_STREAM + say(*deltas(NOVEL)) + finish() + DONE)
    else:
        exchange.answer_json(whole(NOVEL))


def echo(exchange: Exchange) -> None:
    """Respond with the last message."""
    exchange.answer_json(whole(exchange.request.json["messages"][-1]["content"]))


def echo_late(exchange: Exchange) -> None:
    exchange.pause(0.3)
    echo(exchange)


def silent(exchange: Exchange) -> None:
    exchange.pause(60)


def stall(exchange: Exchange) -> None:
    exchange.send(EVENT_STREAM + say(*deltas(NOVEL)))
    exchange.pause(60)


def headers_only(exchange: Exchange) -> None:
    exchange.send(EVENT_STREAM)
    exchange.pause(60)


def drip(exchange: Exchange) -> None:
    """Stream new text every 20 ms for ten seconds."""
    exchange.send(EVENT_STREAM)
    for number in range(500):
        exchange.send(say(novel(number, 1)))
        exchange.pause(0.02)


def timed(exchange: Exchange) -> None:
    """Stream for one and a half seconds."""
    exchange.send(EVENT_STREAM)
    for number in range(30):
        exchange.send(say(novel(number, 1)))
        exchange.pause(0.05)
    exchange.send(finish() + DONE)


TIMED_TEXT = "".join(novel(number, 1) for number in range(30))

SCRIPTS: dict[str, Script] = {
    "ok": ok,
    "echo": echo,
    "echo-late": echo_late,
    "silent": silent,
    "stall": stall,
    "headers-only": headers_only,
    "drip": drip,
    "timed": timed,
}
