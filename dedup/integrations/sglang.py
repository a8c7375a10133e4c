"""Adapter for SGLang: all methods against repetition as a custom logit processor.

A request carries the processor and its options; neither the server nor, for that, the client needs
more than itself: `RepetitionLogitProcessor.to_str()` contains this library's sampling methods.
"""

import json
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

try:
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
except ImportError:  # on a client
    CustomLogitProcessor = object

from dedup.config import DecodingConfig, decoding_options
from dedup.logits.request import Request
from dedup.logits.tokens import shared_token_sets

logger = logging.getLogger("sglang.dedup")

_UNSUPPORTED = (
    "temperature",
    "dynatemp_range",
    "dynatemp_exponent",
    "repetition_temperature",
    "repetition_temperature_length",
    "encoder_no_repeat_ngram_size",
)
_DEFAULTS = {option.name: option.default for option in decoding_options()}
_REQUEST, _STATE = "__req__", "__dedup__"  # keys of the options: SGLang's and ours


def custom_params(config: DecodingConfig) -> dict[str, Any]:
    """Return the `custom_params` of a request that asks for the methods of `config`.

    Raises:
        ValueError: An option has no place in SGLang.
    """
    params = {}
    for name, default in _DEFAULTS.items():
        value = getattr(config, name)
        if value != default:
            if name in _UNSUPPORTED:
                raise ValueError(f"{name} is not supported in SGLang: leave it at {default!r}")
            params[name] = list(value) if isinstance(value, tuple) else value
    return params


class RepetitionLogitProcessor(CustomLogitProcessor):  # type: ignore[misc]
    """Custom logit processor with the methods of `DecodingConfig`, but for its temperatures.

    It never raises, since an exception would end the server: a request with wrong options, or for
    which a method fails, goes on without the methods, and the log says why.
    """

    @classmethod
    def to_str(cls) -> str:
        """Return the processor for a request's `custom_logit_processor`.

        SGLang, and what it runs on, is all that the server needs to load it.
        """
        from dedup.portable import dumps  # here, so that the server needs no copy of it

        return json.dumps({"callable": dumps(cls).hex()})

    def __call__(
        self, logits: torch.Tensor, custom_param_list: Sequence[dict[str, Any] | None] | None = None
    ) -> torch.Tensor:
        """Apply the methods to logits of shape (rows, vocabulary), in place.

        Rows are copied to the CPU together, which waits for the device once a step.

        Args:
            logits: Rows of the requests that carry this processor.
            custom_param_list: Their `custom_params`. The history of a request is kept in its own.
        """
        params = [
            params if params and _REQUEST in params else None for params in custom_param_list or ()
        ]
        given = [id(one) for one in params if one]
        if len(set(given)) < len(given):
            _complain("speculative decoding is not supported: requests go on without the methods")
            return logits
        rows = [row for row, one in enumerate(params) if one and _state(one)]
        if not rows:
            return logits
        fetched = logits[rows].to("cpu", torch.float32)
        for row, changed in zip(rows, fetched, strict=True):
            one = params[row]
            assert one is not None
            try:
                one[_STATE].apply(one[_REQUEST].output_ids, changed.numpy())
            except Exception:
                logger.exception("dedup: a request goes on without the methods")
                one[_STATE] = None
                changed.copy_(logits[row])
        logits[rows] = fetched.to(logits)
        return logits


def _state(params: dict[str, Any]) -> Request | None:
    """Return the state of a request; None if the methods cannot be applied to it."""
    if _STATE not in params:
        params[_STATE] = None
        try:
            params[_STATE] = _begin(params)
        except Exception as error:
            logger.warning("dedup: a request goes on without the methods: %s", error)
    request = params[_REQUEST]
    # In SGLang 0.5, the number of tokens that were generated since the last prefill.
    if params[_STATE] and len(request.output_ids) < getattr(request, "decode_batch_idx", 0):
        params[_STATE] = None
        _complain(
            "SGLang's overlap schedule hides the last token: requests go on without the methods. "
            "Start the server with --disable-overlap-schedule"
        )
    return params[_STATE]  # type: ignore[no-any-return]


def _begin(params: dict[str, Any]) -> Request:
    given = {name: params[name] for name in _DEFAULTS if name in params}
    for name in _UNSUPPORTED:
        if name in given:
            raise ValueError(f"{name} is not supported in custom_params")
    config, request = DecodingConfig(**given), params[_REQUEST]
    sets = shared_token_sets(config, getattr(request, "tokenizer", None))
    return Request(config, request.origin_input_ids, sets)


@cache
def _complain(message: str) -> None:
    """Log an error once: it concerns every request."""
    logger.error("dedup: %s", message)
