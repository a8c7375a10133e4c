"""Temperature: constant, by the model's certainty (dynamic), or raised while the text repeats."""

import math
from typing import TYPE_CHECKING

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.rows import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets

if TYPE_CHECKING:
    from dedup.logits.batch import Batch

_MIN_TEMPERATURE = 1e-4  # instead of 0: logits stay finite, and sampling is greedy


def temperature(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Divide the logits, of exempt tokens too, by the current temperature."""
    value = current_temperature(history, logits, config)
    if value != 1:
        np.divide(logits, value, out=logits)


def temperature_batch(batch: "Batch", config: DecodingConfig) -> None:
    """Divide the scores of each row by its current temperature."""
    scores = batch.scores
    value = scores.new_full((len(scores), 1), config.temperature)
    if config.dynatemp_range:
        low, high = _dynamic_bounds(config)
        logs = scores.double().log_softmax(-1)
        entropy = -(logs.exp() * logs.where(logs > -math.inf, 0)).sum(-1, keepdim=True)
        share = entropy / math.log(batch.vocabulary_size)
        value = low + (high - low) * share.clamp(min=0) ** config.dynatemp_exponent
        value = value.clamp(min=_MIN_TEMPERATURE)
    if config.repetition_temperature and batch.length > 1:
        least = config.repetition_temperature_length
        repeats = (batch.match_lengths(least) >= least).any(-1, keepdim=True)
        value = value.masked_fill(repeats, config.repetition_temperature)
    scores.div_(value.to(scores.dtype))


def current_temperature(history: TokenHistory, logits: Row, config: DecodingConfig) -> float:
    """Return the temperature of this step.

    While at least the last `repetition_temperature_length` tokens occurred before, that is
    `repetition_temperature`: our own method (Holtzman et al. 2020, arXiv 1904.09751, explain why
    likely text repeats and sampled text does not). Else it is the dynamic temperature if that is
    on, else `temperature`.
    """
    if config.repetition_temperature and _repeats(history, config.repetition_temperature_length):
        return config.repetition_temperature
    if config.dynatemp_range:
        return _dynamic_temperature(logits, config)
    return config.temperature


def _repeats(history: TokenHistory, length: int) -> bool:
    lengths = history.matches().lengths
    return bool(len(lengths) and lengths.max() >= length)


def _dynamic_temperature(logits: Row, config: DecodingConfig) -> float:
    """Return llama.cpp's dynamic temperature: low + (high - low) · (H / log |V|)^exponent."""
    if len(logits) < 2:
        return config.temperature
    low, high = _dynamic_bounds(config)
    shifted = logits.astype(np.float64) - logits.max()
    weights = np.exp(shifted)
    total = weights.sum()
    likely = weights > 0
    # H = log Z - E[x - max]
    entropy = np.log(total) - (weights[likely] * shifted[likely]).sum() / total
    share = entropy / np.log(len(logits))
    return max(_MIN_TEMPERATURE, float(low + (high - low) * share**config.dynatemp_exponent))


def _dynamic_bounds(config: DecodingConfig) -> tuple[float, float]:
    low = max(0.0, config.temperature - config.dynatemp_range)
    return low, config.temperature + config.dynatemp_range
