"""An audit of a corpus: steps that measure documents and merge what repeats across them.

documents -> Measure (a part a task) -> MergeRepeats (a file a partition) -> collect
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from datatrove.data import Document
from datatrove.io import DataFolderLike, get_datafolder
from datatrove.pipeline.base import PipelineStep

from dedup.corpus.chat import answers_of, opening_of, signals_of_turns, turns_of
from dedup.corpus.gopher import gopher_words
from dedup.corpus.measures import DistinctNgrams, Distribution, Sources, stable_hash
from dedup.corpus.readers import source_of
from dedup.corpus.repeats import NUM_PARTITIONS, RepeatWriter, Top, counts_in, template_of
from dedup.corpus.signals import NAMES, Sentence, repetition_signals, sentences_of
from dedup.corpus.thresholds import exceeded, severity
from dedup.text.words import sentence_key, utf8_size

_NOT_SHARES: Final = (
    "chars",
    "loop_kind",
    "loop_onset",
    "loop_period",
    "compression_ratio",
    "rps_doc_unigram_entropy",
)
_SHARES: Final = tuple(name for name in NAMES if name not in _NOT_SHARES)
_MIN_SENTENCE_BYTES: Final = 20
_NUM_WORST: Final = 50
_NUM_TOP: Final = 100
_NGRAM: Final = 8
_EXAMPLE_CHARS: Final = 600
COUNTED: Final = ("documents", "sentences", "answers", "openings")


class Measure(PipelineStep):  # type: ignore[misc]
    """A step that measures a task's documents and writes the sums and counts to a folder.

    Args:
        folder: where parts and counts are written.
        thresholds: greatest value of each signal.
    """

    name = "Measure"
    type = "📊 - SIGNALS"

    def __init__(self, folder: DataFolderLike, thresholds: Mapping[str, float]) -> None:
        super().__init__()
        self.folder = get_datafolder(folder)
        self.thresholds = dict(thresholds)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents."""
        part = TaskMeasures(self.folder, rank, self.thresholds)
        for doc in data:
            with self.track_time():
                part.add(doc)
            yield doc
        part.close()


class TaskMeasures:
    """The sums of one task's documents."""

    def __init__(self, folder: Any, rank: int, thresholds: Mapping[str, float]) -> None:
        self._folder, self._rank, self._thresholds = folder, rank, thresholds
        self._writers = {name: RepeatWriter(folder, name, rank) for name in COUNTED}
        self._totals: Counter[str] = Counter()
        self._signals = {name: Distribution() for name in _SHARES}
        self._loops: Counter[str] = Counter()
        self._reasons = Sources()
        self._sources = Sources()
        self._chat: Counter[str] = Counter()
        self._grams = DistinctNgrams(_NGRAM)
        self._worst = Top(_NUM_WORST)

    def add(self, doc: Document) -> None:
        """Measure a document."""
        text, doc_id = doc.text, str(doc.id)
        sentences, words = sentences_of(text), gopher_words(text)
        found = repetition_signals(text, words=words, sentences=sentences)
        names = list(exceeded(found, self._thresholds))
        source = source_of(doc.metadata)
        sums = {"documents": 1, "chars": len(text), "bytes": utf8_size(text)}
        taken = {"taken_documents": int(bool(names)), "taken_chars": len(text) * bool(names)}
        looping = round(float(found["loop_char_frac"] or 0) * len(text))
        self._totals.update(sums | taken | {"looping_chars": looping})
        self._sources.add(source, sums | taken | {"looping_chars": looping})
        for name in names:
            self._reasons.add(name, {"documents": 1, "chars": len(text)})
        for name, distribution in self._signals.items():
            distribution.add(float(found[name] or 0))
        if found["loop_kind"]:
            self._loops[str(found["loop_kind"])] += 1
        self._grams.add(words)
        self._count_sentences(sentences, doc_id)
        self._count_document(text, doc_id)
        badness = severity(found, self._thresholds)
        if badness > 0.5:
            row = {
                "id": doc_id,
                "source": source,
                "severity": badness,
                "exceeded": names,
                "signals": found,
                "text": _excerpt(text, found["loop_onset"]),
            }
            self._worst.add(round(badness * 1e6), doc_id, row)
        if turns := turns_of(doc.metadata):
            self._add_chat(turns, doc_id)

    def close(self) -> None:
        """Write the part."""
        for writer in self._writers.values():
            writer.close()
        part = {
            "totals": self._totals,
            "signals": {name: asdict(one) for name, one in self._signals.items()},
            "loops": self._loops,
            "reasons": self._reasons.sums,
            "sources": self._sources.sums,
            "chat": self._chat,
            "grams": [self._grams.num_grams, self._grams.smallest.tolist()],
            "worst": self._worst.rows(),
        }
        with self._folder.open(f"parts/{self._rank:05d}.json", "wt") as file:
            json.dump(part, file)

    def _count_sentences(self, sentences: list[Sentence], doc_id: str) -> None:
        counts = Counter(sentence.key for sentence in sentences)
        written = {sentence.key: sentence.text for sentence in reversed(sentences)}
        writer = self._writers["sentences"]
        for key, times in counts.items():
            if utf8_size(key) >= _MIN_SENTENCE_BYTES:
                writer.add(key, template_of(key), utf8_size(key), times, written[key], doc_id)

    def _count_document(self, text: str, doc_id: str) -> None:
        key = f"{stable_hash(' '.join(text.casefold().split())):016x}"
        self._writers["documents"].add(key, key, utf8_size(text), 1, text, doc_id)

    def _add_chat(self, turns: list[tuple[str, str]], doc_id: str) -> None:
        found = signals_of_turns(turns)
        self._chat["chats"] += 1
        for name in ("turns", "answers", "looping_answers"):
            self._chat[name] += round(found[name])
        self._chat["chats_that_loop"] += found["looping_answers"] > 0
        for name in ("within", "across"):
            self._chat[f"chats_repeating_{name}"] += found[f"dup_sentence_frac_{name}"] > 0
        for prompt, answer in answers_of(turns):
            key = f"{stable_hash(sentence_key(answer) or answer):016x}"
            asked = f"{key}{stable_hash(sentence_key(prompt) or prompt):016x}"
            self._writers["answers"].add(asked, key, utf8_size(answer), 1, answer, doc_id)
            if opening := opening_of(answer):
                self._writers["openings"].add(
                    opening, opening, utf8_size(opening), 1, opening, doc_id
                )


