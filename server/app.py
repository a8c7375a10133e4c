"""The HTTP face: routes, errors in OpenAI's shape, and clients that leave."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dedup.segmenter import load_punkt
from server.auth import Keys
from server.completion import Completion
from server.engines.base import Engine
from server.engines.checkpoint import require_checkpoint
from server.engines.upstream import UpstreamEngine
from server.errors import ApiError, StartupError, invalid, model_not_found, shutting_down
from server.schema import Endpoint, parse
from server.settings import Settings
from server.telemetry import CONTENT_TYPE, Telemetry, package_version

_log = logging.getLogger("dedup.server")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

DEMO_MODEL = Path(__file__).parent / "demo_model"

_GRACE_SECONDS = 10
_GOODBYE_SECONDS = 1  # of them; enough to send what was held and the error
_ROUTES = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/health/live", "/health/ready", "/metrics"]


def create_app(settings: Settings, engine: Engine, telemetry: Telemetry | None = None) -> FastAPI:
    """The server as an ASGI application. The engine starts with it, beside it: `/health/ready` says when it is there.

    telemetry: given where the engine counts too.
    """
    telemetry = telemetry or Telemetry(engine.models)
    keys = Keys(key.get_secret_value() for key in settings.api_keys)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def start() -> None:
            await asyncio.to_thread(load_punkt)
            await engine.start()
            telemetry.learn(engine.models)

        app.state.starting = asyncio.create_task(start())
        try:
            yield
        finally:
            app.state.starting.cancel()
            await asyncio.gather(app.state.starting, return_exceptions=True)
            await engine.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(EndsInOrder)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)

    def require_started() -> None:
        starting: asyncio.Task[None] = app.state.starting
        if not starting.done() or starting.exception():
            raise ApiError(503, "the engine is not ready yet", type="server_error", code="not_ready", retry_after="1")

    def authorize(request: Request) -> str | None:
        """The key that the client came with. Raises `ApiError` for a wrong one."""
        authorization = request.headers.get("authorization")
        keys.check(authorization.encode("latin-1") if authorization else None)
        return authorization

    async def generate(request: Request, endpoint: Endpoint) -> Response:
        label = telemetry.model_label(engine.models[0] if engine.models else None)
        try:
            authorization = authorize(request)
            body = await _json(request, settings.max_body_bytes)
            if isinstance(body, dict) and isinstance(body.get("model"), str):
                label = telemetry.model_label(body["model"])
            parsed = parse(endpoint, body, authorization)
            require_started()
            # An upstream may know more models than it lists; whether it does is for it to say.
            if parsed.model is not None and not isinstance(engine, UpstreamEngine) and parsed.model not in engine.models:
                raise model_not_found(parsed.model, engine.models)
            engine.validate(parsed)
        except ApiError:
            telemetry.count("requests", 1, label, endpoint, "rejected")
            raise
        completion = Completion(parsed, engine, settings.policy, telemetry)
        return Answer(completion, streams=bool(parsed.stream))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await generate(request, "chat")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await generate(request, "completions")

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        authorize(request)
        require_started()
        await engine.ready()  # an upstream's list may have changed
        listed = [_described(name) for name in engine.models]
        return _json_response(200, {"object": "list", "data": listed})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        authorize(request)
        require_started()
        if name not in engine.models:
            raise model_not_found(name, engine.models)
        return _json_response(200, _described(name))

    @app.head("/health/live")
    @app.get("/health/live")
    async def live() -> Response:
        return _json_response(200, {"status": "ok"})

    @app.head("/health/ready")
    @app.get("/health/ready")
    async def ready() -> Response:
        require_started()
        if not await engine.ready():
            raise ApiError(503, "the engine does not answer", type="server_error", code="not_ready", retry_after="1")
        return _json_response(200, {"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE)

    @app.get("/")
    async def root() -> Response:
        return _json_response(200, {"name": "dedup", "version": package_version(), "models": engine.models, "routes": _ROUTES})

    return app


class EndsInOrder:
    """A request that is cancelled, because the server stops, gets an answer if it has none yet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if not begun:
                await _refusal(shutting_down())(scope, receive, send)


