"""Penalties on tokens for having occurred."""

import numpy as np
from numpy.typing import NDArray

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenCounts, TokenHistory
from dedup.logits.tokens import NO_TOKENS, TokenSets

Row = NDArray[np.floating]


def repetition_penalty(history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS) -> None:
    """CTRL's penalty (Keskar et al. 2019, arXiv 1909.05858) as transformers' RepetitionPenaltyLogitsProcessor has it: each token
    of prompt and output once, however often it occurs; a score below 0 is multiplied by the penalty, another divided."""
    ids, _ = _counted(history, logits, config, sets, counts_prompt=True)
    scores = logits[ids]
    penalty = config.repetition_penalty
    logits[ids] = np.where(scores < 0, scores * penalty, scores / penalty)


def openai_penalties(history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS) -> None:
    """OpenAI's penalties as vLLM has them: a token of the output loses frequency · count, then presence. With `penalty_decay` a token
    counts decay^(tokens since), as in RWKV's own sampler."""
    ids, counts = _counted(history, logits, config, sets, counts_prompt=False)
    logits[ids] = logits[ids] - config.frequency_penalty * counts.astype(logits.dtype) - config.presence_penalty


def _counted(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets, counts_prompt: bool
) -> tuple[Ints, NDArray[np.number]]:
    """The tokens to penalise, each once, and how often each counts."""
    counts_prompt = counts_prompt if config.penalize_prompt is None else config.penalize_prompt
    last_n, decay = config.penalty_last_n, config.penalty_decay
    ids: Ints
    counts: NDArray[np.number]
    if last_n < 0 and decay == 1:
        ids, counts = _over(history.counts if counts_prompt else history.output_counts)
    else:
        start = 0 if counts_prompt else history.num_prompt
        tokens = history.array()[max(start, len(history) - last_n if last_n >= 0 else 0) :]
        ids, places = np.unique(tokens, return_inverse=True)
        counts = np.bincount(places, decay ** np.arange(len(tokens) - 1, -1, -1.0))
    wanted = (ids >= 0) & (ids < len(logits))
    if sets.exempt is not None:
        wanted &= ~sets.spare(ids)
    return (ids, counts) if wanted.all() else (ids[wanted], counts[wanted])


def _over(counts: TokenCounts) -> tuple[Ints, Ints]:
    """Views; the arrays cannot grow while they are in use."""
    if not len(counts):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.frombuffer(counts.ids, np.int64), np.frombuffer(counts.counts, np.int64)
