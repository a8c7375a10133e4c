"""Other OpenAI-compatible servers as the engine: vLLM, llama.cpp, Ollama, SGLang, OpenAI.

Requests go on as they came and answers come back as they are. Which server gets a request depends on
its model alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from dedup.answer.continuation import Support
from dedup.lenient_json import read_json
from dedup_server.engines.base import Call, Take
from dedup_server.engines.upstream.server import Upstream, content_type, less, read_body
from dedup_server.engines.upstream.streaming import refuses_stream
from dedup_server.errors import model_not_found, upstream_failed
from dedup_server.http.client import BrokenError, Response, Timeouts
from dedup_server.requests.base import Exchange, GenerationRequest, check_parts, encoded
from dedup_server.requests.chat import CompletionRequest
from dedup_server.settings import Settings
from dedup_server.telemetry import Telemetry

_log: Final = logging.getLogger("dedup.server")
_ASK_AGAIN_SECONDS: Final = 5.0
_OF_STREAMS: Final = frozenset({b"cache-control", b"x-accel-buffering"})  # headers


class UpstreamEngine:
    """Finds the upstream for a request, sends it on and reads what comes back."""

    is_local: Final = False

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        timeouts = Timeouts(
            settings.connect_timeout_seconds,
            settings.first_token_timeout_seconds,
            settings.idle_timeout_seconds,
            settings.total_timeout_seconds,
        )
        # A client's key for this server must never reach another one.
        passes_keys = not settings.client_keys
        self._upstreams = [
            Upstream(one, timeouts, passes_keys, telemetry, streams_whole=settings.stream_upstream)
            for one in settings.all_upstreams
        ]
        self._aliases: Mapping[str, str] = settings.aliases
        self._heals = settings.heal
        self._waiting: asyncio.Task[None] | None = None  # for upstreams that start later
        telemetry.learn(self.models)

    @property
    def models(self) -> list[str]:
        names = list(self._aliases)
        for upstream in self._upstreams:
            names += upstream.known_models
        return list(dict.fromkeys(names))

    def describe(self, model: str) -> dict[str, Any]:
        name = self._aliases.get(model, model)
        for upstream in self._upstreams:
            if name in upstream.described:
                return upstream.described[name]
        return {}

    async def start(self) -> None:
        await self.ready()
        late = [upstream for upstream in self._upstreams if not self._tell(upstream)]
        if late:
            self._waiting = asyncio.create_task(self._wait_for(late))

    async def _wait_for(self, late: list[Upstream]) -> None:
        """Ask the upstreams that did not answer at start for their models, until they do."""
        while late:
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
            await asyncio.gather(*[upstream.ready() for upstream in late])
            late = [upstream for upstream in late if not self._tell(upstream)]

    def _tell(self, upstream: Upstream) -> bool:
        """Log whether an upstream continues answers; return False if it has never answered."""
        if not upstream.is_known:
            return False
        if self._heals:
            dialects = [upstream.dialect(model) for model in upstream.models or [""]]
            names = sorted({dialect.name for dialect in dialects if dialect is not None})
            if names:
                known = ", ".join(names)
                _log.info("%s (%s) continues answers that loop", upstream.name, known)
            else:
                _log.info(
                    "%s is not known to continue answers: loops are cut and not healed (goes_on)",
                    upstream.name,
                )
        return True

    async def ready(self) -> bool:
        return any(await asyncio.gather(*[upstream.ready() for upstream in self._upstreams]))

    async def stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        for upstream in self._upstreams:
            upstream.close()

    def validate(self, request: GenerationRequest) -> None:
        """Refuse only a model that no upstream has: what an upstream cannot do, it says itself."""
        self._route(request.model)

    def support(self, request: GenerationRequest) -> Support | None:
        if request.wants_json:  # half of it may not be continued with a paragraph
            return None
        if isinstance(request, CompletionRequest) and not isinstance(request.prompt, str):
            return None
        upstream, model = self._route(request.model)
        dialect = upstream.dialect(model)
        return dialect.support if dialect is not None else None

    async def generate(self, call: Call, take: Take) -> None:
        request, continuation = call.request, call.continuation
        upstream, model = self._route(request.model)
        changes: dict[str, Any] = {"model": model} if model != request.model else {}
        if continuation is not None:
            dialect = upstream.dialect(model)
            assert dialect is not None
            changes.update(dialect.continued(request, continuation))
            if request.stream:  # its tokens count, whether the client asks for the usage or not
                changes.update(request.streaming)
        streaming = upstream.streaming
        is_converted = not request.stream and (
            continuation is not None or streaming.suits(call.path, request)
        )
        if is_converted:
            body = request.forwarded(**changes, **request.streaming)
            if await _exchange(upstream, call, body, take, is_converted=True):
                return
            request.exchange.engine_headers = []  # they are the refusal's
        try:
            await _exchange(upstream, call, request.forwarded(**changes), take)
        finally:
            if is_converted and request.exchange.upstream_status == "200":
                streaming.note_refusal(call.path, request)

    async def forward(self, method: str, path: str, exchange: Exchange) -> Response:
        """Send on what is not for this server to understand.

        Args:
            path: The path as it came.

        Returns:
            The response, to be read with `take_raw`.

        Raises:
            ApiError: No upstream has the model, or it does not answer.
        """
        model, body = _model_in(exchange), exchange.raw
        upstream, name = self._route(model)
        if name != model:
            body = encoded({**read_json(body), "model": name})
        is_api = path.startswith("/v1/")
        path = path.removeprefix("/v1")
        return await upstream.ask(method, path, exchange, body, passes=True, at_root=not is_api)

    def _route(self, model: str | None) -> tuple[Upstream, str | None]:
        """Return the upstream for `model`, and what it calls it. Raises `ApiError` (404)."""
        name = self._aliases.get(model, model) if model is not None else None
        if len(self._upstreams) == 1 and self._upstreams[0].serves_any:
            return self._upstreams[0], name
        for upstream in self._upstreams:
            if upstream.serves(name):
                return upstream, name
        for upstream in self._upstreams:
            if upstream.serves_any:
                return upstream, name
        if model is None:
            return self._upstreams[0], None
        raise model_not_found(model, self.models)


async def _exchange(
    upstream: Upstream, call: Call, body: bytes, take: Take, *, is_converted: bool = False
) -> bool:
    """Send a request, and give `take` the frames of its answer.

    Args:
        body: The request's.
        is_converted: The body asks for a stream, and the client does not.

    Returns:
        Whether there was an answer: a converted request may have to be sent as it came.

    Raises:
        ApiError: The upstream refuses, or fails.
    """
    request = call.request
    is_streamed = is_converted or bool(request.stream)
    is_done = has_usage = has_failed = False

    def read(received: bytes) -> Awaitable[None] | None:
        nonlocal is_done, has_usage, has_failed
        frames = call.reader.feed(upstream.without_key(received))
        if not frames:
            return None
        is_done = frames[-1].is_last
        for frame in frames if is_converted else ():
            has_usage = has_usage or frame.output_tokens is not None
            has_failed = has_failed or frame.has_failed or frame.error is not None
        return take(frames)

    response = await upstream.ask("POST", call.path, request.exchange, body)
    try:
        if response.status != 200:
            error = await upstream.refusal(response)
            if is_converted and refuses_stream(error):
                return False
            raise error
        kind = content_type(response)
        if kind == "text/event-stream" and is_streamed:
            if is_converted:
                call.reader.gathers = True
                headers = request.exchange.engine_headers
                request.exchange.engine_headers = less(headers, _OF_STREAMS)
            await response.pour(read)
            if pause := take(call.reader.flush()):
                await pause
        elif is_streamed and not is_converted:
            raise upstream_failed(f"the upstream answered a streaming request with {kind}")
        elif kind.startswith("text/"):
            if is_converted:
                return False
            raise upstream_failed(f"the upstream answered with {kind} instead of JSON")
        else:
            frame = call.reader.read_whole(await read_body(response))
            has_usage, is_streamed = frame.output_tokens is not None, False
            if pause := take([frame]):
                await pause
        if not (has_usage or has_failed or request.stream):
            upstream.streaming.note_no_usage(call.path, request, is_streamed=is_streamed)
        return True
    except TimeoutError as error:
        what = "stream" if is_streamed else "answer"
        raise upstream_failed(f"the upstream's {what} stopped: {error}", 504) from None
    except BrokenError as error:
        raise upstream_failed(f"the connection to the upstream broke: {error}") from None
    finally:
        if is_done:
            response.finish()
        else:
            response.close()  # hangs up, unless the answer was read to its end


def _model_in(exchange: Exchange) -> str | None:
    """Return the model that a JSON body names, if it is one that does."""
    if exchange.raw.lstrip()[:1] != b"{":
        return None
    check_parts(exchange.raw)
    try:
        body = read_json(exchange.raw)
    except ValueError:
        return None
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None
