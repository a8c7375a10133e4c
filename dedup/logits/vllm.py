"""For vLLM: the methods as a logits-processor plugin, for its V1 interface and for Model Runner V2.

vLLM finds `DedupLogitsProcessor` by its entry point. A request asks for methods in `vllm_xargs` (`SamplingParams.extra_args`), under
`DecodingConfig`'s names; one that does not is never looked at again. How to use it, and its limits: docs/vllm.md.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

try:
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
    from vllm.v1.sample.logits_processor import LogitsProcessor as BatchInterface
except ImportError as error:
    raise ImportError(
        f"dedup.logits.vllm is a plugin for vLLM: import it where vLLM is installed ({error})"
    ) from error
try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotInterface
except ImportError:  # a vLLM before Model Runner V2 took plugins
    SlotInterface = object

import numpy as np
import torch

from dedup.config import DecodingConfig
from dedup.logits.device import DeviceMethods
from dedup.logits.dry import max_exponent
from dedup.logits.history import TokenHistory
from dedup.logits.penalties import Row
from dedup.logits.processors import apply
from dedup.logits.tokens import TokenSets, token_sets

logger = logging.getLogger("vllm.dedup")  # below vLLM's own, so that it is shown as vLLM's is

MAX_BREAKERS = 64  # each is looked for in the whole vocabulary while every other request waits
MAX_INTEGER = 2**31 - 1
MAX_MATCH = 1024  # Model Runner V2: up to 8 bytes of the device's memory for each token of context and of the longest match

_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_PENALTY_OPTIONS = ("penalty_last_n", "penalty_decay", "penalize_prompt")
_DEFAULTS = {field.name: field.default for field in fields(DecodingConfig)}
_NOT_HERE = ("temperature", "dynatemp_range", "dynatemp_exponent", "encoder_no_repeat_ngram_size")
NAMES = tuple(name for name in _DEFAULTS if name not in _NOT_HERE)
_PREFIXES = (
    "dry_",
    "lz_",
    "no_repeat_",
    "encoder_no_repeat_",
    "penalty_",
    "penalize_",
    "repetition_",
    "exempt",
    "dynatemp_",
)


def decoding_config(params: Any) -> DecodingConfig | None:
    """What a request asks for; None if it asks for nothing. params: vLLM's `SamplingParams`.

    Raises ValueError for a value out of range, for a name that begins like ours and is none of ours, and for what would have no
    effect or another effect than its name says. Other plugins' names are left alone.
    """
    given = _given(params.extra_args or {})
    if not given:
        return None
    config = DecodingConfig(**given)
    if len(config.dry_sequence_breakers) > MAX_BREAKERS:
        raise ValueError(
            f"dry_sequence_breakers must be at most {MAX_BREAKERS}, got {len(config.dry_sequence_breakers)}"
        )
    penalties = [name for name in _PENALTIES if name in given]
    options = [name for name in _PENALTY_OPTIONS if name in given]
    if options and not penalties:
        raise ValueError(
            f"{options[0]} changes none of vLLM's own penalties: give {' or '.join(_PENALTIES)} in vllm_xargs with it"
        )
    for name in penalties:
        if not options:
            raise ValueError(
                f"{name} is one of vLLM's own: give it beside vllm_xargs, not in it (in it only with {' or '.join(_PENALTY_OPTIONS)})"
            )
        if getattr(params, name) != _DEFAULTS[name]:
            raise ValueError(
                f"{name} in vllm_xargs would come on top of vLLM's own {getattr(params, name)} (of the request, or of the model's"
                f" generation_config): set that to {_DEFAULTS[name]:g}"
            )
    if config.repetition_temperature:
        config = replace(
            config,
            repetition_temperature=_relative_temperature(config.repetition_temperature, params),
        )
    return config if _does_something(config) else None


def _given(extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """Our part of a request's extra arguments, as `DecodingConfig` takes it."""
    given = {}
    for name, value in extra_args.items():
        if name in NAMES:
            given[name] = _read(name, value)
        elif name == "temperature":
            raise ValueError(f"{name} is one of vLLM's own: give it beside vllm_xargs, not in it")
        elif name in _NOT_HERE:
            raise ValueError(f"{name} is not to be had in vLLM")
        elif name.startswith(_PREFIXES):
            nearest = get_close_matches(name, NAMES, 1)
            raise ValueError(
                f"{name} is unknown in vllm_xargs"
                + (f": {nearest[0]}?" if nearest else f", which takes {', '.join(NAMES)}")
            )
    return given


