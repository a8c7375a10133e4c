"""The two jobs on a corpus: audit it, and clean it."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datatrove.io import DataFolder
from datatrove.pipeline.writers import JsonlWriter

from dedup.corpus.audit import Measure, MergeRepeats, collect
from dedup.corpus.readers import Corpus, Files, open_corpus
from dedup.corpus.repeats import NUM_PARTITIONS
from dedup.corpus.run import begin, run_pipeline
from dedup.corpus.steps import Action, RepetitionFilterStep, Sample
from dedup.corpus.thresholds import DEFAULT, check_thresholds

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """Settings of a run over a corpus: what is read, and how.

    Attributes:
        path: a file, a folder, a URL that fsspec opens, or a dataset.
        output: folder of the results, and of the state that a resumed run goes on from.
        sample: share of the documents, from 0 to 1.
        workers: tasks at a time.
        ray_address: address of a Ray cluster; by default this machine.
        text_key: field of a row that holds the text.
        split: split of a dataset.
        data_format: see `open_corpus`.
        thresholds: greatest value of each signal.
        on_progress: called with a stage, completed tasks and all tasks.

    Raises:
        ValueError: the sample, the workers or a threshold is invalid.
    """

    path: str
    output: str
    sample: float = 1.0
    workers: int = 1
    ray_address: str | None = None
    text_key: str = "text"
    split: str = "train"
    data_format: str | None = None
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT))
    on_progress: Progress | None = None

    def __post_init__(self) -> None:
        Sample(self.sample)
        check_thresholds(self.thresholds)
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def begin(self, **more: Any) -> tuple[Corpus, DataFolder]:
        """Return the corpus, and the folder of the results.

        Raises:
            ValueError: there is nothing to read.
            CorpusError: the folder holds a run with other options.
        """
        corpus = open_corpus(
            self.path, text_key=self.text_key, split=self.split, data_format=self.data_format
        )
        options = {
            "path": self.path,
            "format": corpus.format,
            "files": corpus.files,
            "tasks": corpus.tasks,
            "sample": self.sample,
            "text_key": self.text_key,
            "split": self.split,
            "thresholds": dict(self.thresholds),
            **more,
        }
        return corpus, begin(f"{self.output}/state", options)

    def run(self, stage: str, steps: list[Any], tasks: int) -> None:
        """Run a stage; its completions and logs are under `state/STAGE`.

        Raises:
            CorpusError: a task failed.
        """

        def report(done: int) -> None:
            if self.on_progress:
                self.on_progress(stage, done, tasks)

        run_pipeline(
            steps,
            tasks,
            f"{self.output}/state/{stage}",
            workers=self.workers,
            ray_address=self.ray_address,
            on_progress=report,
        )


def audit(job: Job) -> dict[str, Any]:
    """Measure a corpus; return the results.

    Returns:
        `totals`, `signals` (means and histograms), `loops` by kind, `taken` by signal, `sources`,
        `distinct_8_gram_frac`, `repeats` of documents, sentences, answers and openings, the
        `worst` documents, `chat`, and how it was `read`.

    Raises:
        ValueError: there is nothing to read.
        CorpusError: a task failed, or the output holds a run with other options.
    """
    corpus, state = job.begin()
    steps = [corpus.reader, Sample(job.sample), Measure(state, job.thresholds)]
    job.run("measure", steps, corpus.tasks)
    job.run("merge", [MergeRepeats(state)], NUM_PARTITIONS)
    results = collect(state, corpus.tasks)
    invalid = _stats(state, "measure", corpus.tasks, Files.name)["invalid_rows"]
    results["totals"]["invalid_rows"] = invalid
    results["read"] = {
        "path": job.path,
        "format": corpus.format,
        "files": corpus.files,
        "sample": job.sample,
        "thresholds": dict(job.thresholds),
    }
    return results


def clean(job: Job, action: Action = "drop") -> dict[str, Any]:
    """Filter a corpus into `OUTPUT/kept` and `OUTPUT/excluded`, JSON lines.

    Returns:
        Counts of documents: `kept`, `excluded`, `edited`, and `reasons` by signal.

    Raises:
        ValueError: there is nothing to read.
        CorpusError: a task failed, or the output holds a run with other options.
    """
    corpus, state = job.begin(action=action)
    excluded = JsonlWriter(f"{job.output}/excluded")
    steps = [
        corpus.reader,
        Sample(job.sample),
        RepetitionFilterStep(job.thresholds, action, excluded),
        JsonlWriter(f"{job.output}/kept"),
    ]
    job.run("clean", steps, corpus.tasks)
    return _counts(state, corpus.tasks)


def _counts(state: DataFolder, tasks: int) -> dict[str, Any]:
    """Return the counts of a filter, from the stats that each task left."""
    counts: dict[str, Any] = {"kept": 0, "excluded": 0, "edited": 0, "reasons": {}}
    names = {"forwarded": "kept", "dropped": "excluded", "edited": "edited"}
    for name, total in _stats(state, "clean", tasks, RepetitionFilterStep.name).items():
        if name in names:
            counts[names[name]] = total
        elif name.startswith("dropped_"):
            counts["reasons"][name.removeprefix("dropped_")] = total
    return counts


def _stats(state: DataFolder, stage: str, tasks: int, step: str) -> Counter[str]:
    """Return the sums of a step's stats over all tasks of a stage."""
    sums: Counter[str] = Counter()
    for rank in range(tasks):
        with state.open(f"{stage}/stats/{rank:05d}.json", "rt") as file:
            steps = json.load(file)
        for one in steps:
            if one["name"].endswith(f": {step}"):
                for name, value in one["stats"].items():
                    sums[name] += value["total"] if isinstance(value, dict) else value
    return sums
