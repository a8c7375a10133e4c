"""Sampling state of one request, and of one sequence that is handed over whole at every step."""

from random import Random
from typing import Any

import numpy as np
import pytest

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup.logits.request import Request
from dedup.logits.sequence import SequenceProcessor

CONFIG = DecodingConfig(
    no_repeat_ngram_size=3,
    dry_multiplier=0.8,
    dry_sequence_breakers=(),
    lz_penalty=0.2,
    lz_buffer=2,
    frequency_penalty=0.5,
    repetition_penalty=1.1,
)
SIZE = 8


def expected(prompt: list[int], output: list[int], logits: Any) -> Any:
    history = TokenHistory(prompt, CONFIG.no_repeat_ngram_size)
    history.extend(output)
    changed = logits.copy()
    apply(CONFIG, history, changed)
    return changed


def test_request_follows_an_output_that_grows_and_shrinks() -> None:
    random, numbers = Random(0), np.random.default_rng(0)
    for _ in range(20):
        prompt = random.choices(range(SIZE), k=random.randrange(10))
        request, output = Request(CONFIG, prompt), list[int]()
        for _ in range(40):
            logits = numbers.normal(size=SIZE)
            changed = logits.copy()
            request.apply(output, changed)
            np.testing.assert_array_equal(changed, expected(prompt, output, logits))
            if random.random() < 0.2:
                del output[random.randrange(len(output) + 1) :]
            output += random.choices(range(SIZE), k=random.choice((0, 1, 1, 1, 2)))


def test_sequence_serves_one_generation_after_another() -> None:
    random, numbers = Random(0), np.random.default_rng(0)
    processor = SequenceProcessor(CONFIG)
    for _ in range(20):
        tokens = random.choices(range(SIZE), k=random.randrange(1, 10))
        num_prompt = len(tokens)
        for _ in range(20):
            logits = numbers.normal(size=SIZE)
            changed = logits.copy()
            processor.apply(np.array(tokens), changed)
            prompt, output = tokens[:num_prompt], tokens[num_prompt:]
            np.testing.assert_array_equal(changed, expected(prompt, output, logits))
            tokens.append(random.randrange(SIZE))


def test_sequence_takes_a_prompt_length() -> None:
    config = DecodingConfig(presence_penalty=1)
    changed = np.zeros(SIZE)
    SequenceProcessor(config, prompt_length=2).apply(np.array([1, 2, 3]), changed)
    assert changed.tolist() == [0, 0, 0, -1, 0, 0, 0, 0]


def test_sequence_has_no_encoder() -> None:
    with pytest.raises(ValueError, match="encoder_no_repeat_ngram_size must be 0"):
        SequenceProcessor(DecodingConfig(encoder_no_repeat_ngram_size=2))
