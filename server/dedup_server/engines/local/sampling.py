"""Sampling of one token: temperature, top_k, top_p and min_p.

Each of the three cuts keeps the best tokens down to some weight, so that together they are one
threshold. Tokens of equal weight are all kept.
"""

import math
from random import Random

import numpy as np
from numpy.typing import NDArray

from dedup_server.engines.local.decoding import Scores

_COLUMNS = 512
GREEDY_BELOW = 1e-5  # a lower temperature leaves only the best token; dividing by it overflows


class NoTokenError(ValueError):
    """The best score is not finite."""


def choose(
    scores: Scores, temperature: float, top_k: int, top_p: float, min_p: float, random: Random
) -> int:
    """Sample a token.

    Args:
        scores: shape (vocabulary,); not changed.
        temperature: below `GREEDY_BELOW`, the best token is returned.
        top_k, top_p, min_p: 0, 1 and 0 are off.
        random: of the request.

    Raises:
        NoTokenError: the best score is not finite; a silent token 0 would be worse.
    """
    best = int(scores.argmax())
    top = scores.item(best)
    if not math.isfinite(top):
        raise NoTokenError("the model gave no finite score for the next token")
    if temperature < GREEDY_BELOW:
        return best
    candidates = _candidates(scores, top_k)
    shifted = (scores if candidates is None else scores[candidates]) - top
    shifted /= temperature
    weights = np.exp(shifted, out=shifted)
    least = _least(weights, top_k, top_p, min_p)
    tokens = candidates
    if least > 0:
        kept = (weights >= least).nonzero()[0]
        weights = weights[kept]
        tokens = kept if candidates is None else candidates[kept]
    reached = np.cumsum(weights, dtype=np.float64)
    place = min(
        int(reached.searchsorted(random.random() * reached[-1], side="right")), len(reached) - 1
    )
    return place if tokens is None else int(tokens[place])


def _candidates(scores: Scores, top_k: int) -> NDArray[np.intp] | None:
    """Return a few tokens that include the best `top_k`, or None for all tokens.

    Goal: no exponential of a whole vocabulary. Of the maxima of `_COLUMNS` columns, the k-th best
    is no better than the k-th best of all scores.
    """
    num_rows = len(scores) // _COLUMNS
    if not 0 < top_k <= _COLUMNS or num_rows < 2:
        return None
    best = scores[: num_rows * _COLUMNS].reshape(num_rows, _COLUMNS).max(axis=0)
    bound = np.partition(best, _COLUMNS - top_k)[_COLUMNS - top_k]
    candidates: NDArray[np.intp] = (scores >= bound).nonzero()[0]
    return candidates


def _least(weights: Scores, top_k: int, top_p: float, min_p: float) -> float:
    """Return the weight from which tokens are kept; the best token has 1."""
    least = 0.0
    if 0 < top_k < len(weights):
        least = float(np.partition(weights, len(weights) - top_k)[len(weights) - top_k])
    if top_p < 1:
        kept = weights if least == 0 else weights[weights >= least]
        total = float(kept.sum(dtype=np.float64))
        # All tokens below this bound together have less weight than top_p cuts off.
        kept = kept[kept >= max(min_p, (1 - top_p) * total / len(kept))]
        kept = np.sort(kept)[::-1]
        before = np.cumsum(kept, dtype=np.float64) - kept
        count = int(before.searchsorted(top_p * total))
        least = float(kept[max(count, 1) - 1])
    return max(least, min_p)
