"""Repetition penalty: each token that occurred loses probability once."""

from typing import TYPE_CHECKING

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.rows import Row, penalized_tokens, untouchable_mask
from dedup.logits.tokens import NO_TOKENS, TokenSets

if TYPE_CHECKING:
    from dedup.logits.batch import Batch


def repetition_penalty(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Multiply the negative logits of tokens that occurred by the penalty, divide the others.

    CTRL's penalty (Keskar et al. 2019, arXiv 1909.05858), equal to the bit to transformers'
    RepetitionPenaltyLogitsProcessor. Prompt and output count, each token once.
    """
    counts_prompt = config.penalize_prompt is not False
    if config.penalty_last_n < 0:
        counts = history.counts if counts_prompt else history.output_counts
        ids = counts.ids_in_order()
    else:
        ids = np.unique(penalized_tokens(history, config, counts_prompt))
    untouchable = untouchable_mask(ids, logits, sets)
    if untouchable is not None:
        ids = ids[~untouchable]
    penalty = config.repetition_penalty
    multiplied = logits.take(ids)
    divided = multiplied / penalty
    multiplied *= penalty
    # The right one of the two is the smaller, for a penalty below 1 the larger: no mask is needed.
    chosen = np.minimum if penalty >= 1 else np.maximum
    logits[ids] = chosen(multiplied, divided, out=divided)


def repetition_penalty_batch(batch: "Batch", config: DecodingConfig) -> None:
    """Apply the penalty to a batch like `repetition_penalty`."""
    occurred = batch.counts(config, counts_prompt=config.penalize_prompt is not False) > 0
    scores, penalty = batch.scores, config.repetition_penalty
    penalized = (scores * penalty).where(scores < 0, scores / penalty)
    scores.copy_(penalized.where(occurred, scores))
