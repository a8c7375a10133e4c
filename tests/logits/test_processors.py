import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
)

from dedup.config import DecodingConfig
from dedup.logits.dry import dry
from dedup.logits.encoder_no_repeat_ngram import encoder_no_repeat_ngram
from dedup.logits.hf import apply_to
from dedup.logits.history import TokenHistory
from dedup.logits.lz_penalty import lz_penalty
from dedup.logits.no_repeat_ngram import no_repeat_ngram, no_repeat_ngram_scan
from dedup.logits.openai_penalties import openai_penalties
from dedup.logits.processors import apply
from dedup.logits.repetition_penalty import repetition_penalty
from dedup.logits.rows import ban
from dedup.logits.temperature import current_temperature, temperature
from dedup.logits.tokens import TokenSets

VOCABULARY = 8
# Ids 8 and 9 lie outside: some models' embeddings are larger than their output.
TOKENS = st.lists(st.integers(0, VOCABULARY + 1), max_size=40)
FEW_TOKENS = st.lists(st.integers(0, 2), max_size=40)
LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=VOCABULARY, max_size=VOCABULARY).map(
    lambda x: np.array(x, np.float32)
)
PENALTIES = st.floats(-2, 2)


def same_bits(one, other):
    return np.array_equal(
        np.asarray(one, np.float32).view(np.int32), np.asarray(other, np.float32).view(np.int32)
    )


def by(processor, tokens, logits):
    """Return what a processor of transformers makes of one row."""
    return processor(torch.tensor([tokens]), torch.from_numpy(logits.copy())[None])[0].numpy()


def history_of(prompt, output=(), ngram_size=0):
    history = TokenHistory(prompt, ngram_size)
    history.extend(output)
    return history


def exempting(*tokens):
    mask = np.zeros(max(tokens) + 1, bool)
    mask[list(tokens)] = True
    return TokenSets(exempt=mask)


@settings(deadline=None)
@given(st.one_of(TOKENS, FEW_TOKENS).filter(bool), st.integers(1, 5), LOGITS)
def test_no_repeat_ngram_matches_transformers(tokens, n, logits):
    expected = by(NoRepeatNGramLogitsProcessor(n), tokens, logits)
    assume(not np.isneginf(expected).all())
    config = DecodingConfig(no_repeat_ngram_size=n)
    scanned = logits.copy()
    no_repeat_ngram_scan(np.array(tokens), scanned, config)
    assert same_bits(scanned, expected)
    no_repeat_ngram(history_of(tokens, ngram_size=n), logits, config)
    assert same_bits(logits, expected)


@settings(deadline=None)
@given(FEW_TOKENS.filter(bool), st.integers(1, 4), st.integers(1, 12), st.integers(0, 2))
def test_a_window_and_exempt_tokens_match_deepseek_ocr(tokens, n, window, exempt):
    suffix = tuple(tokens[len(tokens) - n + 1 :])
    begins = range(max(0, len(tokens) - window), len(tokens) - n + 1)
    banned = {tokens[i + n - 1] for i in begins if tuple(tokens[i : i + n - 1]) == suffix} - {
        exempt
    }
    logits, scanned = np.zeros(VOCABULARY, np.float32), np.zeros(VOCABULARY, np.float32)
    config = DecodingConfig(no_repeat_ngram_size=n, no_repeat_ngram_window=window)
    no_repeat_ngram(history_of(tokens, ngram_size=n), logits, config, exempting(exempt))
    no_repeat_ngram_scan(np.array(tokens), scanned, config, exempting(exempt))
    assert set(np.flatnonzero(np.isneginf(logits)).tolist()) == banned
    assert same_bits(scanned, logits)


@settings(deadline=None)
@given(FEW_TOKENS.filter(bool), FEW_TOKENS.filter(bool), st.integers(1, 4), LOGITS)
def test_encoder_no_repeat_ngram_matches_transformers(read, tokens, n, logits):
    expected = by(EncoderNoRepeatNGramLogitsProcessor(n, torch.tensor([read])), tokens, logits)
    history = history_of(tokens)
    history.encoder = TokenHistory(read, n)
    encoder_no_repeat_ngram(history, logits, DecodingConfig(encoder_no_repeat_ngram_size=n))
    assert same_bits(logits, expected)


