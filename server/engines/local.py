"""A Hugging Face model in this process: any causal model that `AutoModelForCausalLM` loads, on CPU or GPU.

Each request decodes in a worker thread, a step at a time, with its own history, penalties and random generator, so requests do not
change each other; a worker looks before every step whether its reader is still there.
"""

import asyncio
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dedup.config import DecodingConfig
from dedup.logits.hf import TextStream, apply_to
from dedup.logits.history import TokenHistory
from dedup.logits.temperature import current_temperature
from dedup.logits.tokens import TokenSets, token_sets
from server.engines.base import USED, Events, Take
from server.engines.checkpoint import is_local, require_checkpoint
from server.errors import ApiError, StartupError, invalid, model_not_found, shutting_down, unsupported
from server.schema import (
    SAMPLED,
    ChatRequest,
    ChunkMaker,
    CompletionRequest,
    GenerationRequest,
    Message,
    Requests,
    SampledChatRequest,
    SampledCompletionRequest,
    SampledRequest,
    usage,
)
from server.sse import Event, write_json

DEMO_MODEL = Path(__file__).parent.parent / "demo_model"

log = logging.getLogger("dedup")

HUB_TIMEOUT_SECONDS = 5.0
GREEDY_BELOW = 1e-5  # a temperature so low leaves only the best token, and dividing by it overflows

# Where models keep what they remember of a sequence: attention, Mamba, RWKV.
_CACHES = ("past_key_values", "cache_params", "state")

# The sampling parameters that `DecodingConfig` does not have.
_SAMPLING = {"temperature", "top_p", "top_k", "min_p"}
_PENALTIES = {field for field in DecodingConfig.__dataclass_fields__ if field != "temperature"} - {"encoder_no_repeat_ngram_size"}
_SUPPORTED = _PENALTIES | _SAMPLING | {"model", "messages", "prompt", "stream", "stream_options", "n", "stop", "seed", "user"}
_SUPPORTED |= {"max_tokens", "max_completion_tokens", "repetition"}
_SUPPORTED |= {"metadata", "prompt_cache_key", "safety_identifier", "service_tier"}  # for the provider's own books
# What clients send as a matter of course, with the values that ask for nothing.
_ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "store": (False,),
    "modalities": (["text"],),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request chooses tokens. temperature 0: the best token, always."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    penalties: DecodingConfig
    varying: DecodingConfig | None = None  # the temperature's methods, if any is on

    def temperature_after(self, history: TokenHistory, scores: torch.Tensor) -> float:
        """The temperature of the token that comes after `history`."""
        if self.varying is None:
            return self.temperature
        return current_temperature(history, scores.float().cpu().numpy(), self.varying)


