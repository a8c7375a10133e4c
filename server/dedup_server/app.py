"""The server as an ASGI application: its routes, and what starts and ends with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dedup.text.segmenter import load_punkt
from dedup.version import version
from dedup_server import web
from dedup_server.endpoints import ENDPOINTS
from dedup_server.engines.base import Engine
from dedup_server.engines.upstream.engine import UpstreamEngine
from dedup_server.errors import ApiError, model_not_found, not_ready, shutting_down
from dedup_server.exposition import CONTENT_TYPE
from dedup_server.guardrail import PATH as GUARDRAIL_PATH
from dedup_server.handlers import Check, Generation, GuardrailApi, PassThrough, Service
from dedup_server.http.cycle import DIRECT
from dedup_server.limits import StreamLimit
from dedup_server.openapi import document
from dedup_server.settings import Settings
from dedup_server.telemetry import Telemetry
from dedup_server.tracing import Tracer

__all__ = ["Service", "create_admin_app", "create_app"]

_encode = msgspec.json.Encoder().encode

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def create_app(
    settings: Settings,
    engine: Engine,
    telemetry: Telemetry | None = None,
    tracer: Tracer | None = None,
    *,
    waits_for_engine: bool | None = None,
) -> FastAPI:
    """Return the server as an ASGI application.

    The engine starts with it: `/health/ready` answers 200 when it is there.

    Args:
        settings: The operator's.
        engine: What generates the answers.
        telemetry: The metrics, if the engine counts into them too.
        tracer: Traces the requests.
        waits_for_engine: Startup ends when the engine has started, and not before. None is what
            the settings say.
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
        waits = settings.opens_when_ready if waits_for_engine is None else waits_for_engine
        if waits:
            await asyncio.wait({app.state.starting})
        try:
            yield
        finally:
            app.state.starting.cancel()
            await asyncio.gather(app.state.starting, return_exceptions=True)
            app.state.guardrail.close()
            await app.state.service.engine.stop()
            tracer.close()

    app = App(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = Service(settings, engine, StreamLimit(settings.max_streams))
    app.state.telemetry = telemetry
    app.state.starting = None
    app.state.is_draining = False
    app.add_middleware(EndsInOrder)
    if settings.cors_origins:
        app.answers_browsers = True
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=_METHODS,
            allow_headers=["*"],
            expose_headers=["*"],
        )
    for kind, handler in _ON_ERROR.items():
        app.add_exception_handler(kind, handler)

    def require_started() -> None:
        _require_started(app)

    def authorized(request: Request) -> Service:
        service: Service = app.state.service
        service.keys.check(request.scope["headers"])
        require_started()
        return service

    paths = []
    for endpoint in ENDPOINTS.values():
        path = "/v1" + endpoint.path
        paths.append(path)
        generation = Generation(endpoint, app, require_started, telemetry, tracer)
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

    app.router.routes.extend(_health_routes(app))
    has_metrics = settings.admin_port is None
    if has_metrics:
        app.router.routes.append(_metrics_route(app))
    app.router.routes.append(Route("/check", Check(app, require_started), methods=["POST"]))
    guardrail = GuardrailApi(app, require_started, telemetry)
    app.state.guardrail = guardrail.guardrail
    app.router.routes.append(Route(GUARDRAIL_PATH, guardrail, methods=["POST"]))
    routes = [
        *paths,
        "/check",
        GUARDRAIL_PATH,
        "/v1/models",
        "/health/live",
        "/health/ready",
        *(["/metrics"] if has_metrics else []),
        "/openapi.json",
    ]

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return _json_response(200, document(is_local=engine.is_local, has_metrics=has_metrics))

    @app.get("/")
    async def root(request: Request) -> Response:
        if web.wants_page(request):
            return await web.page(request)
        names = app.state.service.engine.models
        told = {"name": "dedup", "version": version(), "models": names, "routes": routes}
        return _json_response(200, told, {"Vary": "Accept"})

    app.router.routes.extend(web.routes)

    if isinstance(engine, UpstreamEngine):
        own = dict.fromkeys(paths, "POST") | {"/v1/models": "GET, HEAD"}
        forwards = PassThrough(app, require_started, own)
        for path in ("/v1/{path:path}", *settings.forwarded_paths):
            app.router.routes.append(Route(path, forwards, methods=_METHODS))
    return app


def create_admin_app(app: FastAPI) -> Starlette:
    """Return the application of the admin port.

    Args:
        app: the server's application.
    """
    routes = [*_health_routes(app), _metrics_route(app)]
    return Starlette(routes=routes, exception_handlers=_ON_ERROR)


def _health_routes(app: FastAPI) -> list[Route]:
    async def live(request: Request) -> Response:
        return _json_response(200, {"status": "ok"})

    async def ready(request: Request) -> Response:
        if app.state.is_draining:
            raise shutting_down()
        _require_started(app)
        if not await app.state.service.engine.ready():
            raise not_ready("the engine does not answer")
        return _json_response(200, {"status": "ok"})

    return [Route("/health/live", live), Route("/health/ready", ready)]


def _metrics_route(app: FastAPI) -> Route:
    telemetry: Telemetry = app.state.telemetry

    def metrics(request: Request) -> Response:
        # In a thread: with many models it takes long enough for streams to falter.
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE)

    return Route("/metrics", metrics)


def _require_started(app: FastAPI) -> None:
    starting: asyncio.Task[None] | None = app.state.starting
    if starting is None or not starting.done() or starting.cancelled() or starting.exception():
        raise not_ready("the engine is not ready yet")


class App(FastAPI):
    """Takes the generation endpoints past the middleware.

    Each middleware would wrap `send` once more for every chunk. Only the requests of pages of other
    origins, where they are allowed, go through it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.direct: dict[tuple[str, str], ASGIApp] = {}
        self.answers_browsers = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct: ASGIApp | None = None
        if scope["type"] == "http":
            direct = self.direct.get((scope["method"], scope["path"]))
            if direct and self.answers_browsers and _has_origin(scope):
                scope.get("extensions", {}).pop(DIRECT, None)  # it would pass the middleware by
                direct = None
        await (direct or super().__call__)(scope, receive, send)


class EndsInOrder:
    """Middleware that answers requests which are cancelled because the server stops."""

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


def _has_origin(scope: Scope) -> bool:
    return any(name == b"origin" for name, _ in scope["headers"])


def _described(model: str, engine: Engine) -> dict[str, Any]:
    return {
        "object": "model",
        "created": 0,
        "owned_by": "dedup",
        **engine.describe(model),
        "id": model,
    }


def _json_response(
    status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    return Response(_encode(body), status, headers, media_type="application/json")


def _refusal(error: ApiError) -> Response:
    headers = {"Retry-After": error.retry_after} if error.retry_after else None
    return _json_response(error.status, error.body(), headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _refusal(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {
        404: f"there is no {request.url.path}",
        405: f"{request.url.path} does not take {request.method}",
    }
    reason = reasons.get(error.status_code, error.detail)
    body = ApiError(error.status_code, reason).body()
    headers = dict(error.headers) if error.headers else None
    return _json_response(error.status_code, body, headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _json_response(500, ApiError(500, "the server failed", type="server_error").body())


_ON_ERROR: dict[Any, Callable[[Request, Exception], Any]] = {
    ApiError: _refused,
    HTTPException: _no_route,
    Exception: _failed,
}
