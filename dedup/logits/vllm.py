"""Logits-processor plugin for vLLM, for its V1 interface and for Model Runner V2.

vLLM finds `DedupLogitsProcessor` by its entry point. A request asks for methods in `vllm_xargs`
(`SamplingParams.extra_args`), under the names of `DecodingConfig`. A request that does not costs
nothing. How to use it, and its limits: docs/guides/vllm.md.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, NamedTuple

try:
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
    from vllm.v1.sample.logits_processor import LogitsProcessor as BatchInterface
except ImportError as error:
    raise ImportError(
        f"dedup.logits.vllm is a plugin for vLLM: import it where vLLM is installed ({error})"
    ) from error
try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotInterface
except ImportError:  # this vLLM has no plugins for Model Runner V2
    SlotInterface = object

import torch

from dedup.config import DecodingConfig, decoding_options
from dedup.logits.device import DeviceMethods
from dedup.logits.methods import methods_on
from dedup.logits.request import Request
from dedup.logits.rows import Row
from dedup.logits.tokens import TokenSets, shared_token_sets

logger = logging.getLogger("vllm.dedup")  # below vLLM's own logger, so that its settings apply

MAX_BREAKERS = 64  # each is looked up in the whole vocabulary while all other requests wait
MAX_INTEGER = 2**31 - 1
# Model Runner V2 takes up to 8 bytes of device memory times context times longest match.
MAX_MATCH_TOKENS = 1024

_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_PENALTY_OPTIONS = ("penalty_last_n", "penalty_decay", "penalize_prompt")
_DEFAULTS = {option.name: option.default for option in decoding_options()}
_UNSUPPORTED = ("dynatemp_range", "dynatemp_exponent", "encoder_no_repeat_ngram_size")
NAMES = tuple(name for name in _DEFAULTS if name not in ("temperature", *_UNSUPPORTED))
# First words of our names. Those that other plugins may use as well keep their second word.
_SHARED_FIRST_WORDS = ("no", "encoder", "presence", "frequency")


def _prefix(name: str) -> str:
    first, _, rest = name.partition("_")
    if first in _SHARED_FIRST_WORDS:
        return f"{first}_{rest.partition('_')[0]}_"
    return f"{first}_"


_PREFIXES = ("exempt", *{_prefix(name) for name in (*NAMES, *_UNSUPPORTED)})


def decoding_config(params: Any) -> DecodingConfig | None:
    """Return the configuration that a request asks for; None if no method is on.

    Args:
        params: `SamplingParams` of vLLM. Names of other plugins in it are ignored.

    Raises:
        ValueError: A value is out of range, a name resembles ours and is unknown, or an option
            would have no effect or another one than its name says.
    """
    given = _given(params.extra_args or {})
    if not given:
        return None
    config = DecodingConfig(**given)
    if len(config.dry_sequence_breakers) > MAX_BREAKERS:
        raise ValueError(
            f"dry_sequence_breakers must be at most {MAX_BREAKERS}, "
            f"got {len(config.dry_sequence_breakers)}"
        )
    penalties = [name for name in _PENALTIES if name in given]
    options = [name for name in _PENALTY_OPTIONS if name in given]
    if options and not penalties:
        raise ValueError(
            f"{options[0]} has no effect on vLLM's own penalties: "
            f"set {' or '.join(_PENALTIES)} in vllm_xargs with it"
        )
    for name in penalties:
        if not options:
            raise ValueError(
                f"{name} is a parameter of vLLM: set it beside vllm_xargs "
                f"(in vllm_xargs only with {' or '.join(_PENALTY_OPTIONS)})"
            )
        if getattr(params, name) != _DEFAULTS[name]:
            raise ValueError(
                f"{name} in vllm_xargs would add to vLLM's own {getattr(params, name)} (from the "
                f"request or the model's generation_config): set that to {_DEFAULTS[name]:g}"
            )
    if config.repetition_temperature:
        config = replace(
            config,
            repetition_temperature=_relative_temperature(config.repetition_temperature, params),
        )
    return config if methods_on(config) else None


def _given(extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extra arguments that are fields of `DecodingConfig`, parsed."""
    given = {}
    for name, value in extra_args.items():
        if name in NAMES:
            given[name] = _parse(name, value)
        elif name == "temperature":
            raise ValueError(f"{name} is a parameter of vLLM: set it beside vllm_xargs")
        elif name in _UNSUPPORTED:
            raise ValueError(f"{name} is not supported in vLLM")
        elif name.startswith(_PREFIXES):
            nearest = get_close_matches(name, NAMES, 1)
            hint = f": {nearest[0]}?" if nearest else f", which takes {', '.join(NAMES)}"
            raise ValueError(f"{name} is unknown in vllm_xargs{hint}")
    return given


