"""What models answer to prompts, raw: no filter, no penalty. The same prompts, seeds and parameters for each; nothing is asked twice."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from tqdm import tqdm

from dedup.lenient_json import read_json, write_json
from dedup_server.endpoints import CHAT, COMPLETIONS
from dedup_server.engines.base import Call, Frames
from dedup_server.engines.local.checkpoint import is_local, require_checkpoint
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

_LOCAL_AT_ONCE = 16
_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 600.0
_PAUSES_SECONDS = (1.0, 4.0, 16.0)  # before a server that is busy or broke off is asked again
_SHOWN_CHARS = 200
_OFF = {"repetition": {"policy": "off"}}
_NEUTRAL = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}  # whatever the checkpoint's defaults say


@dataclass(frozen=True, slots=True)
class Parameters:
    """raw: the model goes on with a prompt as it stands, without its chat template."""

    max_tokens: int
    temperature: float
    raw: bool = False

    def body(self, prompt: str, seed: int) -> dict[str, Any]:
        asked = (
            {"prompt": prompt} if self.raw else {"messages": [{"role": "user", "content": prompt}]}
        )
        return {
            **asked,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": 1.0,
            "seed": seed,
        }


@dataclass(frozen=True, slots=True)
class Question:
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    finish_reason: str | None


class Model(Protocol):
    """Something that answers. key: what it is in a file of answers."""

    key: str

    async def start(self) -> None:
        """Raises `StartupError`."""
        ...

    async def ask(self, question: Question, parameters: Parameters) -> Answer:
        """Raises `ApiError`."""
        ...

    async def stop(self) -> None: ...


class LocalModel:
    """A Hugging Face model in this process: a path or a hub id."""

    def __init__(self, model: str, device: str | None) -> None:
        """Raises `StartupError` for a path with no model in it."""
        require_checkpoint(model)
        from dedup_server.engines.local.engine import LocalEngine

        self.key = f"{model} {_state(Path(model).expanduser())}" if is_local(model) else model
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
                    f"{self._model}: has no chat template; with --raw prompts go to the model as they stand"
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
    """A model behind an OpenAI-compatible URL. A server of ours is told to leave its answers as they are."""

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
        """Looks whether the server is there and has the model."""
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
                f"{self._url}: wants a key ({status}): name the variable that holds it with --api-key-env"
            )
        names = _ids(listed) if status == 200 else []
        if names and self._name and self._name not in names:
            raise StartupError(
                f"{self._url}: there is no model {self._name!r}; there is: {', '.join(names)}"
            )
        if not self._name:
            if len(names) != 1:
                there = (
                    f"there is: {', '.join(names)}"
                    if names
                    else f"/models answered {status} and told of none"
                )
                raise StartupError(f"{self._url}: name the model, {self._url}#NAME; {there}")
            self._name = names[0]
        self._extra = _OFF if await self._is_ours() else {}

    async def ask(self, question: Question, parameters: Parameters) -> Answer:
        assert self._client is not None
        body = {
            **parameters.body(question.prompt, question.seed),
            "model": self._name,
            **self._extra,
        }
        path = "/completions" if parameters.raw else "/chat/completions"
        for pause in (*_PAUSES_SECONDS, None):
            try:
                status, answer = await self._exchange(self._client, "POST", path, write_json(body))
            except (ConnectError, BrokenError, TimeoutError) as error:
                status, answer = 502, {"error": {"message": str(error)}}
            if pause is None or not (status == 429 or status >= 500):
                break
            await asyncio.sleep(pause)
        if status != 200:
            reason = _reason(status, answer)
            raise ApiError(
                status, reason.replace(self._api_key, "***") if self._api_key else reason
            )
        try:
            choice = answer["choices"][0]
            return Answer(_text_of(choice, "message"), choice.get("finish_reason"))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ApiError(502, "its answer has no choice with a text") from None

    async def stop(self) -> None:
        if self._client is not None:
            self._client.close()

    async def _is_ours(self) -> bool:
        root = HttpClient(
            self._root, Timeouts(_CONNECT_SECONDS, _CONNECT_SECONDS, _CONNECT_SECONDS)
        )
        try:
            status, told = await self._exchange(root, "GET", "/")
        except (ConnectError, BrokenError, TimeoutError, ApiError):
            return False
        finally:
            root.close()
        return status == 200 and isinstance(told, dict) and told.get("name") == "dedup"

    async def _exchange(
        self, client: HttpClient, method: str, path: str, body: bytes = b""
    ) -> tuple[int, Any]:
        """Status and body; None for one that is no JSON."""
        response = await client.request(method, path, self._headers, body)
        received = await read_body(response)
        with suppress(ValueError, RecursionError):
            return response.status, read_json(received)
        return response.status, None


def model_of(given: str, device: str | None, api_key: str | None) -> Model:
    """given: a path, a hub id or `URL[#NAME]`. Raises `StartupError`."""
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
            f"{given!r} is no URL of a server; it looks like http://127.0.0.1:8001/v1#model-name"
        )
    return ServedModel(
        url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1", name, api_key
    )


def read_prompts(path: Path) -> list[str]:
    """One a line: a text, or an object with a string `prompt` in a file called `.jsonl`. Raises `StartupError`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise StartupError(f"{path}: is not UTF-8") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            try:
                row = msgspec.json.decode(line)
            except (ValueError, RecursionError):
                raise StartupError(f"{path}: line {number}: invalid JSON") from None
            prompt = row.get("prompt") if isinstance(row, dict) else None
            if not isinstance(prompt, str) or not prompt.strip():
                raise StartupError(
                    f'{path}: line {number}: must be an object with a string "prompt"'
                )
        else:
            prompt = line.strip()
        prompts.append(prompt)
    if not prompts:
        raise StartupError(f"{path}: has no prompts")
    return list(dict.fromkeys(prompts))  # the same prompt twice would count as two that agree


