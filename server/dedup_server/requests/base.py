"""Common part of all requests, and `parse`, which reads one."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from dedup.answer.agent_loops.ladder import Rung, read_ladder
from dedup.answer.channel import Editing
from dedup.answer.conversation import texts_in
from dedup.answer.usage import estimate_tokens
from dedup.config import Policy
from dedup_server.errors import ApiError, invalid
from dedup_server.requests.fields import IS_OBJECT

EndpointName = str  # of a row of `dedup_server.endpoints`


# Fields that ask for what no stream has, or has only in part: sound, the number of a job, and of
# vLLM and SGLang the place of a cache, states, the prompt's log-probabilities.
_ONLY_WHOLE = (
    "audio",
    "background",
    "kv_transfer_params",
    "return_hidden_states",
    "prompt_logprobs",
)


_MAX_PARTS = 2_000_000  # values of a body, counted by commas and brackets, those in texts too


class UntranslatableError(ValueError):
    """A request asks for something that a chat request cannot.

    Args:
        param: The field that asks for it.
        reason: What is wrong with it.
    """

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(f"{param}: {reason}")
        self.param = param
        self.reason = reason


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RepetitionOptions(Strict):
    """Settings that a request changes for itself."""

    policy: Policy | None = None
    read_prompt: bool | None = None
    heal: bool | None = None
    agent_loops: Annotated[list[Rung], BeforeValidator(read_ladder)] | None = None
    repeatable_tools: list[str] | None = None


@dataclass(slots=True)
class Exchange:
    """A request and its response, beside their JSON.

    Args:
        request_id: The client's, or one of our own.
        caller: Which key the request came with, under a name that does not reveal it.
        began: When it came, on the clock of `time.perf_counter`.
        headers: The client's, names in lower case.
        added_headers: Headers of the response, of this server's own.
        query: The query of its URL.
        raw: Its body.
        is_read: All of the body has come.
        model: The model that it asks for.
        engine_headers, upstream, upstream_status: What the engine reports of its own exchange.
        report: More fields for its log line.
    """

    request_id: str = ""
    caller: str | None = None
    began: float = 0.0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    query: bytes = b""
    raw: bytes = b""
    is_read: bool = False
    model: str | None = None
    engine_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    added_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    upstream: str | None = None
    upstream_status: str | None = None
    report: dict[str, Any] = field(default_factory=dict)


class GenerationRequest(BaseModel):
    """A request for an answer: what all APIs have."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str | None = None
    stream: bool | None = None
    repetition: Annotated[RepetitionOptions | None, IS_OBJECT] = None

    # Names of fields in the body that `as_chat` returns, and in this API where they differ.
    chat_names: ClassVar[dict[str, str]] = {}
    # The field that holds the conversation, and the value of `tool_choice` that forbids calls.
    history_field: ClassVar[str] = "messages"
    no_tools: ClassVar[Any] = "none"

    @property
    def endpoint(self) -> EndpointName:
        """Return the name of the endpoint; see `dedup_server.endpoints`."""
        raise NotImplementedError

    # `parse` fills in both. Pydantic's own private attributes take their time.

    @cached_property
    def exchange(self) -> Exchange:
        return Exchange()

    @cached_property
    def json_body(self) -> dict[str, Any]:
        """Return the JSON body as it came."""
        return {}

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON body as the client sent it, less what is meant for this server alone."""
        return {name: value for name, value in self.json_body.items() if name != "repetition"}

    @property
    def sent(self) -> dict[str, Any]:
        """Return the fields that the client sent with a value."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        values.update(self.model_extra or {})
        return {name: value for name, value in values.items() if value is not None}

    @property
    def fields(self) -> frozenset[str]:
        """Return the names of the fields that the client sent."""
        return frozenset(self.json_body)

    @property
    def is_streamable(self) -> bool:
        """Return whether a stream of the answer holds all that the whole answer would."""
        body = self.json_body
        return not any(body.get(name) for name in _ONLY_WHOLE)

    @property
    def streaming(self) -> dict[str, Any]:
        """Return the fields that make it a request for a stream, with its usage."""
        return {"stream": True}

    @property
    def num_choices(self) -> int:
        """Return how many choices an answer has."""
        return 1

    @property
    def wants_usage(self) -> bool:
        """Return whether a stream ends with its usage."""
        return False

    @property
    def last_prompt(self) -> str:
        """Return the user's last message."""
        raise NotImplementedError

    @property
    def earlier_answers(self) -> list[str]:
        """Return the answers that stand in the conversation."""
        return []

    @property
    def agent_history(self) -> list[Any] | None:
        """Return the conversation of an agent; None if the request offers no tools."""
        body = self.json_body
        if not (body.get("tools") or body.get("functions")):
            return None
        history = body.get(self.history_field)
        return history if isinstance(history, list) else None

    @property
    def forces_call(self) -> bool:
        """Return whether the answer has to call a tool."""
        choice = self.json_body.get("tool_choice", self.json_body.get("function_call"))
        if not isinstance(choice, dict):
            return choice in ("required", "any")
        kind = choice.get("type")
        if kind == "allowed_tools":
            return choice.get("mode") == "required"
        return kind not in ("auto", "none")

    @property
    def forbids_calls(self) -> bool:
        """Return whether the answer must not call a tool."""
        return any(self.json_body.get(name) == value for name, value in self.without_calls.items())

    @property
    def without_calls(self) -> dict[str, Any]:
        """Return the field that forbids calls."""
        if self.json_body.get("functions") and not self.json_body.get("tools"):
            return {"function_call": "none"}
        return {"tool_choice": self.no_tools}

    @property
    def wants_json(self) -> bool:
        """Return whether the answer must be JSON: then nothing in it may be edited."""
        return False

    @property
    def prompt_tokens(self) -> int:
        """Return an estimate of the prompt's tokens."""
        prompts = [
            self.json_body.get(name) for name in ("instructions", "system", "input", "messages")
        ]
        return estimate_tokens(sum(num_bytes(text) for one in prompts for text in texts_in(one)))

    def as_chat(self) -> dict[str, Any]:
        """Return the body of a chat request for the same answer.

        Raises:
            UntranslatableError: Chat cannot ask for it.
        """
        raise NotImplementedError

    def changed(self, **fields: Any) -> Self:
        """Return the request with other fields, for another attempt."""
        exchange = replace(self.exchange, raw=b"")
        return parse(type(self), {**self.json_body, **fields}, exchange)

    def editing(self, policy: Policy, *, locks_reasoning: bool = False) -> Editing:
        """Return how the answer is to be filtered."""
        history = self.earlier_answers if policy == "strict" else ()
        return Editing(policy, self.last_prompt, history, self.wants_json, locks_reasoning)

    def forwarded(self, **changes: Any) -> bytes:
        """Return the body for an upstream.

        That is the very bytes that came, unless something in them is for this server alone or has
        to change.
        """
        body, raw = self.json_body, self.exchange.raw
        is_same = all(body.get(name) == value for name, value in changes.items())
        if raw and is_same and "repetition" not in body:
            return raw
        return encoded({**self.body, **changes})


