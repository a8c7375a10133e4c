"""The penalties and bans: plain functions over (history, logits).

`logits` is one row, a float tensor of shape (vocabulary,), changed in place. Token ids at or above the vocabulary are ignored.
`apply` runs the methods in one order: repetition, frequency and presence penalty (OpenAI's and vLLM's order), DRY, n-gram ban,
temperature. A method switched off costs nothing.
"""

import math
from collections.abc import Collection

import torch

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory

Breakers = frozenset[int]


def apply(config: DecodingConfig, history: TokenHistory, logits: torch.Tensor, breakers: Breakers = frozenset()) -> None:
    """Every method that `config` switches on, in place.

    If the bans leave no token, they are lifted for this step: an n-gram said twice is better than a token chosen by accident.
    """
    if config.repetition_penalty != 1:
        repetition_penalty(history, logits, config.repetition_penalty)
    if config.frequency_penalty or config.presence_penalty:
        openai_penalties(history, logits, config.frequency_penalty, config.presence_penalty)
    if config.dry_multiplier:
        dry(history, logits, config, breakers)
    if config.no_repeat_ngram_size:
        ban(history.followers(), logits)
    if config.temperature != 1:
        logits.div_(config.temperature)


def _ids(tokens: Collection[int], logits: torch.Tensor) -> torch.Tensor:
    size = logits.shape[-1]
    return torch.tensor([token for token in tokens if 0 <= token < size], dtype=torch.long, device=logits.device)


def repetition_penalty(history: TokenHistory, logits: torch.Tensor, penalty: float) -> None:
    """CTRL's penalty (Keskar et al. 2019, arXiv 1909.05858) as transformers has it: each token of prompt and output once;
    a score below 0 is multiplied by `penalty`, another divided."""
    ids = _ids(history.counts, logits)
    scores = logits[ids]
    logits[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)


def openai_penalties(history: TokenHistory, logits: torch.Tensor, frequency: float, presence: float) -> None:
    """OpenAI's penalties as vLLM has them: a token of the output loses frequency · count, then presence."""
    size = logits.shape[-1]
    counted = [(token, count) for token, count in history.output_counts.items() if 0 <= token < size]
    if not counted:
        return
    ids = torch.tensor([token for token, _ in counted], dtype=torch.long, device=logits.device)
    counts = torch.tensor([count for _, count in counted], dtype=logits.dtype, device=logits.device)
    logits[ids] -= frequency * counts
    logits[ids] -= presence


def ban(tokens: Collection[int], logits: torch.Tensor) -> None:
    """Sets the tokens' logits to -inf (for n-grams: Paulus et al. 2017, arXiv 1705.04304), unless no token would be left."""
    ids = _ids(tokens, logits)
    if not len(ids):
        return
    before = logits[ids]
    logits[ids] = -math.inf
    if torch.isneginf(logits).all():
        logits[ids] = before


def dry(history: TokenHistory, logits: torch.Tensor, config: DecodingConfig, breakers: Breakers = frozenset()) -> None:
    """DRY as llama.cpp has it: a token that would extend a repeated suffix of length m ≥ allowed_length loses
    multiplier · base^(m - allowed_length); the nearest sequence breaker caps m, and breakers are exempt themselves."""
    if config.dry_multiplier == 0 or config.dry_base < 1 or config.dry_penalty_last_n == 0:
        return
    matches = dry_matches(history.tokens, config.dry_penalty_last_n, breakers)
    # A power above the largest float is infinite; llama.cpp clamps the exponent there.
    largest = math.floor(88.7228391 / math.log(config.dry_base)) if config.dry_base > 1.000001 else 0
    size = logits.shape[-1]
    for token, length in matches.items():
        if length < config.dry_allowed_length or token in breakers or not 0 <= token < size:
            continue
        exponent = length - config.dry_allowed_length
        if largest:
            exponent = min(exponent, largest)
        logits[token] -= config.dry_multiplier * config.dry_base**exponent


def dry_matches(tokens: list[int], last_n: int, breakers: Breakers) -> dict[int, int]:
    """For each token that followed an earlier copy of the end of `tokens`: the length of the longest such copy, at least 1.

    Linear: the Z-function of the reversed window, cut at the nearest breaker.
    """
    window = tokens[::-1] if last_n < 0 else tokens[: -last_n - 1 : -1]
    cap = next((at for at, token in enumerate(window) if token in breakers), len(window))
    size = len(window)
    longest: dict[int, int] = {}
    if not cap:
        return longest
    z = [0] * size
    left = right = 0
    for at in range(1, size):
        length = min(right - at, z[at - left]) if at < right else 0
        while at + length < size and window[length] == window[at + length]:
            length += 1
        z[at] = length
        if at + length > right:
            left, right = at, at + length
        if length:
            token = window[at - 1]
            longest[token] = max(longest.get(token, 0), min(length, cap))
    return longest
