"""The datatrove steps: signals as metadata, and the filter with its exclusions."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline.writers import JsonlWriter

from dedup.corpus.jobs import Job, clean
from dedup.corpus.signals import NAMES
from dedup.corpus.steps import RepetitionFilterStep, RepetitionSignals, Sample

CLEAN = "The harbour lay quiet under the first snow. The boats were drawn up on the stones."
LOOPING = "It was cold. " + "The captain looked at the sky and said nothing. " * 12


def documents() -> list[Document]:
    return [Document(CLEAN, "clean"), Document(LOOPING, "looping")]


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl.gz"))
        for line in gzip.open(path, "rt").read().splitlines()
    ]


def test_signals_become_metadata() -> None:
    found = list(RepetitionSignals().run(documents()))
    assert [tuple(doc.metadata["repetition"]) for doc in found] == [NAMES, NAMES]
    assert [doc.metadata["repetition"]["loop_kind"] for doc in found] == [None, "exact"]


def test_dropped_documents_are_written_apart_with_the_reason(tmp_path: Path) -> None:
    step = RepetitionFilterStep(exclusion_writer=JsonlWriter(str(tmp_path)))
    assert [doc.id for doc in step.run(documents())] == ["clean"]
    (row,) = rows_in(tmp_path)
    assert row["text"] == LOOPING
    assert row["metadata"]["filter_reason"] == "loop_char_frac"
    assert row["metadata"]["repetition"]["loop_kind"] == "exact"


def test_kept_documents_say_what_they_exceed() -> None:
    _, looping = RepetitionFilterStep({"loop_char_frac": 0.1}, "keep").run(documents())
    assert looping.text == LOOPING
    assert looping.metadata["repetition_exceeded"] == ["loop_char_frac"]


def test_edited_documents_lose_their_repetition() -> None:
    clean_doc, edited = RepetitionFilterStep(action="edit").run(documents())
    assert clean_doc.text == CLEAN
    assert edited.text.count("The captain") == 1
    assert edited.metadata["repetition_removed_chars"] == len(LOOPING) - len(edited.text)
    assert edited.metadata["repetition"]["loop_kind"] is None


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="loop_frac is not a signal; signals: chars, "):
        RepetitionFilterStep({"loop_frac": 0.1})
    with pytest.raises(ValueError, match="must be a number above 0, got 0"):
        RepetitionFilterStep({"loop_char_frac": 0})
    with pytest.raises(ValueError, match="action must be one of drop, edit, keep, got 'cut'"):
        RepetitionFilterStep(action="cut")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0 and at most 1, got 2"):
        Sample(2)


def test_a_sample_depends_on_ids_only() -> None:
    docs = [Document("A text.", str(number)) for number in range(1000)]
    chosen = [doc.id for doc in Sample(0.3).run(docs)]
    assert 230 < len(chosen) < 370
    halves = [doc.id for half in (docs[::2], docs[1::2]) for doc in Sample(0.3).run(half)]
    assert sorted(chosen) == sorted(halves)


@pytest.mark.parametrize("action", ["drop", "edit"])
def test_clean_writes_what_is_kept_and_what_is_not(tmp_path: Path, action: Any) -> None:
    path = tmp_path / "in.jsonl"
    rows = [{"id": doc.id, "text": doc.text} for doc in documents()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = clean(Job(str(path), str(tmp_path / "out")), action)
    kept, excluded = rows_in(tmp_path / "out/kept"), rows_in(tmp_path / "out/excluded")
    assert counts["kept"] == len(kept)
    assert counts["excluded"] == len(excluded)
    if action == "drop":
        assert [row["id"] for row in excluded] == ["looping"]
        assert counts["reasons"] == {"loop_char_frac": 1}
    else:
        assert [row["id"] for row in kept] == ["clean", "looping"]
        assert counts["edited"] == 1


def test_clean_keeps_the_messages_of_chats(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [
        {"id": text[:9], "messages": [{"role": "assistant", "content": text}]}
        for text in (CLEAN, LOOPING)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean(Job(str(path), str(tmp_path / "out")), "edit")
    (kept,), (excluded,) = (rows_in(tmp_path / "out" / name) for name in ("kept", "excluded"))
    assert kept["metadata"]["messages"] == rows[0]["messages"]
    assert excluded["metadata"]["messages"] == rows[1]["messages"]
