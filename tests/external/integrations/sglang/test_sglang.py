"""The processor as SGLang loads and calls it, in a process without this library."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from site import getsitepackages
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dedup.config import DecodingConfig
from dedup.integrations.sglang import RepetitionLogitProcessor, custom_params
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup.logits.tokens import token_sets
from tests.docs_snippets import ROOT
from tests.external.integrations.loops import ends_in_cycle, prompts
from tests.external.integrations.sglang import served

MODEL = ROOT / "server" / "dedup_server" / "demo_model"
SITE_PACKAGES = Path(getsitepackages()[0])
CONFIGS = [
    DecodingConfig(no_repeat_ngram_size=3),
    DecodingConfig(no_repeat_ngram_size=2, no_repeat_ngram_window=12, exempt_token_ids=(5, 7)),
    DecodingConfig(dry_multiplier=0.8, dry_allowed_length=1),
    DecodingConfig(dry_multiplier=0.8, dry_base=1.5, dry_sequence_breakers=()),
    DecodingConfig(lz_penalty=0.3, lz_window=40, lz_buffer=4),
    DecodingConfig(repetition_penalty=1.2, frequency_penalty=0.4, penalty_last_n=9),
    DecodingConfig(presence_penalty=0.5, penalty_decay=0.9, no_repeat_ngram_size=4, lz_penalty=0.2),
    DecodingConfig(),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def sglang() -> tuple[Any, Any]:
    return served.load_sglang(SITE_PACKAGES)


@pytest.fixture
def serve(sglang: tuple[Any, Any], tokenizer: Any) -> Callable[..., list[np.ndarray]]:
    """Return a function that serves requests, in this process but with a processor that was sent."""

    def serve(
        requests: list[Any], *steps: dict[str, Any], processor: str | None = None, **given: Any
    ) -> list[np.ndarray]:
        given = {"with": range(len(requests)), **given, "requests": requests, "steps": steps}
        given["processor"] = processor or RepetitionLogitProcessor.to_str()
        return served.serve(given, *sglang, tokenizer)

    return serve


def step_of(outputs: dict[int, list[int]], **more: Any) -> dict[str, Any]:
    """Return a step with all requests in a batch, in order, and random logits."""
    rows = len(outputs) * more.get("tokens_per_request", 1)
    logits = np.random.default_rng(0).normal(size=(rows, 50)).astype(np.float32)
    decode_steps = {number: len(output) for number, output in outputs.items()}
    step = {"batch": list(outputs), "outputs": outputs, "logits": logits}
    return {**step, "decode_steps": decode_steps, **more}


@pytest.mark.shows("sampling")
def test_equals_our_processors_without_this_library(tmp_path: Path, tokenizer: Any) -> None:
    """Requests with options of their own come, go, change rows and are retracted."""
    random, numbers = Random(1), np.random.default_rng(1)
    alphabet = [*tokenizer.encode("a:\n*b"), *random.sample(range(len(tokenizer)), 6)]
    prompts = [random.choices(alphabet, k=random.randrange(1, 30)) for _ in CONFIGS]
    outputs: list[list[int]] = [[] for _ in CONFIGS]
    steps = []
    for _ in range(160):
        batch = random.sample(range(len(CONFIGS)), random.randrange(1, len(CONFIGS) + 1))
        logits = numbers.normal(scale=4, size=(len(batch), len(tokenizer))).astype(np.float32)
        now = {number: list(outputs[number]) for number in batch}
        retracted = dict.fromkeys(batch, 0)  # what a retraction leaves of SGLang's count
        steps.append({"batch": batch, "outputs": now, "logits": logits, "decode_steps": retracted})
        for number in batch:
            outputs[number].append(random.choice(alphabet))
            if random.random() < 0.05:
                del outputs[number][random.randrange(len(outputs[number])) :]
    pairs = zip(prompts, CONFIGS, strict=True)
    requests = [(prompt, custom_params(config)) for prompt, config in pairs]
    given = {
        "processor": RepetitionLogitProcessor.to_str(),
        "requests": json.loads(json.dumps(requests)),  # as they travel
        "steps": steps,
        "with": range(len(CONFIGS)),
    }
    source, target = tmp_path / "given", tmp_path / "results"
    source.write_bytes(pickle.dumps(given))
    command = [sys.executable, "-I", "-S", served.__file__, SITE_PACKAGES, MODEL, source, target]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dedup" not in done.stderr
    changed = 0
    for step, result in zip(steps, pickle.loads(target.read_bytes()), strict=True):
        for row, number in enumerate(step["batch"]):
            config = CONFIGS[number]
            history = TokenHistory(prompts[number], config.no_repeat_ngram_size)
            history.extend(step["outputs"][number])
            expected = step["logits"][row].copy()
            apply(config, history, expected, token_sets(config, tokenizer))
            np.testing.assert_allclose(result[row], expected, rtol=0, atol=1e-6)
            changed += not np.array_equal(expected, step["logits"][row])
    assert changed > 300


REPEAT = ([1, 2, 3, 1, 2], {"no_repeat_ngram_size": 3})  # 3 is banned


def test_other_requests_are_left_alone(serve: Any, caplog: Any) -> None:
    prompt = REPEAT[0]
    step = step_of({0: [], 1: [], 2: []})
    requests = [REPEAT, (prompt, None), (prompt, {"thinking_budget": 9})]
    (result,) = serve(requests, step, **{"with": (0, 2)})
    assert result[0, 3] == -np.inf
    assert np.array_equal(result[1:], step["logits"][1:])
    assert not caplog.records


def test_half_precision(serve: Any) -> None:
    (result,) = serve([REPEAT], step_of({0: []}, dtype="bfloat16"))
    assert result[0, 3] == -np.inf
    assert np.isfinite(np.delete(result[0], 3)).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"no_repeat_ngram_size": "3"}, "no_repeat_ngram_size must be an integer ≥ 0, got '3'"),
        ({"dry_multiplier": -1}, "dry_multiplier must be a number in [0, 100], got -1"),
        ({"temperature": 0.5}, "temperature is not supported in custom_params"),
    ],
)
def test_wrong_options_are_logged(
    params: dict[str, Any], message: str, serve: Any, caplog: Any
) -> None:
    step = step_of({0: [], 1: []})
    (result,) = serve([(REPEAT[0], params), REPEAT], step)
    assert np.array_equal(result[0], step["logits"][0])
    assert result[1, 3] == -np.inf
    assert f"a request goes on without the methods: {message}" in caplog.text


def test_overlap_schedule_is_noticed(serve: Any, caplog: Any) -> None:
    """By default, SGLang samples before it has taken the last token over."""
    late = [
        step_of({0: []}),
        step_of({0: []}, decode_steps={0: 1}),
        step_of({0: [2]}, decode_steps={0: 2}),
    ]
    results = serve([([1, 2, 3, 1], {"no_repeat_ngram_size": 3})], *late)
    for step, result in zip(late, results, strict=True):
        assert np.array_equal(result, step["logits"])
    assert caplog.text.count("--disable-overlap-schedule") == 1


def test_speculative_decoding_is_noticed(serve: Any, caplog: Any) -> None:
    step = step_of({0: []}, tokens_per_request=2)
    (result,) = serve([REPEAT], step)
    assert np.array_equal(result, step["logits"])
    assert "speculative decoding is not supported" in caplog.text


def test_options_that_have_no_place() -> None:
    with pytest.raises(ValueError, match="repetition_temperature is not supported in SGLang"):
        custom_params(DecodingConfig(repetition_temperature=1.3))


def test_a_failing_method_costs_nobody_their_text(caplog: Any) -> None:
    request = SimpleNamespace(origin_input_ids=[1, 2], output_ids=["no token"])
    params = {"repetition_penalty": 1.5, "__req__": request}
    logits = torch.randn(1, 10)
    before = logits.clone()
    assert torch.equal(RepetitionLogitProcessor()(logits, [params]), before)
    assert "a request goes on without the methods" in caplog.text


@pytest.mark.shows("sampling", "whole")
def test_model_loops_without_and_not_with(
    blocks: Callable[[str, str], list[str]], sglang: tuple[Any, Any], tokenizer: Any
) -> None:
    """Answers of a real model, whose logits go through SGLang's function."""
    base, apply_processor = sglang
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    namespace: dict[str, Any] = {}
    exec(blocks("sglang", "python")[0], namespace)
    body = namespace["extra_body"]
    json.dumps(body)
    processor = base.from_str(body["custom_logit_processor"])
    loops = {}
    for name, used in (("without", None), ("with", processor)):
        texts = [
            answer(model, tokenizer, prompt, used, body["custom_params"], apply_processor)
            for prompt in prompts(4)
        ]
        loops[name] = sum(map(ends_in_cycle, texts))
    print(f"loops in 4 answers: {loops}")
    assert loops["without"] >= 1
    assert loops["with"] == 0


@torch.inference_mode()
def answer(
    model: Any, tokenizer: Any, prompt: str, processor: Any, params: Any, apply_processor: Any
) -> str:
    """Return the greedy answer, of at most 160 tokens."""
    request = served.Request(tokenizer.encode(prompt), params, tokenizer)
    ids, cache = torch.tensor([list(request.origin_input_ids)]), None
    for step in range(160):
        done = model(ids, past_key_values=cache, use_cache=True)
        logits, cache = done.logits[:, -1], done.past_key_values
        request.decode_batch_idx = step
        if processor:
            apply_processor(logits, served.Batch([request], [processor]))
        token = int(logits.argmax())
        if token == tokenizer.eos_token_id:
            break
        request.output_ids.append(token)
        ids = torch.tensor([[token]])
    return str(tokenizer.decode(list(request.output_ids)))
