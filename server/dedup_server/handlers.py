"""The routes that take a request to an engine: one way in, one log line, one way to refuse."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from dedup.answer.agent_loops import AgentLoop, LoopFinder, find_loop
from dedup_server.auth import Keys
from dedup_server.checking import answer, read_check
from dedup_server.completion import Completion
from dedup_server.endpoints import Endpoint
from dedup_server.engines.base import Engine
from dedup_server.engines.upstream.engine import UpstreamEngine
from dedup_server.engines.upstream.server import answer_headers
from dedup_server.errors import ApiError, invalid, shutting_down
from dedup_server.guardrail import IDLE_SECONDS, Guardrail
from dedup_server.guardrail import read as read_call
from dedup_server.http.asgi import (
    AsgiConnection,
    Connection,
    Headers,
    Watch,
    check_length,
    clean,
    has_body,
    read_body,
    send_early,
    send_whole,
    too_large,
)
from dedup_server.http.client import BrokenError
from dedup_server.http.cycle import DIRECT
from dedup_server.incidents import IncidentLog
from dedup_server.limits import RateLimit, StreamLimit
from dedup_server.logs import log_request
from dedup_server.requests.base import Exchange, GenerationRequest, check_parts, parse
from dedup_server.settings import Settings
from dedup_server.telemetry import Telemetry
from dedup_server.tracing import Tracer

_log = logging.getLogger("dedup.server")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_MAX_LOGGED_BYTES = 2000
_MAX_LOGGED_CHARS = 200  # of a field that a client or an upstream chooses
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
_CLIENT_LEFT = 499  # as nginx logs it
_JSON = (b"content-type", b"application/json")
# Of what an upstream sends: it must not run as a part of this server's page.
_NO_PAGE = [(b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff")]
_STREAM_HEADERS = {
    b"content-type": b"text/event-stream; charset=utf-8",
    b"cache-control": b"no-cache",
    b"x-accel-buffering": b"no",
}


class Service:
    """Everything that answers requests, under one configuration.

    A reload puts another in its place; requests keep the one that they began with.
    """

    def __init__(self, settings: Settings, engine: Engine, streams: StreamLimit) -> None:
        self.settings = settings
        self.engine = engine
        self.keys = Keys(settings.client_keys)
        self.rate = RateLimit(settings.requests_per_minute, time.monotonic)
        self.streams = streams
        path = settings.incident_log
        self.incidents = IncidentLog(path, settings.incident_log_max_bytes) if path else None
        self._loops = LoopFinder(settings.repeatable_tools)

    def agent_loop(self, request: GenerationRequest) -> AgentLoop | None:
        """Return the loop that the agent is in which makes a request; None if it is in none."""
        history, options = request.agent_history, request.repetition
        if history is None:
            return None
        try:
            if options is not None and options.repeatable_tools:
                repeatable = {*self.settings.repeatable_tools, *options.repeatable_tools}
                return find_loop(history, repeatable=repeatable)
            return self._loops.find(history, len(request.exchange.raw))
        except Exception:  # a fault of ours must not cost the client its answer
            _log.exception("the search for an agent's loop failed")
            return None


class Handler:
    """An ASGI application for one route: admits a request, handles it, and logs how it ended.

    Args:
        app: Its state holds the `Service`.
        require_started: Raises `ApiError` while the engine is not ready.

    Attributes:
        is_limited: Its requests count towards those that a caller may make a minute.
        is_logged: Its requests are logged, and not only those that fail.
    """

    is_limited = True
    is_logged = True

    def __init__(self, app: FastAPI, require_started: Callable[[], None]) -> None:
        self._app = app
        self._require_started = require_started

    async def handle(
        self, service: Service, exchange: Exchange, connection: Connection, scope: Scope, send: Send
    ) -> int:
        """Answer a request whose body has been read, and return the status for the log.

        Raises:
            ApiError: Before anything was sent.
        """
        raise NotImplementedError

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """Return the body of an error, in the shape of the route's API."""
        return error.body()

    def note_refusal(self, exchange: Exchange) -> None:
        """Count a request that is refused."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _exchange_of(scope)
        service: Service = self._app.state.service
        connection: Connection = scope.get("extensions", {}).get(DIRECT)
        if connection is None:
            connection = AsgiConnection(receive, send)
        error: ApiError | None = None
        status = 200
        try:
            exchange.caller = service.keys.check(exchange.headers)
            if self.is_limited:
                service.rate.take(exchange.caller or _address_of(scope) or "")
            settings = service.settings
            max_bytes, timeout = settings.max_body_bytes, settings.body_timeout_seconds
            check_length(exchange.headers, max_bytes)
            body = connection.body()
            if body is None:
                body = await read_body(receive, max_bytes, timeout)
            elif len(body) > max_bytes:
                raise too_large(max_bytes)
            exchange.raw, exchange.is_read = body, True
            status = await self.handle(service, exchange, connection, scope, send)
        except ApiError as refused:
            error = refused
            self.note_refusal(exchange)
        except asyncio.CancelledError:  # the server stops, and nothing was sent yet
            error = shutting_down()
        except HTTPException:
            raise
        except Exception:
            _log.exception("request_id=%s: the server failed", exchange.request_id)
            error = ApiError(500, "the server failed", type="server_error")
        try:
            if error is not None:
                status = error.status
                await self._refuse(error, exchange, receive, send)
        finally:
            if error is not None or self.is_logged:
                self._log(exchange, scope, status, error)

    def _log(self, exchange: Exchange, scope: Scope, status: int, error: ApiError | None) -> None:
        log_request(
            request_id=exchange.request_id,
            method=scope["method"],
            path=_short(scope["path"]),
            status=status,
            client=_address_of(scope),
            key=exchange.caller,
            model=_short(exchange.model),
            upstream=exchange.upstream,
            upstream_status=exchange.upstream_status,
            ms=round((time.perf_counter() - exchange.began) * 1000, 1),
            error=_short(error.code or error.type) if error else None,
            **exchange.report,
        )

    async def _refuse(
        self, error: ApiError, exchange: Exchange, receive: Receive, send: Send
    ) -> None:
        headers = [_JSON, (b"x-request-id", exchange.request_id.encode("latin-1"))]
        if error.retry_after:
            headers.append((b"retry-after", error.retry_after.encode("latin-1")))
        body = _encode(self.error_body(error))
        if exchange.is_read or not has_body(exchange.headers):
            await send_whole(send, error.status, body, headers)
        else:
            await send_early(receive, send, error.status, body, headers)


class Generation(Handler):
    """An endpoint at which an answer is generated, streamed or whole.

    The engine stops as soon as the client leaves, even before the first token.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        app: FastAPI,
        require_started: Callable[[], None],
        telemetry: Telemetry,
        tracer: Tracer,
    ) -> None:
        super().__init__(app, require_started)
        self._endpoint = endpoint
        self._telemetry = telemetry
        self._tracer = tracer

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return self._endpoint.error_body(error)

    def note_refusal(self, exchange: Exchange) -> None:
        if "outcome" not in exchange.report:
            exchange.report["outcome"] = "rejected"
            label = self._telemetry.model_label(exchange.model)
            self._telemetry.count("requests", 1, label, self._endpoint.name, "rejected")

    async def handle(
        self, service: Service, exchange: Exchange, connection: Connection, scope: Scope, send: Send
    ) -> int:
        settings = service.settings
        request = self._parse(service.engine, exchange)
        exchange.report["stream"] = bool(request.stream)
        if settings.log_prompts:
            text = exchange.raw[:_MAX_LOGGED_BYTES].decode("utf-8", "replace")
            exchange.report["request"] = text
        self._require_started()
        loop = service.agent_loop(request)
        if loop is not None:
            shown = f"{loop.kind}; cycle={loop.cycle}; steps={loop.steps}"
            exchange.added_headers.append((b"x-dedup-agent-loop", shown.encode()))
        completion = Completion(
            request,
            service.engine,
            settings.policy,
            self._telemetry,
            read_prompt=settings.read_prompt,
            heal=settings.heal,
            incidents=service.incidents,
            agent_loop=loop,
            rungs=settings.agent_loops,
            keep_alive_seconds=settings.keep_alive_seconds,
        )
        with service.streams:
            try:
                with (
                    self._tracer.span(request, self._endpoint.operation, completion),
                    Watch(connection, completion.leave),
                ):
                    if request.stream:
                        await self._stream(completion, exchange, connection)
                    else:
                        body = await completion.collect()
                        told = completion.report()
                        if told["loop"] is not None:
                            shown = f"{told['loop']}; {told['outcome']}"
                            exchange.added_headers.append((b"x-dedup-loop", shown.encode()))
                        headers = [_JSON, *_headers_of(exchange)]
                        await connection.respond(clean(headers), body)
            finally:
                exchange.report.update(completion.report())
        return 200

    def _parse(self, engine: Engine, exchange: Exchange) -> GenerationRequest:
        check_parts(exchange.raw)
        try:
            body = _decode(exchange.raw)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            message = f"the body is not valid JSON: {error}"
            raise invalid(message, code="invalid_json") from None
        model = body.get("model") if isinstance(body, dict) else None
        exchange.model = model if isinstance(model, str) else None
        endpoint = self._endpoint
        kind = endpoint.sampled if engine.is_local else endpoint.forwarded
        return parse(kind, body, exchange)

    async def _stream(
        self, completion: Completion, exchange: Exchange, connection: Connection
    ) -> None:
        def begin(events: bytes) -> Awaitable[None] | None:
            # Until now a refusal could still be a status.
            headers: Headers = list(_STREAM_HEADERS.items())
            for header in _headers_of(exchange):
                if header[0] not in _STREAM_HEADERS:
                    headers.append(header)
            return connection.begin(clean(headers), events)

        await connection.end(await completion.stream(begin, connection.write))


