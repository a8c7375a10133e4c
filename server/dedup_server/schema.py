"""The shapes of requests, validated, and of the chunks and responses that an engine of our own makes.

A request keeps every field it came with: an upstream gets them all, and an engine that cannot obey one says so. Only what this server
needs to know is checked of what goes to an upstream, which knows best what it takes.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from dedup.config import Policy
from dedup_server.errors import ApiError, invalid

Endpoint = Literal["chat", "completions", "responses", "messages"]

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


_MAX_STOPS = 16
_MAX_MESSAGES = 16_384
_MAX_PROMPTS = 2048
MAX_LOGPROBS = 20


def _stop(value: object) -> object:
    """Union types would be told apart by trying each, and the error would name the last."""
    if value is not None and not isinstance(value, str):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise PydanticCustomError("stop", "must be a string or a list of strings")
        if len(value) > _MAX_STOPS:
            raise PydanticCustomError(
                "stop", "must be at most {most} strings", {"most": _MAX_STOPS}
            )
    return value


def _prompt(value: object) -> object:
    if isinstance(value, str):
        return value
    kinds = {type(item) for item in value} if isinstance(value, list) else set()
    if kinds == {list}:
        tokens = [token for tokens in value for token in tokens]  # type: ignore[attr-defined]
        kinds = {list} if all(type(token) is int for token in tokens) else {object}
    if kinds not in ({str}, {int}, {list}):
        raise PydanticCustomError(
            "prompt",
            "must be a string, a list of strings, token ids, or a list of lists of token ids",
        )
    if kinds != {int} and len(value) > _MAX_PROMPTS:  # type: ignore[arg-type]
        raise PydanticCustomError(
            "prompt", "must be at most {most} prompts", {"most": _MAX_PROMPTS}
        )
    return value


def _messages(value: object) -> object:
    if isinstance(value, list) and not 1 <= len(value) <= _MAX_MESSAGES:
        raise PydanticCustomError(
            "messages",
            "must be 1 to {most} messages, got {size}",
            {"most": _MAX_MESSAGES, "size": len(value)},
        )
    return value


def _content(value: object) -> object:
    parts = value if isinstance(value, list) else [{}]
    if not (value is None or isinstance(value, str | list)) or not all(
        isinstance(part, dict) for part in parts
    ):
        raise PydanticCustomError("content", "must be a string or a list of parts")
    return value


def _logit_bias(value: object) -> object:
    if value is None:
        return value
    if not isinstance(value, dict) or not all(key.isdigit() for key in value):
        raise PydanticCustomError("logit_bias", "must be an object of token ids and numbers")
    for bias in value.values():
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise PydanticCustomError("logit_bias", "must have numbers from -100 to 100")
    return value


def _long_input(value: object) -> object:
    if isinstance(value, bool):
        return {} if value else None
    return _object(value)


def _integral(value: object) -> object:
    """In JSON 2.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _object(value: object) -> object:
    if value is not None and not isinstance(value, dict | BaseModel):
        raise PydanticCustomError("object", "must be an object")
    return value


# What the checks by hand take, for the OpenAPI document.
_STRING = {"type": "string"}
_TOKENS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_PROMPT_SCHEMA = {
    "anyOf": [
        _STRING,
        {"type": "array", "items": _STRING, "minItems": 1, "maxItems": _MAX_PROMPTS},
        _TOKENS,
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer"}},
            "minItems": 1,
            "maxItems": _MAX_PROMPTS,
        },
    ]
}
_CONTENT_SCHEMA = {
    "anyOf": [_STRING, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]
}
_OBJECT_SCHEMA = {"type": ["object", "null"]}
_LOGIT_BIAS_SCHEMA = {
    "type": ["object", "null"],
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "propertyNames": {"pattern": "^[0-9]+$"},
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RepetitionOptions(_Strict):
    """What a request changes for itself."""

    policy: Policy | None = None
    heal: bool | None = None


class LongInput(_Strict):
    """How a prompt longer than the context is cut into pieces: each begins with up to `overlap` tokens of the one before, and stands
    between `before` and `after`, such as "Summarize: "."""

    overlap: Annotated[int, Field(ge=0)] = 64
    before: str = ""
    after: str = ""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    include_usage: bool = False


class Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    role: str
    content: Annotated[Any, BeforeValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)] = None

    @property
    def text(self) -> str:
        """The message's text; parts other than text are left out."""
        return "".join(self.texts)

    @property
    def texts(self) -> list[str]:
        if isinstance(self.content, list):
            return [part["text"] for part in self.content if isinstance(part.get("text"), str)]
        return [self.content] if self.content else []


