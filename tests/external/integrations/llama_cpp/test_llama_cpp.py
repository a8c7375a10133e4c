"""llama-cpp-python on the CPU, with SmolLM2-135M-Instruct."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama

from dedup import DecodingConfig, RepetitionFilter, filter_stream
from dedup.integrations.llama_cpp import (
    LoopStoppingCriterion,
    _Tokenizer,
    logits_processors,
    loop_criteria,
)
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup.logits.tokens import token_sets
from tests.docs_snippets import ROOT
from tests.external.integrations.loops import ends_in_cycle, prompts

MODEL = str(ROOT / ".weights" / "smollm2.gguf")
CONFIG = DecodingConfig(no_repeat_ngram_size=4, dry_multiplier=0.8)
MAX_TOKENS = 160
NUM_PROMPTS = 4


@pytest.fixture(scope="module")
def llama() -> Llama:
    return Llama(MODEL, n_ctx=1024, verbose=False)


def answer(llama: Llama, prompt: str, **options: Any) -> dict[str, Any]:
    """Return the one choice of a greedy completion."""
    llama.reset()  # a reused prefix changes the last bits of the scores
    done = llama.create_completion(prompt, max_tokens=MAX_TOKENS, temperature=0, **options)
    return done["choices"][0] | done["usage"]


@pytest.fixture(scope="module")
def plain(llama: Llama) -> dict[str, dict[str, Any]]:
    """Completions without help, by prompt."""
    return {prompt: answer(llama, prompt, repeat_penalty=1.0) for prompt in prompts(NUM_PROMPTS)}


@pytest.fixture(scope="module")
def looping(plain: dict[str, dict[str, Any]]) -> str:
    return next(prompt for prompt, choice in plain.items() if ends_in_cycle(choice["text"]))


@pytest.mark.shows("sampling")
def test_equals_our_processors(llama: Llama) -> None:
    """A processor serves one completion after another."""
    random, numbers = Random(0), np.random.default_rng(0)
    config = DecodingConfig(
        no_repeat_ngram_size=3,
        dry_multiplier=0.8,
        lz_penalty=0.2,
        lz_buffer=2,
        presence_penalty=0.5,
    )
    sets = token_sets(config, _Tokenizer(llama))
    assert sets.breakers
    processors = logits_processors(config, llama)
    for _ in range(3):
        tokens = random.choices(range(100, 108), k=random.randrange(1, 12))
        num_prompt = len(tokens)
        for _ in range(30):
            scores = numbers.normal(size=llama.n_vocab()).astype(np.single)
            history = TokenHistory(tokens[:num_prompt], config.no_repeat_ngram_size)
            history.extend(tokens[num_prompt:])
            expected = scores.copy()
            apply(config, history, expected, sets)
            changed = processors(np.array(tokens, np.intc), scores)
            np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-6)
            tokens.append(random.choice(range(100, 108)))


@pytest.mark.shows("sampling", "whole")
def test_model_loops_without_and_not_with(llama: Llama, plain: dict[str, dict[str, Any]]) -> None:
    processors = logits_processors(CONFIG, llama)
    texts = [
        answer(llama, prompt, repeat_penalty=1.0, logits_processor=processors)["text"]
        for prompt in plain
    ]
    without = sum(ends_in_cycle(choice["text"]) for choice in plain.values())
    left = sum(map(ends_in_cycle, texts))
    print(f"loops in {NUM_PROMPTS} answers: {without} without, {left} with")
    assert without >= 1
    assert left == 0


@pytest.mark.shows("whole", "loop cut", "source closed")
def test_criterion_stops_at_the_loop(llama: Llama, plain: dict[str, dict[str, Any]]) -> None:
    """One criterion serves one completion after another."""
    criteria = loop_criteria(llama)
    (criterion,) = criteria
    assert isinstance(criterion, LoopStoppingCriterion)
    num_tokens = {"without": 0, "with": 0}
    for prompt, before in plain.items():
        after = answer(llama, prompt, repeat_penalty=1.0, stopping_criteria=criteria)
        assert before["text"].startswith(after["text"])
        if criterion.event:
            # The criterion is asked before the newest token is among the ids.
            assert len(after["text"]) < criterion.event.detected_at + 40
            assert after["finish_reason"] == "stop"
            assert after["completion_tokens"] < before["completion_tokens"]
        else:
            assert after["text"] == before["text"]
            assert not ends_in_cycle(after["text"])
        num_tokens["without"] += before["completion_tokens"]
        num_tokens["with"] += after["completion_tokens"]
    print(f"tokens: {num_tokens}")
    assert num_tokens["with"] < num_tokens["without"]


@pytest.mark.shows("streamed", "loop cut", "source closed", "repeats removed")
def test_stream_is_stopped_at_the_loop(llama: Llama, looping: str) -> None:
    num_chunks = 0

    def counted() -> Iterator[Any]:
        nonlocal num_chunks
        for chunk in llama.create_completion(
            looping, max_tokens=MAX_TOKENS, temperature=0, repeat_penalty=1.0, stream=True
        ):
            num_chunks += 1
            yield chunk

    own = RepetitionFilter()
    text = "".join(filter_stream(counted(), own, text=lambda chunk: chunk["choices"][0]["text"]))
    assert own.loop
    assert text
    assert not ends_in_cycle(text)
    assert num_chunks < MAX_TOKENS


def test_tokenizer(llama: Llama) -> None:
    tokenizer = _Tokenizer(llama)
    tokens = tokenizer("a 字 b")["input_ids"]
    assert tokenizer.decode(tokens) == "a 字 b"
    special = llama.token_eos()
    assert special in tokenizer.all_special_ids
    assert tokenizer.decode([special], skip_special_tokens=True) == ""
    assert tokenizer.batch_decode([[special]])[0]


@pytest.mark.shows("sampling", "streamed", "whole")
def test_page(blocks: Callable[[str, str], list[str]], capsys: Any) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks("llama_cpp", "python"):
        exec(block.replace("model.gguf", MODEL), namespace)
    assert capsys.readouterr().out


def test_wrong_options(llama: Llama) -> None:
    with pytest.raises(ValueError, match="the model has no encoder's input"):
        logits_processors(DecodingConfig(encoder_no_repeat_ngram_size=3), llama)
