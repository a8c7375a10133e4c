"""One upstream server: its connections, its models, and whether it is up."""

import asyncio
import re
import time
from fnmatch import fnmatchcase
from typing import Any, Final

from dedup.lenient_json import read_json, write_json
from dedup_server.engines.upstream.dialects import Dialect, dialect_of
from dedup_server.engines.upstream.streaming import Streaming
from dedup_server.errors import ApiError, UpstreamRefusalError, upstream_failed
from dedup_server.http.client import (
    BrokenError,
    ConnectError,
    Headers,
    HttpClient,
    Response,
    Timeouts,
)
from dedup_server.requests.base import Exchange
from dedup_server.settings import UpstreamSettings
from dedup_server.telemetry import Telemetry

_MODELS_FRESH_SECONDS: Final = 5.0
_PROBE_TIMEOUT_SECONDS: Final = 3.0
_MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
_MAX_REFUSAL_BYTES: Final = 64 * 1024

# Headers that belong to one connection (RFC 9110, 7.6.1), or that this server writes itself.
_OWN_HEADERS: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate",
    b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host",
    b"content-length", b"expect", b"http2-settings",
    # Whether a page may read an answer is for `cors_origins` to say; vLLM lets every page by default.
    b"access-control-allow-origin", b"access-control-allow-credentials",
    b"access-control-allow-methods", b"access-control-allow-headers",
    b"access-control-expose-headers", b"access-control-max-age",
    b"access-control-allow-private-network",
})  # fmt: skip
_KEY_HEADERS: Final = frozenset({b"authorization", b"x-api-key", b"api-key"})
# Of a request that goes on as it is, and of one whose answer is read here.
_REPLACED: Final = _OWN_HEADERS | _KEY_HEADERS | {b"x-request-id"}
_REPLACED_TO_READ: Final = _REPLACED | {b"accept-encoding", b"content-encoding"}
# Of an answer that is read and written anew.
_REWRITTEN: Final = _OWN_HEADERS | {
    b"content-encoding",
    b"content-type",
    b"date",
    b"server",
    b"etag",
    b"content-md5",
    b"x-request-id",
}


