"""DRY: a penalty that grows with the length of what a token would repeat."""

import math
from functools import lru_cache

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenHistory
from dedup.logits.penalties import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets

_LARGEST_FLOAT_LOG = np.float32(
    88.7228391
)  # ln of the largest 32-bit float, as llama.cpp writes it


def dry(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """DRY (p-e-w, text-generation-webui #5677) as llama.cpp has it: a token that would extend a repeated suffix of length
    m ≥ allowed_length loses multiplier · base^(m - allowed_length); the nearest sequence breaker caps m, and tokens that are
    breakers alone lose nothing. Off for multiplier 0, base < 1 or last_n 0.

    A penalty too large for the logits' type is cut to what keeps them finite (llama.cpp: -inf), so DRY alone never leaves a row
    without a token.
    """
    if (
        config.dry_multiplier == 0
        or np.float32(config.dry_base) < 1
        or config.dry_penalty_last_n == 0
    ):
        return
    tokens, lengths = _extended(history, config, sets)
    wanted = (tokens >= 0) & (tokens < len(logits)) & ~sets.spare(tokens)
    tokens, lengths = tokens[wanted], lengths[wanted]
    if not len(tokens):
        return
    # Lengths rise, so of a token's several the last is the longest.
    last = np.empty(int(tokens.max()) + 1, np.int64)
    places = np.arange(len(tokens))
    last[tokens] = places
    longest = last[tokens] == places
    tokens, lengths = tokens[longest], lengths[longest]
    if sets.breakers:
        alone = [() in sets.breakers.get(token, ()) for token in tokens.tolist()]
        if any(alone):
            tokens, lengths = tokens[~np.array(alone)], lengths[~np.array(alone)]
    logits[tokens] -= _penalties(lengths, config, logits)


def _extended(history: TokenHistory, config: DecodingConfig, sets: TokenSets) -> tuple[Ints, Ints]:
    """Tokens that followed an earlier copy of the history's end, of at least `allowed_length` tokens, and how long it was: no longer
    than what stands after the last breaker, all within `last_n`. In order of length; a token may come several times."""
    allowed, last_n = config.dry_allowed_length, config.dry_penalty_last_n
    length = len(history)
    start = 0 if last_n < 0 else max(0, length - last_n)
    cap = history.num_since_breaker(sets.breakers, start)
    nothing = np.empty(0, np.int64)
    if length - start <= allowed or cap < allowed:
        return nothing, nothing
    if (
        allowed == 0
    ):  # a copy may be empty: any token of the window but the first may be its continuation
        positions = np.arange(start, length - 1)
        lengths = history.match_lengths(start)
    else:
        positions, lengths = history.matches()
    lengths = np.minimum(np.minimum(lengths, positions - start + 1), cap)
    long = lengths >= allowed
    positions, lengths = positions[long], lengths[long]
    if (lengths[1:] < lengths[:-1]).any():  # in a loop they rise already
        order = np.argsort(lengths, kind="stable")
        positions, lengths = positions[order], lengths[order]
    return history.array()[positions + 1], lengths


def _penalties(lengths: Ints, config: DecodingConfig, logits: Row) -> Row:
    base = float(np.float32(config.dry_base))
    exponents = np.minimum(lengths - config.dry_allowed_length, max_exponent(config.dry_base))
    # The temperature comes later and may raise the number again; a quarter leaves room for the logit itself.
    most = float(np.finfo(logits.dtype).max) / 4 * min(1, config.temperature)
    return np.minimum(
        float(np.float32(config.dry_multiplier)) * np.power(base, exponents), most
    ).astype(logits.dtype)


@lru_cache(maxsize=64)
def max_exponent(base: float) -> float:
    """The exponent from which llama.cpp goes no higher, computed as it does: in 32 bits (at base 2 that is 128, not 127)."""
    if base <= 1.000001:
        return math.inf
    return int(_LARGEST_FLOAT_LOG / np.log(np.float32(base))) or math.inf
