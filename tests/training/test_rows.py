"""Loops become preference pairs, and FTPO rows with the token that starts the loop."""

import json
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from dedup.cli import main
from dedup.training import FtpoRows, incident_of, preference_pair
from dedup_server.engines.local.engine import DEMO_MODEL
from tests.server.tiny_model import tiny_tokenizer

# Greedy answers of the demo model.
ANSWERS = [
    (
        "The old house at the end of the lane had been empty for years.",
        "I have told you that I had picked up something of medicine. ",
        " I",
    ),
    (
        "那天早上下着大雪，门外忽然来了一个陌生人。",
        "宝玉忙托了锁看时，果然一面有四个篆字，两面八字，共成两句吉谶。",
        "宝玉",
    ),
    ("请讲一个关于猴子的故事。", "况且他们也常进园，晚间各人家去，焉知不是他们身上的？", "况且"),
]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def incident(prompt: str, line: str, copies: int = 8) -> Row:
    found = incident_of({"prompt": prompt, "text": line * copies})
    assert found is not None
    return found


def encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("prompt", "line", "rejected"), ANSWERS)
def test_the_rejected_token_is_the_first_of_the_second_copy(
    model: Any, tokenizer: Any, prompt: str, line: str, rejected: str
) -> None:
    row = FtpoRows(model, tokenizer).row(incident(prompt, line))
    assert row is not None
    context = row["context_with_chat_template"]
    assert context == f"<|bos|>{prompt}\n{line.rstrip()}"
    assert row["rejected_decoded"] == rejected
    # A trainer encodes the strings one by one; the model goes on with this token, greedily.
    ids = encoded(tokenizer, context)
    whole = encoded(tokenizer, f"<|bos|>{prompt}\n{line * 8}")
    assert [*ids, *encoded(tokenizer, rejected)] == whole[: len(ids) + 1]
    with torch.inference_mode():
        greedy = model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()
    assert [greedy] == encoded(tokenizer, rejected)


@pytest.mark.parametrize(("prompt", "line", "rejected"), ANSWERS)
def test_alternatives_are_the_models_own_and_do_not_start_the_copy(
    model: Any, tokenizer: Any, prompt: str, line: str, rejected: str
) -> None:
    row = FtpoRows(model, tokenizer, min_p=0.0, max_chosen=5).row(incident(prompt, line))
    assert row is not None
    chosen = row["multi_chosen_decoded"]
    assert len(chosen) == len(set(chosen)) == 5
    assert tokenizer.eos_token in chosen  # to stop is the demo model's second choice
    ids = encoded(tokenizer, row["context_with_chat_template"])
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    found = []
    for token in chosen:
        assert token.strip()
        assert not line.casefold().startswith(token.strip().casefold())
        assert len(encoded(tokenizer, token)) == 1
        found.append(float(logits[encoded(tokenizer, token)[0]]))
    assert found == sorted(found, reverse=True)
    fewer = FtpoRows(model, tokenizer, min_p=1.0).row(incident(prompt, line))
    assert fewer is not None
    assert fewer["multi_chosen_decoded"] == chosen[:1]


def test_a_line_of_the_log_is_a_row_whatever_stood_before_the_loop(
    model: Any, tokenizer: Any
) -> None:
    prompt, line, rejected = ANSWERS[0]
    rows = FtpoRows(model, tokenizer)
    chat = {"messages": [{"role": "user", "content": prompt}]}
    loop = {"request": chat, "kept": line, "looped": line * 7, "healed": None}
    assert rows.row(loop) == rows.row(incident(prompt, line))
    # The log's text before the loop was edited: it does not loop any more.
    short = rows.row({**loop, "looped": line[:30]})
    assert short is not None
    assert short["rejected_decoded"] == rejected
    raw = rows.row({**loop, "request": {"prompt": f"{prompt}\n"}})
    assert raw is not None
    assert raw["context_with_chat_template"] == f"{prompt}\n{line.rstrip()}"


def test_what_cannot_be_a_row(model: Any, tokenizer: Any) -> None:
    prompt, line, _ = ANSWERS[0]
    rows = FtpoRows(model, tokenizer)
    assert rows.row(incident("word " * 2000, line)) is None  # longer than the context
    assert rows.row(incident(prompt, "𓀀𓁐𓃭𓆣𓇋𓈖𓉐𓊪", copies=40)) is None  # tokens that are no text
    with pytest.raises(ValueError, match="messages nor a prompt"):
        rows.row({"request": {"input": "Hello"}, "kept": "", "looped": line, "healed": None})
    with pytest.raises(ValueError, match="incident log"):
        rows.row({"request": {}})
    plain = tiny_tokenizer()
    with pytest.raises(ValueError, match="no chat template"):
        FtpoRows(model, plain).row(incident(prompt, line))
    for options in ({"max_chosen": 0}, {"min_p": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            FtpoRows(model, tokenizer, **options)  # type: ignore[arg-type]


def test_answers_become_incidents() -> None:
    prompt, line, _ = ANSWERS[0]
    assert incident_of({"prompt": prompt, "text": line}) is None
    found = incident(prompt, line)
    assert found["kept"] + found["looped"] == line * 8
    assert len(found["kept"]) == len(line)
    raw = incident_of({"prompt": prompt, "text": line * 8}, raw=True)
    assert raw is not None
    assert raw["request"] == {"prompt": prompt}
    assert incident_of(found) is found
    assert preference_pair(found) is None
    with pytest.raises(ValueError, match="nor an answer"):
        incident_of({"prompt": None, "text": line})


def export(*args: str, given: str) -> Any:
    return CliRunner().invoke(main, ["export-pairs", *args], input=given)


def test_the_command_writes_rows() -> None:
    lines = [json.dumps({"prompt": prompt, "text": line * 8}) for prompt, line, _ in ANSWERS]
    lines.insert(1, json.dumps({"prompt": "Hello", "text": "No loop."}))
    args = ("--format", "ftpo", "--model", str(DEMO_MODEL))
    done = export(*args, given="\n".join(lines))
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["rejected_decoded"] for row in rows] == [rejected for _, _, rejected in ANSWERS]
    assert export(given="\n".join(lines)).stdout == ""  # nothing was healed
    invalid = export(*args, given='{"kept": ""}\n')
    assert invalid.exit_code == 1
    assert "line 1: neither an incident" in invalid.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "ftpo"), "needs --model"),
        (("--model", "x"), "--model is for --format ftpo"),
        (("--format", "ftpo", "--model", "/nowhere/at/all"), "--model:"),
    ],
)
def test_wrong_options_are_named(args: tuple[str, ...], message: str) -> None:
    done = export(*args, given="")
    assert done.exit_code != 0
    assert message in done.stderr
