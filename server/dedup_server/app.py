"""The HTTP face: routes, errors in OpenAI's shape, and clients that leave."""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dedup.text.segmenter import load_punkt
from dedup.version import version
from dedup_server import web
from dedup_server.auth import Keys
from dedup_server.checking import answer, read_check
from dedup_server.completion import Completion
from dedup_server.engines.base import Engine
from dedup_server.engines.upstream.engine import UpstreamEngine, answer_headers
from dedup_server.errors import ApiError, invalid, model_not_found, shutting_down
from dedup_server.http.client import BrokenError
from dedup_server.http.protocol import IN_PARTS
from dedup_server.incidents import IncidentLog
from dedup_server.limits import RateLimit, StreamLimit
from dedup_server.logs import log_request
from dedup_server.openapi import document
from dedup_server.schema import Endpoint, Exchange, GenerationRequest, parse
from dedup_server.settings import Settings
from dedup_server.telemetry import CONTENT_TYPE, Telemetry
from dedup_server.tracing import Tracer

_log = logging.getLogger("dedup.server")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_LINGER_SECONDS = 2.0
_MAX_LOGGED_BYTES = 2000
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
_PATHS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
_STREAM_HEADERS = {
    b"content-type": b"text/event-stream; charset=utf-8",
    b"cache-control": b"no-cache",
    b"x-accel-buffering": b"no",
}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


class Service:
    """What answers requests, under one configuration. A reload puts another in its place; requests keep the one they began with."""

    def __init__(self, settings: Settings, engine: Engine, streams: StreamLimit) -> None:
        self.settings = settings
        self.engine = engine
        self.keys = Keys(settings.client_keys)
        self.rate = RateLimit(settings.requests_per_minute, time.monotonic)
        self.streams = streams
        path = settings.incident_log
        self.incidents = IncidentLog(path, settings.incident_log_max_bytes) if path else None


def create_app(
    settings: Settings,
    engine: Engine,
    telemetry: Telemetry | None = None,
    tracer: Tracer | None = None,
) -> FastAPI:
    """The server as an ASGI application. The engine starts with it, beside it: `/health/ready` says when it is there.

    telemetry: given where the engine counts too.
    """
    telemetry = telemetry or Telemetry(engine.models)
    tracer = tracer or Tracer()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def start() -> None:
            await asyncio.to_thread(load_punkt)
            await engine.start()
            telemetry.learn(engine.models)

        app.state.starting = asyncio.create_task(start())
        if (
            settings.workers > 1
        ):  # no connection may come to a worker that cannot answer while another can
            await asyncio.wait({app.state.starting})
        try:
            yield
        finally:
            app.state.starting.cancel()
            await asyncio.gather(app.state.starting, return_exceptions=True)
            await app.state.service.engine.stop()
            tracer.close()

    app = App(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = Service(settings, engine, StreamLimit(settings.max_streams))
    app.add_middleware(EndsInOrder)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)

    def require_started() -> None:
        starting: asyncio.Task[None] = app.state.starting
        if not starting.done() or starting.exception():
            raise ApiError(
                503,
                "the engine is not ready yet",
                type="server_error",
                code="not_ready",
                retry_after="1",
            )

    def authorized(request: Request) -> Service:
        service: Service = app.state.service
        service.keys.check(request.scope["headers"])
        require_started()
        return service

    paths = {path: endpoint for path, endpoint in _PATHS.items() if endpoint in engine.requests}
    for path, endpoint in paths.items():
        generation = Generation(endpoint, require_started, app, telemetry, tracer)
        app.direct["POST", path] = generation
        app.router.routes.append(Route(path, generation, methods=["POST"]))

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        engine = authorized(request).engine
        await engine.ready()  # an upstream's list may have changed
        listed = [_described(name, engine) for name in engine.models]
        return _json_response(200, {"object": "list", "data": listed})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        engine = authorized(request).engine
        if name not in engine.models:
            raise model_not_found(name, engine.models)
        return _json_response(200, _described(name, engine))

    @app.head("/health/live")
    @app.get("/health/live")
    async def live() -> Response:
        return _json_response(200, {"status": "ok"})

    @app.head("/health/ready")
    @app.get("/health/ready")
    async def ready() -> Response:
        require_started()
        if not await app.state.service.engine.ready():
            raise ApiError(
                503,
                "the engine does not answer",
                type="server_error",
                code="not_ready",
                retry_after="1",
            )
        return _json_response(200, {"status": "ok"})

    @app.get("/metrics")
    def metrics() -> (
        Response
    ):  # in a thread: with many models it takes long enough for streams to falter
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE)

    app.router.routes.append(Route("/check", Check(app), methods=["POST"]))
    routes = [
        *paths,
        "/check",
        "/v1/models",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/openapi.json",
    ]

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return _json_response(200, document(engine.requests, paths))

    @app.get("/")
    async def root(request: Request) -> Response:
        if web.wants_page(request):
            return await web.page(request)
        names = app.state.service.engine.models
        told = {"name": "dedup", "version": version(), "models": names, "routes": routes}
        return _json_response(200, told, {"Vary": "Accept"})

    app.router.routes.extend(web.routes)

    if isinstance(engine, UpstreamEngine):
        own = {*paths, "/v1/models"}
        app.router.routes.append(
            Route("/v1/{path:path}", PassThrough(require_started, app, own), methods=_METHODS)
        )
    return app