class LocalEngine:
    """`model`: a path or a hub id. `max_concurrent` requests are generated at once; more wait their turn."""

    def __init__(self, model: str, name: str | None = None, max_concurrent: int = 4, device: str | None = None) -> None:
        path = Path(model).expanduser()
        self._path = str(path) if path.exists() else model
        self._name = name or ("demo" if path == DEMO_MODEL else path.resolve().name if path.exists() else model)
        self._device = device
        self._workers = ThreadPoolExecutor(max_concurrent, thread_name_prefix="generate")
        self._max_concurrent = max_concurrent
        self._token_sets: dict[DecodingConfig, TokenSets] = {}
        self._stopping = threading.Event()
        self._model: Any = None
        self._tokenizer: Any = None
        self._longest_token = 1  # characters
        self._forward_options: dict[str, Any] = {}

    @property
    def models(self) -> list[str]:
        return [self._name]

    def load(self) -> None:
        """Loads weights and tokenizer. Raises `StartupError` with one line on anything that is wrong with the model."""
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        # A checkpoint's own code is never run; without an answer here transformers would ask on standard input.
        options = {"trust_remote_code": False, "local_files_only": not is_local(self._path) and not hub_answers(self._path)}
        check(self._path, options)
        device = self._device or best_device()
        log.info("loading %s ...", self._path)
        if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # Threads that wait for each other in turns cost more than they bring: all requests together get a core each.
            torch.set_num_threads(max(1, torch.get_num_threads() // self._max_concurrent))
        begun = time.monotonic()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._path, **options)
        except Exception as error:  # a broken tokenizer.json raises a bare Exception
            reason = _first_line(error)
            raise StartupError(f"{self._path}: has no tokenizer that can be loaded (tokenizer.json): {reason}") from None
        vocabulary = self._tokenizer.get_vocab()
        if len(vocabulary) < 2:  # what transformers makes up where there are no files
            raise StartupError(f"{self._path}: has no tokenizer that can be loaded (tokenizer.json)")
        self._longest_token = max(map(len, vocabulary))
        dtype = torch.float32 if device == "cpu" else "auto"
        try:
            model, found = AutoModelForCausalLM.from_pretrained(self._path, dtype=dtype, output_loading_info=True, **options)
        except (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError, SafetensorError) as error:
            raise StartupError(f"{self._path}: cannot be loaded: {type(error).__name__}: {_first_line(error)}") from None
        self._require_all_weights(found["missing_keys"])
        try:
            self._model = model.to(device).eval()
        except (RuntimeError, AssertionError, ValueError) as error:
            raise StartupError(f"device {device!r}: the model cannot be put there: {_first_line(error)}") from None
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            self._forward_options = {"logits_to_keep": 1}  # a long prompt times the vocabulary is gigabytes
        millions = self._model.num_parameters() / 1e6
        seconds = time.monotonic() - begun
        log.info("loaded %s: %.1fM parameters, %s, %s, in %.1f s", self._name, millions, device, self._model.dtype, seconds)

    def _require_all_weights(self, missing: set[str]) -> None:
        """transformers fills what a checkpoint lacks with random numbers, and the answers are noise."""
        if missing:
            raise StartupError(f"{self._path}: the weights are incomplete: {len(missing)} are missing, such as {min(missing)}")

    @property
    def requests(self) -> Requests:
        return SAMPLED

    @property
    def context(self) -> int:
        """The longest sequence the model takes, in tokens."""
        config = self._model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048)

    async def start(self) -> None:
        if self._model is None:
            await asyncio.to_thread(self.load)

    async def ready(self) -> bool:
        return self._model is not None

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._workers.shutdown)

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
        limits = (request.max_tokens, request.max_completion_tokens)
        if None not in limits and limits[0] != limits[1]:
            raise invalid("max_tokens and max_completion_tokens are the same limit; got two values", "max_tokens")
        if request.stream_options and request.stream_options.model_extra:
            name = next(iter(request.stream_options.model_extra))
            raise unsupported(f"stream_options.{name}", "the local engine does not support it")
        if isinstance(request, ChatRequest) and not self._tokenizer.chat_template:
            message = f"{self._name} has no chat template: use /v1/completions, or put a chat_template.jinja beside its tokenizer"
            raise invalid(message, "messages", "no_chat_template")
        if isinstance(request, ChatRequest) and any(map(_has_more_than_text, request.messages)):
            raise unsupported("messages", "the local engine reads text only, no other parts")

    async def whole(self, request: GenerationRequest) -> bytes | None:
        return None

    async def generate(self, request: GenerationRequest, take: Take) -> None:
        """As `Engine.generate`. Without `max_tokens` an answer may fill what the prompt leaves of the context."""
        assert isinstance(request, SampledChatRequest | SampledCompletionRequest)
        prompts = await asyncio.to_thread(self._prompts, request)
        longest = max(map(len, prompts))
        if longest >= self.context:
            raise self._too_long(str(longest), "messages" if request.endpoint == "chat" else "prompt")
        try:
            sampling = self._sampling(request)
        except ValueError as error:
            raise invalid(str(error), str(error).split(" ", 1)[0]) from None
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Events | BaseException | None] = asyncio.Queue()
        gone = threading.Event()

        def send(item: Events | BaseException | None) -> None:
            if not gone.is_set():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def require_reader() -> None:
            if gone.is_set() or self._stopping.is_set():
                raise shutting_down()

        def work() -> None:
            try:
                self._answer(request, prompts, sampling, send, require_reader)
                send(None)
            except Exception as error:
                send(error)

        require_reader()
        future = self._workers.submit(work)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, ApiError):
                    raise item
                if isinstance(item, BaseException):
                    log.error("generation failed", exc_info=item)
                    raise ApiError(500, "the model failed on this request", type="server_error", code="engine_error")
                if (pause := take(item)) is not None:
                    await pause
        finally:
            gone.set()
            future.cancel()

    def _require_short(self, text: str, name: str) -> None:
        """Refuses what is surely too long before it costs minutes and gigabytes to find out how much."""
        least = len(text) // self._longest_token
        if least >= self.context:
            raise self._too_long(f"at least {least}", name)

    def _too_long(self, num_tokens: str, name: str) -> ApiError:
        message = f"the prompt is {num_tokens} tokens long; {self._name} takes at most {self.context}, the answer included"
        return invalid(message, name, "context_length_exceeded")

    def _prompts(self, request: GenerationRequest) -> list[list[int]]:
        """The prompts as tokens: one, or as many as a completion request has."""
        if isinstance(request, ChatRequest):
            messages = [message.model_dump() | {"content": message.text} for message in request.messages]
            try:
                text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as error:  # a template is a program of its own and says no in any way it likes
                raise invalid(f"messages: the chat template refuses them: {_first_line(error)}", "messages") from None
            self._require_short(text, "messages")
            return [self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] or [self._first_token()]]
        assert isinstance(request, CompletionRequest)
        given: Any = request.prompt
        one = isinstance(given, str) or (given and isinstance(given[0], int))
        tokens: list[list[int]] = []
        for prompt in [given] if one else given:
            if isinstance(prompt, str):
                self._require_short(prompt, "prompt")
            ids = self._tokenizer(prompt, verbose=False)["input_ids"] if isinstance(prompt, str) else prompt
            if any(not 0 <= token < len(self._tokenizer) for token in ids):
                raise invalid(f"prompt: token ids must be from 0 to {len(self._tokenizer) - 1}", "prompt")
            tokens.append(ids or [self._first_token()])
        if not tokens:
            raise invalid("prompt: must not be empty", "prompt")
        return tokens

    def _first_token(self) -> int:
        """What an empty prompt begins with."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise invalid("prompt: must not be empty for this model", "prompt")

    def _sampling(self, request: SampledRequest) -> Sampling:
        defaults = self._model.generation_config

        def value(name: str, otherwise: Any) -> Any:
            asked = getattr(request, name)
            default = getattr(defaults, name, None)
            return asked if asked is not None else default if default is not None else otherwise

        sent = request.sent
        penalties = {name: sent[name] for name in _PENALTIES if name in sent}
        penalties.setdefault("repetition_penalty", value("repetition_penalty", 1.0))
        temperature = value("temperature", 1.0)
        asked = DecodingConfig(**penalties)
        varies = asked.dynatemp_range or asked.repetition_temperature
        return Sampling(
            temperature=temperature,
            top_p=value("top_p", 1.0),
            top_k=max(0, value("top_k", 0)),
            min_p=value("min_p", 0.0),
            penalties=replace(asked, dynatemp_range=0.0, repetition_temperature=0.0),
            varying=replace(asked, temperature=max(temperature, GREEDY_BELOW / 2)) if varies else None,
        )

    def _token_sets_of(self, config: DecodingConfig) -> TokenSets:
        if config not in self._token_sets:
            if len(self._token_sets) >= 16:
                self._token_sets.clear()
            self._token_sets[config] = token_sets(config, self._tokenizer)
        return self._token_sets[config]

    # In a worker thread from here on.

    def _answer(
        self,
        request: SampledRequest,
        prompts: list[list[int]],
        sampling: Sampling,
        send: Callable[[Events], None],
        require_reader: Callable[[], None],
    ) -> None:
        make = ChunkMaker(request.endpoint, self._name)
        num_choices = request.n or 1
        if request.endpoint == "chat":
            for choice in range(num_choices):
                send([Event(write_json(make.role(choice)))])
        used = usage(sum(map(len, prompts)), 0)
        for number, prompt in enumerate(prompts):
            self._decode(request, prompt, number * num_choices, sampling, make, send, require_reader, used)
        if request.wants_usage or not request.stream:
            send([Event(write_json(make.usage(used["prompt_tokens"], used["completion_tokens"])))])

    @torch.inference_mode()
    def _decode(
        self,
        request: SampledRequest,
        prompt: list[int],
        first_choice: int,
        sampling: Sampling,
        make: ChunkMaker,
        send: Callable[[Events], None],
        require_reader: Callable[[], None],
        used: dict[str, Any],
    ) -> None:
        """Decodes the choices of one prompt as a batch, and counts the tokens in `used`; `require_reader` raises where nobody
        reads on."""
        limit = min(request.max_output_tokens or self.context, self.context - len(prompt))
        sets = self._token_sets_of(sampling.penalties)
        end_tokens = self._end_tokens()
        choices = [
            _Choice(
                first_choice + i,
                self._tokenizer,
                request.stop_strings,
                TokenHistory(prompt, sampling.penalties.no_repeat_ngram_size),
            )
            for i in range(request.n or 1)
        ]
        generators = [self._generator(request.seed, choice.index) for choice in choices]
        rows = torch.tensor([prompt] * len(choices), device=self._model.device)
        cache: dict[str, Any] = {}
        for _ in range(limit):
            require_reader()
            out = self._model(input_ids=rows, use_cache=True, **cache, **self._forward_options)
            cache = {name: out[name] for name in _CACHES if name in out}
            logits = out.logits[:, -1].float()
            chosen = []
            for choice, generator, scores in zip(choices, generators, logits, strict=True):
                if choice.finish_reason:
                    chosen.append(end_tokens[0] if end_tokens else 0)  # the row only keeps its place in the batch
                    continue
                apply_to(sampling.penalties, choice.history, scores, sets)
                token = choose(scores, sampling, sampling.temperature_after(choice.history, scores), generator)
                chosen.append(token)
                used["completion_tokens"] += 1
                used["total_tokens"] += 1
                text = choice.put(token, end_tokens, limit)
                if text or choice.finish_reason:
                    chunk = make.text(choice.index, text, choice.finish_reason)
                    send([Event(write_json(used), USED), Event(write_json(chunk))])
            if all(choice.finish_reason for choice in choices):
                break
            rows = torch.tensor(chosen, device=self._model.device).unsqueeze(1)

    def _end_tokens(self) -> list[int]:
        ids = self._model.generation_config.eos_token_id
        ids = self._tokenizer.eos_token_id if ids is None else ids
        return [ids] if isinstance(ids, int) else list(ids or [])

    def _generator(self, seed: int | None, choice: int) -> torch.Generator:
        generator = torch.Generator(device="cpu")
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed((seed * 1_000_003 + choice) % 2**63)
        return generator


class _Choice:
    """One answer in the making: tokens to text, up to a stop string, an end token or the limit."""

    def __init__(self, index: int, tokenizer: Any, stop: list[str], history: TokenHistory) -> None:
        self.index = index
        self.history = history
        self.finish_reason: str | None = None
        self._stream = TextStream(tokenizer)
        self._stop = stop
        self._held = ""  # may be the beginning of a stop string

    def put(self, token: int, end_tokens: list[int], limit: int) -> str:
        """The text to give out after `token`; sets `finish_reason` when it was the last."""
        self.history.append(token)
        if token in end_tokens:
            self.finish_reason = "stop"
        elif len(self.history) - self.history.num_prompt >= limit:
            self.finish_reason = "length"
        text = "" if token in end_tokens else self._stream.put(token)
        if self.finish_reason:
            text += self._stream.flush()
        return self._until_stop(text)

    def _until_stop(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        found = [at for at in (text.find(string) for string in self._stop) if at >= 0]
        if found:
            self.finish_reason, self._held = "stop", ""
            return text[: min(found)]
        held = 0 if self.finish_reason else max(_overlap(text, string) for string in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of `text` begin `string`."""
    return next((size for size in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:size])), 0)