@dataclass(slots=True)
class Exchange:
    """What is known of a request and its answer beside their JSON. caller: whose key it came with, by a name that tells nothing of the key.
    began: when it came, on the clock of `time.perf_counter`. headers: the client's, names in lower case. raw: its body.
    is_read: whether all of the body has come.

    The engine notes what the client or the log may want to know of its own exchange.
    """

    request_id: str = ""
    caller: str | None = None
    began: float = 0.0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    raw: bytes = b""
    is_read: bool = False
    query: bytes = b""
    engine_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    model: str | None = None
    upstream: str | None = None
    upstream_status: str | None = None


class GenerationRequest(BaseModel):
    """What requests for all endpoints have in common, and all that is checked of one that goes to an upstream."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str | None = None
    stream: bool | None = None
    repetition: Annotated[RepetitionOptions | None, BeforeValidator(_object)] = None

    _body: dict[str, Any] = PrivateAttr(default_factory=dict)
    _exchange: Exchange = PrivateAttr(default_factory=Exchange)
    _said: str = PrivateAttr(default="")
    _avoided: str = PrivateAttr(default="")

    @property
    def endpoint(self) -> Endpoint:
        raise NotImplementedError

    @cached_property  # pydantic takes its time to find a private attribute
    def exchange(self) -> Exchange:
        return self._exchange

    @property
    def said(self) -> str:
        """What the answer has said already: the engine is to go on from there."""
        return self._said

    @property
    def avoided(self) -> str:
        """What is not to be said next: the beginning of what would be one more copy of a loop."""
        return self._avoided

    def going_on(self, said: str, avoided: str, **changes: Any) -> Self:
        """The same request, with other values, for an answer that has said `said` and should not go on with `avoided`."""
        again = self.model_copy(update=changes)
        again._avoided = avoided
        again._body = {**self._body, **changes}
        again._exchange = self._exchange
        again._said = said
        return again

    def body(self) -> dict[str, Any]:
        """The JSON body as the client sent it, less what is meant for this server alone."""
        return {name: value for name, value in self._body.items() if name != "repetition"}

    def forwarded(self, **changes: Any) -> bytes:
        """The body for an upstream: the very bytes that came, unless something in it is for this server alone or to be changed."""
        body, raw = self._body, self.exchange.raw
        if (
            not self._said
            and "repetition" not in body
            and raw
            and all(body.get(name) == value for name, value in changes.items())
        ):
            return raw
        try:
            return msgspec.json.encode({**self.body(), **changes})
        except (ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise invalid(f"the body cannot be passed on: {error}") from None

    @property
    def estimated_prompt_tokens(self) -> int:
        prompts = [self._body.get(name) for name in ("instructions", "system", "input", "messages")]
        return estimate_tokens(
            sum(_num_bytes(text) for prompt in prompts for text in _texts_in(prompt))
        )

    @property
    def sent(self) -> dict[str, Any]:
        """The fields the client sent with a value."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return {
            name: value
            for name, value in {**values, **(self.model_extra or {})}.items()
            if value is not None
        }


class ResponsesRequest(GenerationRequest):
    @property
    def endpoint(self) -> Endpoint:
        return "responses"


class MessagesRequest(GenerationRequest):
    @property
    def endpoint(self) -> Endpoint:
        return "messages"


