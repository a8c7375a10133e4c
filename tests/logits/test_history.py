from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.logits.history import TokenHistory

TOKENS = st.lists(st.integers(0, 3), max_size=24)
NGRAM_SIZES = st.integers(0, 4)


def state(history):
    """Return everything that a history shows."""
    return (
        list(history.tokens),
        history.num_prompt,
        list(zip(history.counts.ids, history.counts.counts, strict=True)),
        list(zip(history.output_counts.ids, history.output_counts.counts, strict=True)),
        sorted(history.followers()),
        matches_of(history),
        history.array().tolist(),
    )


def matches_of(history):
    positions, lengths = history.matches()
    assert (history.match_lengths(0)[positions] == lengths).all()
    assert history.match_lengths(0).sum() == lengths.sum()
    return dict(zip(positions.tolist(), lengths.tolist(), strict=True))


def slow_matches(tokens):
    found = {}
    for position in range(len(tokens) - 1):
        length = 0
        while length <= position and tokens[position - length] == tokens[len(tokens) - 1 - length]:
            length += 1
        if length:
            found[position] = length
    return found


@settings(deadline=None)
@given(TOKENS, TOKENS, NGRAM_SIZES)
def test_counts_are_those_of_the_tokens(prompt, output, ngram_size):
    history = TokenHistory(prompt, ngram_size)
    history.extend(output)
    assert history.tokens == prompt + output
    assert len(history) == len(prompt) + len(output)
    assert history.num_prompt == len(prompt)
    for counts, expected in (
        (history.counts, Counter(prompt + output)),
        (history.output_counts, Counter(output)),
    ):
        assert dict(zip(counts.ids, counts.counts, strict=True)) == expected
        assert len(counts) == len(expected)
        assert [counts[token] for token in range(5)] == [expected[token] for token in range(5)]


@settings(deadline=None)
@given(st.lists(st.integers(-60, 200), max_size=30))
def test_ids_in_order_are_the_ids(steps):
    """A step below 0 removes so many tokens, another appends so many new ones."""
    history = TokenHistory()
    for step in steps:
        if step < 0:
            history.rollback(min(-step, len(history)))
        else:
            history.extend(range(step * 7919 % 301, step * 7919 % 301 + step // 4))
        assert sorted(history.counts.ids_in_order()) == sorted(history.counts.ids)


@settings(deadline=None)
@given(TOKENS, st.integers(1, 4))
def test_followers_are_what_completes_an_ngram_again(tokens, n):
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    suffix = tuple(tokens[len(tokens) - n + 1 :])
    expected = {ngram[-1] for ngram in ngrams if ngram[:-1] == suffix}
    assert sorted(TokenHistory(tokens, n).followers()) == sorted(expected)


@settings(deadline=None)
@given(TOKENS, TOKENS, TOKENS, NGRAM_SIZES)
def test_rollback_undoes_append(prompt, output, num_removed, ngram_size):
    history = TokenHistory(prompt, ngram_size)
    history.extend(output)
    before = state(history)
    for token in num_removed:
        history.append(token)
        history.matches()
    history.rollback(len(num_removed))
    assert state(history) == before


@settings(deadline=None)
@given(TOKENS, TOKENS, st.data(), NGRAM_SIZES)
def test_rollback_leaves_what_was_never_longer(prompt, output, data, ngram_size):
    history = TokenHistory(prompt, ngram_size)
    history.extend(output)
    num_tokens = data.draw(st.integers(0, len(history)))
    history.rollback(num_tokens)
    kept = len(prompt) + len(output) - num_tokens
    fresh = TokenHistory(prompt[:kept], ngram_size)
    fresh.extend(output[: max(0, kept - len(prompt))])
    assert state(history) == state(fresh)


@settings(deadline=None)
@given(TOKENS, st.lists(st.integers(-3, 3), max_size=40))
def test_matches_step_by_step_equal_those_of_a_new_history(prompt, steps):
    """A step of 0 to 3 appends that token; one below 0 removes as many tokens."""
    history = TokenHistory(prompt)
    assert matches_of(history) == slow_matches(prompt)
    for step in steps:
        if step < 0:
            history.rollback(min(-step, len(history)))
        else:
            history.append(step)
        assert matches_of(history) == slow_matches(history.tokens)


def test_invalid_calls_raise():
    history = TokenHistory([1, 2])
    history.append(3)
    with pytest.raises(ValueError, match="cannot roll back 4 of 3"):
        history.rollback(4)
    with pytest.raises(ValueError, match="cannot roll back -1"):
        history.rollback(-1)
    with pytest.raises(ValueError, match="prompt comes before"):
        history.append(4, is_prompt=True)
    with pytest.raises(ValueError, match="ngram_size"):
        TokenHistory(ngram_size=-1)
    assert history.tokens == [1, 2, 3]


def slow_since_breaker(tokens, breakers, start):
    """Return the breaker that begins last, of several the longest."""
    for place in range(len(tokens) - 1, start - 1, -1):
        whole = [
            tail
            for tail in breakers.get(tokens[place], ())
            if tuple(tokens[place + 1 : place + 1 + len(tail)]) == tail
        ]
        if whole:
            return len(tokens) - place - 1 - max(map(len, whole))
    return len(tokens) - start


TAILS = st.lists(
    st.lists(st.integers(0, 2), max_size=3).map(tuple), min_size=1, max_size=3, unique=True
).map(tuple)


@settings(deadline=None)
@given(
    TOKENS,
    st.lists(st.integers(-3, 3), max_size=40),
    st.dictionaries(st.integers(0, 3), TAILS, max_size=3),
    st.integers(0, 8),
)
def test_breakers_of_one_token_or_more_are_found_step_by_step(prompt, steps, breakers, start):
    history = TokenHistory(prompt)
    for step in steps:
        if step < 0:
            history.rollback(min(-step, len(history)))
        else:
            history.append(step)
        first = min(start, len(history))
        assert history.num_since_breaker(breakers, first) == slow_since_breaker(
            history.tokens, breakers, first
        )


@settings(deadline=None)
@given(TOKENS, st.integers(1, 4), st.integers(0, 12))
def test_followers_in_a_window_begin_in_it(tokens, n, window):
    """As in DeepSeek-OCR's processor, an n-gram must begin among the last `window` tokens."""
    begins = range(max(0, len(tokens) - window), len(tokens) - n + 1)
    ngrams = [tuple(tokens[i : i + n]) for i in begins]
    suffix = tuple(tokens[len(tokens) - n + 1 :])
    expected = {ngram[-1] for ngram in ngrams if ngram[:-1] == suffix}
    assert sorted(TokenHistory(tokens, n).followers(window)) == sorted(expected)
