"""Chat data: repeats within a turn and across turns, looping answers, one answer to many prompts."""

import json
from pathlib import Path
from typing import Any

import pytest

from dedup.corpus.chat import chat_signals
from dedup.corpus.jobs import Job, audit
from tests.corpus.texts import docstrings

SORRY = "I am sorry, but as a language model I cannot help you with this request today."


def chat(*turns: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(turns)
    ]


def test_a_chat_that_repeats_nothing() -> None:
    found = chat_signals(
        chat("How are you?", "I am well today. And you?", "Fine.", "Good to hear.")
    )
    assert found.pop("turns") == 4
    assert found.pop("answers") == 2
    assert set(found.values()) == {0}


def test_repeats_within_and_across_turns_are_told_apart() -> None:
    first = "The tower was built in 1904. It is closed in winter. The tower was built in 1904."
    found = chat_signals(chat("Tell me.", first, "And?", "It is closed in winter. Bring a lamp."))
    assert found["dup_sentence_frac_within"] == pytest.approx(1 / 5)
    assert found["dup_sentence_frac_across"] == pytest.approx(1 / 5)
    assert found["looping_answers"] == found["repeated_answer_frac"] == 0


def test_a_looping_answer_and_a_copied_prompt_are_found() -> None:
    prompt = "Is the museum open on holidays and on Mondays?"
    found = chat_signals(
        chat(prompt, prompt + " We will see. " * 40, "Again?", "No.", "Yes?", "No.")
    )
    assert found["looping_answers"] == 1
    assert found["copied_prompt_frac"] > 0
    assert found["repeated_answer_frac"] == pytest.approx(1 / 3)


def test_sharegpt_and_parts_are_read() -> None:
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello. " * 80}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "Hello. " * 80}]}]
    for messages in (sharegpt, parts):
        assert chat_signals(messages)["looping_answers"] == 1


def test_an_audit_of_chats(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(docstrings(30)):
        answer = SORRY if number % 3 == 0 else text
        rows.append({"id": str(number), "messages": chat(f"Question {number}?", answer)})
    rows.append({"id": "loop", "messages": chat("Go on.", "We will go on and on. " * 40)})
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit(Job(str(path), str(tmp_path / "out")))
    assert found["chat"]["chats"] == found["chat"]["answers"] == 31
    assert found["chat"]["looping_answers"] == 1
    most = found["repeats"]["answers"]["templates"][0]
    assert (most["example"], most["count"], most["variants"]) == (SORRY, 10, 10)
    assert found["repeats"]["openings"]["texts"][0]["count"] == 10
    assert [row["id"] for row in found["worst"] if row["exceeded"]] == ["loop"]
