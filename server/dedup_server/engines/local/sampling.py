"""One token from a row of scores: temperature, top_k, top_p, min_p, and a random number that is the request's own.

Each of the three cuts keeps the best so many tokens, so together they are one least weight. Of tokens with equal weights all are kept.
"""

import math
from random import Random

import numpy as np
from numpy.typing import NDArray

from dedup_server.engines.local.decoding import Scores

_COLUMNS = 512
GREEDY_BELOW = 1e-5  # a temperature so low leaves only the best token, and dividing by it overflows


class NoTokenError(ValueError):
    """No token has a finite score."""


def choose(
    scores: Scores, temperature: float, top_k: int, top_p: float, min_p: float, random: Random
) -> int:
    """A token from `scores`, shape (vocabulary,): the best at temperature 0 (`GREEDY_BELOW`), else sampled. top_k 0, top_p 1, min_p 0: off.

    Raises NoTokenError where the best score is not finite: a silent token 0 would be worse.
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
    """Tokens among which the best `top_k` are, few of many; None where all may be. Goal: no exponential of a whole vocabulary.

    Of the best of each of `_COLUMNS` columns, the k-th best is no better than the k-th best of all.
    """
    num_rows = len(scores) // _COLUMNS
    if not 0 < top_k <= _COLUMNS or num_rows < 2:
        return None
    best = scores[: num_rows * _COLUMNS].reshape(num_rows, _COLUMNS).max(axis=0)
    bound = np.partition(best, _COLUMNS - top_k)[_COLUMNS - top_k]
    candidates: NDArray[np.intp] = (scores >= bound).nonzero()[0]
    return candidates


def _least(weights: Scores, top_k: int, top_p: float, min_p: float) -> float:
    """The weight from which on tokens are kept; the best token's is 1."""
    least = 0.0
    if 0 < top_k < len(weights):
        least = float(np.partition(weights, len(weights) - top_k)[len(weights) - top_k])
    if top_p < 1:
        kept = weights if least == 0 else weights[weights >= least]
        total = float(kept.sum(dtype=np.float64))
        # All tokens below this are together less than what top_p leaves out.
        kept = kept[kept >= max(min_p, (1 - top_p) * total / len(kept))]
        kept = np.sort(kept)[::-1]
        before = np.cumsum(kept, dtype=np.float64) - kept
        count = int(before.searchsorted(top_p * total))
        least = float(kept[max(count, 1) - 1])
    return max(least, min_p)
