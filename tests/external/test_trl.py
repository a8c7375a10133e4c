"""Incidents of the demo model become pairs that TRL trains it on. In its own environment: `make
test-trl`.
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from dedup_server.engines.local.engine import DEMO_MODEL
from tests.demo_server import serving

PROMPTS = [
    json.loads(line)["prompt"]
    for line in Path("benchmarks/prompts.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of `dedup export-pairs` for some loops."""
    folder = tmp_path_factory.mktemp("pairs")
    log = folder / "loops.jsonl"
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
    exported = folder / "pairs.jsonl"
    with log.open("rb") as read, exported.open("wb") as written:
        subprocess.run(
            [sys.executable, "-m", "dedup.cli", "export-pairs"],
            stdin=read,
            stdout=written,
            check=True,
        )
    return exported


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
