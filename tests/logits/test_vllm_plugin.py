"""The vLLM plugin without vLLM, against stand-ins for its two interfaces.

tests/external/test_vllm.py runs it in vLLM.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from importlib import import_module
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply

VOCABULARY = 50
V1, V2 = "vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"


class Direction(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass
class Update:
    batch_size: int
    removed: list[int]
    added: list[tuple[int, Any, list[int] | None, list[int]]]
    moved: list[tuple[int, int, Direction]]


class Tokenizer:
    """Tokenizer whose token n is the letter with the code 97 + n, but token 3 a newline."""

    all_special_ids = (0,)

    def __len__(self) -> int:
        return VOCABULARY

    def batch_decode(self, batch: list[list[int]]) -> list[str]:
        return [
            "".join("\n" if token == 3 else chr(97 + token) for token in tokens) for tokens in batch
        ]


def module(**names: Any) -> ModuleType:
    made = ModuleType("stand_in")
    vars(made).update(names)
    return made


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    first = type("LogitsProcessor", (), {})
    second = type("LogitsProcessor", (), {})
    modules = {
        V1: module(BatchUpdate=Update, MoveDirectionality=Direction, LogitsProcessor=first),
        V2: module(LogitsProcessor=second),
        "vllm.tokenizers": module(
            cached_tokenizer_from_config=lambda config: config.tokenizer_object
        ),
    }
    for name, made in modules.items():
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.delitem(sys.modules, "dedup.logits.vllm", raising=False)
    yield modules
    sys.modules.pop("dedup.logits.vllm", None)


@pytest.fixture
def plugin(stand_ins: dict[str, ModuleType]) -> Any:
    return import_module("dedup.logits.vllm")


def params(temperature: float = 1.0, /, **extra_args: Any) -> SimpleNamespace:
    return SimpleNamespace(
        extra_args=extra_args or None,
        temperature=temperature,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )


def server(**changes: Any) -> SimpleNamespace:
    model = SimpleNamespace(
        skip_tokenizer_init=False,
        logits_processors=None,
        get_vocab_size=lambda: VOCABULARY,
        tokenizer_object=Tokenizer(),
    )
    config = SimpleNamespace(
        model_config=model,
        speculative_config=None,
        scheduler_config=SimpleNamespace(async_scheduling=False),
    )
    for name, value in changes.items():
        setattr(model if hasattr(model, name) else config, name, value)
    return config


def expected(
    config: DecodingConfig, prompt: list[int], output: list[int], logits: torch.Tensor
) -> torch.Tensor:
    history = TokenHistory(prompt, config.no_repeat_ngram_size)
    history.extend(output)
    row = logits.numpy().copy()
    apply(config, history, row)
    return torch.from_numpy(row)


def test_importing_without_vllm_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, V1, None)
    monkeypatch.delitem(sys.modules, "dedup.logits.vllm", raising=False)
    with pytest.raises(ImportError, match="plugin for vLLM"):
        import_module("dedup.logits.vllm")


def test_a_vllm_without_model_runner_v2_has_the_v1_plugin(
    stand_ins: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, V2, None)
    plugin = import_module("dedup.logits.vllm")
    made = plugin.DedupLogitsProcessor(server(), torch.device("cpu"), False)
    assert isinstance(made, stand_ins[V1].LogitsProcessor)


def test_one_name_serves_both_runners(plugin: Any, stand_ins: dict[str, ModuleType]) -> None:
    assert issubclass(plugin.DedupLogitsProcessor, stand_ins[V1].LogitsProcessor)
    assert issubclass(plugin.DedupLogitsProcessor, stand_ins[V2].LogitsProcessor)
    first = plugin.DedupLogitsProcessor(server(), torch.device("cpu"), False)
    second = plugin.DedupLogitsProcessor(server(), SimpleNamespace())
    assert isinstance(first, plugin.BatchProcessor)
    assert first.is_argmax_invariant() is False
    assert isinstance(second, plugin.SlotProcessor)


def test_loading_twice_is_refused(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        plugin,
        "entry_points",
        lambda group: [SimpleNamespace(value="dedup.logits.vllm:DedupLogitsProcessor")],
    )
    for given in ("dedup.logits.vllm:DedupLogitsProcessor", plugin.DedupLogitsProcessor):
        with pytest.raises(ValueError, match="leave it out of --logits-processors"):
            plugin.DedupLogitsProcessor(
                server(logits_processors=[given]), torch.device("cpu"), False
            )
    plugin.DedupLogitsProcessor(
        server(logits_processors=["other:Processor"]), torch.device("cpu"), False
    )


@pytest.mark.parametrize(
    ("extra_args", "wanted"),
    [
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 3}),
        ({"no_repeat_ngram_size": "3"}, {"no_repeat_ngram_size": 3}),
        ({"dry_multiplier": "0.8"}, {"dry_multiplier": 0.8}),
        (
            {"dry_multiplier": 1, "dry_sequence_breakers": []},
            {"dry_multiplier": 1, "dry_sequence_breakers": ()},
        ),
        (
            {"dry_multiplier": 1, "dry_sequence_breakers": '["\\n"]'},
            {"dry_multiplier": 1, "dry_sequence_breakers": ("\n",)},
        ),
        ({"lz_penalty": 1, "exempt": ["digits"]}, {"lz_penalty": 1, "exempt": ("digits",)}),
        (
            {"repetition_penalty": 1.2, "penalize_prompt": 1},
            {"repetition_penalty": 1.2, "penalize_prompt": True},
        ),
        (
            {"frequency_penalty": 1, "penalty_decay": 0.9, "penalize_prompt": "false"},
            {"frequency_penalty": 1, "penalty_decay": 0.9, "penalize_prompt": False},
        ),
        (
            {"repetition_temperature": 1.5},
            {"repetition_temperature": 3.0},
        ),  # of vLLM's own, 0.5 here
        ({"lz_penalty": 1, "ngram_size": 7, "kv_transfer_params": {}}, {"lz_penalty": 1}),
    ],
)
def test_parameters_that_vllm_xargs_lets_through(
    plugin: Any, extra_args: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert plugin.decoding_config(params(0.5, **extra_args)) == DecodingConfig(**wanted)


@pytest.mark.parametrize(
    "extra_args",
    [{}, {"ngram_size": 7, "session_id": "dry"}, {"dry_multiplier": 0}, {"exempt": []}],
)
def test_a_request_without_methods_has_no_configuration(
    plugin: Any, extra_args: dict[str, Any]
) -> None:
    assert plugin.decoding_config(params(**extra_args)) is None


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"no_repeat_ngram_size": -1}, r"no_repeat_ngram_size must be an integer ≥ 0, got -1"),
        ({"no_repeat_ngram_size": 2**40}, r"no_repeat_ngram_size must be at most 2147483647, got"),
        ({"no_repeat_ngram_size": [3]}, r"no_repeat_ngram_size must be an integer ≥ 0, got \[3\]"),
        ({"dry_multiplier": "much"}, r"dry_multiplier must be a number in \[0, 100\], got 'much'"),
        ({"dry_multiplier": "NaN"}, r"dry_multiplier must be a number"),
        ({"dry_multiplier": "[" * 100_000}, r"dry_multiplier must be a number"),
        (
            {"dry_multiplier": 1, "dry_sequence_breakers": "\n"},
            r"dry_sequence_breakers must be a list",
        ),
        (
            {"dry_multiplier": 1, "dry_sequence_breakers": list("x" * 65)},
            r"dry_sequence_breakers must be at most 64, got 65",
        ),
        ({"exempt": ["colours"]}, r"exempt must be a list of special,"),
        ({"exempt_token_ids": [10**12]}, r"exempt_token_ids must be at most"),
        ({"dry_multiplyer": 0.8}, r"dry_multiplyer is unknown in vllm_xargs: dry_multiplier\?"),
        ({"lz_": 0.8}, r"lz_ is unknown"),
        ({"penalty_": 0.8}, r"penalty_ is unknown"),
        ({"temperature": 0.8}, r"temperature is a parameter of vLLM"),
        ({"presence_penalty": 0.8}, r"presence_penalty is a parameter of vLLM"),
        ({"penalty_last_n": 64}, r"penalty_last_n has no effect on vLLM's own"),
        ({"dynatemp_range": 0.5}, r"dynatemp_range is not supported in vLLM"),
        ({"encoder_no_repeat_ngram_size": 3}, r"encoder_no_repeat_ngram_size is not supported"),
    ],
)
def test_a_refused_parameter_is_named(
    plugin: Any, extra_args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plugin.DedupLogitsProcessor.validate_params(params(**extra_args))


def test_a_penalty_beside_vllms_own_is_refused(plugin: Any) -> None:
    request = params(repetition_penalty=1.2, penalty_last_n=64)
    request.repetition_penalty = 1.05
    with pytest.raises(ValueError, match=r"would add to vLLM's own 1\.05 .* set that to 1$"):
        plugin.decoding_config(request)


def test_a_repetition_temperature_without_effect_is_refused(plugin: Any) -> None:
    with pytest.raises(ValueError, match="no effect on greedy decoding"):
        plugin.decoding_config(params(0.0, repetition_temperature=1.5))
    request = params(repetition_temperature=1.5)
    request.presence_penalty = 0.5
    with pytest.raises(ValueError, match="cannot be combined with vLLM's own presence_penalty"):
        plugin.decoding_config(request)


class InputProcessor:
    """Stand-in for the part of vLLM that validates; it passes on no configuration."""

    def __init__(self, plugin: Any, vllm_config: Any) -> None:
        self.plugin, self.vllm_config = plugin, vllm_config

    def accept(self, request: Any) -> None:
        self.plugin.DedupLogitsProcessor.validate_params(request)


def test_what_a_server_does_not_support_is_refused(plugin: Any) -> None:
    def refusal(request: Any, **changes: Any) -> str:
        with pytest.raises(ValueError) as caught:
            InputProcessor(plugin, server(**changes)).accept(request)
        return str(caught.value)

    dry = params(dry_multiplier=0.8)
    InputProcessor(plugin, server()).accept(dry)
    assert "--skip-tokenizer-init" in refusal(dry, skip_tokenizer_init=True)
    InputProcessor(plugin, server(skip_tokenizer_init=True)).accept(
        params(dry_multiplier=0.8, dry_sequence_breakers=[])
    )
    assert "speculative decoding" in refusal(dry, speculative_config=object())
    InputProcessor(plugin, server(speculative_config=object(), use_v2_model_runner=True)).accept(
        dry
    )
    assert "exempt_token_ids must be token ids below 50" in refusal(
        params(lz_penalty=1, exempt_token_ids=[50])
    )
    assert "exempt cannot be converted to tokens" in refusal(
        params(lz_penalty=1, exempt=["digits"]), tokenizer_object="strange"
    )


@pytest.mark.parametrize(
    "extra_args",
    [
        {"no_repeat_ngram_size": 1025},
        {"lz_penalty": 1, "lz_buffer": 1025},
        {"dry_multiplier": 1, "dry_allowed_length": 1025},
        {"dry_multiplier": 1, "dry_base": 1.0000001},
        {"dry_multiplier": 1, "dry_base": 1.05},
        {"repetition_temperature": 1.5, "repetition_temperature_length": 1025},
    ],
)
def test_long_matches_are_refused_under_model_runner_v2(
    plugin: Any, extra_args: dict[str, Any]
) -> None:
    InputProcessor(plugin, server()).accept(params(**extra_args))
    with pytest.raises(
        ValueError, match=f"{list(extra_args)[-1]} must look at matches of at most 1024 tokens"
    ):
        InputProcessor(plugin, server(use_v2_model_runner=True)).accept(params(**extra_args))


class InputBatch:
    """Stand-in for the part of vLLM that knows whether a processor needs the output's tokens."""

    logitsprocs_need_output_token_ids = False

    def update(self, processor: Any) -> None:
        processor.update_state(Update(1, [], [(0, params(lz_penalty=1), [1], [])], []))


