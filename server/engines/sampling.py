"""One token from a row of scores: temperature, top_k, top_p, min_p, and a random number that is the request's own.

Each of the three cuts keeps the best so many tokens, so together they are one least weight. Of tokens with equal weights all are kept.
"""

import math
from random import Random

import numpy as np

from server.engines.decoding import Scores

GREEDY_BELOW = 1e-5  # a temperature so low leaves only the best token, and dividing by it overflows


class NoTokenError(ValueError):
    """No token has a finite score."""


def choose(scores: Scores, temperature: float, top_k: int, top_p: float, min_p: float, random: Random) -> int:
    """A token from `scores`, shape (vocabulary,): the best at temperature 0 (`GREEDY_BELOW`), else sampled. top_k 0, top_p 1, min_p 0: off.

    Raises NoTokenError where the best score is not finite: a silent token 0 would be worse.
    """
    best = int(scores.argmax())
    top = scores.item(best)
    if not math.isfinite(top):
        raise NoTokenError("the model gave no finite score for the next token")
    if temperature < GREEDY_BELOW:
        return best
    shifted = scores - top
    shifted /= temperature
    weights = np.exp(shifted, out=shifted)
    least = _least(weights, top_k, top_p, min_p)
    tokens = (weights >= least).nonzero()[0] if least > 0 else None
    reached = np.cumsum(weights if tokens is None else weights[tokens], dtype=np.float64)
    place = min(int(reached.searchsorted(random.random() * reached[-1], side="right")), len(reached) - 1)
    return place if tokens is None else int(tokens[place])


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
