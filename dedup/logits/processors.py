"""The penalties and bans: plain functions over (history, logits).

`logits` is one row, a float tensor of shape (vocabulary,), changed in place. Token ids outside the vocabulary are ignored.
`apply` runs the methods in one order: repetition penalty, frequency and presence penalty (OpenAI's and vLLM's order), DRY, n-gram
ban, temperature. A method switched off costs nothing.
"""

import math
from array import array
from collections.abc import Iterable
from functools import lru_cache

import torch

from dedup.config import DecodingConfig
from dedup.logits.history import TokenCounts, TokenHistory

Breakers = frozenset[int]

LARGEST_FLOAT_LOG = 88.7228391  # ln of the largest 32-bit float, as llama.cpp writes it


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
        no_repeat_ngram(history, logits)
    if config.temperature != 1:
        temperature(logits, config.temperature)


def temperature(logits: torch.Tensor, value: float) -> None:
    """Divides by the temperature, > 0."""
    logits.div_(value)


def repetition_penalty(history: TokenHistory, logits: torch.Tensor, penalty: float) -> None:
    """CTRL's penalty (Keskar et al. 2019, arXiv 1909.05858) as transformers' RepetitionPenaltyLogitsProcessor has it: each token
    of prompt and output once, however often it occurs; a score below 0 is multiplied by `penalty`, another divided."""
    ids, _ = _counted(history.counts, logits)
    scores = logits[ids]
    logits[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)


def openai_penalties(history: TokenHistory, logits: torch.Tensor, frequency: float, presence: float) -> None:
    """OpenAI's penalties as vLLM has them: a token of the output loses frequency · count, then presence."""
    ids, counts = _counted(history.output_counts, logits)
    logits[ids] = logits[ids] - frequency * counts - presence


def no_repeat_ngram(history: TokenHistory, logits: torch.Tensor) -> None:
    """No n-gram twice (Paulus et al. 2017, arXiv 1705.04304) as transformers' NoRepeatNGramLogitsProcessor has it: prompt and
    output count. n is the history's `ngram_size`."""
    ban(history.followers(), logits)


def ban(tokens: Iterable[int], logits: torch.Tensor) -> None:
    """Sets the tokens' logits to -inf, unless no token would be left: all -inf would make greedy decoding emit token 0 without a
    word and sampling raise. Then the row stays as it was."""
    size = logits.shape[-1]
    banned = [token for token in tokens if 0 <= token < size]
    if not banned:
        return
    ids = torch.tensor(banned, device=logits.device)
    before = logits[ids]
    logits[ids] = -math.inf
    if logits.max() == -math.inf:
        logits[ids] = before


def dry(history: TokenHistory, logits: torch.Tensor, config: DecodingConfig, breakers: Breakers = frozenset()) -> None:
    """DRY (p-e-w, text-generation-webui #5677) as llama.cpp has it: a token that would extend a repeated suffix of length
    m ≥ allowed_length loses multiplier · base^(m - allowed_length); the nearest sequence breaker caps m, and tokens that are
    breakers lose nothing. Off for multiplier 0, base < 1 or last_n 0.

    A penalty too large for the logits' type is cut to what keeps them finite (llama.cpp: -inf), so DRY alone never leaves a row
    without a token.
    """
    if config.dry_multiplier == 0 or config.dry_base < 1 or config.dry_penalty_last_n == 0:
        return
    size = logits.shape[-1]
    extending = {
        token: length
        for token, length in dry_matches(history, config.dry_allowed_length, config.dry_penalty_last_n, breakers).items()
        if token not in breakers and 0 <= token < size
    }
    if not extending:
        return
    # The temperature comes later and may raise the number again; a quarter leaves room for the logit itself.
    most = torch.finfo(logits.dtype).max / 4 * min(1, config.temperature)
    limit = _max_exponent(config.dry_base)
    penalties = [
        min(config.dry_multiplier * config.dry_base ** min(length - config.dry_allowed_length, limit), most)
        for length in extending.values()
    ]
    ids = torch.tensor(list(extending), device=logits.device)
    logits[ids] -= torch.tensor(penalties, dtype=logits.dtype, device=logits.device)


def dry_matches(history: TokenHistory, allowed_length: int, last_n: int, breakers: Breakers) -> dict[int, int]:
    """For each token that followed an earlier copy of the history's end, of at least `allowed_length` tokens: the length of the
    longest such copy among the last `last_n` tokens (-1: all), no longer than what stands after the last breaker.

    With `allowed_length` 0 a copy may be empty: every token but the first of the window is in the answer.
    """
    tokens = history.tokens
    length = len(tokens)
    start = 0 if last_n < 0 else max(0, length - last_n)
    longest: dict[int, int] = dict.fromkeys(tokens[start + 1 :], 0) if allowed_length == 0 else {}
    cap = _since_breaker(tokens, start, breakers)
    if cap < max(allowed_length, 1):
        return longest
    for position, match in history.matches().items():
        match = min(match, position - start + 1, cap)
        if match >= allowed_length and match > 0:
            token = tokens[position + 1]
            if match > longest.get(token, 0):
                longest[token] = match
    return longest


def _since_breaker(tokens: list[int], start: int, breakers: Breakers) -> int:
    """How many tokens stand after the last breaker, not looking before `start`."""
    if breakers:
        for position in range(len(tokens) - 1, start - 1, -1):
            if tokens[position] in breakers:
                return len(tokens) - 1 - position
    return len(tokens) - start


@lru_cache(maxsize=64)
def _max_exponent(base: float) -> float:
    """The exponent from which llama.cpp goes no higher, computed as it does: in 32 bits (at base 2 that is 128, not 127)."""
    if base <= 1.000001:
        return math.inf
    return int(torch.tensor(LARGEST_FLOAT_LOG) / torch.tensor(base).log())


def _counted(counts: TokenCounts, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids inside the vocabulary, and their counts as floats. Copies: the arrays cannot grow while a tensor lies over them."""
    ids, numbers = _over(counts.ids), _over(counts.counts)
    inside = (ids >= 0) & (ids < logits.shape[-1])
    return ids[inside].to(logits.device), numbers[inside].to(logits.device, logits.dtype)


def _over(numbers: "array[int]") -> torch.Tensor:
    return torch.frombuffer(numbers, dtype=torch.int64) if numbers else torch.empty(0, dtype=torch.int64)
