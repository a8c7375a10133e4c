"""Bans: tokens that may not come next."""

import math
from collections.abc import Collection

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenHistory
from dedup.logits.penalties import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets

_FEW = 8  # so many are sooner banned one by one than as an array


def no_repeat_ngram(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """No n-gram twice (Paulus et al. 2017, arXiv 1705.04304) as transformers' NoRepeatNGramLogitsProcessor has it: prompt and
    output count. n is the history's `ngram_size`. With a window and exempt tokens it is DeepSeek-OCR's."""
    ban(history.followers(config.no_repeat_ngram_window), logits, sets)


def encoder_no_repeat_ngram(
    history: TokenHistory, encoder: TokenHistory, logits: Row, sets: TokenSets = NO_TOKENS
) -> None:
    """No n-gram of an encoder's input in the output, as transformers' EncoderNoRepeatNGramLogitsProcessor has it. n is the `ngram_size`
    of the encoder's history."""
    ban(encoder.followers_of(history.tokens), logits, sets)


def ban(tokens: Collection[int], logits: Row, sets: TokenSets = NO_TOKENS) -> None:
    """Sets the tokens' logits to -inf, unless no token would be left: all -inf would make greedy decoding emit token 0 without a
    word and sampling raise. Then the row stays as it was. Ids outside the vocabulary are ignored."""
    if len(tokens) > _FEW:
        ban_ids(np.fromiter(tokens, np.int64, len(tokens)), logits, sets)
        return
    size = len(logits)
    before = []
    for token in tokens:
        if 0 <= token < size and not sets.spares(token):
            before.append((token, logits.item(token)))
            logits[token] = -math.inf
    if before and not has_token(logits):
        for token, logit in before:
            logits[token] = logit


def ban_ids(ids: Ints, logits: Row, sets: TokenSets = NO_TOKENS) -> None:
    """`ban` for an array, in which a token may stand more than once."""
    if sets.exempt is not None:
        ids = ids[~sets.spare(ids)]
    if not len(ids):
        return
    if ids.view(np.uint64).max() >= len(
        logits
    ):  # as unsigned numbers, so that those below 0 are too large as well
        ids = ids[(ids >= 0) & (ids < len(logits))]
    before = logits[ids]
    logits[ids] = -math.inf
    if not has_token(logits):
        logits[ids] = before


def has_token(logits: Row) -> bool:
    """Whether any token can be chosen: has a score above -inf that is a number. Goal: two are asked before all are."""
    return bool(
        logits.item(0) > -math.inf
        or logits.item(len(logits) // 2) > -math.inf
        or logits.max() > -math.inf
    )
