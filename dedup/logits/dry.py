"""DRY: a penalty that grows with the length of the repeat that a token would continue."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenHistory
from dedup.logits.rows import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets

if TYPE_CHECKING:
    from torch import Tensor

    from dedup.logits.batch import Batch

# ln of the largest 32-bit float, as llama.cpp writes it
_LARGEST_FLOAT_LOG = np.float32(88.7228391)
_FAR = 1 << 20  # tokens; longer than any match that matters
_MAX_BREAKER_TOKENS = 64


def dry(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Subtract multiplier · base^(m - allowed_length) from tokens that would continue a repeat.

    DRY (p-e-w, text-generation-webui #5677) as llama.cpp computes it. m ≥ allowed_length is the
    length of the history's end that occurred before the token already; it reaches back to the last
    sequence breaker. Tokens that are breakers by themselves lose nothing.

    A penalty too large for the type of the logits is cut to what keeps them finite (llama.cpp:
    -inf), so DRY alone never leaves a row without a token.
    """
    tokens, lengths = _continuations(history, config, sets)
    wanted = (tokens >= 0) & (tokens < len(logits)) & ~sets.exempt_mask(tokens)
    tokens, lengths = tokens[wanted], lengths[wanted]
    if not len(tokens):
        return
    # Lengths rise, so the last of a token's places has its longest match.
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


def dry_batch(batch: "Batch", config: DecodingConfig) -> None:
    """Apply DRY to a batch like `dry`."""
    allowed, last_n = config.dry_allowed_length, config.dry_penalty_last_n
    start = 0 if last_n < 0 else max(0, batch.length - last_n)
    if batch.length - start <= max(1, allowed):
        return
    lengths = batch.match_lengths(batch.longest["dry_base"], start)
    lengths = lengths.minimum(_num_since_breaker(batch, start)[:, None])
    wanted = (lengths >= allowed) & batch.is_text[:, start:-1]
    best = batch.largest(batch.ids[:, start + 1 :], lengths, wanted)
    # No exponent exceeds llama.cpp's largest: `longest_match` limits the lengths.
    penalties = config.dry_multiplier * config.dry_base ** (best - allowed).double()
    largest = batch.largest_score / 4 * min(1, config.temperature)  # see `_penalties`
    penalties = penalties.clamp(max=largest)
    penalties = penalties.where(best >= allowed, 0)
    for heads, tail in batch.sets.breakers:
        if not tail:
            is_breaker = batch.contains(heads, batch.range(0, batch.vocabulary_size))
            penalties = penalties.where(~is_breaker, 0)
    batch.scores.sub_(penalties.to(batch.scores.dtype))


def longest_match(config: DecodingConfig) -> int:
    """Return the length, in tokens, from which on a longer match is not penalised more."""
    if config.dry_base == 1:
        return config.dry_allowed_length
    return config.dry_allowed_length + int(min(max_exponent(config.dry_base), _FAR))


@lru_cache(maxsize=64)
def max_exponent(base: float) -> float:
    """Return the largest exponent that llama.cpp uses, computed in 32 bits as it does.

    At base 2 that is 128, not 127.
    """
    if base <= 1.000001:
        return math.inf
    return int(_LARGEST_FLOAT_LOG / np.log(np.float32(base))) or math.inf


def _continuations(
    history: TokenHistory, config: DecodingConfig, sets: TokenSets
) -> tuple[Ints, Ints]:
    """Return the tokens after earlier copies of the history's end, and the lengths of the copies.

    Copies have at least `dry_allowed_length` tokens, reach back to the last breaker and lie within
    the last `dry_penalty_last_n` tokens. Ordered by length; a token may occur several times.
    """
    allowed, last_n = config.dry_allowed_length, config.dry_penalty_last_n
    length = len(history)
    start = 0 if last_n < 0 else max(0, length - last_n)
    cap = history.num_since_breaker(sets.breakers, start)
    nothing = np.empty(0, np.int64)
    if length - start <= allowed or cap < allowed:
        return nothing, nothing
    if allowed == 0:
        # A copy may be empty: any token of the window but the first may be its continuation.
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
    # A temperature below 1 raises the number again; a quarter leaves room for the logit itself.
    largest = float(np.finfo(logits.dtype).max) / 4 * min(1, config.temperature)
    penalties = float(np.float32(config.dry_multiplier)) * np.power(base, exponents)
    return np.minimum(penalties, largest).astype(logits.dtype)


def _num_since_breaker(batch: "Batch", start: int) -> "Tensor":
    """Return for each row the number of tokens after its last breaker; all if it has none."""
    ids = batch.ids[:, start:]
    length = ids.shape[1]
    places = batch.range(0, length)
    # Begin and size of the last breaker, as one number.
    last = places.new_full((len(ids),), -1)
    for heads, tail in batch.sets.breakers:
        size = len(tail)
        if length <= size:
            continue
        begins = batch.contains(heads, ids[:, : length - size])
        for offset, token in enumerate(tail, 1):
            begins &= ids[:, offset : length - size + offset] == token
        found = places[: length - size] * _MAX_BREAKER_TOKENS + size
        last = last.maximum(found.where(begins, -1).amax(-1))
    after = length - (last // _MAX_BREAKER_TOKENS + last % _MAX_BREAKER_TOKENS + 1)
    return after.where(last >= 0, length)
