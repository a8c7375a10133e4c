"""The LZ penalty: what compresses well says little."""

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.penalties import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets


def lz_penalty(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """The LZ penalty (Ginart et al. 2025, arXiv 2504.20131) as its authors' SGLang fork has it.

    Among the output's last `lz_window` tokens each token that stands after at least `lz_buffer` others could be copied from there: of
    its places the one after the longest copy of the output's end (up to `lz_buffer` tokens), of several the nearest, d tokens
    back. It loses strength · (log2 |V| - log2 d): what LZ77 saves by the copy. Tokens that cannot be copied lose nothing.
    """
    length = len(history)
    start = max(history.num_prompt, length - config.lz_window)
    buffer = config.lz_buffer
    if length - start <= buffer:
        return
    tokens = history.array()[start + buffer :]
    lengths = np.minimum(history.match_lengths(start + buffer - 1), buffer)
    distances = np.arange(len(tokens), 0, -1)
    best_last = np.argsort(
        lengths, kind="stable"
    )  # positions rise within a length, so the nearest comes last
    tokens, distances = tokens[best_last], distances[best_last]
    wanted = (tokens >= 0) & (tokens < len(logits)) & ~sets.spare(tokens)
    tokens, distances = tokens[wanted], distances[wanted]
    saved = np.clip(np.log2(len(logits)) - np.log2(distances), 0, None)
    # Of several values for one token the last stays.
    logits[tokens] = logits[tokens] - (config.lz_penalty * saved).astype(logits.dtype)