def _texts_in(value: Any) -> Iterator[str]:
    """The texts of a prompt: a string, a message with its content, a part with its text, or a list of those."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one)
    elif isinstance(value, dict):
        yield from _texts_in(value.get("content"))
        yield from _texts_in(value.get("text"))


class _ChoicesRequest(GenerationRequest):
    """What chat and text completions have in common."""

    stream_options: Annotated[StreamOptions | None, BeforeValidator(_object)] = None
    n: Annotated[int, Field(ge=1, le=128), BeforeValidator(_integral)] | None = None
    response_format: Annotated[Any, BeforeValidator(_object), WithJsonSchema(_OBJECT_SCHEMA)] = None

    @property
    def num_choices(self) -> int:
        """How many choices an answer has."""
        return self.n or 1

    @property
    def prompt_text(self) -> str:
        """What the reader asked last."""
        raise NotImplementedError

    @property
    def earlier_answers(self) -> list[str]:
        return []

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_json(self) -> bool:
        """Whether the answer must be JSON: then nothing in it may be edited."""
        return self.response_format is not None and str(
            self.response_format.get("type", "")
        ).startswith("json")


class ChatRequest(_ChoicesRequest):
    messages: Annotated[
        list[Message],
        BeforeValidator(_messages),
        Field(json_schema_extra={"minItems": 1, "maxItems": _MAX_MESSAGES}),
    ]

    @property
    def endpoint(self) -> Endpoint:
        return "chat"

    @property
    def prompt_text(self) -> str:
        asked = (message.texts for message in reversed(self.messages) if message.role == "user")
        return next((text for texts in asked if (text := "\n".join(texts).strip())), "")

    @property
    def earlier_answers(self) -> list[str]:
        return [message.text for message in self.messages if message.role == "assistant"]

    @property
    def estimated_prompt_tokens(self) -> int:
        return estimate_tokens(sum(_num_bytes(message.text) for message in self.messages))


class CompletionRequest(_ChoicesRequest):
    prompt: Annotated[
        Any, BeforeValidator(_prompt), WithJsonSchema(_PROMPT_SCHEMA)
    ]  # str | list[str] | list[int] | list[list[int]]

    @property
    def endpoint(self) -> Endpoint:
        return "completions"

    @property
    def num_choices(self) -> int:
        several = (
            isinstance(self.prompt, list)
            and bool(self.prompt)
            and not isinstance(self.prompt[0], int)
        )
        return (self.n or 1) * (len(self.prompt) if several else 1)

    @property
    def prompt_text(self) -> str:
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(part for part in self.prompt if isinstance(part, str))

    @property
    def estimated_prompt_tokens(self) -> int:
        parts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return sum(_num_tokens(part) for part in parts)


class Sampling(BaseModel):
    """How an answer is to be sampled: for an engine of our own, which says what is wrong instead of guessing."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[Any, BeforeValidator(_stop)] = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    truncate: bool | None = None
    seed: int | None = None
    logit_bias: Annotated[Any, BeforeValidator(_logit_bias), WithJsonSchema(_LOGIT_BIAS_SCHEMA)] = (
        None
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=0)] | None = None
    dry_sequence_breakers: (
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=128, fail_fast=True)]
        | None
    ) = None
    dry_penalty_last_n: Annotated[int, Field(ge=-1)] | None = None
    user: str | None = None

    @property
    def max_output_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives of each token its log-probability comes with; None: not even its own."""
        raise NotImplementedError

    @property
    def stop_strings(self) -> list[str]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [string for string in stop if string]


class SampledChatRequest(Sampling, ChatRequest):
    """A chat request for an engine of our own."""

    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None


class SampledCompletionRequest(Sampling, CompletionRequest):
    """A text completion request for an engine of our own."""

    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    long_input: Annotated[LongInput | None, BeforeValidator(_long_input)] = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


SampledRequest = SampledChatRequest | SampledCompletionRequest


def estimate_tokens(num_bytes: int) -> int:
    """About four bytes of UTF-8 make a token: four characters of English, a little more than one of Chinese."""
    return -(-num_bytes // 4)


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _num_tokens(prompt: str | int | list[int]) -> int:
    """Exactly, where a prompt comes as tokens."""
    if isinstance(prompt, str):
        return estimate_tokens(_num_bytes(prompt))
    return len(prompt) if isinstance(prompt, list) else 1


Requests = Mapping[Endpoint, type[GenerationRequest]]

FORWARDED: Requests = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "responses": ResponsesRequest,
    "messages": MessagesRequest,
}
SAMPLED: Requests = {"chat": SampledChatRequest, "completions": SampledCompletionRequest}


def parse(
    requests: Requests, endpoint: Endpoint, body: object, exchange: Exchange | None = None
) -> GenerationRequest:
    """The request in `body`, decoded JSON. Raises `ApiError` (400) that names the first field that is wrong, and why."""
    if not isinstance(body, dict):
        raise invalid(f"the body must be a JSON object, got {type(body).__name__}")
    try:
        request = requests[endpoint].model_validate(body)
    except ValidationError as error:
        raise _one_line(error) from None
    request._body = body
    request._exchange = exchange or Exchange()
    return request


_MAX_SHOWN = 12
_RANGES = {
    "greater_than_equal": ("≥", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("≤", "le"),
    "less_than": ("<", "lt"),
}


def _one_line(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "body"
    if first["type"] == "missing":
        return invalid(f"{name}: is required", name)
    if first["type"] == "extra_forbidden":
        return invalid(f"{name}: unknown field", name, "unknown_parameter")
    if first["type"] in _RANGES:
        sign, bound = _RANGES[first["type"]]
        message = f"must be {sign} {first['ctx'][bound]:g}"
    elif first["type"] == "messages":
        return invalid(f"{name}: {first['msg']}", name)
    elif first["msg"].startswith("must be "):
        message = first["msg"]
    else:
        message = (
            first["msg"]
            .removeprefix("Input should be ")
            .replace("a valid dictionary or instance of Message", "an object")
        )
        message = (
            "must be " + message if message != first["msg"] else message[0].lower() + message[1:]
        )
    shown = repr(first["input"])
    if len(shown) > _MAX_SHOWN:  # what a reader said belongs into no error
        shown = f"something of type {type(first['input']).__name__}"
    return invalid(f"{name}: {message}, got {shown}", name)


def new_id(endpoint: Endpoint) -> str:
    return ("chatcmpl-" if endpoint == "chat" else "cmpl-") + uuid.uuid4().hex


def chat_chunk(
    id: str,
    model: str,
    created: int,
    choice: int,
    delta: dict[str, Any],
    finish_reason: str | None = None,
) -> dict[str, Any]:
    choices = [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
    return {
        "id": id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": choices,
    }


def text_chunk(
    id: str, model: str, created: int, choice: int, text: str, finish_reason: str | None = None
) -> dict[str, Any]:
    choices = [{"index": choice, "text": text, "logprobs": None, "finish_reason": finish_reason}]
    return {
        "id": id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
    }


class ChunkMaker:
    """Makes the chunks of one answer."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self._id, self._model, self._created = new_id(endpoint), model, int(time.time())

    def text(self, choice: int, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        """A chunk that carries text, or ends a choice, or both."""
        if self._endpoint == "completions":
            return text_chunk(self._id, self._model, self._created, choice, text, finish_reason)
        delta = {"content": text} if text or not finish_reason else {}
        return chat_chunk(self._id, self._model, self._created, choice, delta, finish_reason)

    def role(self, choice: int) -> dict[str, Any]:
        """The first chunk of a chat choice."""
        return chat_chunk(
            self._id, self._model, self._created, choice, {"role": "assistant", "content": ""}
        )

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        """The last chunk: no choice, what was used."""
        return {**self.text(0, ""), "choices": [], "usage": usage(prompt_tokens, completion_tokens)}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    total = prompt_tokens + completion_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": total,
    }
