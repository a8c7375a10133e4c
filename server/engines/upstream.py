"""Another OpenAI-compatible server as the engine: vLLM, llama.cpp, Ollama, SGLang, OpenAI."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from server.engines.base import Chunk
from server.errors import ApiError, invalid, upstream_failed
from server.schema import GenerationRequest
from server.settings import Settings
from server.sse import EventTooLongError, SSEDecoder
from server.telemetry import Telemetry

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_MODELS_FRESH_SECONDS = 5.0
_PROBE_TIMEOUT_SECONDS = 3.0
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class UpstreamRefusalError(ApiError):
    """The upstream's own refusal: its status, and its error body as it came."""

    def __init__(self, status: int, error: dict[str, Any], retry_after: str | None) -> None:
        message, kind = error.get("message"), error.get("type")
        super().__init__(
            status,
            message if isinstance(message, str) else f"the upstream answered {status}",
            type=kind if isinstance(kind, str) else "upstream_error",
            retry_after=retry_after,
        )
        self._error = error

    def body(self) -> dict[str, Any]:
        return {"error": self._error}


class UpstreamEngine:
    """Forwards requests as they came and yields what comes back."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        assert settings.upstream is not None
        self._url = settings.upstream
        self._label = urlsplit(self._url).netloc.rpartition("@")[2]
        self._key = settings.upstream_api_key.get_secret_value() if settings.upstream_api_key else None
        # A client's key for this server must never reach another one.
        self._pass_on_keys = self._key is None and not settings.api_keys
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout_seconds, sock_read=settings.idle_timeout_seconds
        )
        self._telemetry = telemetry
        self._session: aiohttp.ClientSession | None = None
        self._models: list[str] = []
        self._up = False
        self._probed_at = float("-inf")
        self._probing = asyncio.Lock()

    @property
    def models(self) -> list[str]:
        return self._models

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self.ready()

    async def stop(self) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    def validate(self, request: GenerationRequest) -> None:
        """Refuses nothing: what the upstream cannot do, it says itself."""

    async def ready(self) -> bool:
        """Whether the upstream answers; asks it for its models, every few seconds at most."""
        async with self._probing:
            if time.monotonic() - self._probed_at >= _MODELS_FRESH_SECONDS:
                self._set_up(await self._probe())
                self._probed_at = time.monotonic()
        return self._up

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        response = await self._post(request)
        try:
            if response.status != 200:
                raise await _refusal(response)
            if request.stream:
                async for chunk in self._events(response):
                    yield chunk
            else:
                yield await _whole(response)
        except TimeoutError:
            raise upstream_failed("the upstream said nothing for too long", 504) from None
        except (aiohttp.ClientError, OSError) as error:
            raise upstream_failed(f"the connection to the upstream broke: {_reason(error)}") from None
        finally:
            response.close()  # hangs up, unless the answer was read to its end

    async def _post(self, request: GenerationRequest) -> aiohttp.ClientResponse:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        elif self._pass_on_keys and request.authorization:
            headers["Authorization"] = request.authorization
        try:
            body = _encode(request.body())
        except (ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise invalid(f"the body cannot be passed on: {error}") from None
        code = "error"
        try:
            url = self._url + _PATHS[request.endpoint]
            response = await self._open_session.post(url, data=body, headers=headers, allow_redirects=False)
            code = str(response.status)
            self._set_up(response.status < 500)
            return response
        except TimeoutError:
            code = "timeout"
            raise upstream_failed(f"the upstream at {self._label} did not answer in time", 504) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._set_up(False)
            raise upstream_failed(f"the upstream at {self._label} cannot be reached: {_reason(error)}") from None
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            self._telemetry.count("upstream_requests", 1, self._label, code)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[Chunk]:
        """The chunks of a stream. Raises `ApiError` when it ends before its end."""
        if response.content_type != "text/event-stream":
            raise upstream_failed(f"the upstream answered a streaming request with {response.content_type}")
        decoder, finished = SSEDecoder(), False
        async for events in _decoded(response, decoder):
            for data in events:
                if data == b"[DONE]":
                    return
                chunk = _object(data)
                if chunk.get("error"):
                    error = chunk["error"]
                    raise UpstreamRefusalError(502, error if isinstance(error, dict) else {"message": str(error)}, None)
                choices = chunk.get("choices")
                if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
                    raise upstream_failed("the upstream sent a chunk without choices")
                finished = finished or any(choice.get("finish_reason") for choice in choices)
                yield chunk
        if not finished:
            raise upstream_failed("the upstream's stream ended before the answer did")

    async def _probe(self) -> bool:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_SECONDS)
        try:
            get = self._open_session.get(self._url + "/models", headers=headers, timeout=timeout, allow_redirects=False)
            async with get as response:
                if response.status == 200:
                    listed = _decode(await response.read())["data"]
                    self._models = [str(model["id"]) for model in listed]
                    self._telemetry.learn(self._models)
                return response.status < 500  # a server that lists no models, or not to us, may well answer requests
        except (aiohttp.ClientError, OSError, ValueError, msgspec.MsgspecError, LookupError, TypeError):
            return False

    @property
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ApiError(503, "the server is not ready yet", type="server_error", code="not_ready", retry_after="1")
        return self._session

    def _set_up(self, up: bool) -> None:
        self._up = up
        self._telemetry.set("upstream_up", int(up), self._label)


async def _decoded(response: aiohttp.ClientResponse, decoder: SSEDecoder) -> AsyncIterator[list[bytes]]:
    try:
        async for received in response.content.iter_any():
            yield decoder.feed(received)
        yield decoder.flush()
    except EventTooLongError as error:
        raise upstream_failed(f"the upstream sent {error}") from None


async def _whole(response: aiohttp.ClientResponse) -> Chunk:
    """The body of an answer that is not a stream."""
    received = bytearray()
    async for part in response.content.iter_any():
        received += part
        if len(received) > _MAX_RESPONSE_BYTES:
            raise upstream_failed(f"the upstream answered with more than {_MAX_RESPONSE_BYTES} bytes")
    chunk = _object(bytes(received))
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise upstream_failed("the upstream's answer has no choices")
    return chunk


async def _refusal(response: aiohttp.ClientResponse) -> ApiError:
    retry_after = response.headers.get("Retry-After")
    if response.status < 400:
        return upstream_failed(f"the upstream answered {response.status} instead of an answer")
    received = await response.content.read(64 * 1024)
    try:
        body = _decode(received)
    except (ValueError, msgspec.MsgspecError):
        body = None
    if isinstance(body, dict):
        error = body.get("error", body)  # some send the error without its envelope
        if isinstance(error, dict):
            return UpstreamRefusalError(response.status, error, retry_after)
    text = received[:200].decode("utf-8", "replace").strip()
    message = f"the upstream answered {response.status}" + (f": {text}" if text else "")
    return UpstreamRefusalError(
        response.status, {"message": message, "type": "upstream_error", "param": None, "code": None}, retry_after
    )


def _object(data: bytes) -> dict[str, Any]:
    try:
        decoded = _decode(data)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise upstream_failed("the upstream sent something that is not JSON") from None
    if not isinstance(decoded, dict):
        raise upstream_failed("the upstream sent JSON that is not an object")
    return decoded


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
