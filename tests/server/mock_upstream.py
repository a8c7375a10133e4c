"""A small OpenAI-compatible upstream on a real socket, and our server in front of it. Each runs its own loop in a thread."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from aiohttp import web
from fastapi import FastAPI

from dedup_server.app import create_app
from dedup_server.engines.base import Engine
from dedup_server.engines.upstream.engine import UpstreamEngine
from dedup_server.http.protocol import Limits, protocol_with
from dedup_server.settings import Settings, load
from dedup_server.telemetry import Telemetry

NOVEL = "The river rose in the night, and by morning the bridge was gone. Nobody in the village had heard it fall."
LOOP = "I am going round and round in circles here. "


@dataclass
class Upstream:
    """What the upstream does, told by the model asked for, and what it saw."""

    url: str = ""
    owned_by: str = "nobody"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    traceparents: list[str | None] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "object": "list",
                "data": [
                    {"id": name, "owned_by": self.owned_by} for name in ("novel", "loop", "stutter")
                ],
            }
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.authorizations.append(request.headers.get("Authorization"))
        self.traceparents.append(request.headers.get("traceparent"))
        self.asked.set()
        try:
            return await self._answer(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up.set()
            raise

    async def respond(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        part = {"type": "output_text", "text": NOVEL, "annotations": []}
        item = {
            "id": "i",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        response = {
            "id": "r",
            "object": "response",
            "status": "completed",
            "model": "novel",
            "output": [item],
        }
        if self.bodies[-1].get("stream"):
            place = {"item_id": "i", "output_index": 0, "content_index": 0}
            return await self._events(
                request,
                {
                    "type": "response.created",
                    "sequence_number": 0,
                    "response": {**response, "status": "in_progress", "output": []},
                },
                {
                    "type": "response.output_text.delta",
                    "sequence_number": 1,
                    **place,
                    "delta": NOVEL,
                },
                {"type": "response.output_text.done", "sequence_number": 2, **place, "text": NOVEL},
                {"type": "response.completed", "sequence_number": 3, "response": response},
            )
        return web.json_response(response)

    async def say(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        if self.bodies[-1].get("stream"):
            return await self._events(
                request,
                {
                    "type": "message_start",
                    "message": {
                        "id": "m",
                        "role": "assistant",
                        "content": [],
                        "usage": {"input_tokens": 3},
                    },
                },
                {
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "text", "text": ""},
                },
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": NOVEL},
                },
                {"type": "content_block_stop", "index": 0},
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"output_tokens": 9},
                },
                {"type": "message_stop"},
            )
        content = [{"type": "text", "text": NOVEL}]
        return web.json_response(
            {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "content": content,
                "stop_reason": "end_turn",
            }
        )

    async def _events(self, request: web.Request, *events: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for one in events:
            await response.write(b"event: " + one["type"].encode() + b"\n" + event(one))
        return response

    async def echo(self, request: web.Request) -> web.Response:
        """The request itself, for what is passed through untouched."""
        body = await request.read()
        seen = {
            "X-Method": request.method,
            "X-Path": request.raw_path,
            "X-Kind": request.headers.get("Content-Type", ""),
        }
        return web.Response(
            body=body, status=201, headers={**seen, "Content-Type": "application/octet-stream"}
        )

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        model = body.get("model", "novel")
        if model == "unknown":
            error = {
                "message": "The model `unknown` does not exist.",
                "type": "NotFoundError",
                "param": "model",
                "code": 404,
            }
            return web.json_response({"error": error}, status=404)
        if model == "busy":
            return web.json_response(
                {"error": {"message": "busy", "type": "rate_limit"}},
                status=429,
                headers={"Retry-After": "7"},
            )
        if model == "plain":
            return web.Response(text="gateway down", status=503)
        if model == "moved":
            raise web.HTTPFound("http://127.0.0.1:9/")
        if model == "silent":
            await asyncio.sleep(60)
        text = LOOP * 200 if model == "loop" else NOVEL
        if str(model).startswith("stutter"):  # until it is to go on with what it has said
            said = (
                body["messages"][-1]["role"] == "assistant"
                if "messages" in body
                else body["prompt"] != "Hello"
            )
            text = " Then the carpenter came." if said else f"{NOVEL} {LOOP * 200}"
        chat = request.path.endswith("chat/completions")
        if not body.get("stream"):
            return web.json_response(whole(model, text, chat, int(body.get("n") or 1)))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if model == "malformed":
            await response.write(event(piece(model, NOVEL, chat)) + b"data: {oops\n\n")
            return response
        if model == "error-event":
            await response.write(
                event(piece(model, NOVEL, chat))
                + event({"error": {"message": "out of memory", "code": 500}})
            )
            return response
        if model == "stall":
            await response.write(event(piece(model, NOVEL, chat)))
            await asyncio.sleep(60)
        for at in range(0, len(text), 6):
            for choice in range(int(body.get("n") or 1)):
                await response.write(event(piece(model, text[at : at + 6], chat, choice)))
            if model in ("reset", "truncated") and at > 60:
                if model == "reset":
                    assert request.transport
                    request.transport.abort()  # type: ignore[attr-defined]
                return response
            if model == "loop":
                await asyncio.sleep(0.002)
        for choice in range(int(body.get("n") or 1)):
            await response.write(event(piece(model, "", chat, choice, "stop")))
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(event({**piece(model, "", chat), "choices": [], "usage": USAGE}))
        await response.write(b"data: [DONE]\n\n")
        return response


USAGE = {"prompt_tokens": 5, "completion_tokens": 25, "total_tokens": 30}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def piece(
    model: str, text: str, chat: bool, choice: int = 0, finish_reason: str | None = None
) -> dict[str, Any]:
    body = {"delta": {"content": text}} if chat else {"text": text}
    kind = "chat.completion.chunk" if chat else "text_completion"
    choices = [{"index": choice, **body, "finish_reason": finish_reason}]
    return {"id": "u1", "object": kind, "created": 1, "model": model, "choices": choices}


def whole(model: str, text: str, chat: bool, n: int) -> dict[str, Any]:
    body = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choices = [{"index": index, **body, "finish_reason": "stop"} for index in range(n)]
    kind = "chat.completion" if chat else "text_completion"
    return {
        "id": "u1",
        "object": kind,
        "created": 1,
        "model": model,
        "choices": choices,
        "usage": USAGE,
    }


@contextmanager
def upstream(mock: Upstream | None = None) -> Iterator[Upstream]:
    mock = mock or Upstream()
    with served(
        [
            web.get("/v1/models", mock.models),
            web.post("/v1/chat/completions", mock.generate),
            web.post("/v1/completions", mock.generate),
            web.post("/v1/responses", mock.respond),
            web.post("/v1/messages", mock.say),
            web.route("*", "/v1/{path:embeddings|files/.*}", mock.echo),
        ]
    ) as mock.url:
        yield mock


@contextmanager
def served(routes: Sequence[web.RouteDef]) -> Iterator[str]:
    """Serves them in a thread; gives the base URL, `/v1` included."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    stopping = asyncio.Event()
    urls: list[str] = []

    async def serve() -> None:
        app = web.Application()
        app.router.add_routes(routes)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        started.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()


@contextmanager
def proxy(upstream_url: str | None, **flags: Any) -> Iterator[str]:
    """Our server in front of `upstream_url`; gives its address."""
    settings = load(upstream=upstream_url, **flags)
    telemetry = Telemetry()
    with running(settings, UpstreamEngine(settings, telemetry), telemetry) as url:
        yield url


@contextmanager
def running(settings: Settings, engine: Engine, telemetry: Telemetry) -> Iterator[str]:
    """Run our server with an engine in a thread; give its address."""
    app = create_app(settings, engine, telemetry)
    limits = Limits(
        settings.max_header_bytes, settings.header_timeout_seconds, settings.idle_timeout_seconds
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            http=protocol_with(limits),
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        port = _port(server, thread, app)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def _port(server: uvicorn.Server, thread: threading.Thread, app: FastAPI) -> int:
    waiting = threading.Event()
    for _ in range(1000):
        if server.started and app.state.starting.done():
            return int(server.servers[0].sockets[0].getsockname()[1])
        assert thread.is_alive()
        waiting.wait(0.01)
    raise AssertionError("the server did not start")
