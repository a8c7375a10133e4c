"""Incidents of the demo model become rows that TRL trains it on, and trainers call the rewards.

In its own environment: `make test-trl`. verl and OpenRLHF are there without their dependencies:
their loaders are real, the packages around those are not imported.
"""

import asyncio
import importlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

import dedup.training.rewards
from dedup.training import RepetitionReward
from dedup_server.engines.local.engine import DEMO_MODEL
from tests.demo_server import serving
from tests.docs_snippets import ROOT, snippets_in

PROMPTS = [
    json.loads(line)["prompt"]
    for line in Path("benchmarks/prompts.jsonl").read_text(encoding="utf-8").splitlines()
]


REWARDS = dedup.training.rewards.__file__
LOOP = "The boats were drawn up on the stones. " + "The captain said nothing. " * 12


@pytest.fixture(scope="module")
def incidents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an incident log with some loops."""
    log = tmp_path_factory.mktemp("incidents") / "loops.jsonl"
    with serving(incident_log=str(log)) as url:
        for prompt in PROMPTS:
            asks: dict[str, Any] = {
                "chat/completions": {"messages": [{"role": "user", "content": prompt}]},
                "completions": {"prompt": prompt},
            }
            for path, asked in asks.items():
                body = json.dumps(
                    {**asked, "model": "demo", "temperature": 0, "max_tokens": 200, "stream": True}
                ).encode()
                request = urllib.request.Request(
                    f"{url}/v1/{path}", body, {"Content-Type": "application/json"}
                )
                urllib.request.urlopen(request, timeout=60).read()
    return log


def exported(incidents: Path, *options: str) -> list[dict[str, Any]]:
    """Return what `dedup export-pairs` writes."""
    with incidents.open("rb") as read:
        done = subprocess.run(
            [sys.executable, "-m", "dedup", "export-pairs", *options],
            stdin=read,
            stdout=subprocess.PIPE,
            check=True,
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def pairs(incidents: Path) -> Path:
    file = incidents.with_name("pairs.jsonl")
    file.write_text("\n".join(map(json.dumps, exported(incidents))), encoding="utf-8")
    return file


def test_datasets_reads_them(pairs: Path) -> None:
    read = load_dataset("json", data_files=str(pairs), split="train")
    assert len(read) >= 6
    assert set(read.column_names) == {"prompt", "chosen", "rejected"}


@pytest.mark.parametrize("chat", [True, False])
def test_dpo_trains_on_them(pairs: Path, tmp_path: Path, chat: bool) -> None:
    """After a few steps the model prefers healed completions to loops."""
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if isinstance(row["prompt"], list) is chat]
    assert len(rows) >= 3
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype="float32")
    config = DPOConfig(
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=2,
        learning_rate=1e-4,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    trainer = DPOTrainer(
        model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.train()
    margins = [
        step["rewards/margins"] for step in trainer.state.log_history if "rewards/margins" in step
    ]
    assert margins[-1] > margins[0]


def test_each_loop_of_the_log_is_an_ftpo_row(incidents: Path) -> None:
    rows = exported(incidents, "--format", "ftpo", "--model", str(DEMO_MODEL))
    num_loops = len(incidents.read_text(encoding="utf-8").splitlines())
    assert 0.8 * num_loops <= len(rows) <= num_loops
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    for row in rows:
        assert row["context_with_chat_template"]
        for token in (row["rejected_decoded"], *row["multi_chosen_decoded"]):
            assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1


def test_grpo_trains_with_the_reward(tmp_path: Path) -> None:
    """Loops of the demo model are punished, and answers that end are not."""
    rewards: list[float] = []

    class Recorded(RepetitionReward):
        def __call__(self, *args: Any, **columns: Any) -> list[float]:
            given = super().__call__(*args, **columns)
            rewards.extend(given)
            return given

    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=80,
        temperature=0.4,
        learning_rate=1e-5,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        seed=0,
    )
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:16]]
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype="float32")
    trainer = GRPOTrainer(
        model,
        reward_funcs=Recorded(),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(DEMO_MODEL),
    )
    trainer.train()
    assert len(rewards) >= 2 * 8
    assert min(rewards) < -0.3
    assert max(rewards) == 0
    logged = [step for step in trainer.state.log_history if "loss" in step]
    assert len(logged) == 2
    assert all("rewards/repetition_reward/mean" in step for step in logged)


def bare(package: str, *names: str) -> None:
    """Put empty packages in the place of those whose imports need what is not installed."""
    root = distribution(package).locate_file("")
    for name in (package, *names):
        module = ModuleType(name)
        module.__path__ = [str(root / name.replace(".", "/"))]
        sys.modules[name] = module


@pytest.mark.parametrize("path", [REWARDS, "pkg://dedup.training.rewards"])
def test_verl_loads_and_calls_it(path: str) -> None:
    bare("verl")
    sys.modules["verl"].DataProto = object  # type: ignore[attr-defined]
    custom = {"path": path, "name": "compute_score", "reward_kwargs": {"max_penalty": -2.0}}
    config = OmegaConf.create({"reward": {"custom_reward_function": custom}})
    loaded: Callable[..., Any] = importlib.import_module(
        "verl.trainer.ppo.reward"
    ).get_custom_reward_fn(config)
    # as verl/experimental/reward_loop/reward_manager/naive.py calls it
    given = loaded(
        data_source="loops",
        solution_str=LOOP,
        ground_truth="",
        extra_info={"num_turns": 2, "rollout_reward_scores": {}},
    )
    assert given == RepetitionReward(-2.0).score(LOOP) < -1


def test_openrlhf_loads_and_calls_it() -> None:
    bare("openrlhf", "openrlhf.utils")
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    completion = tokenizer(LOOP, add_special_tokens=False)["input_ids"]

    class Engine:
        async def generate(self, *args: Any, **options: Any) -> SimpleNamespace:
            output = SimpleNamespace(token_ids=completion, finish_reason="length", logprobs=None)
            return SimpleNamespace(outputs=[output])

    executor = importlib.import_module("openrlhf.utils.agent").SingleTurnAgentExecutor(REWARDS)
    output = asyncio.run(
        executor.execute(
            "<|bos|>Go on.\n",
            "",
            SimpleNamespace(max_tokens=512, logprobs=None),
            1024,
            tokenizer,
            Engine(),
        )
    )
    given = output["reward"]
    assert torch.tensor([given]).tolist() == pytest.approx([RepetitionReward().score(LOOP)])


def test_the_snippets_of_the_guide_run(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "guides" / "training.md"
    found = [
        snippet
        for snippet in snippets_in(page.name, page.read_text("utf-8"))
        if snippet.run_by == "make test-trl"
    ]
    assert len(found) == 3
    monkeypatch.chdir(pairs.parent)
    for name, size in (("own", 50), ("general", 100)):
        rows = [json.dumps({"text": f"{name} {number}"}) for number in range(size)]
        (pairs.parent / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (pairs.parent / "base-model").symlink_to(DEMO_MODEL)
    names: dict[str, Any] = {}
    for snippet in found:
        text = snippet.text.replace(
            'report_to="none"', 'report_to="none", use_cpu=True, bf16=False'
        )
        exec(compile(text, str(snippet), "exec"), names)
    mixed = names["mixed"]["text"]
    own = [text for text in mixed if text.startswith("own")]
    assert own == [f"own {number}" for number in range(50)]
    assert 2 <= len(mixed) - len(own) <= 12
