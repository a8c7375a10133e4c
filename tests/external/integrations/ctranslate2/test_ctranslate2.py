"""CTranslate2 with the demo model, converted."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ctranslate2 import Generator
from ctranslate2.converters import TransformersConverter
from transformers import AutoTokenizer

from dedup import LoopDetector, RepetitionFilter, filter_stream
from dedup.integrations.ctranslate2 import LoopStop
from dedup.logits.detokenizer import Detokenizer
from tests.docs_snippets import ROOT
from tests.external.integrations.loops import ends_in_cycle, prompts

MODEL = str(ROOT / "server" / "dedup_server" / "demo_model")
MAX_TOKENS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "demo"
    TransformersConverter(MODEL).convert(str(folder))
    return folder


@pytest.fixture(scope="module")
def generator(folder: Path) -> Any:
    return Generator(str(folder))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


def tokens_of(tokenizer: Any, number: int) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(tokenizer.encode(prompt)) for prompt in prompts(number)]


@pytest.mark.shows("whole", "loop cut", "source closed")
def test_loops_are_stopped_in_a_batch(generator: Any, tokenizer: Any) -> None:
    """Each item of the batch ends for itself, and those that do not loop stay as they are."""
    tokens = tokens_of(tokenizer, 12)
    given = {"max_length": MAX_TOKENS, "include_prompt_in_result": False}
    plain = generator.generate_batch(tokens, **given)
    stop = LoopStop(tokenizer)
    for _ in range(2):  # one callback serves one call after another
        stopped = generator.generate_batch(tokens, callback=stop, **given)
        num_tokens = [0, 0]
        for number, (before, after) in enumerate(zip(plain, stopped, strict=True)):
            before, after = before.sequences_ids[0], after.sequences_ids[0]
            assert after == before[: len(after)]
            detector = LoopDetector()
            detector.feed(tokenizer.decode(before, skip_special_tokens=True))
            assert (number in stop.events) == bool(detector.event)
            assert (len(after) < len(before)) == bool(detector.event)
            if number in stop.events:
                assert stop.events[number].onset == detector.event.onset
            num_tokens[0] += len(before)
            num_tokens[1] += len(after)
    loops = sum(ends_in_cycle(tokenizer.decode(one.sequences_ids[0])) for one in plain)
    left = sum(ends_in_cycle(tokenizer.decode(one.sequences_ids[0])) for one in stopped)
    print(f"loops in 12 answers: {loops} without, {left} with; tokens {num_tokens}")
    assert loops >= 3
    assert left == 0


@pytest.mark.shows("streamed", "loop cut", "source closed", "repeats removed")
def test_stream_is_stopped_at_the_loop(generator: Any, tokenizer: Any) -> None:
    for tokens in tokens_of(tokenizer, 12):
        (plain,) = generator.generate_batch([tokens], max_length=MAX_TOKENS)
        if ends_in_cycle(tokenizer.decode(plain.sequences_ids[0])):
            break
    num_tokens, detokenizer = 0, Detokenizer(tokenizer)

    def text(result: Any) -> str:
        nonlocal num_tokens
        num_tokens += 1
        return detokenizer.feed(result.token_id)

    own = RepetitionFilter()
    steps = generator.generate_tokens(tokens, max_length=MAX_TOKENS)
    kept = "".join(filter_stream(steps, own, text=text))
    gc.collect()
    assert own.loop
    assert kept
    assert not ends_in_cycle(kept)
    assert num_tokens < MAX_TOKENS


@pytest.mark.shows("whole", "streamed", "loop cut")
def test_page(blocks: Callable[[str, str], list[str]], folder: Path, capsys: Any) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks("ctranslate2", "python"):
        local = block.replace("qwen3-ct2", str(folder)).replace("Qwen/Qwen3-0.6B", MODEL)
        exec(local, namespace)
    assert capsys.readouterr().out
