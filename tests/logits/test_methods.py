"""The table of methods, and that every adapter iterates it."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from dedup.config import DecodingConfig
from dedup.logits import methods, processors
from dedup.logits.device import DeviceMethods
from dedup.logits.hf import logits_processors
from dedup.logits.history import TokenHistory
from dedup.logits.methods import METHODS, Method, methods_on
from dedup.logits.tokens import NO_TOKENS

ON = {
    "repetition_penalty": {"repetition_penalty": 1.2},
    "openai_penalties": {"presence_penalty": 0.5},
    "dry": {"dry_multiplier": 0.8},
    "lz_penalty": {"lz_penalty": 0.2},
    "no_repeat_ngram": {"no_repeat_ngram_size": 3},
    "encoder_no_repeat_ngram": {"encoder_no_repeat_ngram_size": 3},
    "temperature": {"dynatemp_range": 0.5},
    "repetition_temperature": {"repetition_temperature": 1.5, "temperature": 0.8},
}


def test_names_are_unique_and_order_is_biases_bans_temperatures() -> None:
    assert [method.name for method in METHODS] == list(ON)
    order = ("bias", "ban", "temperature")
    places = [order.index(method.kind) for method in METHODS]
    assert all(one <= other for one, other in pairwise(places))


@pytest.mark.parametrize(("name", "options"), ON.items(), ids=list(ON))
def test_each_method_is_switched_on_by_its_own_options(name: str, options: dict[str, int]) -> None:
    assert [method.name for method in methods_on(DecodingConfig(**options))] == [name]  # type: ignore[arg-type]


def test_the_defaults_switch_every_method_off() -> None:
    assert methods_on(DecodingConfig()) == ()


@pytest.fixture
def only_a_new_method(monkeypatch: pytest.MonkeyPatch) -> Iterator[Method]:
    """A table whose only row bans token 1, as a new method would be added."""

    def ban_in_row(history: TokenHistory, logits: np.ndarray, *rest: object) -> None:
        logits[1] = -np.inf

    method = Method(
        name="ban_1",
        kind="ban",
        is_on=lambda config: config.lz_penalty > 0,
        apply=ban_in_row,
        apply_batch=lambda batch, config: batch.scores[:, 1].fill_(-torch.inf),
        reads_history=False,
    )
    monkeypatch.setattr(methods, "METHODS", (method,))
    monkeypatch.setattr(processors, "_ROW_METHODS", ((method.is_on, method.apply),))
    return method


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_every_path_iterates_the_table(only_a_new_method: Method, is_on: bool) -> None:
    config = replace(DecodingConfig(), lz_penalty=float(is_on))
    expected = [0, -np.inf if is_on else 0, 0]
    row = np.zeros(3, np.float32)
    processors.apply(config, TokenHistory(), row)
    assert row.tolist() == expected
    ids = torch.tensor([[0, 2]])
    for dtype in (torch.float32, torch.float16):  # on the CPU row by row, and in a batch
        scores = logits_processors(config)(ids, torch.zeros(1, 3, dtype=dtype))
        assert scores[0].tolist() == expected
    scores = torch.zeros(1, 3)
    DeviceMethods(config, NO_TOKENS).apply(ids, scores, 0)
    assert scores[0].tolist() == expected


def test_the_table_loads_without_torch() -> None:
    code = "import sys, dedup.logits.processors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
