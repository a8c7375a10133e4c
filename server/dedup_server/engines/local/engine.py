"""A Hugging Face model in this process, on CPU or GPU.

    request -> prompts -> sequences in the decoder -> tokens -> text -> frames

Sequences are decoded together, a step at a time, where the model can be (`batching`), else side by
side (`one_by_one`). Each has its own history, penalties and random generator, so requests do not
change each other; one whose reader leaves gives up its place at once.
"""

import asyncio
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dedup.answer.continuation import ALL_METHODS, Continuation, Opening, Support
from dedup.config import DecodingConfig, decoding_options
from dedup.logits.methods import methods_on
from dedup.logits.tokens import TokenSets, token_sets
from dedup_server.engines.base import Call, Frames, Take
from dedup_server.engines.local.answering import (
    ChoicesGeneration,
    Generation,
    LongInputGeneration,
)
from dedup_server.engines.local.checkpoint import Checkpoint
from dedup_server.engines.local.choice import OpeningTokens, Sampling, bias_of
from dedup_server.engines.local.decoding import EngineFailedError
from dedup_server.engines.local.loading import Dtype, LoadedModel, load
from dedup_server.engines.local.prompts import PromptReader
from dedup_server.engines.local.sampling import GREEDY_BELOW, NoTokenError
from dedup_server.engines.local.tool_calls import takes_tools
from dedup_server.errors import (
    ApiError,
    invalid,
    model_not_found,
    not_ready,
    shutting_down,
    unsupported,
)
from dedup_server.requests.base import GenerationRequest
from dedup_server.requests.chat import (
    Message,
    SampledChatRequest,
    SampledCompletionRequest,
    SampledRequest,
)

DEMO_MODEL = Path(__file__).parents[2] / "demo_model"

log = logging.getLogger("dedup")

# A line's end in a token, as byte-level tokenizers and SentencePiece write it.
_LINE_END = re.compile(r"\n|\u010a|<0x0A>")

# The sampling parameters that `DecodingConfig` does not have.
_SAMPLING = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "logit_bias",
    "seed",
    "stop",
    "min_tokens",
    "n",
}
_PENALTIES = {option.name for option in decoding_options()} - {"temperature"}
_SUPPORTED = (
    _PENALTIES
    | _SAMPLING
    | {"model", "messages", "prompt", "stream", "stream_options", "user", "repetition"}
)
_SUPPORTED |= {
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "echo",
    "tools",
    "truncate",
    "long_input",
}
_SUPPORTED |= {
    "metadata",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "cache_prompt",  # llama.cpp's
}  # for the provider's own books
# What clients send as a matter of course, with the values that ask for nothing.
_ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "store": (False,),
    "modalities": (["text"],),
    "best_of": (1,),
    "suffix": ("",),
}


