"""Penalties on tokens for having occurred."""

import numpy as np
from numpy.typing import NDArray

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenCounts, TokenHistory
from dedup.logits.tokens import NO_TOKENS, TokenSets

Row = NDArray[np.floating]


def repetition_penalty(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """CTRL's penalty (Keskar et al. 2019, arXiv 1909.05858) as transformers' RepetitionPenaltyLogitsProcessor has it: each token
    of prompt and output once, however often it occurs; a score below 0 is multiplied by the penalty, another divided."""
    counts_prompt = config.penalize_prompt is not False
    if config.penalty_last_n < 0:
        ids = (history.counts if counts_prompt else history.output_counts).ids_in_order()
    else:
        ids = np.unique(_window(history, config, counts_prompt))
    unwanted = _unwanted(ids, logits, sets)
    if unwanted is not None:
        ids = ids[~unwanted]
    penalty = config.repetition_penalty
    multiplied = logits.take(ids)
    divided = multiplied / penalty
    multiplied *= penalty
    # Of the two the one that is meant is the smaller, for a penalty below 1 the larger. Goal: no mask.
    chosen = np.minimum if penalty >= 1 else np.maximum
    logits[ids] = chosen(multiplied, divided, out=divided)


def openai_penalties(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """OpenAI's penalties as vLLM has them: a token of the output loses frequency · count, then presence. With `penalty_decay` a token
    counts decay^(tokens since), as in RWKV's own sampler."""
    counts_prompt = bool(config.penalize_prompt)
    ids: Ints
    counts: NDArray[np.number]
    if config.penalty_last_n < 0 and config.penalty_decay == 1:
        ids, counts = _over(history.counts if counts_prompt else history.output_counts)
    else:
        tokens = _window(history, config, counts_prompt)
        ids, places = np.unique(tokens, return_inverse=True)
        counts = np.bincount(places, config.penalty_decay ** np.arange(len(tokens) - 1, -1, -1.0))
    unwanted = _unwanted(ids, logits, sets)
    if unwanted is not None:
        ids, counts = ids[~unwanted], counts[~unwanted]
    logits[ids] = (
        logits.take(ids)
        - config.frequency_penalty * counts.astype(logits.dtype)
        - config.presence_penalty
    )


def _window(history: TokenHistory, config: DecodingConfig, counts_prompt: bool) -> Ints:
    """The last `penalty_last_n` tokens, of which the prompt's may not count."""
    first = max(0, len(history) - config.penalty_last_n) if config.penalty_last_n >= 0 else 0
    return history.array()[max(first, 0 if counts_prompt else history.num_prompt) :]


def _unwanted(ids: Ints, logits: Row, sets: TokenSets) -> NDArray[np.bool_] | None:
    """Which of the ids are exempt or outside the vocabulary; None if surely none is."""
    # As unsigned numbers those below 0 are too large as well.
    if not len(ids) or (sets.exempt is None and ids.view(np.uint64).max() < len(logits)):
        return None
    return (ids < 0) | (ids >= len(logits)) | sets.spare(ids)


def _over(counts: TokenCounts) -> tuple[Ints, Ints]:
    """Views; the arrays cannot grow while they are in use."""
    if not len(counts):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.frombuffer(counts.ids, np.int64), np.frombuffer(counts.counts, np.int64)