class Upstream:
    """One server.

    Args:
        settings: The operator's.
        timeouts: Of its exchanges.
        passes_keys: Clients' own keys are passed on, if there is none for this server.
        telemetry: Counts its requests.
        streams_whole: Whole answers are requested as streams, unless its own settings say no.

    Attributes:
        streaming: What of that it does not do.
        models: The models that it lists.
        described: What it tells of them.
        is_up: It answered when last asked.
        is_known: It has answered when it was asked for its models.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        timeouts: Timeouts,
        passes_keys: bool,
        telemetry: Telemetry,
        *,
        streams_whole: bool = True,
    ) -> None:
        self.name = settings.label
        self.models: list[str] = []
        self.described: dict[str, dict[str, Any]] = {}
        self.is_up = self.is_known = False
        own = settings.stream_upstream
        self.streaming = Streaming(streams_whole if own is None else own)
        self._patterns = settings.models
        self._key = settings.key
        self._goes_on = settings.goes_on
        self._secret = self._key.encode() if self._key and len(self._key) >= 8 else b""
        self._passes_keys = passes_keys and self._key is None
        self._telemetry = telemetry
        self._client = HttpClient(settings.url, timeouts)
        self._probed_at = float("-inf")
        self._probing = asyncio.Lock()

    def serves(self, model: str | None) -> bool:
        """Return whether the configuration, or the server itself, says that it has `model`."""
        if self._patterns:
            patterns = self._patterns
            return model is not None and any(fnmatchcase(model, one) for one in patterns)
        return model in self.models

    @property
    def serves_any(self) -> bool:
        """Return whether it may be asked for models that it does not list.

        Some servers list none, or not to everyone.
        """
        return not self._patterns

    def dialect(self, model: str | None) -> Dialect | None:
        """Return how it is asked to continue an answer; None if it is not known to do so.

        Servers take other names than they list: llama.cpp any. The owner of all models is then that
        of the one that answers.
        """
        described = self.described.get(model or "")
        owners = {one.get("owned_by") for one in self.described.values()}
        if described is not None:
            owners = {described.get("owned_by")}
        return dialect_of(self._goes_on, owners.pop() if len(owners) == 1 else None)

    @property
    def known_models(self) -> list[str]:
        """Return the models to list: those of the configuration, and the server's own."""
        if not self._patterns:
            return self.models
        named = [pattern for pattern in self._patterns if not re.search(r"[*?\[]", pattern)]
        return named + [model for model in self.models if self.serves(model) and model not in named]

    async def ready(self) -> bool:
        """Return whether it answers; asks for its models, every few seconds at most."""
        async with self._probing:
            if time.monotonic() - self._probed_at >= _MODELS_FRESH_SECONDS:
                self._set_up(await self._probe())
                self._probed_at = time.monotonic()
        return self.is_up

    async def ask(
        self,
        method: str,
        path: str,
        exchange: Exchange,
        body: bytes,
        *,
        passes: bool = False,
        at_root: bool = False,
    ) -> Response:
        """Send a request.

        Args:
            path: Below the server's base URL.
            exchange: The client's; it notes what the server answered.
            passes: The client reads the answer as it is, compressed or not.
            at_root: The path is below the base URL without its `/v1`.

        Raises:
            ApiError: The server does not answer.
        """
        exchange.upstream = self.name
        if exchange.query:
            path += "?" + exchange.query.decode("latin-1")
        code = "error"
        try:
            headers = self._headers(exchange, passes=passes)
            response = await self._client.request(method, path, headers, body, at_root=at_root)
            code = str(response.status)
            self._set_up(response.status < 500)
            if not exchange.engine_headers:  # the first attempt's, of an answer that is continued
                exchange.engine_headers = less(response.headers, _OWN_HEADERS)
            return response
        except TimeoutError as error:
            code = "timeout"
            message = f"the upstream {self.name} did not answer: {error}"
            raise upstream_failed(message, 504) from None
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
        """Return `text` without the key for this server, which error messages may quote."""
        return text.replace(self._secret, b"***") if self._secret else text

    async def refusal(self, response: Response) -> ApiError:
        """Return the error that a response other than 200 is."""
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
            # Written anew: the key may have stood there escaped.
            body = read_json(self.without_key(write_json(body)))
            error = body.get("error", body)  # some send the error without its envelope
            if isinstance(error, dict) and isinstance(error.get("message"), str):
                return UpstreamRefusalError(response.status, error, seconds)
        text = self.without_key(received)[:200].decode("utf-8", "replace").strip()
        message = f"the upstream answered {response.status}" + (f": {text}" if text else "")
        error = {"message": message, "type": "upstream_error", "param": None, "code": None}
        return UpstreamRefusalError(response.status, error, seconds)

    def close(self) -> None:
        """Close the connections as soon as their answers have ended."""
        self._client.close()

    def _headers(self, exchange: Exchange, *, passes: bool) -> Headers:
        headers = less(exchange.headers, _REPLACED if passes else _REPLACED_TO_READ)
        if not passes:
            headers.append((b"accept-encoding", b"identity"))
        headers.append((b"x-request-id", exchange.request_id.encode("latin-1")))
        if self._key is not None:
            key = self._key.encode()
            headers.append((b"authorization", b"Bearer " + key))
            names = {name for name, _ in exchange.headers if name in _KEY_HEADERS}
            headers += [(name, key) for name in names if name != b"authorization"]
        elif self._passes_keys:
            headers += [header for header in exchange.headers if header[0] in _KEY_HEADERS]
        return headers

    async def _probe(self) -> bool:
        headers: Headers = [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
        if self._key:
            headers.append((b"authorization", b"Bearer " + self._key.encode()))
        seconds = _PROBE_TIMEOUT_SECONDS
        timeouts = Timeouts(seconds, seconds, seconds, seconds)
        try:
            response = await self._client.request("GET", "/models", headers, timeouts=timeouts)
            body = await read_body(response)
        except (TimeoutError, ConnectError, BrokenError, ApiError):
            return False
        if response.status >= 500:
            return False
        self.is_known = True
        if response.status == 200:
            try:
                listed = read_json(body)["data"]
                self.described = {str(model["id"]): dict(model) for model in listed}
                self.models = list(self.described)
            except (ValueError, LookupError, TypeError):
                return True
            self._telemetry.learn(self.known_models)
        # A server that lists no models, or not to us, may well answer requests.
        return True

    def _set_up(self, is_up: bool) -> None:
        self.is_up = is_up
        # Each time: of several processes the last one to ask is right.
        self._telemetry.set("upstream_up", int(is_up), self.name)


async def read_body(response: Response) -> bytes:
    """Return the body of a response.

    Raises:
        ApiError: It is too long.
        BrokenError, TimeoutError: The connection failed.
    """
    received = await response.read()
    more = await response.read()
    if not more:
        return received
    body = bytearray(received)
    while more:
        body += more
        if len(body) > _MAX_RESPONSE_BYTES:
            response.close()
            message = f"the upstream answered with more than {_MAX_RESPONSE_BYTES} bytes"
            raise upstream_failed(message)
        more = await response.read()
    return bytes(body)


def answer_headers(headers: Headers) -> Headers:
    """Return the headers of an upstream that hold for an answer which was read and written anew."""
    return [header for header in headers if header[0] not in _REWRITTEN]


def content_type(response: Response) -> str:
    """Return the media type of a response."""
    value = (response.header(b"content-type") or b"application/octet-stream").decode("latin-1")
    return value.partition(";")[0].strip().lower()


def less(headers: Headers, names: frozenset[bytes]) -> Headers:
    """Return the headers less those named; `Connection` may name more."""
    for key, value in headers:
        if key == b"connection":
            names = names | {name.strip().lower() for name in value.split(b",")}
    return [header for header in headers if header[0] not in names]
