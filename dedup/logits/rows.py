"""Operations on one row of logits that several methods share."""

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenHistory
from dedup.logits.tokens import NO_TOKENS, TokenSets

Row = NDArray[np.floating]

_FEW = 8  # tokens; banning so few one by one is faster than as an array


def ban(tokens: Collection[int], logits: Row, sets: TokenSets = NO_TOKENS) -> None:
    """Set the logits of `tokens` to -inf, but those of exempt tokens.

    Leaves the row as it was if no token would be left: greedy decoding would silently emit token 0,
    and sampling would raise. Ids outside the vocabulary are ignored.
    """
    if len(tokens) > _FEW:
        ban_ids(np.fromiter(tokens, np.int64, len(tokens)), logits, sets)
        return
    size = len(logits)
    before = []
    for token in tokens:
        if 0 <= token < size and not sets.is_exempt(token):
            before.append((token, logits.item(token)))
            logits[token] = -math.inf
    if before and not has_token(logits):
        for token, logit in before:
            logits[token] = logit


def ban_ids(ids: Ints, logits: Row, sets: TokenSets = NO_TOKENS) -> None:
    """Ban like `ban`, from an array that may contain a token more than once."""
    if sets.exempt is not None:
        ids = ids[~sets.exempt_mask(ids)]
    if not len(ids):
        return
    if not _are_below(ids, len(logits)):
        ids = ids[(ids >= 0) & (ids < len(logits))]
    before = logits[ids]
    logits[ids] = -math.inf
    if not has_token(logits):
        logits[ids] = before


def has_token(logits: Row) -> bool:
    """Return whether any token can be chosen: has a logit above -inf that is not NaN."""
    # Two tokens are tried before all are read.
    return bool(
        logits.item(0) > -math.inf
        or logits.item(len(logits) // 2) > -math.inf
        or logits.max() > -math.inf
    )


def penalized_tokens(history: TokenHistory, config: DecodingConfig, counts_prompt: bool) -> Ints:
    """Return the last `penalty_last_n` tokens, without the prompt's unless `counts_prompt`."""
    first = 0
    if config.penalty_last_n >= 0:
        first = max(0, len(history) - config.penalty_last_n)
    if not counts_prompt:
        first = max(first, history.num_prompt)
    return history.array()[first:]


def untouchable_mask(ids: Ints, logits: Row, sets: TokenSets) -> NDArray[np.bool_] | None:
    """Return which of `ids` are exempt or outside the vocabulary; None if none is."""
    if not len(ids) or (sets.exempt is None and _are_below(ids, len(logits))):
        return None
    return (ids < 0) | (ids >= len(logits)) | sets.exempt_mask(ids)


def _are_below(ids: Ints, size: int) -> bool:
    """Return whether all ids are in [0, size): as unsigned numbers, negative ids are too large."""
    return bool(np.maximum.reduce(ids.view(np.uint64)) < size)  # 1.5 µs less than `max`