def _parse(name: str, value: Any) -> Any:
    """Parse a value of `vllm_xargs` for `DecodingConfig`.

    vLLM passes strings, numbers and lists of them: true becomes 1, and numbers, lists and booleans
    may come in a string.
    """
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):  # DecodingConfig rejects it by name
            value = json.loads(value)
    if name == "penalize_prompt" and isinstance(value, int) and value in (0, 1):
        return bool(value)
    numbers = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(number, int) and abs(number) > MAX_INTEGER for number in numbers):
        raise ValueError(f"{name} must be at most {MAX_INTEGER}, got {value!r}")
    return value


def _relative_temperature(wanted: float, params: Any) -> float:
    """Return the divisor that makes `wanted` together with vLLM's own temperature after it."""
    if params.temperature < 1e-5:
        raise ValueError(
            "repetition_temperature has no effect on greedy decoding: set a temperature > 0"
        )
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(params, name):
            raise ValueError(
                f"repetition_temperature cannot be combined with vLLM's own {name}, "
                "which may be subtracted after it"
            )
    return min(100.0, wanted / float(params.temperature))


def _sets(config: DecodingConfig, model_config: Any) -> TokenSets:
    """Return the token sets of `config`, with the tokenizer of the model if they need one."""
    if not config.needs_tokenizer:
        return shared_token_sets(config)
    from vllm.tokenizers import cached_tokenizer_from_config

    return shared_token_sets(config, cached_tokenizer_from_config(model_config))


def _require_supported(config: DecodingConfig, vllm_config: Any) -> None:
    """Raise ValueError for what this server cannot do.

    Later, in the engine, an error would end the requests of all clients.
    """
    model_config = vllm_config.model_config
    on_device = getattr(vllm_config, "use_v2_model_runner", False)
    if vllm_config.speculative_config and not on_device:
        raise ValueError(
            "vllm_xargs: vLLM's V1 model runner skips plugins under speculative decoding, "
            "which is on here"
        )
    if on_device:
        _require_short_matches(config)
    size = model_config.get_vocab_size()
    if beyond := [token for token in config.exempt_token_ids if token >= size]:
        raise ValueError(f"exempt_token_ids must be token ids below {size}, got {beyond[0]}")
    name = "exempt" if config.exempt else "dry_sequence_breakers"
    if config.needs_tokenizer and model_config.skip_tokenizer_init:
        raise ValueError(
            f"{name} must be [] on this server: it needs the tokenizer, "
            "and vLLM was started with --skip-tokenizer-init"
        )
    try:
        _sets(config, model_config)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be converted to tokens of this model's tokenizer: {error!r}"
        ) from error


def _require_short_matches(config: DecodingConfig) -> None:
    """Raise ValueError if one request would take too much of the device's memory."""
    for method in methods_on(config):
        for name, length in method.match_lengths(config).items():
            if length > MAX_MATCH_TOKENS:
                raise ValueError(
                    f"{name} must look at matches of at most {MAX_MATCH_TOKENS} tokens "
                    f"under Model Runner V2, got {length}"
                )


def _caller_with(attribute: str) -> Any:
    """Return the nearest object on the call stack with `attribute`, or None.

    vLLM passes plugins too little: `validate_params` gets no configuration, and see
    `_request_output_tokens`. Relies on private attributes of vLLM; tested version: 0.32.
    """
    frame = sys._getframe(1)
    while frame := frame.f_back:  # type: ignore[assignment]
        caller = frame.f_locals.get("self")
        if hasattr(caller, attribute):
            return caller
    return None


def _request_output_tokens() -> None:
    """Make vLLM show the output's tokens under asynchronous scheduling.

    It shows -1 for each unless a processor needs them, and does not ask plugins found by
    their entry points (vllm-project/vllm#52461). Must be called before the first step: a list that
    is filled in later lacks tokens.
    """
    flag = "logitsprocs_need_output_token_ids"
    batch = _caller_with(flag)
    if batch is None:
        logger.error(
            "dedup: this vLLM may hide the output's tokens from plugins; "
            "if so, use --no-async-scheduling"
        )
    else:
        setattr(batch, flag, True)


