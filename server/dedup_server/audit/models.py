"""Models under audit: in this process or behind a URL, without filter and penalties."""

import asyncio
import hashlib
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

from dedup.lenient_json import read_json, write_json
from dedup_server.audit.questions import Answer, Parameters, Question
from dedup_server.endpoints import CHAT, COMPLETIONS
from dedup_server.engines.base import Call, Frames
from dedup_server.engines.local.checkpoint import Checkpoint
from dedup_server.engines.upstream.server import read_body
from dedup_server.errors import ApiError, StartupError
from dedup_server.http.client import (
    BrokenError,
    ConnectError,
    Headers,
    HttpClient,
    Timeouts,
)
from dedup_server.requests.base import parse

_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 600.0
_RETRY_SECONDS = (1.0, 4.0, 16.0)  # after a 429, a 5xx or a broken connection
_OFF = {"repetition": {"policy": "off"}}
# Override a checkpoint's own defaults.
_NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


class Model(Protocol):
    """A model under audit. key: identifies it in a file of answers."""

    key: str

    async def start(self) -> None:
        """Load or connect. Raise `StartupError` if the model is not available."""
        ...

    async def ask(self, question: Question, parameters: Parameters) -> Answer:
        """Generate an answer. Raise `ApiError` if that fails."""
        ...

    async def stop(self) -> None:
        """Release what `start` acquired."""
        ...


class LocalModel:
    """A Hugging Face model in this process.

    Args:
        model: a folder, a GGUF file or a hub id.

    Raises:
        StartupError: there is no model at the path.
    """

    def __init__(self, model: str, device: str | None) -> None:
        checkpoint = Checkpoint.of(model)
        checkpoint.require()
        from dedup_server.engines.local.engine import LocalEngine

        self.key = model
        if checkpoint.path is not None:
            self.key = f"{model} {_fingerprint(checkpoint)}"
        self._model = model
        self._engine = LocalEngine(model, device=device)

    async def start(self) -> None:
        await self._engine.start()

    async def ask(self, question: Question, parameters: Parameters) -> Answer:
        body = parameters.body(question.prompt, question.seed)
        endpoint = COMPLETIONS if parameters.raw else CHAT
        request = parse(endpoint.sampled, {**body, **_NEUTRAL, "stream": True})
        try:
            self._engine.validate(request)
        except ApiError as error:
            if error.code == "no_chat_template":
                raise StartupError(
                    f"{self._model}: has no chat template; --raw sends prompts without one"
                ) from None
            raise
        parts: list[str] = []
        finish_reason: str | None = None

        def take(frames: Frames) -> None:
            nonlocal finish_reason
            for frame in frames:
                parts.extend([delta.text for delta in frame.deltas])
                for finish in frame.finishes or ():
                    finish_reason = finish.reason

        await self._engine.generate(Call(request, endpoint.path, endpoint.reader()), take)
        return Answer("".join(parts), finish_reason)

    async def stop(self) -> None:
        await self._engine.stop()


