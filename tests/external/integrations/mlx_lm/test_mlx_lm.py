"""mlx-lm on the CPU, with the demo model."""

from collections.abc import Callable, Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import generate, load, stream_generate

from dedup import DecodingConfig, RepetitionFilter, filter_stream
from dedup.integrations.mlx_lm import logits_processor
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup.logits.tokens import token_sets
from tests.docs_snippets import ROOT
from tests.external.integrations.loops import ends_in_cycle, prompts

MODEL = str(ROOT / "server" / "dedup_server" / "demo_model")
CONFIG = DecodingConfig(no_repeat_ngram_size=4, dry_multiplier=0.8)
NUM_PROMPTS = 10


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    model, tokenizer = load(MODEL)
    return model, tokenizer


@pytest.mark.shows("sampling")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_equals_our_processors(loaded: tuple[Any, Any], dtype: Any) -> None:
    """A processor serves one generation after another."""
    random, numbers, tokenizer = Random(0), np.random.default_rng(0), loaded[1]
    config = DecodingConfig(
        no_repeat_ngram_size=3,
        dry_multiplier=0.8,
        lz_penalty=0.2,
        lz_buffer=2,
        presence_penalty=0.5,
    )
    sets = token_sets(config, tokenizer._tokenizer)
    process = logits_processor(config, tokenizer)
    for _ in range(3):
        tokens = random.choices(range(100, 108), k=random.randrange(1, 12))
        num_prompt = len(tokens)
        for _ in range(40):
            logits = mx.array(numbers.normal(size=(1, 4096))).astype(dtype)
            history = TokenHistory(tokens[:num_prompt], config.no_repeat_ngram_size)
            history.extend(tokens[num_prompt:])
            expected = np.array(logits.astype(mx.float32))[0]
            apply(config, history, expected, sets)
            changed = process(mx.array(tokens), logits)
            assert changed.dtype == dtype
            assert changed.shape == logits.shape
            rounded = np.array(mx.array(expected).astype(dtype).astype(mx.float32))
            np.testing.assert_array_equal(np.array(changed.astype(mx.float32))[0], rounded)
            tokens.append(random.choice(range(100, 108)))


@pytest.mark.shows("sampling", "whole")
def test_model_loops_without_and_not_with(loaded: tuple[Any, Any]) -> None:
    process = logits_processor(CONFIG, loaded[1])
    loops = {}
    for name, processors in (("without", []), ("with", [process])):
        texts = [
            generate(*loaded, prompt, max_tokens=200, logits_processors=processors)
            for prompt in prompts(NUM_PROMPTS)
        ]
        loops[name] = sum(map(ends_in_cycle, texts))
    print(f"loops in {NUM_PROMPTS} answers: {loops}")
    assert loops["without"] >= 3
    assert loops["with"] == 0


@pytest.mark.shows("streamed", "loop cut", "source closed", "repeats removed")
def test_stream_is_stopped_at_the_loop(loaded: tuple[Any, Any]) -> None:
    for prompt in prompts(NUM_PROMPTS):
        whole = [response.text for response in stream_generate(*loaded, prompt, max_tokens=200)]
        if ends_in_cycle("".join(whole)):
            break
    num_tokens = 0

    def counted() -> Iterator[Any]:
        nonlocal num_tokens
        for response in stream_generate(*loaded, prompt, max_tokens=200):
            num_tokens += 1
            yield response

    own = RepetitionFilter()
    text = "".join(filter_stream(counted(), own, text=lambda response: response.text))
    assert own.loop
    assert text
    assert "".join(whole).startswith(text)
    assert not ends_in_cycle(text)
    assert num_tokens < len(whole)


@pytest.mark.shows("sampling", "streamed")
def test_page(blocks: Callable[[str, str], list[str]], capsys: Any) -> None:
    for block in blocks("mlx_lm", "python"):
        exec(block.replace("mlx-community/Qwen3-0.6B-4bit", MODEL), {})
    assert capsys.readouterr().out


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="dry_sequence_breakers needs a tokenizer"):
        logits_processor(DecodingConfig(dry_multiplier=0.8))
    with pytest.raises(ValueError, match="the model has no encoder's input"):
        logits_processor(DecodingConfig(encoder_no_repeat_ngram_size=3), SimpleNamespace())