def _read(name: str, value: Any) -> Any:
    """`vllm_xargs` knows strings, numbers and lists of them: true comes as 1; numbers, lists and booleans may come in a string."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):  # what it should be DecodingConfig says
            value = json.loads(value)
    if name == "penalize_prompt" and isinstance(value, int) and value in (0, 1):
        return bool(value)
    numbers = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(number, int) and abs(number) > MAX_INTEGER for number in numbers):
        raise ValueError(f"{name} must be at most {MAX_INTEGER}, got {value!r}")
    return value


def _relative_temperature(wanted: float, params: Any) -> float:
    """What to divide by before vLLM divides by its own temperature, so that both make up `wanted`."""
    if params.temperature < 1e-5:
        raise ValueError(
            "repetition_temperature has no effect on greedy decoding: it takes a temperature > 0"
        )
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(params, name):
            raise ValueError(
                f"repetition_temperature does not go with vLLM's own {name}, which may be subtracted after it"
            )
    return min(100.0, wanted / float(params.temperature))


def _does_something(config: DecodingConfig) -> bool:
    return bool(
        any(getattr(config, name) != _DEFAULTS[name] for name in _PENALTIES)
        or config.no_repeat_ngram_size
        or config.dry_multiplier
        or config.lz_penalty
        or config.repetition_temperature
    )


def _sets(config: DecodingConfig, model_config: Any) -> TokenSets:
    """What `config` says in words, in tokens of the model; the same object for the same words."""
    words = DecodingConfig(
        dry_multiplier=float(config.dry_multiplier > 0),
        dry_sequence_breakers=config.dry_sequence_breakers,
        exempt=config.exempt,
        exempt_token_ids=config.exempt_token_ids,
    )
    tokenizer = None
    if words.needs_tokenizer:
        from vllm.tokenizers import cached_tokenizer_from_config

        tokenizer = cached_tokenizer_from_config(model_config)
    return _cached_sets(words, tokenizer)


@lru_cache(maxsize=64)
def _cached_sets(words: DecodingConfig, tokenizer: Any) -> TokenSets:
    return token_sets(words, tokenizer)


def _require_possible(config: DecodingConfig, vllm_config: Any) -> None:
    """Raises ValueError for what this server cannot do: later, in the engine, an error would end everybody's requests."""
    model_config = vllm_config.model_config
    on_device = getattr(vllm_config, "use_v2_model_runner", False)
    if vllm_config.speculative_config and not on_device:
        raise ValueError(
            "vllm_xargs: vLLM's V1 model runner leaves plugins out under speculative decoding, which is on here"
        )
    for name, length in _matches(config) if on_device else ():
        if length > MAX_MATCH:
            raise ValueError(
                f"{name} must look at matches of at most {MAX_MATCH} tokens under Model Runner V2, got {length:g}"
            )
    size = model_config.get_vocab_size()
    if beyond := [token for token in config.exempt_token_ids if token >= size]:
        raise ValueError(f"exempt_token_ids must be token ids below {size}, got {beyond[0]}")
    name = "exempt" if config.exempt else "dry_sequence_breakers"
    if config.needs_tokenizer and model_config.skip_tokenizer_init:
        raise ValueError(
            f"{name} must be [] on this server: it takes the tokenizer, and vLLM was started with --skip-tokenizer-init"
        )
    try:
        _sets(config, model_config)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be told in tokens of this model's tokenizer: {error!r}"
        ) from error


def _matches(config: DecodingConfig) -> Iterator[tuple[str, float]]:
    """How many tokens each method that is on compares at once."""
    yield "no_repeat_ngram_size", config.no_repeat_ngram_size
    if config.dry_multiplier and config.dry_base >= 1:
        yield "dry_allowed_length", config.dry_allowed_length
        if config.dry_base > 1:
            yield "dry_base", config.dry_allowed_length + max_exponent(config.dry_base)
    if config.lz_penalty:
        yield "lz_buffer", config.lz_buffer
    if config.repetition_temperature:
        yield "repetition_temperature_length", config.repetition_temperature_length


def _caller_with(attribute: str) -> Any:
    """The nearest object with `attribute` among those whose methods are being called; None if there is none.

    vLLM hands plugins too little: `validate_params` gets no configuration, and see `_ask_for_tokens`.
    """
    frame = sys._getframe(1)
    while frame := frame.f_back:  # type: ignore[assignment]
        caller = frame.f_locals.get("self")
        if hasattr(caller, attribute):
            return caller
    return None


def _ask_for_tokens() -> None:
    """Under asynchronous scheduling vLLM shows -1 for every token of the output unless somebody needs them, and does not ask the
    plugins that it found by their entry points (vllm-project/vllm#52461). For all requests from the first step on: a list that
    is mended halfway loses tokens."""
    flag = "logitsprocs_need_output_token_ids"
    batch = _caller_with(flag)
    if batch is None:
        logger.error(
            "dedup: this vLLM may hide the output's tokens from plugins; if so, use --no-async-scheduling"
        )
    else:
        setattr(batch, flag, True)


@dataclass(slots=True)
class _Request:
    """output: vLLM's own list, which grows."""

    config: DecodingConfig
    sets: TokenSets
    history: TokenHistory
    output: Sequence[int]

    def apply(self, logits: Row) -> None:
        self._follow()
        apply(self.config, self.history, logits, self.sets)

    def _follow(self) -> None:
        history, output = self.history, self.output
        known = len(history) - history.num_prompt
        if len(output) == known + 1 and (
            not known or output[-2] == history.tokens[-1]
        ):  # a step on: O(1)
            history.append(output[-1])
            return
        before = history.tokens[history.num_prompt :]
        pairs = zip(before, output, strict=False)
        shared = next(
            (place for place, (old, new) in enumerate(pairs) if old != new), min(known, len(output))
        )
        history.rollback(known - shared)
        history.extend(output[shared:])