def choose(scores: torch.Tensor, sampling: Sampling, temperature: float, generator: torch.Generator) -> int:
    """One token from `scores`, shape (vocabulary,): the best at temperature 0 (`GREEDY_BELOW`), else sampled after top_k, top_p and min_p.

    Raises `ApiError` where no token has a finite score: a silent token 0 would be worse.
    """
    if not torch.isfinite(scores.max()):
        raise ApiError(500, "the model gave no finite score for the next token", type="server_error", code="engine_error")
    if temperature < GREEDY_BELOW:
        return int(scores.argmax())
    scores = scores / temperature
    if 0 < sampling.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[-1], -torch.inf)
    probabilities = scores.softmax(-1)
    if sampling.top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        beyond = ranked.cumsum(-1) - ranked >= sampling.top_p
        probabilities = probabilities.index_fill(0, order[beyond], 0)
    if sampling.min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities.max(), 0)
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def hub_answers(model: str) -> bool:
    """Asks once: transformers tries for 23 s before it says that the hub is out of reach, for each file anew."""
    try:
        HfApi().model_info(model, timeout=HUB_TIMEOUT_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return True  # and the answer is no; loading says why
    except Exception:  # the HTTP library's own errors, which change from one version of the hub's client to the next
        return False
    return True


def check(model: str, options: dict[str, Any]) -> None:
    """Raises `StartupError` in one line if `model` cannot be a causal model's path or hub id. Looks at its config only."""
    require_checkpoint(model)
    try:
        config = AutoConfig.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError) as error:
        raise StartupError(f"{model}: no model can be loaded from there: {_first_line(error)}") from None
    kind = (config.architectures or [config.model_type])[0]
    if config.is_encoder_decoder:
        raise StartupError(f"{model} is an encoder-decoder model ({kind}); the local engine serves decoder-only models")
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise StartupError(f"{model} is an encoder-only model ({kind}) and cannot generate text")
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise StartupError(f"{model} is not a causal language model ({kind}); the local engine serves nothing else")


def _has_more_than_text(message: Message) -> bool:
    parts = message.content if isinstance(message.content, list) else []
    return any(part.get("type", "text") != "text" or not isinstance(part.get("text"), str) for part in parts)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(" :") or type(error).__name__
