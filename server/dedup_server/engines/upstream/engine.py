"""Other OpenAI-compatible servers as the engine: vLLM, llama.cpp, Ollama, SGLang, OpenAI.

Requests go on as they came and answers come back as they are; which server gets a request depends on its model alone.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from dedup.lenient_json import read_json, write_json
from dedup_server.engines.base import Take
from dedup_server.errors import ApiError, UpstreamRefusalError, model_not_found, upstream_failed
from dedup_server.http.client import (
    BrokenError,
    ConnectError,
    Headers,
    HttpClient,
    Response,
    Timeouts,
)
from dedup_server.schema import (
    FORWARDED,
    ChatRequest,
    CompletionRequest,
    Exchange,
    GenerationRequest,
    Requests,
)
from dedup_server.settings import GoesOn, Settings, UpstreamSettings
from dedup_server.telemetry import Telemetry
from dedup_server.wire.sse import EventTooLongError, SSEDecoder

_log: Final = logging.getLogger("dedup.server")

_PATHS: Final = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "messages": "/messages",
}
# By what a server says in its list of models of who owns them.
_GOES_ON: Final[dict[str, GoesOn]] = {
    "vllm": "continue_final_message",
    "sglang": "continue_final_message",
    "llamacpp": "assistant_message",
}
_MODELS_FRESH_SECONDS: Final = 5.0
_PROBE_TIMEOUT_SECONDS: Final = 3.0
_MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
_MAX_REFUSAL_BYTES: Final = 64 * 1024

# Headers that belong to one connection (RFC 9110, 7.6.1), or that this server writes itself.
_OWN_HEADERS: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect", b"http2-settings",
})  # fmt: skip
_KEY_HEADERS: Final = {b"authorization", b"x-api-key", b"api-key"}
_KEY_HEADERS_AND_ID: Final = _KEY_HEADERS | {b"x-request-id"}
# Of a request whose answer is read here.
_REPLACED_HEADERS: Final = _KEY_HEADERS_AND_ID | {b"accept-encoding", b"content-encoding"}
# Of an answer that is read and written anew.
_OWN_ANSWER_HEADERS: Final = _OWN_HEADERS | {
    b"content-encoding",
    b"content-type",
    b"date",
    b"server",
    b"etag",
    b"content-md5",
}


class Upstream:
    """One server: its connections, its models, and whether it is up."""

    def __init__(
        self,
        settings: UpstreamSettings,
        timeouts: Timeouts,
        pass_on_keys: bool,
        telemetry: Telemetry,
    ) -> None:
        self.name = settings.label
        self.models: list[str] = []
        self.described: dict[str, dict[str, Any]] = {}  # what it says of them
        self.up = False
        self._patterns = settings.models
        self._url = settings.url
        self._key = settings.key
        self._goes_on = settings.goes_on
        self._secret = self._key.encode() if self._key and len(self._key) >= 8 else b""
        self._pass_on_keys = pass_on_keys and self._key is None
        self._timeouts = timeouts
        self._telemetry = telemetry
        self._client = HttpClient(settings.url, timeouts)
        self._probed_at = float("-inf")
        self._probing = asyncio.Lock()

    def serves(self, model: str | None) -> bool:
        """Whether the configuration, or the server itself, says that it has `model`."""
        if self._patterns:
            return model is not None and any(
                fnmatchcase(model, pattern) for pattern in self._patterns
            )
        return model in self.models

    def goes_on(self, model: str | None) -> GoesOn:
        """How it is asked to go on with an answer: as the configuration says, or as its list of models tells what it is."""
        if self._goes_on is not None:
            return self._goes_on
        return _GOES_ON.get(str(self.described.get(model or "", {}).get("owned_by")), "no")

    @property
    def serves_any(self) -> bool:
        """Whether it may be asked for models that it does not list: some servers list none, or not to everyone."""
        return not self._patterns

    @property
    def known_models(self) -> list[str]:
        if not self._patterns:
            return self.models
        named = [pattern for pattern in self._patterns if not re.search(r"[*?\[]", pattern)]
        return named + [model for model in self.models if self.serves(model) and model not in named]

    async def ready(self) -> bool:
        """Whether it answers; asks for its models, every few seconds at most."""
        async with self._probing:
            if time.monotonic() - self._probed_at >= _MODELS_FRESH_SECONDS:
                self._set_up(await self._probe())
                self._probed_at = time.monotonic()
        return self.up

    async def ask(
        self, method: str, path: str, exchange: Exchange, body: bytes, *, as_it_is: bool = False
    ) -> Response:
        """Sends a request on. Raises `ApiError`. as_it_is: the client reads the answer as it is, compressed or not."""
        exchange.upstream = self.name
        query = "?" + exchange.query.decode("latin-1") if exchange.query else ""
        code = "error"
        try:
            response = await self._client.request(
                method, path + query, self._headers(exchange, as_it_is), body
            )
            code = str(response.status)
            self._set_up(response.status < 500)
            own = _own(response.headers)
            exchange.engine_headers = [
                header for header in response.headers if header[0] not in own
            ]
            return response
        except TimeoutError as error:
            code = "timeout"
            raise upstream_failed(
                f"the upstream {self.name} did not answer: {error}", 504
            ) from None
        except ConnectError as error:
            self._set_up(False)
            self._probed_at = float("-inf")  # it may be back before long
            raise upstream_failed(f"the upstream {self.name} cannot be reached: {error}") from None
        except BrokenError as error:
            raise upstream_failed(f"the upstream {self.name} did not answer: {error}") from None
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            exchange.upstream_status = code
            self._telemetry.count("upstream_requests", 1, self.name, code)

    def without_key(self, text: bytes) -> bytes:
        """`text` without the key for this server, which its error messages may quote."""
        return text.replace(self._secret, b"***") if self._secret else text

    def close(self) -> None:
        """Closes connections as soon as their answers have ended."""
        self._client.close()

    def _headers(self, exchange: Exchange, as_it_is: bool) -> Headers:
        own = _own(exchange.headers)
        replaced = _KEY_HEADERS_AND_ID if as_it_is else _REPLACED_HEADERS
        headers = [
            header
            for header in exchange.headers
            if header[0] not in own and header[0] not in replaced
        ]
        if not as_it_is:
            headers.append((b"accept-encoding", b"identity"))
        headers.append((b"x-request-id", exchange.request_id.encode("latin-1")))
        if self._key is not None:
            key = self._key.encode()
            named = {name for name, _ in exchange.headers} & _KEY_HEADERS - {b"authorization"}
            headers += [(b"authorization", b"Bearer " + key)] + [(name, key) for name in named]
        elif self._pass_on_keys:
            headers += [header for header in exchange.headers if header[0] in _KEY_HEADERS]
        return headers

    async def _probe(self) -> bool:
        headers: Headers = [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
        if self._key:
            headers.append((b"authorization", b"Bearer " + self._key.encode()))
        timeouts = Timeouts(
            _PROBE_TIMEOUT_SECONDS,
            _PROBE_TIMEOUT_SECONDS,
            _PROBE_TIMEOUT_SECONDS,
            _PROBE_TIMEOUT_SECONDS,
        )
        try:
            response = await self._client.request("GET", "/models", headers, timeouts=timeouts)
            body = await read_whole(response)
        except (TimeoutError, ConnectError, BrokenError, ApiError):
            return False
        if response.status == 200:
            try:
                self.described = {
                    str(model["id"]): dict(model) for model in read_json(body)["data"]
                }
                self.models = list(self.described)
            except (ValueError, LookupError, TypeError):
                return True
            self._telemetry.learn(self.known_models)
        return (
            response.status < 500
        )  # a server that lists no models, or not to us, may well answer requests

    def _set_up(self, up: bool) -> None:
        self.up = up
        self._telemetry.set("upstream_up", int(up), self.name)


class UpstreamEngine:
    """Finds the upstream for a request, sends it on and reads what comes back."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        timeouts = Timeouts(
            settings.connect_timeout_seconds,
            settings.first_token_timeout_seconds,
            settings.idle_timeout_seconds,
            settings.total_timeout_seconds,
        )
        # A client's key for this server must never reach another one.
        pass_on_keys = not settings.client_keys
        self._upstreams = [
            Upstream(one, timeouts, pass_on_keys, telemetry) for one in settings.all_upstreams
        ]
        self._aliases: Mapping[str, str] = settings.aliases
        self._streams_always = settings.stream_upstream
        self._heals = settings.heal
        telemetry.learn(self.models)

    @property
    def models(self) -> list[str]:
        names = [
            *self._aliases,
            *[model for upstream in self._upstreams for model in upstream.known_models],
        ]
        return list(dict.fromkeys(names))

    def describe(self, model: str) -> dict[str, Any]:
        """What its upstream says of a model."""
        name = self._aliases.get(model, model)
        return next(
            (
                upstream.described[name]
                for upstream in self._upstreams
                if name in upstream.described
            ),
            {},
        )

    @property
    def requests(self) -> Requests:
        return FORWARDED

    async def start(self) -> None:
        await self.ready()
        for upstream in self._upstreams if self._heals else ():
            if upstream.up and all(
                upstream.goes_on(model) == "no" for model in upstream.models or [""]
            ):
                _log.info(
                    "%s is not known to go on with an answer: loops are cut and not healed (goes_on)",
                    upstream.name,
                )

    async def stop(self) -> None:
        for upstream in self._upstreams:
            upstream.close()

    async def ready(self) -> bool:
        """Whether an upstream answers."""
        return any(await asyncio.gather(*[upstream.ready() for upstream in self._upstreams]))

    def validate(self, request: GenerationRequest) -> None:
        """Refuses only a model that no upstream has: what an upstream cannot do, it says itself."""
        self._route(request.model)

    async def generate(self, request: GenerationRequest, take: Take) -> None:
        upstream, model = self._route(request.model)
        changes: dict[str, Any] = {"model": model} if model != request.model else {}
        if not request.stream:
            changes |= {"stream": True, "stream_options": {"include_usage": True}}
        if request.said:
            changes |= _going_on(request, upstream.goes_on(model))
        response = await upstream.ask(
            "POST", _PATHS[request.endpoint], request.exchange, request.forwarded(**changes)
        )
        decoder = SSEDecoder()
        done = False

        def decode(received: bytes) -> Awaitable[None] | None:
            nonlocal done
            events = decoder.feed(upstream.without_key(received))
            if not events:
                return None
            done = events[-1].data == b"[DONE]"
            return take(events)

        try:
            if response.status != 200:
                raise await _refusal(response, upstream)
            content_type = _content_type(response)
            if content_type != "text/event-stream":
                raise upstream_failed(
                    f"the upstream answered a streaming request with {content_type}"
                )
            await response.pour(decode)
            if pause := take(decoder.flush()):
                await pause
        except TimeoutError as error:
            raise upstream_failed(f"the upstream's stream stopped: {error}", 504) from None
        except BrokenError as error:
            raise upstream_failed(f"the connection to the upstream broke: {error}") from None
        except EventTooLongError as error:
            raise upstream_failed(f"the upstream sent {error}") from None
        finally:
            if done:
                response.finish()
            else:
                response.close()  # hangs up, unless the answer was read to its end

    @property
    def has_all_methods(self) -> bool:
        return False

    def can_go_on(self, request: GenerationRequest) -> bool:
        if (
            not isinstance(request, ChatRequest | CompletionRequest)
            or request.num_choices > 1
            or request.wants_json
        ):
            return False
        if isinstance(request, CompletionRequest) and not isinstance(request.prompt, str):
            return False
        upstream, model = self._route(request.model)
        return upstream.goes_on(model) != "no"

    def can_avoid(self, request: GenerationRequest) -> bool:
        upstream, model = self._route(request.model)
        return upstream.goes_on(model) == "continue_final_message"

    async def whole(self, request: GenerationRequest) -> bytes | None:
        if self._streams_always and request.endpoint in ("chat", "completions"):
            return None
        upstream, model = self._route(request.model)
        changes = {"model": model} if model != request.model else {}
        response = await upstream.ask(
            "POST", _PATHS[request.endpoint], request.exchange, request.forwarded(**changes)
        )
        try:
            if response.status != 200:
                raise await _refusal(response, upstream)
            content_type = _content_type(response)
            if content_type.startswith("text/"):
                raise upstream_failed(f"the upstream answered with {content_type} instead of JSON")
            return await read_whole(response)
        except TimeoutError as error:
            raise upstream_failed(f"the upstream's answer stopped: {error}", 504) from None
        except BrokenError as error:
            raise upstream_failed(f"the connection to the upstream broke: {error}") from None
        finally:
            response.close()

    async def forward(self, method: str, path: str, exchange: Exchange) -> Response:
        """Sends on what is not for this server to understand; its answer is to be read with `take_raw`. Raises `ApiError`."""
        model, body = _model_in(exchange), exchange.raw
        upstream, name = self._route(model)
        if name != model:
            body = msgspec.json.encode({**read_json(body), "model": name})
        return await upstream.ask(method, path, exchange, body, as_it_is=True)

    def _route(self, model: str | None) -> tuple[Upstream, str | None]:
        """The upstream for `model`, and what it calls it. Raises `ApiError` (404)."""
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