class AnswersFile:
    """Answers, a JSON line each, so that a run that was broken off goes on where it was. Without a path, in memory alone."""

    def __init__(self, path: Path | None) -> None:
        """Raises `StartupError`. A last line without its end is dropped: the process was killed while it wrote."""
        self._path = path
        self._known: dict[str, Answer] = {}
        if path is None:
            return
        try:
            with path.open("ab"):  # whether it can be written is to be known before hours of work
                pass
            written = path.read_bytes()
            whole = written.rfind(b"\n") + 1
            if whole < len(written):
                with path.open("r+b") as file:
                    file.truncate(whole)
        except OSError as error:
            raise StartupError(f"{path}: {error.strerror or error}") from None
        for number, line in enumerate(written[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                key = _key(
                    row["model"],
                    Question(row["prompt"], row["seed"]),
                    Parameters(**row["parameters"]),
                )
                self._known[key] = Answer(row["text"], row["finish_reason"])
            except (ValueError, KeyError, TypeError):
                raise StartupError(f"{path}: line {number}: is no answer of an audit") from None

    def get(self, model: str, question: Question, parameters: Parameters) -> Answer | None:
        return self._known.get(_key(model, question, parameters))

    def add(self, model: str, question: Question, parameters: Parameters, answer: Answer) -> None:
        self._known[_key(model, question, parameters)] = answer
        if self._path is not None:
            row = {
                "model": model,
                **asdict(question),
                "parameters": asdict(parameters),
                **asdict(answer),
            }
            try:
                with self._path.open("ab") as file:
                    file.write(json.dumps(row).encode() + b"\n")
            except OSError as error:
                raise StartupError(f"{self._path}: {error.strerror or error}") from None


async def answer_all(
    models: Sequence[Model],
    questions: Sequence[Question],
    parameters: Parameters,
    file: AnswersFile,
    concurrency: int,
    show: bool,
) -> list[list[Answer]]:
    """The answers of each model to the questions, in order. One model after another is started, asked what `file` does not know,
    and stopped.

    concurrency: questions at once to a URL. show: progress, on standard error. Raises `StartupError`.
    """
    missing = {
        model.key: [
            question for question in questions if file.get(model.key, question, parameters) is None
        ]
        for model in models
    }
    num_missing = sum(map(len, missing.values()))
    with tqdm(
        total=num_missing, unit=" answers", disable=not show or not num_missing, desc="dedup audit"
    ) as progress:
        for model in models:
            if left := missing.pop(model.key, []):
                await _ask_all(model, left, parameters, file, concurrency, progress)
    known = [
        [file.get(model.key, question, parameters) for question in questions] for model in models
    ]
    return [[answer for answer in row if answer is not None] for row in known]


async def _ask_all(
    model: Model,
    questions: Sequence[Question],
    parameters: Parameters,
    file: AnswersFile,
    concurrency: int,
    progress: Any,
) -> None:
    waiting = iter(questions)

    async def work() -> None:
        for question in waiting:
            try:
                answer = await model.ask(question, parameters)
            except ApiError as error:
                prompt = question.prompt[:_SHOWN_CHARS]
                raise StartupError(
                    f"{model.key}: no answer to {prompt!r}: {error.message[:_SHOWN_CHARS]}"
                ) from None
            file.add(model.key, question, parameters, answer)
            progress.update()

    try:
        await model.start()
        at_once = _LOCAL_AT_ONCE if isinstance(model, LocalModel) else concurrency
        async with asyncio.TaskGroup() as group:
            for _ in itertools.repeat(None, min(at_once, len(questions))):
                group.create_task(work())
    except (
        ExceptionGroup
    ) as group:  # of the tasks; the first that failed says why, the others were cancelled
        raise group.exceptions[0] from None
    finally:
        await model.stop()


def _key(model: str, question: Question, parameters: Parameters) -> str:
    return json.dumps([model, *asdict(question).values(), *asdict(parameters).values()])


def _state(folder: Path) -> str:
    """Another one as soon as a file of the model is: answers of other weights under the same path are not its answers."""
    files = sorted(
        (one.name, one.stat().st_size, one.stat().st_mtime_ns)
        for one in folder.iterdir()
        if one.is_file()
    )
    return hashlib.sha256(repr(files).encode()).hexdigest()[:12]


def _text_of(choice: dict[str, Any], message: str) -> str:
    """What was said, thoughts first: a loop in them is one too."""
    if message not in choice:
        return choice.get("text") or ""
    said = choice[message]
    thought = said.get("reasoning_content") or said.get("reasoning") or ""
    text = said.get("content") or ""
    return f"{thought}\n\n{text}" if thought and text else thought or text


def _ids(listed: Any) -> list[str]:
    rows = listed.get("data") if isinstance(listed, dict) else None
    return [
        row["id"] for row in rows or [] if isinstance(row, dict) and isinstance(row.get("id"), str)
    ]


def _reason(status: int, answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else f"it answered {status}"