@settings(deadline=None)
@given(TOKENS.filter(bool), st.floats(0.1, 10), LOGITS)
def test_repetition_penalty_matches_transformers(tokens, penalty, logits):
    inside = [token for token in tokens if token < VOCABULARY]
    assume(inside)
    expected = by(RepetitionPenaltyLogitsProcessor(penalty), inside, logits)
    repetition_penalty(history_of(tokens), logits, DecodingConfig(repetition_penalty=penalty))
    assert same_bits(logits, expected)


@settings(deadline=None)
@given(TOKENS, TOKENS, PENALTIES, PENALTIES, LOGITS)
def test_openai_penalties_match_vllms_formula(prompt, output, frequency, presence, logits):
    counts = torch.bincount(
        torch.tensor([t for t in output if t < VOCABULARY], dtype=torch.long), minlength=VOCABULARY
    )
    expected = torch.from_numpy(logits.copy()) - frequency * counts - presence * (counts > 0)
    openai_penalties(
        history_of(prompt, output),
        logits,
        DecodingConfig(frequency_penalty=frequency, presence_penalty=presence),
    )
    assert np.array_equal(logits, expected.numpy())


@settings(deadline=None)
@given(
    FEW_TOKENS,
    FEW_TOKENS,
    st.sampled_from([-1, 0, 1, 7]),
    st.sampled_from([1.0, 0.9]),
    st.sampled_from([None, True, False]),
)
def test_penalties_with_a_window_decay_and_prompt(prompt, output, last_n, decay, penalize_prompt):
    tokens = [*prompt, *output]
    config = DecodingConfig(
        repetition_penalty=2.0,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        penalty_last_n=last_n,
        penalty_decay=decay,
        penalize_prompt=penalize_prompt,
    )

    def counts_from(start):
        start = max(start, len(tokens) - last_n if last_n >= 0 else 0)
        counts = Counter()
        for place in range(start, len(tokens)):
            counts[tokens[place]] += decay ** (len(tokens) - 1 - place)
        return counts

    one = counts_from(len(prompt) if penalize_prompt is False else 0)
    other = counts_from(0 if penalize_prompt else len(prompt))
    expected = [
        (0.5 if token in one else 1) - 0.5 * other[token] - 0.25 * (token in other)
        for token in range(VOCABULARY)
    ]
    logits = np.ones(VOCABULARY, np.float32)
    apply(config, history_of(prompt, output), logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def slow_dry(tokens, logits, config, breakers):
    """Compute DRY from its definition: for each token, the longest context that it shares."""
    last_n, allowed_length, base = (
        config.dry_penalty_last_n,
        config.dry_allowed_length,
        config.dry_base,
    )
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
            expected[token] -= config.dry_multiplier * base ** min(
                longest - allowed_length, max_exponent
            )
    return np.array(expected)


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
def test_dry_follows_its_definition(
    tokens, logits, multiplier, base, allowed_length, last_n, breakers, num_prompt
):
    config = DecodingConfig(
        dry_multiplier=multiplier,
        dry_base=base,
        dry_allowed_length=allowed_length,
        dry_penalty_last_n=last_n,
    )
    expected = slow_dry(tokens, logits, config, breakers)
    sets = TokenSets(dict.fromkeys(breakers, ((),)))
    history = history_of(tokens[:num_prompt])
    for token in tokens[num_prompt:]:  # called at every step, as in decoding
        dry(history, logits.copy(), config, sets)
        history.append(token)
    dry(history, logits, config, sets)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_dry_on_the_example_in_llama_cpps_source():
    a, b, c, y = range(4)
    history = history_of([a, b, c, c, b, c, y, a, b, c])
    logits = np.zeros(VOCABULARY, np.float32)
    dry(history, logits, DecodingConfig(dry_multiplier=1, dry_base=2, dry_allowed_length=1))
    assert logits.tolist() == [0, -1, -4, -2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "off", [{"dry_multiplier": 0}, {"dry_base": 0.99}, {"dry_penalty_last_n": 0}], ids=str
)
def test_dry_is_off(off):
    logits = np.zeros(VOCABULARY, np.float32)
    config = DecodingConfig(**{"dry_multiplier": 1.0, "dry_allowed_length": 0} | off)
    apply(config, history_of([1, 2] * 9), logits)
    assert not logits.any()


def test_a_base_that_is_1_in_32_bits_is_1():
    logits = np.zeros(VOCABULARY, np.float32)
    dry(history_of([1, 2] * 6), logits, DecodingConfig(dry_multiplier=1, dry_base=1 - 1e-9))
    assert logits.tolist() == [0, -1, 0, 0, 0, 0, 0, 0]


def test_dry_spares_breakers_and_stops_at_them():
    history = history_of([5, 1, 2, 3, 5, 1, 2])
    config = DecodingConfig(dry_multiplier=1, dry_base=2, dry_allowed_length=1)
    of_one = [({}, -4), ({3: ((),)}, 0), ({1: ((),)}, -1), ({2: ((),)}, 0), ({5: ((),)}, -2)]
    for breakers, expected in (
        *of_one,
        ({5: ((1,),)}, -1),
        ({3: ((5,),)}, -2),
        ({5: ((1,), ())}, -1),
        ({5: ((4,),)}, -4),
    ):
        logits = np.zeros(VOCABULARY, np.float32)
        dry(history, logits, config, TokenSets(breakers))
        assert logits[3] == expected
        assert np.count_nonzero(logits) == (expected != 0)


def test_dry_clamps_the_exponent_in_32_bits():
    """At base 2 llama.cpp's limit is 128, not 127; what overflows there stays finite here."""
    history = history_of([0] * 400)
    for base, limit in ((1.75, 158), (np.float32(1.9), 138)):
        logits = np.zeros(VOCABULARY)
        dry(history, logits, DecodingConfig(dry_multiplier=1, dry_base=float(base)))
        assert logits[0] == pytest.approx(-(float(base) ** limit))
    logits = np.zeros(VOCABULARY)
    dry(history, logits, DecodingConfig(dry_multiplier=1, dry_base=2))
    assert logits[0] == -(2.0**128)
    logits = np.zeros(1, np.float32)
    apply(DecodingConfig(dry_multiplier=1, dry_base=2, temperature=0.01), history, logits)
    assert np.isfinite(logits).all()
    assert logits[0] < -1e4


def slow_lz(prompt, output, size, config):
    """Compute the LZ penalty as its authors' SGLang fork does: longest copy, then nearest."""
    window = output[-config.lz_window :]
    buffer = config.lz_buffer
    best = {}
    if len(window) > buffer:
        for place in range(buffer, len(window)):
            before, end = window[place - buffer : place], window[-buffer:]
            length = 0
            while length < buffer and before[-1 - length] == end[-1 - length]:
                length += 1
            candidate = (length, -(len(window) - place))
            best[window[place]] = max(best.get(window[place], candidate), candidate)
    bits = math.log2(size)
    return {
        token: config.lz_penalty * (bits - min(bits, math.log2(-far)))
        for token, (_, far) in best.items()
        if token < size
    }


@settings(deadline=None)
@given(TOKENS, TOKENS | FEW_TOKENS, st.integers(1, 30), st.integers(1, 5))
def test_lz_penalty_matches_its_authors_code(prompt, output, window, buffer):
    config = DecodingConfig(lz_penalty=0.15, lz_window=window, lz_buffer=buffer)
    logits = np.zeros(VOCABULARY, np.float32)
    lz_penalty(history_of(prompt, output), logits, config)
    expected = np.zeros(VOCABULARY)
    for token, penalty in slow_lz(prompt, output, VOCABULARY, config).items():
        expected[token] = -penalty
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(LOGITS, st.floats(0.2, 3))
def test_temperature_matches_transformers(logits, value):
    expected = by(TemperatureLogitsWarper(value), [0], logits)
    temperature(history_of([]), logits, DecodingConfig(temperature=value))
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


@settings(deadline=None)
@given(LOGITS, st.floats(0.5, 2), st.floats(0.1, 2), st.sampled_from([0.5, 1.0, 2.0]))
def test_dynamic_temperature_follows_llama_cpps_formula(logits, middle, spread, exponent):
    config = DecodingConfig(temperature=middle, dynatemp_range=spread, dynatemp_exponent=exponent)
    chances = torch.from_numpy(logits).double().softmax(-1)
    entropy = -(chances * chances.clamp(min=1e-300).log()).sum().item() / math.log(VOCABULARY)
    low = max(0, middle - spread)
    expected = max(1e-4, low + (middle + spread - low) * max(0, entropy) ** exponent)
    assert current_temperature(history_of([]), logits, config) == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


def test_the_temperature_rises_only_while_the_end_repeats():
    config = DecodingConfig(
        temperature=0.5, repetition_temperature=1.5, repetition_temperature_length=3
    )
    logits = np.zeros(VOCABULARY, np.float32)
    history = history_of([1, 2, 3, 4])
    seen = []
    for token in (1, 2, 3, 4, 5, 2):
        history.append(token)
        seen.append(current_temperature(history, logits, config))
    assert seen == [0.5, 0.5, 1.5, 1.5, 0.5, 0.5]


@settings(deadline=None)
@given(st.permutations(range(VOCABULARY)), LOGITS, st.integers(1, 4))
def test_where_nothing_repeats_the_logits_stay_bit_identical(tokens, logits, n):
    before = logits.copy()
    config = DecodingConfig(
        no_repeat_ngram_size=n + 1,
        dry_multiplier=2.0,
        dry_allowed_length=n,
        repetition_temperature=2.0,
        lz_penalty=0.5,
    )
    apply(config, history_of(tokens[:3], tokens[3:], n + 1), logits)
    assert same_bits(logits, before)


@settings(deadline=None)
@given(TOKENS, TOKENS, LOGITS)
def test_a_default_configuration_changes_nothing(prompt, output, logits):
    before = logits.copy()
    apply(DecodingConfig(), history_of(prompt, output), logits)
    assert same_bits(logits, before)


@settings(deadline=None)
@given(FEW_TOKENS, FEW_TOKENS, LOGITS)
def test_apply_runs_the_methods_in_order(prompt, output, logits):
    config = DecodingConfig(
        temperature=0.7,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        no_repeat_ngram_size=3,
        dry_multiplier=0.8,
        lz_penalty=0.2,
        lz_buffer=2,
    )
    history = history_of(prompt, output, 3)
    sets = TokenSets({2: ((),)})
    expected = logits.copy()
    repetition_penalty(history, expected, config)
    openai_penalties(history, expected, config)
    dry(history, expected, config, sets)
    lz_penalty(history, expected, config)
    no_repeat_ngram(history, expected, config)
    temperature(history, expected, config)
    apply(config, history, logits, sets)
    assert same_bits(logits, expected)


@settings(deadline=None)
@given(FEW_TOKENS, FEW_TOKENS, LOGITS, st.integers(0, 2))
def test_no_method_but_the_temperature_touches_an_exempt_token(prompt, output, logits, exempt):
    config = DecodingConfig(
        repetition_penalty=1.3,
        frequency_penalty=0.25,
        no_repeat_ngram_size=2,
        dry_multiplier=0.8,
        lz_penalty=0.2,
        lz_buffer=2,
    )
    before = logits.copy()
    apply(config, history_of(prompt, output, 2), logits, exempting(exempt))
    assert same_bits(logits[exempt], before[exempt])


@settings(deadline=None)
@given(LOGITS, st.lists(st.integers(-1, VOCABULARY + 2)))
def test_bans_never_leave_a_row_without_a_token(logits, tokens):
    before = logits.copy()
    ban(tokens, logits)
    assert not np.isneginf(logits).all()
    if set(tokens) >= set(range(VOCABULARY)):
        assert same_bits(logits, before)


def test_bans_are_lifted_where_others_have_banned_the_rest():
    logits = np.full(VOCABULARY, -math.inf)
    logits[3] = 1.0
    ban([3], logits)
    assert logits[3] == 1.0


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_infinities_and_nan_are_kept(odd):
    config = DecodingConfig(
        repetition_penalty=1.3,
        frequency_penalty=0.5,
        dry_multiplier=0.8,
        lz_penalty=0.2,
        lz_buffer=2,
        temperature=0.7,
    )
    logits = np.ones(VOCABULARY, np.float32)
    logits[1] = odd
    apply(config, history_of([1, 2, 1], [2, 1, 2]), logits)
    np.testing.assert_equal(logits[1], np.float32(odd))
    assert np.isfinite(np.delete(logits, 1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_supported(dtype):
    config = DecodingConfig(
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        no_repeat_ngram_size=2,
        dry_multiplier=0.8,
    )
    logits = torch.ones(VOCABULARY, dtype=dtype)
    apply_to(config, history_of([1, 2], [3, 1], 2), logits)
    assert logits.dtype == dtype
    assert logits[2] == -math.inf
    assert logits[0] == 1
