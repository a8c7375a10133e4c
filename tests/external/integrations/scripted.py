"""Texts of scripted models, and a server that streams them on a real socket and records who hangs up."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOVEL = "The river rose in the night, and by morning the bridge was gone. Nobody in the village had heard it fall."
ONCE = "The boat was tied to the northern pier. A lamp burned in the harbour office. "
STUTTER = ONCE + "The boat was tied to the northern pier. Nobody was on deck."
KEPT = ONCE + "Nobody was on deck."
LOOP = "I am going round and round in circles here. "
NUM_LOOPS = 60  # far more than is needed


def pieces(text: str, size: int = 7) -> list[str]:
    """Return a text in pieces, as a model streams it."""
    return [text[at : at + size] for at in range(0, len(text), size)]


class Upstream:
    """Serves chat completions: the last message of the user, `loop` or `novel`, says which.

    Attributes:
        hung_up: Set once a client has left in the middle of a stream.
        num_sent: Chunks of the last stream that were sent.
    """

    def __init__(self) -> None:
        self.url = ""
        self.hung_up = threading.Event()
        self.num_sent = 0


@contextmanager
def sse_upstream() -> Iterator[Upstream]:
    """Serve in threads."""
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None: ...

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = [one["content"] for one in body["messages"] if one["role"] == "user"][-1]
            if isinstance(text, list):
                text = text[0]["text"]
            text = NOVEL + LOOP * 20_000 if text == "loop" else NOVEL
            if not body.get("stream"):
                self._whole(text)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                for number, piece in enumerate(pieces(text)):
                    upstream.num_sent = number
                    self._event(_chunk({"role": "assistant", "content": piece}, None))
                self._event(_chunk({}, "stop"))
                self._event("[DONE]")
            except OSError:
                upstream.hung_up.set()
            self.close_connection = True

        def _event(self, data: Any) -> None:
            text = data if isinstance(data, str) else json.dumps(data)
            self.wfile.write(f"data: {text}\n\n".encode())
            self.wfile.flush()

        def _whole(self, text: str) -> None:
            message = {"role": "assistant", "content": text}
            whole = {**_chunk({}, None), "object": "chat.completion", "usage": USAGE}
            whole["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
            data = json.dumps(whole).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    upstream.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield upstream
    server.shutdown()
    server.server_close()


USAGE = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}


def _chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [choice],
    }
