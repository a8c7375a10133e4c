"""Table of sampling methods, in order of application. Every adapter iterates it.

A method is added as a file with its functions, its fields in `DecodingConfig`, and a row here.
`generate`, the local engine and vLLM then offer it, on the CPU and in batches on a device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dedup.config import DecodingConfig
from dedup.logits.dry import dry, dry_batch, longest_match
from dedup.logits.encoder_no_repeat_ngram import (
    encoder_no_repeat_ngram,
    encoder_no_repeat_ngram_batch,
)
from dedup.logits.history import Ints, TokenHistory
from dedup.logits.lz_penalty import lz_penalty, lz_penalty_batch
from dedup.logits.no_repeat_ngram import (
    no_repeat_ngram,
    no_repeat_ngram_batch,
    no_repeat_ngram_scan,
)
from dedup.logits.openai_penalties import openai_penalties, openai_penalties_batch
from dedup.logits.repetition_penalty import repetition_penalty, repetition_penalty_batch
from dedup.logits.rows import Row
from dedup.logits.temperature import temperature, temperature_batch
from dedup.logits.tokens import TokenSets

if TYPE_CHECKING:
    from dedup.logits.batch import Batch

Kind = Literal["bias", "ban", "temperature"]


@dataclass(frozen=True, slots=True)
class Method:
    """A sampling method.

    Attributes:
        name: Name of the method.
        kind: Whether it adds to logits (bias), sets them to -inf (ban) or divides them.
        is_on: Returns whether a configuration switches the method on. Nothing else decides it.
        apply: Changes one row of logits in place, on the CPU.
        apply_batch: Changes the scores of a batch in place, on any device.
        scan: Does the same as `apply` from token ids of shape (length,), without padding and
            history. None where a history is faster.
        reads_history: Whether `apply` reads the history.
        reads_encoder: Whether the method reads the encoder's input.
        match_lengths: Returns how many tokens `apply_batch` compares at each position, under the
            name of the field that sets it. Its memory grows with that.
    """

    name: str
    kind: Kind
    is_on: Callable[[DecodingConfig], bool]
    apply: Callable[[TokenHistory, Row, DecodingConfig, TokenSets], None]
    apply_batch: Callable[["Batch", DecodingConfig], None]
    scan: Callable[[Ints, Row, DecodingConfig, TokenSets], None] | None = None
    reads_history: bool = True
    reads_encoder: bool = False
    match_lengths: Callable[[DecodingConfig], dict[str, int]] = lambda config: {}


METHODS = (
    Method(
        name="repetition_penalty",
        kind="bias",
        is_on=lambda config: config.repetition_penalty != 1,
        apply=repetition_penalty,
        apply_batch=repetition_penalty_batch,
    ),
    Method(
        name="openai_penalties",
        kind="bias",
        is_on=lambda config: config.frequency_penalty != 0 or config.presence_penalty != 0,
        apply=openai_penalties,
        apply_batch=openai_penalties_batch,
    ),
    Method(
        name="dry",
        kind="bias",
        is_on=lambda config: config.uses_dry,
        apply=dry,
        apply_batch=dry_batch,
        match_lengths=lambda config: {
            "dry_allowed_length": config.dry_allowed_length,
            "dry_base": longest_match(config),
        },
    ),
    Method(
        name="lz_penalty",
        kind="bias",
        is_on=lambda config: config.lz_penalty != 0,
        apply=lz_penalty,
        apply_batch=lz_penalty_batch,
        match_lengths=lambda config: {"lz_buffer": config.lz_buffer},
    ),
    Method(
        name="no_repeat_ngram",
        kind="ban",
        is_on=lambda config: config.no_repeat_ngram_size > 0,
        apply=no_repeat_ngram,
        apply_batch=no_repeat_ngram_batch,
        scan=no_repeat_ngram_scan,
        match_lengths=lambda config: {"no_repeat_ngram_size": config.no_repeat_ngram_size},
    ),
    Method(
        name="encoder_no_repeat_ngram",
        kind="ban",
        is_on=lambda config: config.encoder_no_repeat_ngram_size > 0,
        apply=encoder_no_repeat_ngram,
        apply_batch=encoder_no_repeat_ngram_batch,
        reads_encoder=True,
        match_lengths=lambda config: {
            "encoder_no_repeat_ngram_size": config.encoder_no_repeat_ngram_size
        },
    ),
    Method(
        name="temperature",
        kind="temperature",
        is_on=lambda config: (
            not config.repetition_temperature
            and (config.temperature != 1 or config.dynatemp_range > 0)
        ),
        apply=temperature,
        apply_batch=temperature_batch,
        reads_history=False,
    ),
    # Applies the other temperatures too, while the text does not repeat.
    Method(
        name="repetition_temperature",
        kind="temperature",
        is_on=lambda config: config.repetition_temperature > 0,
        apply=temperature,
        apply_batch=temperature_batch,
        match_lengths=lambda config: {
            "repetition_temperature_length": config.repetition_temperature_length
        },
    ),
)


def methods_on(config: DecodingConfig) -> tuple[Method, ...]:
    """Return the methods that a configuration switches on, in order of application."""
    return tuple(method for method in METHODS if method.is_on(config))