class Answer(Response):
    """Sends a completion, as a stream or whole, and ends it as soon as its reader leaves, even before its first token."""

    def __init__(self, completion: Completion, *, streams: bool) -> None:
        super().__init__()
        self._completion = completion
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._stream(send) if self._streams else self._whole(scope, receive, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # a request is cancelled only where the server stops
            self._completion.break_off()
            sending.cancel()
            await asyncio.wait({sending})
            if sending.cancelled():
                raise
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _json_response(200, await self._completion.collect())
        await response(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        async with contextlib.aclosing(self._completion.stream()) as events:
            first = await anext(events)  # a refusal is raised here, while a status can still be sent
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            headers.append((b"x-accel-buffering", b"no"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _json(request: Request, max_bytes: int) -> Any:
    """The request's body, decoded. Raises `ApiError` (413, 400)."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise ApiError(413, f"the body is larger than {max_bytes} bytes", code="body_too_large")
    try:
        return _decode(bytes(body))
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _described(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "dedup"}


def _json_response(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, media_type="application/json")


def _refusal(error: ApiError) -> Response:
    return _json_response(error.status, error.body(), {"Retry-After": error.retry_after} if error.retry_after else None)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _refusal(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {404: f"there is no {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
    body = ApiError(error.status_code, reasons.get(error.status_code, error.detail)).body()
    return _json_response(error.status_code, body, dict(error.headers) if error.headers else None)


async def _failed(request: Request, error: Exception) -> Response:
    return _json_response(500, ApiError(500, "the server failed", type="server_error").body())


def run(settings: Settings) -> None:
    """Serves until interrupted. Raises `StartupError` when it cannot begin."""
    if settings.model is not None:
        require_checkpoint(settings.model)
    listener = _listen(settings.host, settings.port)
    try:
        telemetry = Telemetry()
        engine = _engine(settings, telemetry)
        telemetry.learn(engine.models)
        app = create_app(settings, engine, telemetry)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(Server(config), app, listener, settings, engine))
    finally:
        listener.close()


class Server(uvicorn.Server):
    """Told to stop, waits for the requests in progress; breaks them off, each with an error, before uvicorn drops them, or when
    told twice. Signals are not raised again when all is done, as uvicorn would: an end in order exits 0."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._break_off)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = self.config.timeout_graceful_shutdown or 0
        if num_requests := len(self.server_state.tasks):
            _log.info("stopping: waits up to %d s for %d request%s", grace, num_requests, "s" * (num_requests > 1))
        timer = asyncio.get_running_loop().call_later(grace - _GOODBYE_SECONDS, self._break_off)
        await super().shutdown(sockets)
        timer.cancel()

    def _break_off(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()


async def _serve(server: uvicorn.Server, app: FastAPI, listener: socket.socket, settings: Settings, engine: Engine) -> None:
    """Raises `StartupError` when the engine does not start."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not serving.done() and not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    if serving.done():
        await serving
        return
    starting: asyncio.Task[None] = app.state.starting
    await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
    failure = starting.exception() if starting.done() and not starting.cancelled() else None
    if failure:
        server.should_exit = True
    elif starting.done():
        _greet(settings, listener.getsockname()[1])
        if not await engine.ready():
            _log.warning("%s does not answer (yet): requests fail, and /health/ready says 503, until it does", settings.upstream)
    await serving
    if failure:
        raise failure if isinstance(failure, StartupError) else StartupError(f"the engine did not start: {failure}")


def _engine(settings: Settings, telemetry: Telemetry) -> Engine:
    if settings.upstream:
        return UpstreamEngine(settings, telemetry)
    try:
        from server.engines.local import LocalEngine
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers", "accelerate"):
            raise StartupError(
                f'a model in this process needs {error.name}: pip install "dedup-llm[local]", or use --upstream URL'
            ) from None
        raise
    return LocalEngine(settings.model or str(DEMO_MODEL), settings.model_name, settings.max_concurrent, settings.device)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"cannot listen on {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port") from None
    return listener


def _greet(settings: Settings, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    model = '"model": "MODEL", ' if settings.upstream else ""
    body = "{" + model + '"stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
    behind = settings.upstream or settings.model or "the bundled demo model"
    print(f"dedup listens on {url} (model: {behind})")
    print(f"try: curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'", flush=True)