def test_tokens_are_requested_under_asynchronous_scheduling(
    plugin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for asynchronous in (False, True):
        config = server(scheduler_config=SimpleNamespace(async_scheduling=asynchronous))
        batch = InputBatch()
        batch.update(plugin.DedupLogitsProcessor(config, torch.device("cpu"), False))
        assert batch.logitsprocs_need_output_token_ids is asynchronous
    InputBatch.update(None, plugin.DedupLogitsProcessor(config, torch.device("cpu"), False))  # type: ignore[arg-type]
    assert "--no-async-scheduling" in caplog.text


WAYS = (
    {},
    {"no_repeat_ngram_size": 2},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": ()},
    {"lz_penalty": 1.0, "lz_buffer": 2},
    {"repetition_penalty": 1.5, "penalty_last_n": 8},
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_changing_batch(plugin: Any, dtype: torch.dtype) -> None:
    """Each row gets the same as alone, whatever the other rows and its earlier places."""
    random = Random(3)
    processor = plugin.DedupLogitsProcessor(server(), torch.device("cpu"), False)
    batch: dict[int, tuple[dict[str, Any], list[int], list[int]]] = {}
    for step in range(120):
        removed = [index for index in batch if random.random() < 0.1]
        for index in removed:
            del batch[index]
        added = []
        for index in random.sample(
            range(8), random.choice((0, 0, 1, 2))
        ):  # an added row may replace one
            batch[index] = (
                random.choice(WAYS),
                random.choices(range(6), k=9),
                random.choices(range(6), k=random.choice((0, 5))),
            )
            way, prompt, output = batch[index]
            added.append((index, params(**way), prompt, output))
        moved = []
        for direction in random.sample(tuple(Direction), random.choice((0, 0, 1, 2))):
            source, target = random.sample(range(8), 2)
            moving, other = batch.pop(source, None), batch.pop(target, None)
            if moving:
                batch[target] = moving
            if other and direction is Direction.SWAP:
                batch[source] = other
            moved.append((source, target, direction))
        processor.update_state(
            Update(len(batch), removed, added, moved) if removed or added or moved else None
        )
        for _, _, output in batch.values():
            if output and random.random() < 0.1:  # rolled back, and continued differently
                del output[random.randrange(len(output)) :]
            output.append(random.randrange(6))
        logits = torch.randn(8, VOCABULARY, generator=torch.Generator().manual_seed(step)).to(dtype)
        wanted = logits.clone()
        for index, (way, prompt, output) in batch.items():
            wanted[index] = expected(
                DecodingConfig(**way), prompt, output, logits[index].float()
            ).to(dtype)
        assert processor.apply(logits) is logits
        assert torch.equal(logits, wanted)


def test_a_prompt_without_token_ids_counts_for_nothing(plugin: Any) -> None:
    processor = plugin.DedupLogitsProcessor(server(), torch.device("cpu"), False)
    processor.update_state(Update(1, [], [(0, params(no_repeat_ngram_size=1), None, [4, 5])], []))
    assert processor.apply(torch.zeros(1, VOCABULARY)).isinf().nonzero().tolist() == [
        [0, 4],
        [0, 5],
    ]


def test_equal_token_sets_are_built_once(plugin: Any) -> None:
    model_config = server().model_config
    first = plugin._sets(DecodingConfig(dry_multiplier=0.8, exempt=("special",)), model_config)
    again = plugin._sets(
        DecodingConfig(dry_multiplier=1.8, exempt=("special",), lz_penalty=1), model_config
    )
    assert first is again
    assert list(first.breakers) == [3]
    assert first.exempt is not None
    assert np.flatnonzero(first.exempt).tolist() == [0]


def slots(tokens: list[list[int]], num_prompt: list[int]) -> SimpleNamespace:
    longest = max(map(len, tokens)) + 3
    return SimpleNamespace(
        all_token_ids=SimpleNamespace(
            gpu=torch.tensor(
                [row + [49] * (longest - len(row)) for row in tokens], dtype=torch.int32
            )
        ),
        prompt_len=SimpleNamespace(np=np.array(num_prompt, dtype=np.int32)),
    )


def test_slots_get_the_same(plugin: Any) -> None:
    random = Random(5)
    tokens = [random.choices(range(5), k=size) for size in (12, 30, 21, 40)]
    processor = plugin.DedupLogitsProcessor(server(), slots(tokens, [5, 6, 7, 8]))
    assert [processor.add_request(slot, params(**way)) for slot, way in enumerate(WAYS[:4])] == [
        False,
        True,
        True,
        True,
    ]
    order = [3, 0, 1]  # slot 2 is not in this step
    context = SimpleNamespace(
        idx_mapping_np=np.array(order),
        seq_lens_upper_bound_np=np.array([len(tokens[slot]) for slot in order]),
    )
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1))
    wanted = torch.stack(
        [
            expected(
                DecodingConfig(**WAYS[slot]),
                tokens[slot][: 5 + slot],
                tokens[slot][5 + slot :],
                logits[row],
            )
            for row, slot in enumerate(order)
        ]
    )
    torch.testing.assert_close(processor.apply(logits, context), wanted)
    for slot in (1, 3):
        assert processor.add_request(slot, params()) is False
    assert processor.apply(logits, context) is logits
    torch.testing.assert_close(logits, wanted)


