import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply, ban, dry, no_repeat_ngram, openai_penalties, repetition_penalty, temperature

VOCABULARY = 8
# Ids 8 and 9 lie outside: some models' embeddings are larger than their output.
TOKENS = st.lists(st.integers(0, VOCABULARY + 1), max_size=40)
FEW_TOKENS = st.lists(st.integers(0, 2), max_size=40)
LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=VOCABULARY, max_size=VOCABULARY).map(torch.tensor)
PENALTIES = st.floats(-2, 2)


def same_bits(one, other):
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def history_of(prompt, output=(), ngram_size=0):
    history = TokenHistory(prompt, ngram_size)
    history.extend(output)
    return history


@settings(deadline=None)
@given(st.one_of(TOKENS, FEW_TOKENS).filter(bool), st.integers(1, 5), LOGITS)
def test_no_repeat_ngram_is_that_of_transformers(tokens, n, logits):
    expected = NoRepeatNGramLogitsProcessor(n)(torch.tensor([tokens]), logits[None])[0]
    assume(not expected.isneginf().all())
    no_repeat_ngram(history_of(tokens, ngram_size=n), logits)
    assert same_bits(logits, expected)


@settings(deadline=None)
@given(TOKENS.filter(bool), st.floats(0.1, 10), LOGITS)
def test_repetition_penalty_is_that_of_transformers(tokens, penalty, logits):
    inside = [token for token in tokens if token < VOCABULARY]
    assume(inside)  # transformers itself fails on ids outside
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([inside]), logits[None])[0]
    repetition_penalty(history_of(tokens), logits, penalty)
    assert same_bits(logits, expected)


@settings(deadline=None)
@given(TOKENS, TOKENS, PENALTIES, PENALTIES, LOGITS)
def test_openai_penalties_follow_the_formula(prompt, output, frequency, presence, logits):
    counts = [output.count(token) for token in range(VOCABULARY)]
    expected = torch.tensor(
        [float(logit) - frequency * count - presence * (count > 0) for logit, count in zip(logits.tolist(), counts, strict=True)]
    )
    openai_penalties(history_of(prompt, output), logits, frequency, presence)
    torch.testing.assert_close(logits, expected)


def slow_dry(tokens, logits, multiplier, base, allowed_length, last_n, breakers):
    """DRY from its definition: for every token and every earlier place of it, how long is the context that both have?"""
    window = tokens if last_n < 0 else tokens[-last_n:]
    cap = 0
    while cap < len(window) and window[-1 - cap] not in breakers:
        cap += 1
    max_exponent = math.floor(88.7228391 / math.log(base)) if base > 1.000001 else math.inf
    expected = logits.tolist()
    for token in range(len(expected)):
        lengths = []
        for place in range(1, len(window)):
            if window[place] == token:
                length = 0
                while length < place and window[place - 1 - length] == window[-1 - length]:
                    length += 1
                lengths.append(min(length, cap))
        longest = max(lengths, default=-1)
        if longest >= allowed_length and token not in breakers:
            expected[token] -= multiplier * base ** min(longest - allowed_length, max_exponent)
    return torch.tensor(expected)


@settings(deadline=None, max_examples=300)
@given(
    tokens=st.lists(st.integers(0, 2), min_size=8, max_size=40) | TOKENS,
    logits=LOGITS,
    multiplier=st.sampled_from([0.8, 2.0]),
    base=st.sampled_from([1.75, 3.0, 1.0, 1.0000005]),
    allowed_length=st.integers(0, 3),
    last_n=st.sampled_from([-1, 100, 12, 5, 1]),
    breakers=st.frozensets(st.integers(0, 2), max_size=1),
    num_prompt=st.integers(0, 20),
)
def test_dry_follows_its_definition(tokens, logits, multiplier, base, allowed_length, last_n, breakers, num_prompt):
    expected = slow_dry(tokens, logits, multiplier, base, allowed_length, last_n, breakers)
    config = DecodingConfig(
        dry_multiplier=multiplier, dry_base=base, dry_allowed_length=allowed_length, dry_penalty_last_n=last_n
    )
    history = history_of(tokens[:num_prompt])
    for token in tokens[num_prompt:]:  # asked at every step, as in decoding
        dry(history, logits.clone(), config, breakers)
        history.append(token)
    dry(history, logits, config, breakers)
    torch.testing.assert_close(logits, expected)


def test_dry_on_the_example_that_llama_cpp_explains_itself_with():
    a, b, c, y = range(4)
    history = history_of([a, b, c, c, b, c, y, a, b, c])
    logits = torch.zeros(VOCABULARY)
    dry(history, logits, DecodingConfig(dry_multiplier=1, dry_base=2, dry_allowed_length=1))
    assert logits.tolist() == [0, -1, -4, -2, 0, 0, 0, 0]


