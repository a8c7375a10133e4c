"""LZ penalty: tokens that a compressor could copy lose what the copy would save."""

import math
from typing import TYPE_CHECKING

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.rows import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets

if TYPE_CHECKING:
    from dedup.logits.batch import Batch

_FAR = 1 << 20  # tokens; beyond any window


def lz_penalty(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Subtract strength · (log2 |V| - log2 d) from tokens that LZ77 could copy from d tokens back.

    The LZ penalty (Ginart et al. 2025, arXiv 2504.20131) as its authors' SGLang fork computes it.
    Of the output's last `lz_window` tokens, those after at least `lz_buffer` others can be copied:
    from the place after the longest copy of the output's end (up to `lz_buffer` tokens), of several
    from the nearest. Other tokens lose nothing.
    """
    length = len(history)
    start = max(history.num_prompt, length - config.lz_window)
    buffer = config.lz_buffer
    if length - start <= buffer:
        return
    tokens = history.array()[start + buffer :]
    lengths = np.minimum(history.match_lengths(start + buffer - 1), buffer)
    distances = np.arange(len(tokens), 0, -1)
    # Positions rise within a length, so the nearest of the longest comes last.
    best_last = np.argsort(lengths, kind="stable")
    tokens, distances = tokens[best_last], distances[best_last]
    wanted = (tokens >= 0) & (tokens < len(logits)) & ~sets.exempt_mask(tokens)
    tokens, distances = tokens[wanted], distances[wanted]
    saved = np.clip(np.log2(len(logits)) - np.log2(distances), 0, None)
    # Of several values for one token, numpy keeps the last.
    logits[tokens] = logits[tokens] - (config.lz_penalty * saved).astype(logits.dtype)


def lz_penalty_batch(batch: "Batch", config: DecodingConfig) -> None:
    """Apply the LZ penalty to a batch like `lz_penalty`."""
    start, buffer = max(batch.num_prompt, batch.length - config.lz_window), config.lz_buffer
    if batch.length - start <= buffer:
        return
    lengths = batch.match_lengths(buffer, start)[:, buffer - 1 :]
    distances = batch.range(batch.length - start - buffer, 0, -1)
    # Length and nearness as one number, so that the largest is the longest, then the nearest.
    nearness = lengths * _FAR + _FAR - distances
    best = batch.largest(batch.ids[:, start + buffer :], nearness, lengths >= 0)
    saved = math.log2(batch.vocabulary_size) - (_FAR - (best % _FAR).double()).log2()
    saved = saved.clamp(min=0).where(best >= 0, 0)
    batch.scores.sub_((config.lz_penalty * saved).to(batch.scores.dtype))