class App(FastAPI):
    """Takes the generation endpoints past the middleware, each of which would wrap `send` once more for every chunk."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.direct: dict[tuple[str, str], ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = (
            self.direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        )
        await (direct or super().__call__)(scope, receive, send)


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


class Generation:
    """An endpoint at which something is generated: reads the request, sends the answer, streamed or whole, and ends it as soon as
    its reader leaves, even before its first token."""

    def __init__(
        self,
        endpoint: Endpoint,
        require_started: Callable[[], None],
        app: FastAPI,
        telemetry: Telemetry,
        tracer: Tracer,
    ) -> None:
        self._endpoint: Endpoint = endpoint
        self._require_started = require_started
        self._app = app
        self._telemetry = telemetry
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _exchange(scope)
        service: Service = self._app.state.service
        parsed: GenerationRequest | None = None
        completion: Completion | None = None
        error: ApiError | None = None
        try:
            _admit(service, scope, exchange)
            exchange.raw = await read_body(receive, exchange, service.settings)
            parsed = self._parse(service.engine, exchange)
            self._require_started()
            service.engine.validate(parsed)
            with service.streams.one():
                settings = service.settings
                completion = Completion(
                    parsed,
                    service.engine,
                    settings.policy,
                    self._telemetry,
                    heal=settings.heal,
                    incidents=service.incidents,
                )
                with self._tracer.span(parsed, completion):
                    async with _Watch(receive, completion.leave):
                        await (self._stream if parsed.stream else self._whole)(
                            completion, exchange, scope, send
                        )
        except ApiError as refused:
            error = refused
            if completion is None:
                label = self._telemetry.model_label(exchange.model)
                self._telemetry.count("requests", 1, label, self._endpoint, "rejected")
            await _refuse(error, exchange, receive, send)
        except asyncio.CancelledError:  # the server stops, and the request was not even complete
            error = shutting_down()
            await _refuse(error, exchange, receive, send)
        except Exception:
            _log.exception("request_id=%s: the server failed", exchange.request_id)
            error = ApiError(500, "the server failed", type="server_error")
            await _refuse(error, exchange, receive, send)
        finally:
            more = completion.report() if completion else {"outcome": "rejected"}
            if parsed and service.settings.log_prompts:
                more["request"] = exchange.raw[:_MAX_LOGGED_BYTES].decode("utf-8", "replace")
            stream = bool(parsed.stream) if parsed else None
            _log_exchange(
                scope, exchange, error.status if error else 200, error, stream=stream, **more
            )

    def _parse(self, engine: Engine, exchange: Exchange) -> GenerationRequest:
        try:
            body = _decode(exchange.raw)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from None
        model = body.get("model") if isinstance(body, dict) else None
        exchange.model = model if isinstance(model, str) else None
        return parse(engine.requests, self._endpoint, body, exchange)

    async def _whole(
        self, completion: Completion, exchange: Exchange, scope: Scope, send: Send
    ) -> None:
        body = await completion.collect()
        await _send_whole(
            send, 200, body, [(b"content-type", b"application/json"), *_headers(exchange)]
        )

    async def _stream(
        self, completion: Completion, exchange: Exchange, scope: Scope, send: Send
    ) -> None:
        reader = scope.get("extensions", {}).get(IN_PARTS) or _InParts(send)

        def begin(
            events: bytes,
        ) -> Awaitable[None] | None:  # until now a refusal could still be a status
            more = [header for header in _headers(exchange) if header[0] not in _STREAM_HEADERS]
            return reader.begin(_clean([*_STREAM_HEADERS.items(), *more]), events)

        await reader.end(await completion.stream(begin, reader.write))


class _InParts:
    """`dedup_server.http.protocol.InParts` where another server runs the application."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def begin(self, headers: list[tuple[bytes, bytes]], part: bytes) -> Awaitable[None]:
        return asyncio.ensure_future(self._begin(headers, part))

    def write(self, part: bytes) -> Awaitable[None]:
        return asyncio.ensure_future(self._write(part, more=True))

    async def end(self, part: bytes) -> None:
        await self._write(part, more=False)

    async def _begin(self, headers: list[tuple[bytes, bytes]], part: bytes) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(part, more=True)

    async def _write(self, part: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": more})


class PassThrough:
    """Everything else that an upstream has: request and answer go through untouched."""

    def __init__(
        self, require_started: Callable[[], None], app: FastAPI, own: Collection[str]
    ) -> None:
        self._require_started = require_started
        self._app = app
        self._own = own  # paths that this server answers itself

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._own:
            raise HTTPException(
                405, headers={"Allow": "GET, HEAD" if scope["path"] == "/v1/models" else "POST"}
            )
        exchange = _exchange(scope)
        service: Service = self._app.state.service
        status = 200
        error: ApiError | None = None
        try:
            _admit(service, scope, exchange)
            exchange.raw = await read_body(receive, exchange, service.settings)
            self._require_started()
            assert isinstance(service.engine, UpstreamEngine)
            path = _safe_path(scope)
            with service.streams.one():
                status = await self._forward(service.engine, path, exchange, scope, receive, send)
        except ApiError as refused:
            error, status = refused, refused.status
            await _refuse(refused, exchange, receive, send)
        finally:
            _log_exchange(scope, exchange, status, error)

    async def _forward(
        self,
        engine: UpstreamEngine,
        path: str,
        exchange: Exchange,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> int:
        async with _Watch(receive):
            response = await engine.forward(scope["method"], path, exchange)
            try:
                headers = [
                    *exchange.engine_headers,
                    (b"x-request-id", exchange.request_id.encode("latin-1")),
                ]
                headers += (
                    [(b"content-length", length)]
                    if (length := response.header(b"content-length"))
                    else []
                )
                await send(
                    {
                        "type": "http.response.start",
                        "status": response.status,
                        "headers": _clean(headers),
                    }
                )
                while (received := response.take_raw()) != b"":
                    if received is None:
                        await response.more()
                    else:
                        await send(
                            {"type": "http.response.body", "body": received, "more_body": True}
                        )
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except (BrokenError, TimeoutError) as error:
                # The status is sent: only a connection that breaks, without a last chunk, can say that the answer did.
                _log.warning(
                    "request_id=%s: the upstream broke off: %s", exchange.request_id, error
                )
            finally:
                response.close()
            return response.status
        return 499  # as nginx logs a client that left


class Check:
    """Says how a text repeats itself. Texts are checked one after another, so that they do not take the processor from the streams; the
    check of a client that left is given up."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _exchange(scope)
        service: Service = self._app.state.service
        error: ApiError | None = None
        try:
            _admit(service, scope, exchange)
            exchange.raw = await read_body(receive, exchange, service.settings)
            request = read_check(exchange.raw, service.settings.policy)
            async with _Watch(receive):
                async with self._turn:
                    body = await answer(request)
                await _send_whole(
                    send, 200, body, [(b"content-type", b"application/json"), *_headers(exchange)]
                )
        except ApiError as refused:
            error = refused
            await _refuse(refused, exchange, receive, send)
        finally:
            _log_exchange(scope, exchange, error.status if error else 200, error)


class _Watch:
    """Cancels the task that opened it as soon as the client leaves; then nothing of that is seen outside of the `async with`."""

    def __init__(self, receive: Receive, on_leave: Callable[[], None] | None = None) -> None:
        self._receive = receive
        self._on_leave = on_leave
        self.gone = False

    async def __aenter__(self) -> "_Watch":
        self._task = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = asyncio.create_task(self._until_gone())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        if self._watching:
            self._watching.cancel()
        # Its traceback holds this object: without a way back, all of the request is freed now and not by the garbage collector.
        self._watching = self._on_leave = None
        task, self._task = self._task, None
        if self.gone and task is not None:
            task.uncancel()
        return self.gone and kind is asyncio.CancelledError

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self.gone = True
            if self._on_leave:
                self._on_leave()
            self._task.cancel()


async def read_body(receive: Receive, exchange: Exchange, settings: Settings) -> bytes:
    """The request's body. Raises `ApiError` (413, 408)."""
    max_bytes = settings.max_body_bytes
    length = next((value for name, value in exchange.headers if name == b"content-length"), None)
    if length is not None and int(length) > max_bytes:
        raise ApiError(413, f"the body is larger than {max_bytes} bytes", code="body_too_large")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(
                        400, "the client left before its request was complete", code="client_gone"
                    )
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > max_bytes:
                    raise ApiError(
                        413, f"the body is larger than {max_bytes} bytes", code="body_too_large"
                    )
                if not message.get("more_body"):
                    exchange.is_read = True
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not come within {settings.body_timeout_seconds:g} s",
            code="too_slow",
        ) from None


def _exchange(scope: Scope) -> Exchange:
    headers = scope["headers"]
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    return Exchange(
        request_id=request_id,
        began=time.perf_counter(),
        headers=headers,
        query=scope["query_string"],
    )


def _admit(service: Service, scope: Scope, exchange: Exchange) -> None:
    """Notes who asks. Raises `ApiError` (401, 429)."""
    exchange.caller = service.keys.check(exchange.headers)
    client = scope.get("client")
    service.rate.take(exchange.caller or (client[0] if client else ""))


def _safe_path(scope: Scope) -> str:
    """The path below `/v1` as it came. Raises `ApiError` (400) where a server could read it as another one."""
    path: str = scope["raw_path"].decode("ascii")
    decoded: str = scope["path"]
    if (
        "//" in decoded
        or "\\" in decoded
        or any(part in (".", "..") for part in decoded.split("/"))
        or not decoded.isprintable()
    ):
        raise invalid("the path is ambiguous", code="invalid_path")
    return path.removeprefix("/v1")


def _described(model: str, engine: Engine) -> dict[str, Any]:
    described = engine.describe(model) if isinstance(engine, UpstreamEngine) else {}
    return {"object": "model", "created": 0, "owned_by": "dedup", **described, "id": model}


def _headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    return [
        *answer_headers(exchange.engine_headers),
        (b"x-request-id", exchange.request_id.encode("latin-1")),
    ]


def _clean(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers whose values cannot end a line: what an upstream sends says something in its own place only."""
    return [(name, value.translate(None, b"\r\n\0")) for name, value in headers]


async def _send_whole(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    headers = [*_clean(headers), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(error: ApiError, exchange: Exchange, receive: Receive, send: Send) -> None:
    """Sends the error. Of a body that has not been read yet the rest is taken for a while, so that its sender gets to read why."""
    headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", exchange.request_id.encode("latin-1")),
    ]
    if error.retry_after:
        headers.append((b"retry-after", error.retry_after.encode("latin-1")))
    body = _encode(error.body())
    if exchange.is_read or not any(
        name in (b"content-length", b"transfer-encoding") for name, _ in exchange.headers
    ):
        await _send_whole(send, error.status, body, headers)
        return
    headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": _clean(headers)})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _json_response(
    status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    return Response(_encode(body), status, headers, media_type="application/json")


def _refusal(error: ApiError) -> Response:
    return _json_response(
        error.status,
        error.body(),
        {"Retry-After": error.retry_after} if error.retry_after else None,
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _refusal(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {
        404: f"there is no {request.url.path}",
        405: f"{request.url.path} does not take {request.method}",
    }
    body = ApiError(error.status_code, reasons.get(error.status_code, error.detail)).body()
    return _json_response(error.status_code, body, dict(error.headers) if error.headers else None)


async def _failed(request: Request, error: Exception) -> Response:
    return _json_response(500, ApiError(500, "the server failed", type="server_error").body())


def _log_exchange(
    scope: Scope, exchange: Exchange, status: int, error: ApiError | None, **more: Any
) -> None:
    client = scope.get("client")
    log_request(
        request_id=exchange.request_id,
        method=scope["method"],
        path=scope["path"],
        status=status,
        client=client[0] if client else None,
        key=exchange.caller,
        model=exchange.model,
        upstream=exchange.upstream,
        upstream_status=exchange.upstream_status,
        ms=round((time.perf_counter() - exchange.began) * 1000, 1),
        error=error.code or error.type if error else None,
        **more,
    )
