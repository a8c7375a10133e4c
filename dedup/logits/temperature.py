"""Temperatures: one for all steps, one that follows the model's certainty, one for a text that repeats."""

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.penalties import Row

LEAST = 1e-4  # below, a temperature is this; logits stay finite, and sampling is greedy


def temperature(history: TokenHistory, logits: Row, config: DecodingConfig) -> None:
    """Divides by the current temperature."""
    value = current_temperature(history, logits, config)
    if value != 1:
        np.divide(logits, value, out=logits)


def current_temperature(history: TokenHistory, logits: Row, config: DecodingConfig) -> float:
    """While the text repeats, `repetition_temperature`; else that of `dynatemp_range`, if it is on; else `temperature`.

    A text repeats while at least `repetition_temperature_length` tokens at its end stand earlier in it too. (Ours. Holtzman et al.
    2020, arXiv 1904.09751, on why likely text repeats and sampled text does not.)
    """
    if config.repetition_temperature and repeats(history, config.repetition_temperature_length):
        return config.repetition_temperature
    if config.dynatemp_range:
        return dynamic_temperature(logits, config)
    return config.temperature


def repeats(history: TokenHistory, length: int) -> bool:
    """Whether the last `length` tokens stand earlier too."""
    lengths = history.matches().lengths
    return bool(len(lengths) and lengths.max() >= length)


def dynamic_temperature(logits: Row, config: DecodingConfig) -> float:
    """llama.cpp's dynatemp: min + (max - min) · (entropy / largest entropy)^exponent, between temperature - range and + range.

    The largest entropy is that of the whole vocabulary. A temperature of 0 is `LEAST`.
    """
    low, high = (
        max(0.0, config.temperature - config.dynatemp_range),
        config.temperature + config.dynatemp_range,
    )
    if len(logits) < 2:
        return config.temperature
    shifted = logits.astype(np.float64) - logits.max()
    weights = np.exp(shifted)
    total = weights.sum()
    likely = weights > 0
    # H = log Z - E[x - max]
    entropy = np.log(total) - (weights[likely] * shifted[likely]).sum() / total
    return max(
        LEAST,
        float(low + (high - low) * (entropy / np.log(len(logits))) ** config.dynatemp_exponent),
    )
