"""Frequency and presence penalty: each token of the output loses probability by its count."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenCounts, TokenHistory
from dedup.logits.rows import Row, penalized_tokens, untouchable_mask
from dedup.logits.tokens import NO_TOKENS, TokenSets

if TYPE_CHECKING:
    from dedup.logits.batch import Batch


def openai_penalties(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Subtract frequency_penalty · count, then presence_penalty, from tokens of the output.

    OpenAI's penalties as vLLM computes them. With `penalty_decay` an occurrence counts
    decay^(tokens since), as in RWKV's sampler.
    """
    counts_prompt = bool(config.penalize_prompt)
    ids: Ints
    counts: NDArray[np.number]
    if config.penalty_last_n < 0 and config.penalty_decay == 1:
        ids, counts = _views(history.counts if counts_prompt else history.output_counts)
    else:
        tokens = penalized_tokens(history, config, counts_prompt)
        ids, places = np.unique(tokens, return_inverse=True)
        counts = np.bincount(places, config.penalty_decay ** np.arange(len(tokens) - 1, -1, -1.0))
    untouchable = untouchable_mask(ids, logits, sets)
    if untouchable is not None:
        ids, counts = ids[~untouchable], counts[~untouchable]
    logits[ids] = (
        logits.take(ids)
        - config.frequency_penalty * counts.astype(logits.dtype)
        - config.presence_penalty
    )


def openai_penalties_batch(batch: "Batch", config: DecodingConfig) -> None:
    """Apply both penalties to a batch like `openai_penalties`."""
    scores = batch.scores
    counts = batch.counts(config, counts_prompt=bool(config.penalize_prompt))
    scores.sub_((config.frequency_penalty * counts).to(scores.dtype))
    scores.sub_(config.presence_penalty * (counts > 0))


def _views(counts: TokenCounts) -> tuple[Ints, Ints]:
    """Return ids and counts without a copy. While the views exist, the arrays cannot grow."""
    if not len(counts):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.frombuffer(counts.ids, np.int64), np.frombuffer(counts.counts, np.int64)