def test_slots_see_the_drafts_before_each_row(plugin: Any) -> None:
    tokens, drafts = [[1, 2, 3, 4, 1, 2, 3], [4, 4, 4]], [1, 2]
    processor = plugin.DedupLogitsProcessor(
        server(speculative_config=object()), slots(tokens, [4, 2])
    )
    way = WAYS[1]
    assert processor.add_request(0, params(**way))
    context = SimpleNamespace(
        idx_mapping_np=np.array([1, 0]),
        seq_lens_upper_bound_np=np.array(
            [3, 99]
        ),  # too long, while vLLM does not know what was accepted
        expanded_idx_mapping=torch.tensor([1, 0, 0, 0], dtype=torch.int32),
        expanded_local_pos=torch.tensor([0, 0, 1, 2], dtype=torch.int32),
        input_ids=torch.tensor([4, 3, *drafts], dtype=torch.int32),
        pos=torch.tensor([2, 6, 7, 8]),
    )
    logits = torch.zeros(4, VOCABULARY)
    wanted = torch.stack(
        [
            logits[0],
            *(
                expected(
                    DecodingConfig(**way), tokens[0][:4], tokens[0][4:] + drafts[:num], logits[0]
                )
                for num in range(3)
            ),
        ]
    )
    assert torch.equal(processor.apply(logits, context), wanted)
    assert wanted.isinf().sum() == 3
