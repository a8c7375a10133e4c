"""A scripted upstream: a model's name says what it answers. It also serves the function's source."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dedup.integrations

Json = dict[str, Any]

SOURCE = Path(dedup.integrations.__file__).with_name("open_webui.py")
LOOP = "The cat sat on the mat and looked at the dog. "
REPEAT = "We keep invoices for ten years, as the law asks us to. "
OTHER = "Receipts are kept for six years in a separate folder. "
END = "Ask the records office if in doubt."


def _text(text: str, slot: str = "content", size: int = 9) -> Iterator[Json]:
    for at in range(0, len(text), size):
        yield {slot: text[at : at + size]}


def _call(arguments: str) -> Iterator[Json]:
    function = {"name": "note", "arguments": ""}
    yield {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
    for piece in _text(arguments, "arguments"):
        yield {"tool_calls": [{"index": 0, "function": piece}]}


def script(model: str) -> Iterator[Json | str]:
    """Yield the deltas of a model's answer, and its finish reason."""
    yield {"role": "assistant", "content": ""}
    if model == "reasons":
        yield from _text(LOOP * 40, "reasoning_content")
    if model == "thinks":
        yield from _text(f"<think>{LOOP * 40}</think>")
    if model == "calls":
        yield from _call(json.dumps({"text": LOOP * 40}))
        yield "tool_calls"
        return
    text = {"repeats": REPEAT + OTHER + REPEAT + END, "loops": REPEAT + LOOP * 60}.get(model)
    if model == "breaks":
        text = REPEAT + OTHER.rstrip() + "\n\n" + REPEAT[:30]
    yield from _text(text or REPEAT + OTHER + END)
    if model != "breaks":
        yield "stop"


MODELS = ("repeats", "loops", "reasons", "thinks", "calls", "breaks", "plain")


def chunks(model: str) -> Iterator[Json]:
    """Yield the chunks of a model's answer."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    for delta in script(model):
        reason = delta if isinstance(delta, str) else None
        choice = {"index": 0, "delta": {} if reason else delta, "finish_reason": reason}
        yield {**head, "choices": [choice]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *args: object) -> None:
        pass

    def _send(self, body: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.endswith(".py"):
            self._send(SOURCE.read_bytes(), "text/plain")
            return
        models = [{"id": name, "object": "model", "owned_by": "tests"} for name in MODELS]
        self._send(json.dumps({"object": "list", "data": models}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        events = list(chunks(body["model"]))
        if body.get("stream"):
            lines = [f"data: {json.dumps(event)}\n\n" for event in events]
            self._send("".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")
            return
        deltas = [event["choices"][0]["delta"] for event in events]
        content = "".join(delta.get("content") or "" for delta in deltas)
        choice = {"index": 0, "message": {"role": "assistant", "content": content}}
        choice["finish_reason"] = "stop"
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1}
        answer = {**head, "model": body["model"], "choices": [choice], "usage": {}}
        self._send(json.dumps(answer).encode())


def start() -> tuple[ThreadingHTTPServer, str]:
    """Start the upstream; return it and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"