def _going_on(request: GenerationRequest, goes_on: GoesOn) -> dict[str, Any]:
    """What makes a server go on with what `request` has said."""
    banned = (
        {"bad_words": _openings(request.avoided)}
        if goes_on == "continue_final_message" and request.avoided.strip()
        else {}
    )
    if isinstance(request, CompletionRequest):
        return {"prompt": request.prompt + request.said, **banned}
    messages = [*request.body()["messages"], {"role": "assistant", "content": request.said}]
    if goes_on == "assistant_message":
        return {"messages": messages}
    return {
        "messages": messages,
        "add_generation_prompt": False,
        "continue_final_message": True,
        **banned,
    }


def _openings(text: str) -> list[str]:
    """With what `text` begins, as vLLM bans it: the first words; in scripts without spaces the first characters, cut as a tokenizer may."""
    words = text.split()
    if len(words) > 1 and len(words[0]) < 24:
        return [" ".join(words[:3])]
    return [words[0][:size] for size in range(2, 6)]


async def read_whole(response: Response) -> bytes:
    """The body, if it is not too long. Raises `ApiError`, `BrokenError`, `TimeoutError`."""
    received = await response.read()
    more = await response.read()
    if not more:
        return received
    body = bytearray(received)
    while more:
        body += more
        if len(body) > _MAX_RESPONSE_BYTES:
            response.close()
            raise upstream_failed(
                f"the upstream answered with more than {_MAX_RESPONSE_BYTES} bytes"
            )
        more = await response.read()
    return bytes(body)


