"""Requests for chat and text completions, and how an engine in this process samples them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from dedup.answer.usage import estimate_tokens
from dedup.config import decoding_options
from dedup_server.requests.base import (
    EndpointName,
    GenerationRequest,
    Strict,
    UntranslatableError,
    num_bytes,
)
from dedup_server.requests.fields import (
    IS_INTEGRAL,
    IS_LONG_INPUT,
    IS_MESSAGES,
    IS_OBJECT,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_TOOLS,
    Content,
    JsonObject,
    LogitBias,
    Prompt,
    Stop,
    Unit,
    field_type,
)

Integral = Annotated[int, IS_INTEGRAL]


class LongInput(Strict):
    """Settings for a prompt that is longer than the context and is cut into pieces.

    Args:
        overlap: Tokens of the piece before with which each begins, at most.
        before, after: Text around each piece, such as "Summarize: ".
    """

    overlap: Annotated[int, Field(ge=0)] = 64
    before: str = ""
    after: str = ""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    include_usage: bool = False


class Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    role: str
    content: Content = None

    @property
    def text(self) -> str:
        """Return the message's text; parts other than text are left out."""
        return "".join(self.texts)

    @property
    def texts(self) -> list[str]:
        if isinstance(self.content, list):
            return [part["text"] for part in self.content if isinstance(part.get("text"), str)]
        return [self.content] if self.content else []


class Function(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: Annotated[str, Field(min_length=1)]


class Tool(BaseModel):
    """A function that a model may call."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: Literal["function"]
    function: Function


class ChoicesRequest(GenerationRequest):
    """Common part of chat and text completions."""

    stream_options: Annotated[StreamOptions | None, IS_OBJECT] = None
    n: Annotated[int, Field(ge=1, le=128), IS_INTEGRAL] | None = None
    response_format: JsonObject = None

    @property
    def streaming(self) -> dict[str, Any]:
        options = self.json_body.get("stream_options") or {}
        return {"stream": True, "stream_options": {**options, "include_usage": True}}

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_json(self) -> bool:
        form = self.response_format
        return form is not None and str(form.get("type", "")).startswith("json")


class ChatRequest(ChoicesRequest):
    messages: Annotated[
        list[Message],
        IS_MESSAGES,
        Field(json_schema_extra={"minItems": 1, "maxItems": MAX_MESSAGES}),
    ]

    @property
    def endpoint(self) -> EndpointName:
        return "chat"

    @property
    def last_prompt(self) -> str:
        for message in reversed(self.messages):
            if message.role == "user":
                text = "\n".join(message.texts).strip()
                if text:
                    return text
        return ""

    @property
    def earlier_answers(self) -> list[str]:
        return [message.text for message in self.messages if message.role == "assistant"]

    @property
    def prompt_tokens(self) -> int:
        return estimate_tokens(sum([num_bytes(message.text) for message in self.messages]))

    def as_chat(self) -> dict[str, Any]:
        return self.body


class CompletionRequest(ChoicesRequest):
    prompt: Prompt  # str, or a list: of str, of int, of lists of int

    @property
    def endpoint(self) -> EndpointName:
        return "completions"

    @property
    def num_prompts(self) -> int:
        prompts = self.prompt
        if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
            return len(prompts)
        return 1

    @property
    def num_choices(self) -> int:
        return (self.n or 1) * self.num_prompts

    @property
    def last_prompt(self) -> str:
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join([part for part in self.prompt if isinstance(part, str)])

    @property
    def prompt_tokens(self) -> int:
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return sum([_num_tokens(prompt) for prompt in prompts])

    def as_chat(self) -> dict[str, Any]:
        raise UntranslatableError("prompt", "a text completion is no chat")


if TYPE_CHECKING:
    Decoding = BaseModel
else:
    Decoding = create_model(
        "Decoding",
        __config__=ConfigDict(extra="allow", strict=True, frozen=True),
        **{option.name: (field_type(option.api_range), None) for option in decoding_options()},
    )


class Sampling(Decoding):
    """Sampling parameters of an engine in this process, which refuses what is wrong.

    The fields of `DecodingConfig` are fields of a request, with the same names and ranges.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stop = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    truncate: bool | None = None
    seed: int | None = None
    logit_bias: LogitBias = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Unit | None = None
    user: str | None = None

    @property
    def max_output_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Return how many alternatives each token comes with; None: no log-probabilities."""
        raise NotImplementedError

    @property
    def stop_strings(self) -> list[str]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [string for string in stop if string]


class SampledChatRequest(Sampling, ChatRequest):
    """A chat request for an engine in this process."""

    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """Return the tools that the model may call."""
        if self.sent.get("tool_choice") == "none":
            return []
        return [tool.model_dump() for tool in self.tools or ()]


class SampledCompletionRequest(Sampling, CompletionRequest):
    """A text completion request for an engine in this process."""

    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    long_input: Annotated[LongInput | None, IS_LONG_INPUT] = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


SampledRequest = SampledChatRequest | SampledCompletionRequest


def _num_tokens(prompt: str | int | list[int]) -> int:
    """Return the number of tokens: exact where a prompt comes as tokens, else estimated."""
    if isinstance(prompt, str):
        return estimate_tokens(num_bytes(prompt))
    return len(prompt) if isinstance(prompt, list) else 1