@pytest.mark.parametrize("off", [{"dry_multiplier": 0}, {"dry_base": 0.99}, {"dry_penalty_last_n": 0}], ids=str)
def test_dry_is_off(off):
    logits = torch.zeros(VOCABULARY)
    dry(history_of([1, 2] * 9), logits, DecodingConfig(**{"dry_multiplier": 1.0, "dry_allowed_length": 0} | off))
    assert not logits.any()


def test_dry_spares_breakers_and_stops_at_them():
    history = history_of([5, 1, 2, 3, 5, 1, 2])
    config = DecodingConfig(dry_multiplier=1, dry_base=2, dry_allowed_length=1)
    for breakers, expected in (((), -4), ((3,), 0), ((1,), -1), ((2,), 0), ((5,), -2)):
        logits = torch.zeros(VOCABULARY)
        dry(history, logits, config, frozenset(breakers))
        assert logits[3] == expected
        assert logits.count_nonzero() == (expected != 0)


def test_dry_clamps_the_exponent_in_32_bits():
    """At base 2 llama.cpp's limit is 128, not 127; what then overflows stays finite here, at any temperature."""
    history = history_of([0] * 400)
    for base, limit in ((1.75, 158), (1.9, 138)):
        logits = torch.zeros(VOCABULARY, dtype=torch.float64)
        dry(history, logits, DecodingConfig(dry_multiplier=1e-3, dry_base=base))
        assert logits[0].item() == pytest.approx(-1e-3 * base**limit)
    logits = torch.zeros(VOCABULARY, dtype=torch.float64)
    dry(history, logits, DecodingConfig(dry_multiplier=1, dry_base=2))
    assert logits[0].item() == -(2.0**128)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = torch.zeros(1, dtype=dtype)
        apply(DecodingConfig(dry_multiplier=1, dry_base=2, temperature=0.01), history, logits)
        assert logits.isfinite().all()
        assert logits.item() < -1e4


@settings(deadline=None)
@given(st.permutations(range(VOCABULARY)), LOGITS, st.integers(1, 4))
def test_where_nothing_repeats_the_logits_stay_bit_identical(tokens, logits, n):
    before = logits.clone()
    config = DecodingConfig(no_repeat_ngram_size=n + 1, dry_multiplier=2.0, dry_allowed_length=n)
    apply(config, history_of(tokens[:3], tokens[3:], n + 1), logits)
    assert same_bits(logits, before)


@settings(deadline=None)
@given(TOKENS, TOKENS, LOGITS)
def test_a_default_configuration_changes_nothing(prompt, output, logits):
    before = logits.clone()
    apply(DecodingConfig(), history_of(prompt, output), logits)
    assert same_bits(logits, before)


@settings(deadline=None)
@given(FEW_TOKENS, FEW_TOKENS, LOGITS)
def test_apply_is_the_methods_one_after_another(prompt, output, logits):
    config = DecodingConfig(
        temperature=0.7,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        no_repeat_ngram_size=3,
        dry_multiplier=0.8,
    )
    history = history_of(prompt, output, 3)
    breakers = frozenset({2})
    expected = logits.clone()
    repetition_penalty(history, expected, 1.3)
    openai_penalties(history, expected, 0.25, 0.5)
    dry(history, expected, config, breakers)
    no_repeat_ngram(history, expected)
    temperature(expected, 0.7)
    apply(config, history, logits, breakers)
    assert same_bits(logits, expected)


@settings(deadline=None)
@given(LOGITS, st.lists(st.integers(-1, VOCABULARY + 2)))
def test_bans_never_leave_a_row_without_a_token(logits, tokens):
    before = logits.clone()
    ban(tokens, logits)
    assert not logits.isneginf().all()
    if set(tokens) >= set(range(VOCABULARY)):
        assert same_bits(logits, before)


def test_bans_are_lifted_where_others_have_banned_the_rest():
    logits = torch.full((VOCABULARY,), -math.inf)
    logits[3] = 1.0
    ban([3], logits)
    assert logits[3] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_served(dtype):
    config = DecodingConfig(
        repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.5, no_repeat_ngram_size=2, dry_multiplier=0.8
    )
    logits = torch.ones(VOCABULARY, dtype=dtype)
    apply(config, history_of([1, 2], [3, 1], 2), logits)
    assert logits.dtype == dtype
    assert logits[2] == -math.inf
    assert logits[0] == 1