class PassThrough(Handler):
    """Everything else that an upstream has: request and response go through untouched.

    That is what is under `/v1`, and the paths that the settings name.

    Args:
        own: Paths that this server answers itself, and the methods that they take.
    """

    def __init__(
        self, app: FastAPI, require_started: Callable[[], None], own: Mapping[str, str]
    ) -> None:
        super().__init__(app, require_started)
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in self._own:
            raise HTTPException(405, headers={"Allow": self._own[path]})
        await super().__call__(scope, receive, send)

    async def handle(
        self, service: Service, exchange: Exchange, connection: Connection, scope: Scope, send: Send
    ) -> int:
        self._require_started()
        engine = service.engine
        assert isinstance(engine, UpstreamEngine)
        path = _safe_path(scope)
        status = _CLIENT_LEFT
        with service.streams, Watch(connection):
            response = await engine.forward(scope["method"], path, exchange)
            status = response.status
            headers = [*exchange.engine_headers, _request_id(exchange)]
            if length := response.header(b"content-length"):
                headers.append((b"content-length", length))
            headers += _NO_PAGE
            start = {"type": "http.response.start", "status": status}
            try:
                await send({**start, "headers": clean(headers)})
                while (received := response.take_raw()) != b"":
                    if received is None:
                        await response.more()
                    else:
                        part = {"type": "http.response.body", "body": received}
                        await send({**part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except (BrokenError, TimeoutError) as error:
                # The status is sent: only a connection that breaks, without a last chunk, can
                # say that the response did.
                request_id = exchange.request_id
                _log.warning("request_id=%s: the upstream broke off: %s", request_id, error)
            finally:
                response.close()
            return status
        return _CLIENT_LEFT


class Check(Handler):
    """Shows how a text repeats itself.

    Texts are checked one after another, so that they do not take the processor from the streams. The
    check of a client that leaves is given up.
    """

    def __init__(self, app: FastAPI, require_started: Callable[[], None]) -> None:
        super().__init__(app, require_started)
        self._turn = asyncio.Lock()

    async def handle(
        self, service: Service, exchange: Exchange, connection: Connection, scope: Scope, send: Send
    ) -> int:
        request = read_check(exchange.raw, service.settings.policy)
        with Watch(connection):
            async with self._turn:
                body = await answer(request)
            await connection.respond(clean([_JSON, *_headers_of(exchange)]), body)
            return 200
        return _CLIENT_LEFT


class GuardrailApi(Handler):
    """Answers LiteLLM's generic guardrail API. It needs no engine.

    A stream takes hundreds of calls: they are not limited by the minute, and not logged one by one.
    """

    is_limited = False
    is_logged = False

    def __init__(
        self, app: FastAPI, require_started: Callable[[], None], telemetry: Telemetry
    ) -> None:
        super().__init__(app, require_started)
        self.guardrail = Guardrail(telemetry, time.monotonic)
        self._sweeps = False

    async def handle(
        self, service: Service, exchange: Exchange, connection: Connection, scope: Scope, send: Send
    ) -> int:
        check_parts(exchange.raw)
        request = read_call(exchange.raw)
        exchange.model = request.model
        body = _encode(self.guardrail.answer(request, service.settings.policy))
        self._sweep_later()
        await connection.respond(clean([_JSON, *_headers_of(exchange)]), body)
        return 200

    def _sweep_later(self) -> None:
        """Count answers when they are over, even if no other call comes."""
        if not self._sweeps and self.guardrail.num_answers:
            self._sweeps = True
            asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeps = False
        self.guardrail.expire()
        self._sweep_later()


def _address_of(scope: Scope) -> str | None:
    """Return the client's address; behind a reverse proxy it is whatever a header says."""
    client = scope.get("client")
    return _short(client[0]) if client else None


def _short(value: str | None) -> str | None:
    """Return a value for the log, which nobody may flood."""
    if value is None or len(value) <= _MAX_LOGGED_CHARS:
        return value
    return value[:_MAX_LOGGED_CHARS] + "..."


def _exchange_of(scope: Scope) -> Exchange:
    headers = scope["headers"]
    given = b""
    for name, value in headers:
        if name == b"x-request-id":
            given = value
            break
    if given and _REQUEST_ID.fullmatch(given):
        request_id = given.decode()
    else:
        request_id = os.urandom(16).hex()
    return Exchange(request_id, None, time.perf_counter(), headers, scope["query_string"])


def _request_id(exchange: Exchange) -> tuple[bytes, bytes]:
    return (b"x-request-id", exchange.request_id.encode("latin-1"))


def _headers_of(exchange: Exchange) -> Headers:
    """Return the headers of a response that the client gets beside its own."""
    engines = answer_headers(exchange.engine_headers)
    return [*engines, *exchange.added_headers, _request_id(exchange)]


def _safe_path(scope: Scope) -> str:
    """Return the path as it came.

    Raises:
        ApiError: (400) A server could read it as another path.
    """
    path: str = scope["raw_path"].decode("ascii")
    decoded: str = scope["path"]
    is_ambiguous = "//" in decoded or "\\" in decoded or not decoded.isprintable()
    if is_ambiguous or any(part in (".", "..") for part in decoded.split("/")):
        raise invalid("the path is ambiguous", code="invalid_path")
    return path