class _Request(NamedTuple):
    """A request that asks for methods. `output` is vLLM's own list, which grows."""

    request: Request
    output: Sequence[int]

    def apply(self, logits: Row) -> None:
        self.request.apply(self.output, logits)


class BatchProcessor(BatchInterface):  # type: ignore[misc]
    """Processor for the V1 interface: requests have rows in a batch, tokens are on the host."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._model_config = vllm_config.model_config
        self._hides_tokens = bool(vllm_config.scheduler_config.async_scheduling)
        self._requests: dict[int, _Request] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        if batch_update is None:
            return
        if self._hides_tokens:
            _request_output_tokens()
            self._hides_tokens = False
        requests = self._requests
        for index in batch_update.removed:
            requests.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            requests.pop(index, None)
            if config := decoding_config(params):
                sets = _sets(config, self._model_config)
                requests[index] = _Request(Request(config, prompt or (), sets), output)
        for source, target, direction in batch_update.moved:
            moved, other = requests.pop(source, None), requests.pop(target, None)
            if moved:
                requests[target] = moved
            if other and direction is MoveDirectionality.SWAP:
                requests[source] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply the methods to logits of shape (batch, vocabulary), in place.

        Rows on a device are copied to the CPU together, which waits for the device once a step.
        """
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
    """Processor for Model Runner V2: requests have slots, tokens stay on the device."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._model_config = vllm_config.model_config
        self._speculates = vllm_config.speculative_config is not None
        self._states = req_states
        self._methods: dict[int, DeviceMethods] = {}
        # Token sets are copied to the device once.
        self._methods_of = lru_cache(maxsize=64)(self._build)

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
        """Apply the methods to logits of shape (rows, vocabulary), in place, row by row."""
        if not any(slot in self._methods for slot in ctx.idx_mapping_np.tolist()):
            return logits
        for row, (slot, length, num_drafts) in enumerate(self._rows(ctx)):
            if methods := self._methods.get(slot):
                ids = self._states.all_token_ids.gpu[slot, : length - num_drafts].long()
                if num_drafts:
                    ids = torch.cat([ids, ctx.input_ids[row - num_drafts + 1 : row + 1].long()])
                num_prompt = int(self._states.prompt_len.np[slot])
                methods.apply(ids[None], logits[row : row + 1], num_prompt)
        return logits

    def _rows(self, ctx: Any) -> list[tuple[int, int, int]]:
        """Return slot, length and number of draft tokens for each row.

        The host knows them unless vLLM speculates: then this waits for the device, once a step.
        """
        if self._speculates:
            rows = [ctx.expanded_idx_mapping, ctx.pos + 1, ctx.expanded_local_pos]
            return [tuple(row) for row in torch.stack([r.long() for r in rows], 1).tolist()]
        lengths = ctx.seq_lens_upper_bound_np.tolist()
        slots = ctx.idx_mapping_np.tolist()
        return [(slot, lengths[row], 0) for row, slot in enumerate(slots)]


class DedupLogitsProcessor(BatchInterface, SlotInterface):  # type: ignore[misc]
    """Entry point of the plugin: creates the processor for the runner that calls it.

    Inherits from both interfaces, because both loaders of vLLM load every plugin, and one of them
    refuses classes that do not inherit from its own.
    """

    def __new__(cls, vllm_config: Any, *runner: Any) -> Any:
        _require_single(vllm_config.model_config)
        if len(runner) == 1:
            return SlotProcessor(vllm_config, *runner)
        return BatchProcessor(vllm_config, *runner)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError, which vLLM answers with status 400, for a request that is wrong."""
        config = decoding_config(sampling_params)
        if config and (caller := _caller_with("vllm_config")):
            _require_supported(config, caller.vllm_config)


def _require_single(model_config: Any) -> None:
    """Raise ValueError if vLLM would load the plugin twice, which would penalise twice."""
    name = f"{DedupLogitsProcessor.__module__}:{DedupLogitsProcessor.__name__}"
    given = [
        item if isinstance(item, str) else f"{item.__module__}:{item.__name__}"
        for item in model_config.logits_processors or ()
    ]
    installed = [entry.value for entry in entry_points(group="vllm.logits_processors")]
    if (given + installed).count(name) > 1:
        raise ValueError(
            f"{name} would be loaded twice: its entry point is enough, "
            "leave it out of --logits-processors"
        )
