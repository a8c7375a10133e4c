"""The audit of a corpus with planted repetition: all of it is found, and nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datatrove.pipeline.base import PipelineStep

from dedup.corpus.audit import Measure, MergeRepeats, collect
from dedup.corpus.jobs import Job, audit
from dedup.corpus.readers import open_corpus
from dedup.corpus.repeats import NUM_PARTITIONS, RepeatWriter, counts_in
from dedup.corpus.run import CorpusError, run_pipeline
from dedup.corpus.thresholds import DEFAULT
from tests.corpus import planted
from tests.corpus.texts import ROOT

LANGUAGES = ("en", "zh")


class KillOnce(PipelineStep):  # type: ignore[misc]
    """A step that kills its process in the middle of a task, the first time that it runs."""

    name = "Kill"
    type = "test"

    def __init__(self, marker: Path, more: int | None = None) -> None:
        super().__init__()
        self.marker, self.more = marker, more

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        for number, doc in enumerate(data):
            if rank == 2 and number == 5 and not self.marker.exists():
                self.marker.touch()
                if self.more:
                    os.kill(self.more, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            yield doc


def collected(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results without what `audit` adds."""
    found = {key: value for key, value in results.items() if key != "read"}
    found["totals"] = {k: v for k, v in found["totals"].items() if k != "invalid_rows"}
    return found


def measured(corpus: Path, folder: Path, *steps: PipelineStep) -> dict[str, Any]:
    """Return what an audit does, with more steps between reading and measuring."""
    opened = open_corpus(str(corpus))
    pipeline = [opened.reader, *steps, Measure(str(folder), DEFAULT)]
    run_pipeline(pipeline, opened.tasks, f"{folder}/measure", workers=2)
    run_pipeline([MergeRepeats(str(folder))], NUM_PARTITIONS, f"{folder}/merge")
    return collect(str(folder), opened.tasks)


def test_copied_documents_are_first(audited: dict[str, Any]) -> None:
    first = audited["repeats"]["documents"]["texts"]
    assert {row["example"] for row in first[:2]} == set(planted.COPIED.values())
    assert [row["count"] for row in first[:2]] == [planted.COPIES] * 2
    assert len(first) == 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_boilerplate_and_templates_are_before_all_that_is_clean(
    audited: dict[str, Any], language: str
) -> None:
    sentences = audited["repeats"]["sentences"]
    copied = "".join(planted.COPIED.values())
    rows = [row for row in sentences["texts"] if row["example"].strip() not in copied]
    assert planted.BOILERPLATE[language] in [row["example"].strip() for row in rows[:2]]
    begin = planted.TEMPLATES[language].split("{}")[0]
    templates = [row["example"] for row in sentences["templates"][:3]]
    assert any(example.startswith(begin) for example in templates)


def test_every_loop_is_taken_and_nothing_else(audited: dict[str, Any]) -> None:
    taken = {row["source"]: row for row in audited["sources"] if row["taken_documents"]}
    assert set(taken) == {"loops-en.example", "loops-zh.example", "drift-en.example"}
    for row in taken.values():
        assert row["taken_documents"] == row["documents"] == planted.NUM_LOOPS
    assert [row["source"] for row in audited["sources"][:3]] == list(taken)
    assert audited["loops"] == {"exact": 2 * planted.NUM_LOOPS, "near": planted.NUM_LOOPS}
    assert {row["source"] for row in audited["worst"] if row["exceeded"]} == set(taken)


def test_nothing_is_lost_or_counted_twice(audited: dict[str, Any]) -> None:
    rows = planted.rows()
    assert audited["totals"]["documents"] == len(rows)
    assert audited["totals"]["chars"] == sum(len(row["text"]) for row in rows)
    assert audited["repeats"]["documents"]["totals"]["count"] == len(rows)


def test_one_worker_finds_the_same(corpus: Path, audited: dict[str, Any], tmp_path: Path) -> None:
    assert audit(Job(str(corpus), str(tmp_path / "out"), workers=1)) == audited


def test_a_killed_worker_changes_nothing(
    corpus: Path, audited: dict[str, Any], tmp_path: Path
) -> None:
    found = measured(corpus, tmp_path / "out", KillOnce(tmp_path / "marker"))
    assert (tmp_path / "marker").exists()
    assert found == collected(audited)


def test_a_run_killed_in_the_middle_goes_on(
    corpus: Path, audited: dict[str, Any], tmp_path: Path
) -> None:
    code = (
        "import os; from pathlib import Path\n"
        "from tests.corpus.test_audit import KillOnce, measured\n"
        f"kill = KillOnce(Path({str(tmp_path / 'marker')!r}), os.getpid())\n"
        f"measured(Path({str(corpus)!r}), Path({str(tmp_path / 'out')!r}), kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/parts/00002.json").exists()
    found = measured(corpus, tmp_path / "out", KillOnce(tmp_path / "marker"))
    assert found == collected(audited)


def test_a_run_with_other_options_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("A text.\n")
    audit(Job(str(text), str(tmp_path / "out")))
    with pytest.raises(CorpusError, match=r"other options \(sample\)"):
        audit(Job(str(text), str(tmp_path / "out"), sample=0.5))


def test_memory_holds_a_batch_of_counts(tmp_path: Path) -> None:
    from datatrove.io import get_datafolder

    folder = get_datafolder(str(tmp_path))
    for rank, batch in enumerate((3, 100)):
        writer = RepeatWriter(folder, "sentences", rank, max_counts=batch)
        for number in range(40):
            writer.add(f"key {number % 10}", "key 0", 5, 2, "Key", f"doc {rank}-{number}")
        writer.close()
    found = [
        count
        for partition in range(NUM_PARTITIONS)
        for count in counts_in(folder, "sentences", partition)
    ]
    assert [(one.text, one.count, one.documents) for one in found] == [
        (f"key {number}", 16, 8) for number in range(10)
    ]