class ServedModel:
    """A model behind an OpenAI-compatible URL. A dedup server is asked to filter nothing.

    Args:
        name: empty if the server has one model only.
    """

    def __init__(self, url: str, name: str, api_key: str | None) -> None:
        parts = urlsplit(url)
        self.key = f"{url.rstrip('/')}#{name}"
        self._url = url.rstrip("/")
        self._root = f"{parts.scheme}://{parts.netloc}"
        self._name = name
        self._api_key = api_key
        self._headers: Headers = [
            (b"content-type", b"application/json"),
            (b"accept", b"application/json"),
        ]
        if api_key:
            self._headers.append(
                (b"authorization", b"Bearer " + api_key.encode("utf-8", "replace"))
            )
        self._extra: dict[str, Any] = {}
        self._client: HttpClient | None = None

    async def start(self) -> None:
        """Check that the server responds and has the model."""
        self._client = HttpClient(
            self._url, Timeouts(_CONNECT_SECONDS, _ANSWER_SECONDS, _ANSWER_SECONDS)
        )
        try:
            status, listed = await self._exchange(self._client, "GET", "/models")
        except (ConnectError, BrokenError, TimeoutError) as error:
            raise StartupError(f"{self._url}: cannot be reached: {error}") from None
        except ApiError as error:
            raise StartupError(f"{self._url}: {error}") from None
        if status in (401, 403):
            raise StartupError(
                f"{self._url}: requires a key ({status}): name its variable with --api-key-env"
            )
        names = _ids(listed) if status == 200 else []
        if names and self._name and self._name not in names:
            raise StartupError(
                f"{self._url}: there is no model {self._name!r}; known are: {', '.join(names)}"
            )
        if not self._name:
            if len(names) != 1:
                known = f"/models answered {status} and lists none"
                if names:
                    known = f"known are: {', '.join(names)}"
                raise StartupError(f"{self._url}: name the model, {self._url}#NAME; {known}")
            self._name = names[0]
        if await self._is_dedup():
            self._extra = _OFF

    async def ask(self, question: Question, parameters: Parameters) -> Answer:
        assert self._client is not None
        body = {
            **parameters.body(question.prompt, question.seed),
            "model": self._name,
            **self._extra,
        }
        path = "/completions" if parameters.raw else "/chat/completions"
        for pause in (*_RETRY_SECONDS, None):
            try:
                status, answer = await self._exchange(self._client, "POST", path, write_json(body))
            except (ConnectError, BrokenError, TimeoutError) as error:
                status, answer = 502, {"error": {"message": str(error)}}
            if pause is None or not (status == 429 or status >= 500):
                break
            await asyncio.sleep(pause)
        if status != 200:
            reason = _reason(status, answer)
            if self._api_key:
                reason = reason.replace(self._api_key, "***")
            raise ApiError(status, reason)
        try:
            choice = answer["choices"][0]
            return Answer(_text_of(choice, "message"), choice.get("finish_reason"))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ApiError(502, "its response contains no choice with a text") from None

    async def stop(self) -> None:
        if self._client is not None:
            self._client.close()

    async def _is_dedup(self) -> bool:
        root = HttpClient(
            self._root, Timeouts(_CONNECT_SECONDS, _CONNECT_SECONDS, _CONNECT_SECONDS)
        )
        try:
            status, info = await self._exchange(root, "GET", "/")
        except (ConnectError, BrokenError, TimeoutError, ApiError):
            return False
        finally:
            root.close()
        return status == 200 and isinstance(info, dict) and info.get("name") == "dedup"

    async def _exchange(
        self, client: HttpClient, method: str, path: str, body: bytes = b""
    ) -> tuple[int, Any]:
        """Send a request; return status and JSON body, None for a body that is not JSON."""
        response = await client.request(method, path, self._headers, body)
        received = await read_body(response)
        with suppress(ValueError, RecursionError):
            return response.status, read_json(received)
        return response.status, None


def model_of(given: str, device: str | None, api_key: str | None) -> Model:
    """Return the model that `--model` names.

    Args:
        given: a path, a hub id or `URL[#NAME]`.

    Raises:
        StartupError: `given` names no model.
    """
    if "://" not in given:
        return LocalModel(given, device)
    url, _, name = given.partition("#")
    try:
        parts = urlsplit(url)
        valid = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        valid = False
    if not valid or parts.query or parts.username or parts.password:
        raise StartupError(
            f"{given!r} is not the URL of a server, such as http://127.0.0.1:8001/v1#model-name"
        )
    if not parts.path.strip("/"):
        url = f"{parts.scheme}://{parts.netloc}/v1"
    return ServedModel(url, name, api_key)


def _fingerprint(checkpoint: Checkpoint) -> str:
    """Return a hash of the names, sizes and times of a model's files.

    It tells answers of a model from those of earlier weights at the same path.
    """
    files = sorted(
        (one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in checkpoint.files()
    )
    return hashlib.sha256(repr(files).encode()).hexdigest()[:12]


def _text_of(choice: dict[str, Any], message: str) -> str:
    """Return reasoning and content: a loop in either counts."""
    if message not in choice:
        return choice.get("text") or ""
    channels = choice[message]
    reasoning = channels.get("reasoning_content") or channels.get("reasoning") or ""
    content = channels.get("content") or ""
    return "\n\n".join(filter(None, (reasoning, content)))


def _ids(listed: Any) -> list[str]:
    rows = listed.get("data") if isinstance(listed, dict) else None
    return [
        row["id"] for row in rows or [] if isinstance(row, dict) and isinstance(row.get("id"), str)
    ]


def _reason(status: int, answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else f"the status is {status}"
