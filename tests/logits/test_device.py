"""The batch path, run on the CPU, gives each row what the functions for one row give it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.config import DecodingConfig
from dedup.logits.device import DeviceMethods
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup.logits.tokens import TokenSets

VOCABULARY = 12
PAD = 11
BREAKERS = {3: ((),), 4: ((0,), (0, 1)), 2: ((2,),)}
CONFIGS = {
    "repetition": {"repetition_penalty": 1.3},
    "openai": {"frequency_penalty": 0.3, "presence_penalty": 0.2},
    "openai, decay": {
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "penalty_last_n": 9,
        "penalty_decay": 0.9,
    },
    "all with a prompt": {
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.3,
        "penalize_prompt": True,
    },
    "all without": {"repetition_penalty": 1.3, "frequency_penalty": 0.3, "penalize_prompt": False},
    "n-gram 1": {"no_repeat_ngram_size": 1},
    "n-gram 3": {"no_repeat_ngram_size": 3},
    "n-gram, window": {"no_repeat_ngram_size": 2, "no_repeat_ngram_window": 7},
    "encoder": {"encoder_no_repeat_ngram_size": 2},
    "dry": {"dry_multiplier": 0.8},
    "dry, window": {"dry_multiplier": 0.8, "dry_penalty_last_n": 9, "dry_allowed_length": 1},
    "dry, flat": {"dry_multiplier": 0.8, "dry_base": 1.0, "dry_allowed_length": 0},
    "dry, steep": {"dry_multiplier": 2.0, "dry_base": 50.0},
    "dry, nearly flat": {"dry_multiplier": 2.0, "dry_base": 1.0000005},
    "lz": {"lz_penalty": 0.2, "lz_window": 20, "lz_buffer": 3},
    "temperature": {"temperature": 0.7},
    "dynamic": {"temperature": 0.8, "dynatemp_range": 0.5, "dynatemp_exponent": 1.5},
    "while it repeats": {
        "temperature": 0.5,
        "repetition_temperature": 1.5,
        "repetition_temperature_length": 3,
    },
    "together": {
        "repetition_penalty": 1.2,
        "dry_multiplier": 0.8,
        "no_repeat_ngram_size": 3,
        "temperature": 0.8,
    },
}
FEW = st.integers(0, 4)
BATCH = st.tuples(st.integers(1, 3), st.integers(1, 30)).flatmap(
    lambda shape: st.lists(
        st.lists(FEW, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


@pytest.mark.parametrize("settings_of", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("exempt", [False, True], ids=["", "with an exempt token"])
@settings(deadline=None, max_examples=40)
@given(BATCH, st.integers(0, 30), st.integers(0, 3), st.integers(0, 2**31))
def test_a_row_in_a_batch_gets_the_same_as_alone(
    settings_of, exempt, rows, num_prompt, num_padding, seed
):
    config = DecodingConfig(**settings_of)
    sets = TokenSets(BREAKERS, np.array([False, True]) if exempt else None)
    num_prompt = min(num_prompt, len(rows[0]))
    num_padding = min(num_padding, num_prompt, len(rows[0]) - 1)
    encoder = [0, 1, 2, 0, 3, 1, 1]
    generator = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(len(rows), VOCABULARY, generator=generator)
    expected = scores.clone()
    for row, logits in zip(rows, expected.numpy(), strict=True):
        history = TokenHistory(row[num_padding:num_prompt], config.no_repeat_ngram_size)
        history.extend(row[num_prompt:])
        size = config.encoder_no_repeat_ngram_size
        apply(config, history, logits, sets, TokenHistory(encoder, size) if size else None)
    ids = torch.tensor(rows)
    ids[:, :num_padding] = PAD
    encoder_ids = torch.tensor([encoder]) if config.encoder_no_repeat_ngram_size else None
    DeviceMethods(config, sets).apply(ids, scores, num_prompt, PAD, encoder_ids)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_a_row_that_would_lose_every_token_keeps_them():
    scores = torch.zeros(2, 3)
    DeviceMethods(DecodingConfig(no_repeat_ngram_size=1), TokenSets()).apply(
        torch.tensor([[0, 1, 2], [0, 1, 1]]), scores, 0
    )
    assert scores.tolist() == [[0, 0, 0], [-torch.inf, -torch.inf, 0]]


def test_half_precision_stays_finite():
    scores = torch.zeros(1, 4, dtype=torch.float16)
    DeviceMethods(DecodingConfig(dry_multiplier=1.0, dry_base=4.0), TokenSets()).apply(
        torch.zeros(1, 300, dtype=torch.long), scores, 0
    )
    assert scores.isfinite().all()
    assert scores[0, 0] < -1e4