class MergeRepeats(PipelineStep):  # type: ignore[misc]
    """A step, run as one task a partition, that merges the counts of all tasks.

    Args:
        folder: the folder of `Measure`.
    """

    name = "Merge repeats"
    type = "🫂 - DEDUPS"

    def __init__(self, folder: DataFolderLike) -> None:
        super().__init__()
        self.folder = get_datafolder(folder)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the partition's totals and most repeated texts; yield nothing."""
        merged = {name: _merge(self.folder, name, rank) for name in COUNTED}
        with self.folder.open(f"merged/{rank:05d}.json", "wt") as file:
            json.dump(merged, file)
        yield from ()


def _merge(folder: Any, name: str, partition: int) -> dict[str, Any]:
    """Return the totals of a partition, its most repeated texts and templates."""
    totals: Counter[str] = Counter()
    texts, templates = Top(_NUM_TOP), Top(_NUM_TOP)
    group: dict[str, Any] = {}

    def end_group() -> None:
        if group and group["variants"] > 1:
            templates.add(group["bytes"], group["template"], dict(group))

    for count in counts_in(folder, name, partition):
        across = (count.documents - 1) * count.size
        totals["count"] += count.count
        totals["distinct"] += 1
        totals["bytes"] += count.count * count.size
        totals["repeated_bytes"] += (count.count - 1) * count.size
        totals["across_bytes"] += across
        row = {
            "count": count.count,
            "documents": count.documents,
            "bytes": across,
            "example": count.example,
            "id": count.where,
        }
        if count.documents > 1:
            texts.add(across, count.text, row)
        if group.get("template") == count.template:
            group["count"] += count.count
            group["variants"] += 1
            group["bytes"] += count.documents * count.size
        else:
            end_group()
            group = {**row, "template": count.template, "variants": 1}
    end_group()
    return {"totals": totals, "texts": texts.rows(), "templates": templates.rows()}


def collect(folder: DataFolderLike, tasks: int) -> dict[str, Any]:
    """Return the results of an audit: the sums of all parts and partitions.

    Args:
        folder: the folder of `Measure` and `MergeRepeats`.
        tasks: number of tasks of `Measure`.
    """
    data_folder = get_datafolder(folder)
    totals: Counter[str] = Counter()
    loops: Counter[str] = Counter()
    chat: Counter[str] = Counter()
    signals = {name: Distribution() for name in _SHARES}
    reasons, sources = Sources(), Sources()
    grams, worst = DistinctNgrams(_NGRAM), Top(_NUM_WORST)
    for rank in range(tasks):
        part = _load(data_folder, f"parts/{rank:05d}.json")
        totals.update(part["totals"])
        loops.update(part["loops"])
        chat.update(part["chat"])
        for name, values in part["signals"].items():
            signals[name].merge(values)
        reasons.merge(part["reasons"])
        sources.merge(part["sources"])
        grams.merge(*part["grams"])
        for row in part["worst"]:
            worst.add(round(row["severity"] * 1e6), row["id"], row)
    repeats = {name: _collect_repeats(data_folder, name) for name in COUNTED}
    return {
        "totals": dict(totals),
        "signals": {
            name: {"mean": one.mean, "histogram": one.bins} for name, one in signals.items()
        },
        "loops": dict(loops),
        "taken": reasons.sums,
        "sources": _ranked(sources.sums),
        "distinct_8_gram_frac": grams.distinct_share,
        "repeats": repeats,
        "worst": worst.rows(),
        "chat": dict(chat) if chat else None,
    }


def _collect_repeats(folder: Any, name: str) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    texts, templates = Top(_NUM_TOP), Top(_NUM_TOP)
    for partition in range(NUM_PARTITIONS):
        merged = _load(folder, f"merged/{partition:05d}.json")[name]
        totals.update(merged["totals"])
        for row in merged["texts"]:
            texts.add(row["bytes"], row["example"], row)
        for row in merged["templates"]:
            templates.add(row["bytes"], row["template"], row)
    return {"totals": dict(totals), "texts": texts.rows(), "templates": templates.rows()}


def _ranked(sums: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return the sources, those from which most would be taken first."""
    rows: list[dict[str, Any]] = [{"source": name, **values} for name, values in sums.items()]
    rows.sort(key=lambda row: (-row["taken_chars"], -row["looping_chars"], row["source"]))
    return rows[: 2 * _NUM_TOP]


def _excerpt(text: str, onset: object) -> str:
    """Return the beginning of a text, or what surrounds the onset of its loop."""
    start = 0
    if isinstance(onset, int) and onset > _EXAMPLE_CHARS // 2:
        start = onset - _EXAMPLE_CHARS // 4
    return text[start : start + _EXAMPLE_CHARS]


def _load(folder: Any, path: str) -> Any:
    with folder.open(path, "rt") as file:
        return json.load(file)
