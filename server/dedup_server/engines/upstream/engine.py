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
from dedup_server.engines.upstream.server import Upstream, content_type, read_body
from dedup_server.errors import model_not_found, upstream_failed
from dedup_server.http.client import BrokenError, Response, Timeouts
from dedup_server.requests.base import Exchange, GenerationRequest, encoded
from dedup_server.requests.chat import CompletionRequest
from dedup_server.settings import Settings
from dedup_server.telemetry import Telemetry

_log: Final = logging.getLogger("dedup.server")


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
            Upstream(one, timeouts, passes_keys, telemetry) for one in settings.all_upstreams
        ]
        self._aliases: Mapping[str, str] = settings.aliases
        self._streams_always = settings.stream_upstream
        self._heals = settings.heal
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
        for upstream in self._upstreams if self._heals else ():
            models = upstream.models or [""]
            if upstream.is_up and all(upstream.dialect(model) is None for model in models):
                _log.info(
                    "%s is not known to continue answers: loops are cut and not healed (goes_on)",
                    upstream.name,
                )

    async def ready(self) -> bool:
        return any(await asyncio.gather(*[upstream.ready() for upstream in self._upstreams]))

    async def stop(self) -> None:
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
        is_streamed = bool(request.stream)
        can_stream = request.endpoint in ("chat", "completions")
        if not is_streamed and can_stream and (continuation is not None or self._streams_always):
            changes.update(stream=True, stream_options={"include_usage": True})
            is_streamed = True
        body = request.forwarded(**changes)
        response = await upstream.ask("POST", call.path, request.exchange, body)
        is_done = False

        def read(received: bytes) -> Awaitable[None] | None:
            nonlocal is_done
            frames = call.reader.feed(upstream.without_key(received))
            if not frames:
                return None
            is_done = frames[-1].is_last
            return take(frames)

        try:
            if response.status != 200:
                raise await upstream.refusal(response)
            kind = content_type(response)
            if not is_streamed:
                await _give_whole(call, response, kind, take)
                return
            if kind != "text/event-stream":
                raise upstream_failed(f"the upstream answered a streaming request with {kind}")
            await response.pour(read)
            if pause := take(call.reader.flush()):
                await pause
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

    async def forward(self, method: str, path: str, exchange: Exchange) -> Response:
        """Send on what is not for this server to understand.

        Returns:
            The response, to be read with `take_raw`.

        Raises:
            ApiError: No upstream has the model, or it does not answer.
        """
        model, body = _model_in(exchange), exchange.raw
        upstream, name = self._route(model)
        if name != model:
            body = encoded({**read_json(body), "model": name})
        return await upstream.ask(method, path, exchange, body, passes=True)

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


async def _give_whole(call: Call, response: Response, kind: str, take: Take) -> None:
    """Give the frame of an answer that is not streamed."""
    if kind.startswith("text/"):
        raise upstream_failed(f"the upstream answered with {kind} instead of JSON")
    frame = call.reader.read_whole(await read_body(response))
    if pause := take([frame]):
        await pause


def _model_in(exchange: Exchange) -> str | None:
    """Return the model that a JSON body names, if it is one that does."""
    if exchange.raw.lstrip()[:1] != b"{":
        return None
    try:
        body = read_json(exchange.raw)
    except ValueError:
        return None
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None