class BatchProcessor(BatchInterface):  # type: ignore[misc]
    """The V1 interface: rows are places in a batch, tokens are on the host."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._model_config = vllm_config.model_config
        self._must_ask_for_tokens = bool(vllm_config.scheduler_config.async_scheduling)
        self._requests: dict[int, _Request] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        if batch_update is None:
            return
        if self._must_ask_for_tokens:
            _ask_for_tokens()
            self._must_ask_for_tokens = False
        requests = self._requests
        for index in batch_update.removed:
            requests.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            requests.pop(index, None)
            if config := decoding_config(params):
                history = TokenHistory(prompt or (), config.no_repeat_ngram_size)
                requests[index] = _Request(
                    config, _sets(config, self._model_config), history, output
                )
        for source, target, direction in batch_update.moved:
            moved, other = requests.pop(source, None), requests.pop(target, None)
            if moved:
                requests[target] = moved
            if other and direction is MoveDirectionality.SWAP:
                requests[source] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """logits: (batch, vocabulary), changed in place. From another device than the CPU all the rows concerned are fetched at
        once: that waits for the device, once a step."""
        if not self._requests:
            return logits
        if logits.device.type == "cpu" and logits.dtype == torch.float32:
            rows = logits.detach().numpy()
            for index, request in self._requests.items():
                request.apply(rows[index])
            return logits
        indices = torch.tensor(list(self._requests), device=logits.device)
        fetched = logits[indices].to("cpu", torch.float32)
        for request, row in zip(self._requests.values(), fetched.numpy(), strict=True):
            request.apply(row)
        logits[indices] = fetched.to(logits)
        return logits


class SlotProcessor(SlotInterface):  # type: ignore[misc]
    """Model Runner V2's interface: requests have slots, tokens are on the device and stay there."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._model_config = vllm_config.model_config
        self._speculates = vllm_config.speculative_config is not None
        self._states = req_states
        self._methods: dict[int, DeviceMethods] = {}
        self._methods_of = lru_cache(maxsize=64)(
            self._build
        )  # what they need is put on the device once

    def _build(self, config: DecodingConfig) -> DeviceMethods:
        return DeviceMethods(config, _sets(config, self._model_config))

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        config = decoding_config(sampling_params)
        if config is None:
            self._methods.pop(req_idx, None)
            return False
        self._methods[req_idx] = self._methods_of(config)
        return True

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """logits: (rows, vocabulary), changed in place, row by row.

        Where a row's tokens end is known on the host unless vLLM speculates: then this waits for the device, once a step.
        """
        if not any(slot in self._methods for slot in ctx.idx_mapping_np.tolist()):
            return logits
        if self._speculates:
            places = torch.stack(
                [
                    ctx.expanded_idx_mapping.long(),
                    ctx.pos.long() + 1,
                    ctx.expanded_local_pos.long(),
                ],
                1,
            ).tolist()
        else:
            lengths: np.typing.NDArray[np.int32] = ctx.seq_lens_upper_bound_np
            places = [
                (slot, int(lengths[row]), 0) for row, slot in enumerate(ctx.idx_mapping_np.tolist())
            ]
        for row, (slot, length, num_drafts) in enumerate(places):
            if methods := self._methods.get(slot):
                ids = self._states.all_token_ids.gpu[slot, : length - num_drafts].long()
                if num_drafts:
                    ids = torch.cat([ids, ctx.input_ids[row - num_drafts + 1 : row + 1].long()])
                methods.apply(
                    ids[None], logits[row : row + 1], int(self._states.prompt_len.np[slot])
                )
        return logits


class DedupLogitsProcessor(BatchInterface, SlotInterface):  # type: ignore[misc]
    """What the entry point names: a class of both interfaces, because each of vLLM's loaders loads every plugin and one of them
    refuses classes that are none of its own. Called, it gives the processor for the runner that calls."""

    def __new__(cls, vllm_config: Any, *runner: Any) -> Any:
        _refuse_twice(vllm_config.model_config)
        return (
            SlotProcessor(vllm_config, *runner)
            if len(runner) == 1
            else BatchProcessor(vllm_config, *runner)
        )

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError, which vLLM answers with status 400."""
        config = decoding_config(sampling_params)
        if config and (caller := _caller_with("vllm_config")):
            _require_possible(config, caller.vllm_config)


def _refuse_twice(model_config: Any) -> None:
    """Two processors would penalise twice."""
    name = f"{DedupLogitsProcessor.__module__}:{DedupLogitsProcessor.__name__}"
    given = [
        item if isinstance(item, str) else f"{item.__module__}:{item.__name__}"
        for item in model_config.logits_processors or ()
    ]
    installed = [entry.value for entry in entry_points(group="vllm.logits_processors")]
    if (given + installed).count(name) > 1:
        raise ValueError(
            f"{name} would be loaded twice: its entry point is enough, leave it out of --logits-processors"
        )
