"""Exact counts of what repeats across documents, in bounded memory.

Each task counts its documents' sentences and writes them sorted, in partitions by key; a partition
is then merged over all tasks. Memory holds one batch of counts; the disk holds each task's distinct
sentences, compressed.
"""

import gzip
import heapq
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from dedup.corpus.measures import stable_hash

NUM_PARTITIONS: Final = 16
_DIGITS: Final = re.compile(r"\d+")
_EXAMPLE_CHARS: Final = 300


class Count(msgspec.Struct, array_like=True, order=True):
    """Count of one text.

    Attributes:
        template: the text with numbers as 0, or what the text belongs to.
        text: the text, as a key.
        count: occurrences.
        documents: documents that contain it.
        size: UTF-8 bytes of one occurrence, so that a Chinese character counts as three letters.
        example: its beginning as it was written.
        where: id of a document that contains it.
    """

    template: str
    text: str
    count: int
    documents: int
    size: int
    example: str
    where: str


def template_of(key: str) -> str:
    """Return a sentence's key with each number as 0."""
    return _DIGITS.sub("0", key)


class RepeatWriter:
    """A writer of one task's counts.

    Args:
        folder: a datatrove `DataFolder`.
        name: what is counted, the prefix of the files.
        rank: the task.
        max_counts: counts held in memory.
    """

    def __init__(self, folder: Any, name: str, rank: int, max_counts: int = 100_000) -> None:
        self._folder, self._name, self._rank = folder, name, rank
        self._max = max_counts
        self._counts: dict[str, Count] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="dedup-corpus-")
        self._num_runs = 0

    def add(self, key: str, template: str, size: int, times: int, example: str, doc: str) -> None:
        """Add `times` occurrences of a text in one document."""
        found = self._counts.get(key)
        if found is None:
            brief = example[:_EXAMPLE_CHARS]
            self._counts[key] = Count(template, key, times, 1, size, brief, doc)
            if len(self._counts) >= self._max:
                self._spill()
        else:
            found.count += times
            found.documents += 1

    def close(self) -> None:
        """Write the task's files."""
        self._spill()
        for partition in range(NUM_PARTITIONS):
            runs = [_read(self._run(number, partition)) for number in range(self._num_runs)]
            path = path_of(self._name, partition, self._rank)
            with self._folder.open(path, "wb") as raw, _packed(raw) as file:
                _write(file, merged(runs))
        self._scratch.cleanup()

    def _run(self, number: int, partition: int) -> Path:
        return Path(self._scratch.name) / f"{number:05d}-{partition:02d}"

    def _spill(self) -> None:
        parts: list[list[Count]] = [[] for _ in range(NUM_PARTITIONS)]
        for count in self._counts.values():
            parts[stable_hash(count.template) % NUM_PARTITIONS].append(count)
        for partition, counts in enumerate(parts):
            counts.sort(key=_order)
            with self._run(self._num_runs, partition).open("wb") as raw, _packed(raw) as file:
                _write(file, iter(counts))
        self._num_runs += 1
        self._counts = {}


def path_of(name: str, partition: int, rank: int) -> str:
    """Return the path of a task's counts in one partition."""
    return f"counts/{name}/{partition:02d}/{rank:05d}.jsonl.gz"


def counts_in(folder: Any, name: str, partition: int) -> Iterator[Count]:
    """Yield the counts of a partition, merged over all tasks, by template and text."""
    subfolder = f"counts/{name}/{partition:02d}"
    paths = folder.list_files(subfolder) if folder.isdir(subfolder) else []
    yield from merged([_lines(folder.open(path, "rb")) for path in paths])


def merged(runs: list[Iterator[Count]]) -> Iterator[Count]:
    """Yield the sums of sorted counts. Of a text's examples the first run's counts."""
    current: Count | None = None
    for count in heapq.merge(*runs, key=_order):
        if current is not None and _order(current) == _order(count):
            current.count += count.count
            current.documents += count.documents
            continue
        if current is not None:
            yield current
        current = count
    if current is not None:
        yield current


class Top:
    """The most repeated texts: those whose repeats in other documents are longest.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, str, int, dict[str, Any]]] = []
        self._num_added = 0

    def add(self, repeated: int, key: str, row: dict[str, Any]) -> None:
        self._num_added += 1
        item = (repeated, key, self._num_added, row)  # numbered, as rows are not compared
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, item)
        elif item[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, item)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows, the most repeated first."""
        ordered = sorted(self._heap, key=lambda item: (-item[0], *item[1:3]))
        return [item[-1] for item in ordered]


def _order(count: Count) -> tuple[str, str]:
    return count.template, count.text


def _packed(file: Any) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0)


def _write(file: gzip.GzipFile, counts: Iterator[Count]) -> None:
    encoder = msgspec.json.Encoder()
    for count in counts:
        file.write(encoder.encode(count) + b"\n")


def _read(path: Path) -> Iterator[Count]:
    return _lines(path.open("rb"))


def _lines(file: IO[bytes]) -> Iterator[Count]:
    decoder = msgspec.json.Decoder(Count)
    with file, gzip.GzipFile(fileobj=file) as lines:
        for line in lines:
            yield decoder.decode(line)