Request = TypeVar("Request", bound=GenerationRequest)


def encoded(body: dict[str, Any]) -> bytes:
    """Return a body as JSON. Raises `ApiError` (400) if it holds what JSON cannot."""
    try:
        return msgspec.json.encode(body)
    except (ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise invalid(f"the body cannot be passed on: {error}") from None


def check_parts(body: bytes) -> None:
    """Raise `ApiError` (413) if the JSON in a body has so many values that it fills the memory.

    An empty list of two bytes takes 64 in memory, and the time to make it.
    """
    if len(body) > _MAX_PARTS and sum(map(body.count, (b"[", b"{", b","))) > _MAX_PARTS:
        message = f"the body has more than {_MAX_PARTS} values"
        raise ApiError(413, message, code="body_too_complex")


def num_bytes(text: str) -> int:
    """Return the size of a text in UTF-8."""
    return len(text.encode("utf-8", "replace"))


def parse(kind: type[Request], body: object, exchange: Exchange | None = None) -> Request:
    """Return the request in `body`, which is decoded JSON.

    Raises:
        ApiError: (400) It names the first field that is wrong, and why.
    """
    if not isinstance(body, dict):
        raise invalid(f"the body must be a JSON object, got {type(body).__name__}")
    try:
        request = kind.model_validate(body)
    except ValidationError as error:
        raise _one_line(error) from None
    vars(request).update(json_body=body, exchange=exchange or Exchange())
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
    told = first["msg"].removeprefix("Value error, ")
    name = ".".join(map(str, first["loc"])) or "body"
    if first["type"] == "missing":
        return invalid(f"{name}: is required", name)
    if first["type"] == "extra_forbidden":
        return invalid(f"{name}: unknown field", name, "unknown_parameter")
    if first["type"] in _RANGES:
        sign, bound = _RANGES[first["type"]]
        message = f"must be {sign} {first['ctx'][bound]:g}"
    elif first["type"] == "messages":
        return invalid(f"{name}: {told}", name)
    elif told.startswith("must be "):
        message = told
    else:
        message = told.removeprefix("Input should be ")
        message = message.replace("a valid dictionary or instance of Message", "an object")
        if message == told:
            message = message[0].lower() + message[1:]
        else:
            message = "must be " + message
    shown = repr(first["input"])
    if len(shown) > _MAX_SHOWN:  # what a user wrote belongs into no error
        shown = f"something of type {type(first['input']).__name__}"
    return invalid(f"{name}: {message}, got {shown}", name)
