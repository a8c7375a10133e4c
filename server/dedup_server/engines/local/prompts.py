"""From a request to the tokens that a model goes on from."""

from dataclasses import dataclass
from typing import Any

from dedup.lenient_json import read_json
from dedup_server.engines.local.loading import LoadedModel, first_line
from dedup_server.engines.local.long_input import split
from dedup_server.errors import ApiError, invalid
from dedup_server.requests.chat import (
    ChatRequest,
    LongInput,
    Message,
    SampledChatRequest,
    SampledCompletionRequest,
    SampledRequest,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """num_truncated: tokens left out at the beginning, because the request asks for that rather than to be refused."""

    tokens: list[int]
    num_truncated: int = 0


def _as_template_has(message: Message) -> dict[str, Any]:
    """Return a message as chat templates read it: with its text, and arguments that are decoded."""
    given = message.model_dump() | {"content": message.text}
    calls = given.get("tool_calls")
    if isinstance(calls, list):
        given["tool_calls"] = [_decoded(call) for call in calls]
    return given


def _decoded(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = read_json(function["arguments"].encode("utf-8", "surrogatepass"))
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


class PromptReader:
    """name: what clients call the model."""

    def __init__(self, loaded: LoadedModel, name: str) -> None:
        self._loaded = loaded
        self._tokenizer = loaded.tokenizer
        self._name = name

    def read(self, request: SampledRequest, prefix: str = "") -> list[Prompt]:
        """Return the prompts: one, or as many as a completion request has.

        Args:
            request: The request.
            prefix: What the answer begins with.

        Raises:
            ApiError: (400) A prompt cannot be read, or is too long.
        """
        if isinstance(request, SampledCompletionRequest) and request.long_input:
            return self._pieces(request, request.long_input)
        name = "messages" if isinstance(request, SampledChatRequest) else "prompt"
        longest = self._loaded.context - 1  # an answer has a token at least
        prompts = []
        for tokens in self._tokens(request, prefix):
            if len(tokens) <= longest:
                prompts.append(Prompt(tokens))
            elif request.truncate:
                room = (
                    max(1, longest + 1 - (request.max_output_tokens or 1))
                    if self._loaded.start_token is None
                    else longest
                )
                prompts.append(self._truncated(tokens, min(room, longest)))
            else:
                raise self._too_long(str(len(tokens)), name)
        return prompts

    def _pieces(self, request: SampledCompletionRequest, long: LongInput) -> list[Prompt]:
        """A long text's pieces, each with room for its answer: what `max_tokens` says, else half of the context."""
        assert isinstance(request.prompt, str)
        context, is_encoder_decoder = self._loaded.context, self._loaded.start_token is not None
        for_answer = 0 if is_encoder_decoder else request.max_output_tokens or context // 2
        around = len(self._encode(long.before + long.after))
        room = context - 1 - for_answer - around
        try:
            pieces = split(
                request.prompt,
                lambda text: len(self._encode(text)) - len(self._encode("")),
                room,
                long.overlap,
            )
        except ValueError as error:
            message = f"long_input: {error}; of {context} tokens {for_answer} are for the answer, {around} stand around each piece"
            raise invalid(message, "long_input") from None
        tokens = [self._encode(long.before + piece + long.after) for piece in pieces or [""]]
        if max(map(len, tokens)) >= context:
            raise self._too_long(str(max(map(len, tokens))), "long_input")
        return [Prompt(piece or [self._first_token()]) for piece in tokens]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    def _tokens(self, request: SampledRequest, prefix: str) -> list[list[int]]:
        if isinstance(request, ChatRequest):
            messages = [_as_template_has(message) for message in request.messages]
            tools = request.offered_tools if isinstance(request, SampledChatRequest) else []
            try:
                text = self._tokenizer.apply_chat_template(
                    messages, tools=tools or None, tokenize=False, add_generation_prompt=True
                )
            except (
                Exception
            ) as error:  # a template is a program of its own and says no in any way it likes
                raise invalid(
                    f"messages: the chat template refuses them: {first_line(error)}", "messages"
                ) from None
            self._require_short(text, "messages", request)
            return [
                self._tokenizer(text + prefix, add_special_tokens=False, verbose=False)["input_ids"]
                or [self._first_token()]
            ]
        assert isinstance(request, SampledCompletionRequest)
        given: Any = request.prompt
        one = isinstance(given, str) or (given and isinstance(given[0], int))
        tokens: list[list[int]] = []
        for prompt in [given] if one else given:
            if isinstance(prompt, str):
                self._require_short(prompt, "prompt", request)
            if isinstance(prompt, str):
                ids = self._tokenizer(prompt + prefix, verbose=False)["input_ids"]
            else:
                ids = prompt + (
                    self._tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
                )
            if any(not 0 <= token < len(self._tokenizer) for token in ids):
                raise invalid(
                    f"prompt: token ids must be from 0 to {len(self._tokenizer) - 1}", "prompt"
                )
            tokens.append(ids or [self._first_token()])
        if not tokens:
            raise invalid("prompt: must not be empty", "prompt")
        return tokens

    def _truncated(self, tokens: list[int], room: int) -> Prompt:
        """The end of the prompt; what every prompt begins with stays."""
        begins = tokens[0] == self._tokenizer.bos_token_id and room > 1
        kept = (
            tokens[:1] + tokens[len(tokens) - room + 1 :]
            if begins
            else tokens[len(tokens) - room :]
        )
        return Prompt(kept, len(tokens) - len(kept))

    def _require_short(self, text: str, name: str, request: SampledRequest) -> None:
        """Refuses what is surely too long before it costs minutes and gigabytes to find out how much."""
        least = len(text) // self._loaded.longest_token
        if least >= self._loaded.context and not request.truncate:
            raise self._too_long(f"at least {least}", name)

    def _too_long(self, num_tokens: str, name: str) -> ApiError:
        message = f"the prompt is {num_tokens} tokens long; {self._name} takes at most {self._loaded.context}, the answer included"
        return invalid(
            f'{message}; "truncate": true leaves its beginning out', name, "context_length_exceeded"
        )

    def _first_token(self) -> int:
        """Return the token that an empty prompt begins with."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise invalid("prompt: must not be empty for this model", "prompt")
