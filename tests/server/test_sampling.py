"""Sampling keeps the tokens that a direct implementation keeps, with their probabilities."""

from random import Random

import numpy as np
import pytest

from dedup_server.engines.local.sampling import NoTokenError, Scores, choose


def row(size: int, scale: float, seed: int = 0) -> Scores:
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def kept(
    scores: Scores, temperature: float, top_k: int, top_p: float, min_p: float
) -> dict[int, float]:
    """Return the tokens that may be sampled with their probabilities, by a sort in double
    precision.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[: top_k or len(order)]
    weights = np.exp((scores[order].astype(np.float64) - scores.max()) / temperature)
    share = weights / weights.sum()
    stays = (np.cumsum(share) - share < top_p) & (weights >= min_p)
    stays[0] = True
    return dict(
        zip(order[stays].tolist(), (weights[stays] / weights[stays].sum()).tolist(), strict=True)
    )


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 1, 0),
        (5, 1, 0),
        (0, 0.9, 0),
        (0, 0.3, 0),
        (0, 0, 0),
        (0, 1, 0.2),
        (20, 0.8, 0),
        (0, 0.8, 0.1),
        (30, 0.95, 0.3),
        (1, 1, 0),
    ],
)
def test_kept_tokens_and_their_frequencies(
    scale: float, top_k: int, top_p: float, min_p: float
) -> None:
    scores = row(64, scale)
    wanted = kept(scores, 0.8, top_k, top_p, min_p)
    random = Random(1)
    drawn = [choose(scores.copy(), 0.8, top_k, top_p, min_p, random) for _ in range(4000)]
    assert set(drawn) <= set(wanted)
    for token, share in wanted.items():
        assert abs(drawn.count(token) / 4000 - share) < 0.035


@pytest.mark.parametrize("size", [2, 1000, 40_000])
def test_scores_are_unchanged_and_a_seed_is_reproducible(size: int) -> None:
    scores = row(size, 2)
    before = scores.copy()
    drawn = [choose(scores, 1.0, 0, 0.9, 0.0, Random(seed)) for seed in range(20)]
    assert drawn == [choose(scores, 1.0, 0, 0.9, 0.0, Random(seed)) for seed in range(20)]
    assert (scores == before).all()


def test_a_tiny_temperature_is_greedy_and_banned_tokens_are_never_sampled() -> None:
    scores = row(50, 1)
    best = int(scores.argmax())
    assert choose(scores, 1e-9, 0, 1, 0, Random(0)) == choose(scores, 0, 0, 1, 0, Random(0)) == best
    scores[:49] = -np.inf
    assert {
        choose(scores, 5.0, top_k, top_p, 0, Random(seed))
        for seed in range(9)
        for top_k in (0, 3)
        for top_p in (1, 0.5)
    } == {49}


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_no_finite_score_is_an_error(broken: float) -> None:
    with pytest.raises(NoTokenError):
        choose(np.full(9, broken, np.float32), 1.0, 0, 1, 0, Random(0))