async def _refusal(response: Response, upstream: Upstream) -> ApiError:
    if response.status < 400:
        return upstream_failed(f"the upstream answered {response.status} instead of an answer")
    received = b""
    while len(received) < _MAX_REFUSAL_BYTES and (part := await response.read()):
        received += part
    retry_after = response.header(b"retry-after")
    seconds = retry_after.decode("latin-1") if retry_after else None
    try:
        body = read_json(received)
    except ValueError:
        body = None
    if isinstance(body, dict):
        body = read_json(
            upstream.without_key(write_json(body))
        )  # written anew: it may have stood there escaped
        error = body.get("error", body)  # some send the error without its envelope
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            return UpstreamRefusalError(response.status, error, seconds)
    text = upstream.without_key(received)[:200].decode("utf-8", "replace").strip()
    message = f"the upstream answered {response.status}" + (f": {text}" if text else "")
    return UpstreamRefusalError(
        response.status,
        {"message": message, "type": "upstream_error", "param": None, "code": None},
        seconds,
    )


def _own(headers: Headers) -> frozenset[bytes]:
    """The names of headers that are not to be passed on; `Connection` may name more."""
    own = _OWN_HEADERS
    for key, value in headers:
        if key == b"connection":
            own = own | {name.strip().lower() for name in value.split(b",")}
    return own


def answer_headers(headers: Headers) -> Headers:
    """Of an upstream's headers those that still hold for an answer that was read and written anew."""
    return [
        header
        for header in headers
        if header[0] not in _OWN_ANSWER_HEADERS and header[0] != b"x-request-id"
    ]


def _content_type(response: Response) -> str:
    value = (response.header(b"content-type") or b"application/octet-stream").decode("latin-1")
    return value.partition(";")[0].strip().lower()


def _model_in(exchange: Exchange) -> str | None:
    """The model that a JSON body names, if it is one that does."""
    if exchange.raw.lstrip()[:1] != b"{":
        return None
    try:
        body = read_json(exchange.raw)
    except ValueError:
        return None
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None
