"""vLLM finds the plugin by its entry point. In vLLM's own environment: `make test-vllm`."""

import inspect
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

import numpy as np
import torch
from openai import BadRequestError, OpenAI
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import LogitsProcessor as BatchInterface
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotInterface
from vllm.v1.worker.gpu.sample.logits_processor.loader import (
    build_custom_logits_processors_params_validator,
)
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup.logits.vllm import BatchProcessor, DedupLogitsProcessor, SlotProcessor
from dedup.text.loops.detector import LoopDetector

ROOT = Path(__file__).parents[2]
PROMPTS = [
    json.loads(line)["prompt"]
    for line in (ROOT / "benchmarks/prompts.jsonl").read_text().splitlines()
]
VOCABULARY = 64

WAYS: dict[str, dict[str, Any]] = {
    "DRY": {"dry_multiplier": 0.8},
    "n-grams": {"no_repeat_ngram_size": 4},
    "LZ": {"lz_penalty": 0.5},
    "penalty": {"repetition_penalty": 1.3, "penalty_last_n": 64},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """Yield a client of a server that is started without any option of the plugin."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += f"--host 127.0.0.1 --port {port}".split()
    command += [
        "--model",
        str(ROOT / "server/dedup_server/demo_model"),
        "--served-model-name",
        "demo",
    ]
    command += ["--max-model-len", "1024", "--enforce-eager"]
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=log.parent, env=os.environ | settings, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 300
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(1)
        with OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
        ) as client:
            yield client
    finally:
        server.terminate()
        server.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url):
            return True
    except OSError:
        return False


def ask(client: OpenAI, prompt: str, xargs: dict[str, Any] | None = None, **sampling: Any) -> Any:
    extra = {"return_token_ids": True} | ({} if xargs is None else {"vllm_xargs": xargs})
    return client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=400,
        extra_body=extra,
        **{"temperature": 0, **sampling},
    )


def text(client: OpenAI, prompt: str, xargs: dict[str, Any] | None = None, **sampling: Any) -> str:
    return str(ask(client, prompt, xargs, **sampling).choices[0].message.content)


def loops(said: str) -> bool:
    detector = LoopDetector()
    detector.feed(said)
    return detector.event is not None


def test_a_looping_completion_does_not_loop_with_the_plugin(client: OpenAI) -> None:
    looping = [prompt for prompt in PROMPTS if loops(text(client, prompt))]
    print(f"{len(looping)} of {len(PROMPTS)} prompts loop without the plugin")
    assert len(looping) >= 10
    for name, way in WAYS.items():
        still = [prompt for prompt in looping if loops(text(client, prompt, way))]
        print(f"with {name} {len(still)}")
        assert still == [] or name == "penalty"


def test_no_n_gram_of_tokens_occurs_twice(client: OpenAI) -> None:
    for prompt in PROMPTS[1], PROMPTS[25]:
        done = ask(client, prompt, {"no_repeat_ngram_size": 4})
        tokens = done.model_extra["prompt_token_ids"] + done.choices[0].model_extra["token_ids"]
        grams = list(zip(*(tokens[offset:] for offset in range(4)), strict=False))
        assert len(grams) > 20
        assert len(set(grams)) == len(grams)


def test_requests_do_not_disturb_each_other(client: OpenAI) -> None:
    """A request gets what it gets alone, to the byte, whatever the others ask for."""
    prompt = PROMPTS[1]
    ways = [None, *WAYS.values(), None]
    alone = [text(client, prompt, way) for way in ways]
    assert len(set(alone)) == len(WAYS) + 1
    with ThreadPoolExecutor(len(ways)) as pool:
        for _ in range(3):
            together = list(pool.map(lambda way: text(client, prompt, way), ways))
            assert together == alone
    assert text(client, prompt) == alone[0]
    print(f"{len(ways)} requests at once, three times: as alone")


@pytest.mark.parametrize(
    ("xargs", "message"),
    [
        ({"dry_multiplier": -1}, "dry_multiplier must be a number in [0, 100], got -1"),
        (
            {"no_repeat_ngram_size": "many"},
            "no_repeat_ngram_size must be an integer ≥ 0, got 'many'",
        ),
        ({"dry_multiplyer": 0.8}, "dry_multiplyer is unknown in vllm_xargs: dry_multiplier?"),
        ({"presence_penalty": 1}, "presence_penalty is one of vLLM's own"),
        (
            {"exempt_token_ids": [4096], "lz_penalty": 1},
            "exempt_token_ids must be token ids below 4096, got 4096",
        ),
        (
            {"repetition_temperature": 1.5},
            "repetition_temperature has no effect on greedy decoding",
        ),
    ],
)
def test_invalid_options_are_named(client: OpenAI, xargs: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        text(client, PROMPTS[0], xargs)
    print(caught.value.status_code, caught.value.body["message"])  # type: ignore[index]
    assert message in caught.value.body["message"]  # type: ignore[index]


def test_extreme_values_fail_no_request(client: OpenAI) -> None:
    most = 2**31 - 1
    for xargs in (
        {"no_repeat_ngram_size": most, "no_repeat_ngram_window": most},
        {"no_repeat_ngram_size": 1, "no_repeat_ngram_window": 0},
        {
            "dry_multiplier": 100,
            "dry_base": 100,
            "dry_allowed_length": 0,
            "dry_penalty_last_n": most,
        },
        {"dry_multiplier": 100, "dry_allowed_length": most},
        {"lz_penalty": 100, "lz_window": most, "lz_buffer": 1},
        {"lz_penalty": 100, "lz_window": 1, "lz_buffer": most},
        {"frequency_penalty": 2, "penalty_last_n": 0, "penalty_decay": 0.001},
        {
            "exempt": ["special", "newlines", "digits", "json", "template"],
            "no_repeat_ngram_size": 1,
        },
    ):
        assert text(client, PROMPTS[0], xargs)
    assert text(client, PROMPTS[0], {"repetition_temperature": 0.0001}, temperature=2.0, seed=1)


def params(extra_args: dict[str, Any]) -> SamplingParams:
    return SamplingParams(temperature=0.0, extra_args=extra_args)


def configuration(asynchronous: bool = False) -> Any:
    model = SimpleNamespace(logits_processors=None, skip_tokenizer_init=True)
    return SimpleNamespace(
        model_config=model,
        speculative_config=None,
        scheduler_config=SimpleNamespace(async_scheduling=asynchronous),
    )


BARE = (
    {},
    {"no_repeat_ngram_size": 2},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": []},
    {"lz_penalty": 1, "lz_buffer": 2},
)


def wanted(
    way: dict[str, Any], prompt: list[int], output: list[int], logits: torch.Tensor
) -> torch.Tensor:
    config = DecodingConfig(**way)
    history = TokenHistory(prompt, config.no_repeat_ngram_size)
    history.extend(output)
    row = logits.numpy().copy()
    apply(config, history, row)
    return torch.from_numpy(row)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_vllms_own_batch_with_changing_requests(asynchronous: bool) -> None:
    """Tokens arrive as from a device: with asynchronous scheduling vLLM shows -1, and replaces it
    only on request.
    """
    numbers = random.Random(7)
    processor = DedupLogitsProcessor(configuration(asynchronous), torch.device("cpu"), False)
    batch = InputBatch(
        max_num_reqs=6,
        max_model_len=512,
        max_num_batched_tokens=512,
        device=torch.device("cpu"),
        vocab_size=VOCABULARY,
        block_sizes=[16],
        max_num_blocks_per_req=[32],
        logitsprocs=LogitsProcessors([processor]),
    )
    requests: dict[
        str, tuple[dict[str, Any], list[int], list[int]]
    ] = {}  # the form of the tokens, the prompt, the tokens generated
    shown: dict[str, list[int]] = {}
    names = 0
    for step in range(150):
        for name in [name for name in requests if numbers.random() < 0.06]:
            batch.remove_request(name)
            del requests[name], shown[name]
        while len(requests) < 6 and numbers.random() < 0.4:
            names += 1
            name, way, prompt = f"r{names}", numbers.choice(BARE), numbers.choices(range(6), k=8)
            requests[name], shown[name] = (way, prompt, []), []
            batch.add_request(
                CachedRequestState(name, prompt, [], params(way), None, ([0],), 0, shown[name])
            )
        batch.condense()
        if len(requests) > 1 and numbers.random() < 0.2:
            batch.swap_states(*numbers.sample(range(len(requests)), 2))
        batch.refresh_metadata()
        batch.update_async_output_token_ids()
        logits = torch.randn(
            len(requests), VOCABULARY, generator=torch.Generator().manual_seed(step)
        )
        rows = [wanted(*requests[name], logits[row]) for row, name in enumerate(batch.req_ids)]
        result = processor.apply(logits)
        assert torch.equal(result, torch.stack(rows) if rows else logits)
        sampled = [[numbers.randrange(6)] for _ in batch.req_ids]
        for row, name in enumerate(batch.req_ids):
            requests[name][2].extend(sampled[row])
            shown[name].append(-1 if asynchronous else sampled[row][0])
        if asynchronous and sampled:
            batch.prev_req_id_to_index = dict(batch.req_id_to_index)
            batch.set_async_sampled_token_ids(
                torch.tensor(sampled), SimpleNamespace(synchronize=lambda: None)
            )
    print(f"{names} requests in 150 steps")


def test_model_runner_v2_accepts_the_class() -> None:
    """vLLM's own loader loads it from the entry point; signatures match, and nothing abstract is
    left.
    """
    validate = build_custom_logits_processors_params_validator(None)
    with pytest.raises(VLLMValidationError, match="dry_multiplier"):
        validate(params({"dry_multiplier": -1}))
    assert issubclass(DedupLogitsProcessor, SlotInterface)
    assert issubclass(DedupLogitsProcessor, BatchInterface)
    for processor, interface in (SlotProcessor, SlotInterface), (BatchProcessor, BatchInterface):
        assert issubclass(processor, interface)
        assert not inspect.isabstract(processor)
        for name, method in inspect.getmembers(interface, inspect.isfunction):
            if name in vars(processor):
                ours = inspect.signature(getattr(processor, name)).parameters
                assert [*ours] == [*inspect.signature(method).parameters], name


@pytest.mark.parametrize("num_drafts", [0, 2])
def test_model_runner_v2s_rows_on_the_cpu(num_drafts: int) -> None:
    numbers = random.Random(11)
    config = configuration()
    config.speculative_config = SimpleNamespace() if num_drafts else None
    tokens = [numbers.choices(range(6), k=size) for size in (20, 33, 27, 40)]
    memory = torch.zeros(4, 64, dtype=torch.int32)
    for slot, row in enumerate(tokens):
        memory[slot, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in tokens], dtype=torch.int32)
    states = LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=4,
        vocab_size=VOCABULARY,
        all_token_ids=SimpleNamespace(gpu=memory),
        prompt_len=SimpleNamespace(np=np.full(4, 8, np.int32)),
        prefill_len=SimpleNamespace(np=np.full(4, 8, np.int32)),
        total_len=SimpleNamespace(gpu=lengths),
    )
    processor = DedupLogitsProcessor(config, states)
    assert [processor.add_request(slot, params(way)) for slot, way in enumerate(BARE)] == [
        False,
        True,
        True,
        True,
    ]
    processor.apply_staged_writes()
    order = [2, 0, 3, 1]
    drafts = {slot: numbers.choices(range(6), k=num_drafts) for slot in order}
    rows = [(slot, place) for slot in order for place in range(num_drafts + 1)]
    context = LogitsContext(
        expanded_idx_mapping=torch.tensor([slot for slot, _ in rows], dtype=torch.int32),
        idx_mapping=torch.tensor(order, dtype=torch.int32),
        idx_mapping_np=np.array(order, np.int32),
        expanded_local_pos=torch.tensor([place for _, place in rows], dtype=torch.int32),
        input_ids=torch.tensor(
            [(tokens[slot][-1:] + drafts[slot])[place] for slot, place in rows], dtype=torch.int32
        ),
        pos=torch.tensor([len(tokens[slot]) - 1 + place for slot, place in rows]),
        seq_lens_upper_bound_np=np.array(
            [len(tokens[slot]) + num_drafts for slot in order], np.int32
        ),
    )
    logits = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(2))
    expected = torch.stack(
        [
            wanted(
                BARE[slot], tokens[slot][:8], tokens[slot][8:] + drafts[slot][:place], logits[row]
            )
            for row, (slot, place) in enumerate(rows)
        ]
    )
    torch.testing.assert_close(processor.apply(logits, context), expected)