class LocalEngine:
    """Generates with one model.

    Args:
        model: A folder, a GGUF file or a hub id.
        name: What clients call it.
        max_concurrent: Answers that are generated at once; more wait their turn.
        device, dtype, trust_remote_code: See `Settings`.
    """

    is_local: Final = True

    def __init__(
        self,
        model: str,
        name: str | None = None,
        max_concurrent: int | None = None,
        device: str | None = None,
        dtype: Dtype | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self._checkpoint = Checkpoint.of(model)
        is_demo = self._checkpoint.path == DEMO_MODEL
        self._name = name or ("demo" if is_demo else self._checkpoint.name)
        self._options = (device, dtype, max_concurrent, trust_remote_code)
        self._loaded: LoadedModel | None = None
        self._token_sets: dict[DecodingConfig, TokenSets] = {}
        self._stopping = False

    @property
    def models(self) -> list[str]:
        return [self._name]

    def describe(self, model: str) -> dict[str, Any]:
        return {}

    @property
    def loaded(self) -> LoadedModel:
        """Raises `ApiError` (503) before `start` has ended."""
        if self._loaded is None:
            raise not_ready("the engine is not ready yet")
        return self._loaded

    def load(self) -> None:
        """Loads weights and tokenizer. Raises `StartupError` with one line on anything that is wrong with the model."""
        self._loaded = load(self._checkpoint, self._name, *self._options)

    async def start(self) -> None:
        if self._loaded is None:
            await asyncio.to_thread(self.load)

    async def ready(self) -> bool:
        return self._loaded is not None

    async def stop(self) -> None:
        self._stopping = True
        if self._loaded:
            await asyncio.to_thread(self._loaded.decoder.stop)

    def validate(self, request: GenerationRequest) -> None:
        assert isinstance(request, SampledChatRequest | SampledCompletionRequest)
        if request.model is not None and request.model not in self.models:
            raise model_not_found(request.model, self.models)
        for name, given in request.sent.items():
            if name not in _SUPPORTED and not any(
                given == one and type(given) is type(one) for one in _ASKS_NOTHING.get(name, ())
            ):
                raise unsupported(name, "the local engine does not support it")
        other = "prompt" if request.endpoint == "chat" else "messages"
        if other in request.sent:
            raise unsupported(other, f"it belongs to the other endpoint, not to {request.endpoint}")
        if request.max_output_tokens and (request.min_tokens or 0) > request.max_output_tokens:
            raise invalid(
                f"min_tokens: must be ≤ {request.max_output_tokens}, the most there may be",
                "min_tokens",
            )
        limits = (request.max_tokens, request.max_completion_tokens)
        if None not in limits and limits[0] != limits[1]:
            raise invalid(
                "max_tokens and max_completion_tokens are the same limit; got two values",
                "max_tokens",
            )
        if request.stream_options and request.stream_options.model_extra:
            name = next(iter(request.stream_options.model_extra))
            raise unsupported(f"stream_options.{name}", "the local engine does not support it")
        if isinstance(request, SampledChatRequest):
            self._validate_chat(request)
        else:
            self._validate_completion(request)
        if request.sent.get("encoder_no_repeat_ngram_size") and self.loaded.start_token is None:
            raise unsupported("encoder_no_repeat_ngram_size", f"{self._name} has no encoder")

    def _validate_chat(self, request: SampledChatRequest) -> None:
        if not self.loaded.tokenizer.chat_template:
            message = f"{self._name} has no chat template: use /v1/completions, or put a chat_template.jinja beside its tokenizer"
            raise invalid(message, "messages", "no_chat_template")
        if any(map(_has_more_than_text, request.messages)):
            raise unsupported("messages", "the local engine reads text only, no other parts")
        if request.tools and not takes_tools(self.loaded.tokenizer.chat_template):
            raise unsupported(
                "tools",
                f"the local engine reads calls in <tool_call>; {self._name}'s chat template has none",
            )
        if request.top_logprobs and not request.logprobs:
            raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
        for name in ("echo", "long_input"):
            if request.sent.get(name):
                raise unsupported(name, "it belongs to the completions endpoint")

    def _validate_completion(self, request: SampledCompletionRequest) -> None:
        if request.sent.get("tools"):
            raise unsupported("tools", "they belong to the chat endpoint")
        if request.sent.get("top_logprobs"):
            raise unsupported(
                "top_logprobs", "it belongs to the chat endpoint; here logprobs is the number"
            )
        if request.echo and request.logprobs is not None:
            raise unsupported(
                "echo", "with logprobs it would need those of the prompt, which are not worked out"
            )
        if request.long_input is not None:
            if not isinstance(request.prompt, str):
                raise invalid("long_input takes a prompt that is one string", "prompt")
            for name in ("n", "echo", "truncate", "logprobs"):
                if request.sent.get(name) not in (None, False, 1):
                    raise unsupported(name, "it does not go with long_input")

    def support(self, request: GenerationRequest) -> Support | None:
        if self.loaded.start_token is not None:
            return None
        if isinstance(request, SampledCompletionRequest) and (request.echo or request.long_input):
            return None
        return Support(ALL_METHODS, opens=True)

    async def generate(self, call: Call, take: Take) -> None:
        """See `Engine.generate`.

        Without `max_tokens` an answer may fill what the prompt leaves of the context.
        """
        request, continuation = call.request, call.continuation
        assert isinstance(request, SampledChatRequest | SampledCompletionRequest)
        loaded = self.loaded
        prefix = ""
        if continuation is not None:
            request = request.model_copy(update=dict(continuation.parameters))
            prefix = continuation.prefix
        prompts = await asyncio.to_thread(PromptReader(loaded, self._name).read, request, prefix)
        try:
            sampling = self._sampling(request, continuation)
        except ValueError as error:
            raise invalid(str(error), str(error).split(" ", 1)[0]) from None
        is_long = isinstance(request, SampledCompletionRequest) and request.long_input
        kind = LongInputGeneration if is_long else ChoicesGeneration
        generation: Generation = kind(request, self._name, loaded, sampling, prompts)
        frames = generation.begin()
        if continuation is not None:
            frames = []  # the answer has begun
        try:
            await self._decode(generation, frames, take)
        except EngineFailedError as error:
            if self._stopping:
                raise shutting_down() from None
            raise ApiError(500, str(error), type="server_error", code="engine_failed") from None
        except NoTokenError as error:
            raise ApiError(500, str(error), type="server_error", code="engine_error") from None

    async def _decode(self, generation: Generation, frames: Frames, take: Take) -> None:
        """Decode all sequences of a request, and give `take` their frames as they come."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Frames | BaseException | None] = asyncio.Queue()
        decoder = self.loaded.decoder

        def send(item: Frames | BaseException | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        sequences: list[Any] = []
        try:
            for prompt, step in generation.sequences(send):
                sequences.append(decoder.submit(prompt, step, send))
            left = len(sequences)
            while left:
                if frames and (pause := take(frames)) is not None:
                    await pause
                frames = []
                item: Frames | BaseException | None = await queue.get()
                while not isinstance(item, BaseException):
                    left -= item is None
                    frames += item or []
                    if queue.empty():
                        break
                    item = queue.get_nowait()  # all that has come: a loop behind catches up
                else:
                    # What was generated before the failure is not lost.
                    if frames and (pause := take(frames)) is not None:
                        await pause
                    raise item
            if (pause := take(frames + generation.end())) is not None:
                await pause
        finally:
            for sequence in sequences:
                decoder.cancel(sequence)

    def _sampling(self, request: SampledRequest, continuation: Continuation | None) -> Sampling:
        """Return how tokens are chosen. Raises ValueError, with the name of what is wrong first."""
        loaded = self.loaded

        def value(name: str, otherwise: Any) -> Any:
            for given in (getattr(request, name), getattr(loaded.defaults, name, None)):
                if given is not None:
                    return given
            return otherwise

        sent = request.sent
        penalties = {name: sent[name] for name in _PENALTIES if name in sent}
        for name, otherwise in (("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0)):
            penalties.setdefault(name, value(name, otherwise))
        asked = DecodingConfig(**penalties)
        temperature = value("temperature", 1.0)
        varies = any(method.kind == "temperature" for method in methods_on(asked))
        fixed = replace(asked, dynatemp_range=0.0, repetition_temperature=0.0)
        varying: DecodingConfig | None = None
        if varies:
            varying = replace(asked, temperature=max(temperature, GREEDY_BELOW / 2))
        return Sampling(
            temperature=temperature,
            top_p=value("top_p", 1.0),
            top_k=max(0, value("top_k", 0)),
            min_p=value("min_p", 0.0),
            penalties=fixed,
            methods=methods_on(fixed),
            token_sets=self._token_sets_of(fixed),
            varying=varying,
            bias=bias_of(request.logit_bias, len(loaded.tokenizer)),
            stop_strings=request.stop_strings,
            end_tokens=loaded.end_tokens,
            min_tokens=request.min_tokens or 0,
            num_logprobs=request.num_logprobs,
            seed=request.seed,
            opening=self._opening(continuation.opening if continuation else None),
        )

    def _opening(self, opening: Opening | None) -> OpeningTokens | None:
        """Return the tokens of an opening; None if there is none."""
        if opening is None:
            return None
        tokenizer = self.loaded.tokenizer
        banned: set[int] = set()
        for word in opening.banned:
            for text in (word, " " + word):
                first = tokenizer(text, add_special_tokens=False)["input_ids"][:1]
                if tokenizer.decode(first).strip():  # a space alone begins any word
                    banned.update(first)
        line_ends: list[int] = []
        if opening.stands_open:
            vocabulary = tokenizer.get_vocab()
            line_ends = [vocabulary[piece] for piece in vocabulary if _LINE_END.search(piece)]
        return OpeningTokens(tuple(banned), line_ends, opening.can_stop)

    def _token_sets_of(self, config: DecodingConfig) -> TokenSets:
        if config not in self._token_sets:
            if len(self._token_sets) >= 16:
                self._token_sets.clear()
            self._token_sets[config] = token_sets(config, self.loaded.tokenizer)
        return self._token_sets[config]


def _has_more_than_text(message: Message) -> bool:
    parts = message.content if isinstance(message.content, list) else []
    return any(
        part.get("type", "text") != "text" or not isinstance(part.get("text"), str)
        for part in parts
    )
