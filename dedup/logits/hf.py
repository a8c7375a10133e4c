"""Adapter for transformers' `generate`: all sampling methods as one logits processor.

model.generate(**inputs, logits_processor=logits_processors(DecodingConfig(no_repeat_ngram_size=4)))
"""

import sys
from inspect import signature
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from dedup.config import DecodingConfig
from dedup.logits.device import DeviceMethods
from dedup.logits.generation import Generation
from dedup.logits.history import TokenHistory
from dedup.logits.methods import methods_on
from dedup.logits.processors import apply
from dedup.logits.rows import has_token
from dedup.logits.tokens import NO_TOKENS, TokenSets, token_sets


def logits_processors(
    config: DecodingConfig,
    tokenizer: Any = None,
    prompt_length: int | None = None,
    encoder_input_ids: torch.Tensor | None = None,
) -> LogitsProcessorList:
    """Return the methods of `config` for `generate(logits_processor=...)`, as one processor.

    Args:
        config: Configuration of the methods.
        tokenizer: Needed by `exempt` and DRY's sequence breakers. Its `pad_token_id` tells padding
            on the left from text.
        prompt_length: Number of tokens of the prompt; None takes the length of the first call.
        encoder_input_ids: Token ids of the encoder's input, shape (batch, length). Needed by
            `encoder_no_repeat_ngram_size`.

    Raises:
        ValueError: The tokenizer or the encoder's input is needed and missing.
    """
    return LogitsProcessorList(
        [RepetitionLogitsProcessor(config, tokenizer, prompt_length, encoder_input_ids)]
    )


def apply_to(
    config: DecodingConfig,
    history: TokenHistory,
    logits: torch.Tensor,
    sets: TokenSets = NO_TOKENS,
    encoder: TokenHistory | None = None,
) -> None:
    """Apply like `apply`, to a tensor of shape (vocabulary,), any float type and device."""
    if _shares_memory_with_numpy(logits):
        apply(config, history, logits.detach().numpy(), sets, encoder)
        return
    row = logits.detach().to("cpu", torch.float32).numpy()
    apply(config, history, row, sets, encoder)
    logits.copy_(torch.from_numpy(row))


class RepetitionLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """All methods of a `DecodingConfig`, for greedy search, sampling, beams, assisted decoding.

    One instance may serve one `generate` after another: a call that neither continues the last one
    nor steps back in it begins a new generation, and its tokens are the prompt. A `generate` that
    continues exactly where the last one ended looks like the same generation. If the penalties on
    the output matter then, pass `prompt_length` or use a new instance.

    If the tokenizer is known, padding on the left counts for nothing, so that a row gets the same
    penalties alone and in a batch. (transformers ignores it in the repetition penalty, and counts
    it in the n-gram ban.) Without a tokenizer, padding belongs to the prompt.

    On the CPU, rows have histories if a method reads them. On other devices, under torch.compile
    and for types that numpy lacks, the methods run on the batch without waiting for the device;
    there a new generation is recognised by the length alone.
    """

    def __init__(
        self,
        config: DecodingConfig,
        tokenizer: Any = None,
        prompt_length: int | None = None,
        encoder_input_ids: torch.Tensor | None = None,
    ) -> None:
        self.config = config
        self._methods = methods_on(config)
        self._sets = token_sets(config, tokenizer)
        self._pad_id = getattr(tokenizer, "pad_token_id", None)
        self._encoder_ids = None
        encoders = []
        if any(method.reads_encoder for method in self._methods):
            if encoder_input_ids is None:
                raise ValueError(
                    "encoder_no_repeat_ngram_size needs encoder_input_ids: "
                    "logits_processors(config, encoder_input_ids=...)"
                )
            self._encoder_ids = encoder_input_ids
            encoders = [
                TokenHistory(tokens, config.encoder_no_repeat_ngram_size)
                for tokens in encoder_input_ids.tolist()
            ]
        self._needs_histories = any(
            method.reads_history and method.scan is None for method in self._methods
        )
        self._generation = Generation(prompt_length, self._pad_id, encoders)
        self._device_methods = DeviceMethods(config, self._sets)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Apply the methods.

        Args:
            input_ids: Token ids of any integer type, shape (batch, length).
            scores: Shape (batch, vocabulary), changed in place. With `output_logits`, `generate`
                also returns them unchanged: then the methods change a copy.

        Returns:
            The changed scores.

        Raises:
            ValueError: No token of a row has a score. Not raised where finding out would mean
                waiting for a device.
        """
        if torch.compiler.is_compiling():
            return self._on_device(input_ids, scores.clone())
        if _returns_logits():
            scores = scores.clone()
        if not _shares_memory_with_numpy(scores):
            return self._on_device(input_ids, scores)
        ids = input_ids.numpy() if input_ids.dtype == torch.int64 else input_ids.long().numpy()
        logits = scores.detach().numpy() if scores.requires_grad else scores.numpy()
        config, sets, methods = self.config, self._sets, self._methods
        generation = self._generation
        histories = generation.histories(ids) if self._needs_histories else None
        # Row by row, so that a row stays in the processor's cache for all methods.
        for number, (tokens, row) in enumerate(zip(ids, logits, strict=True)):
            if not has_token(row):
                raise ValueError(
                    f"row {number}: the model gave no token a score (all are -inf or NaN); "
                    "greedy decoding would emit token 0"
                )
            history = histories[number] if histories else _NO_HISTORY
            for method in methods:
                if method.scan is None:
                    method.apply(history, row, config, sets)
                else:
                    text = tokens[generation.num_padding(tokens) :]
                    method.scan(text, row, config, sets)
        return scores

    def _on_device(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        num_prompt = self._generation.num_prompt(input_ids.shape[-1])
        self._device_methods.apply(input_ids, scores, num_prompt, self._pad_id, self._encoder_ids)
        return scores


# transformers inspects the signature of every processor at every step. Stored, it costs 4 µs
# instead of 11.
RepetitionLogitsProcessor.__call__.__signature__ = signature(  # type: ignore[attr-defined]
    RepetitionLogitsProcessor.__call__
)

_NO_HISTORY = TokenHistory()


def _shares_memory_with_numpy(scores: torch.Tensor) -> bool:
    return scores.is_cpu and (scores.dtype is torch.float32 or scores.dtype is torch.float64)


def _returns_logits() -> bool:
    """Return whether the calling `generate` also returns its raw scores (`output_logits`).

    Relies on local variables of transformers' `_sample`: nothing else tells, and a copy at every
    step would cost more than all methods together. Beam search hands over a copy already.
    """
    frame = sys._getframe(2)
    for _ in range(3):
        if frame is None:
            return False
        if frame.f_code.co_name == "_sample":
            return frame.f_locals.get("raw_logits", ()) is not None
        frame = frame.f_back  # type: ignore[assignment]
    return False
