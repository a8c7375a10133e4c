"""Readers of a corpus: files in a folder, in any format that datatrove reads, or a dataset."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from datatrove.io import get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import (
    HuggingFaceDatasetReader,
    ParquetReader,
    WarcReader,
)
from datatrove.pipeline.readers.base import BaseDiskReader

from dedup.corpus.chat import answers_of, turns_of

_PACKED: Final = ("", ".gz", ".zst")
_FORMATS: Final = {
    "jsonl": tuple(
        name + packed for name in (".jsonl", ".ndjson", ".json.gz", ".json") for packed in _PACKED
    ),
    "parquet": (".parquet",),
    "warc": tuple(name + packed for name in (".warc", ".wet") for packed in _PACKED),
    "text": tuple(name + packed for name in (".txt", ".md", ".rst") for packed in _PACKED),
}
_MAX_TASKS: Final = 256
_MIN_TASKS: Final = 16
_STRIPED_BYTES: Final = 4_000_000  # less is one task a file
_TEXT_BLOCK_CHARS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus to be read.

    Attributes:
        reader: the first step of a pipeline.
        tasks: tasks, which depend on the files only, so that results do not depend on workers.
        files: number of files; 0 for a dataset.
        format: one of `jsonl`, `parquet`, `warc`, `text`, `dataset`.
    """

    reader: Any
    tasks: int
    files: int
    format: str


class JsonLinesReader(BaseDiskReader):  # type: ignore[misc]
    """A reader of JSON lines that passes over invalid ones; datatrove's ends the file there.

    Attributes:
        num_invalid: lines that are no JSON object, or not UTF-8.
    """

    name = "JSON lines"

    def __init__(self, folder: Any, **options: Any) -> None:
        super().__init__(folder, **options)
        self.num_invalid = 0

    def read_file(self, filepath: str) -> Iterator[Any]:
        """Yield the documents of a file."""
        with self.data_folder.open(filepath, "rb", compression="infer") as file:
            lines = io.BufferedReader(file)  # zstandard's reader knows no lines
            for number, line in enumerate(lines):
                try:
                    row = json.loads(line) if line.strip() else {}
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    self.num_invalid += 1
                elif doc := row and self.get_document_from_dict(row, filepath, number):
                    yield doc


class TextReader(BaseDiskReader):  # type: ignore[misc]
    """A reader of plain text: a file is a document, and of a long one each million characters."""

    name = "Text"

    def read_file(self, filepath: str) -> Iterator[Any]:
        """Yield the documents of a file."""
        with self.data_folder.open(
            filepath, "rt", encoding="utf-8", errors="replace", compression="infer"
        ) as file:
            number = 0
            while block := file.read(_TEXT_BLOCK_CHARS):
                if doc := self.get_document_from_dict({"text": block}, filepath, number):
                    yield doc
                number += 1


_READERS: Final = {
    "jsonl": JsonLinesReader,
    "parquet": ParquetReader,
    "warc": WarcReader,
    "text": TextReader,
}


class Files(PipelineStep):  # type: ignore[misc]
    """A reader of given files. Several tasks may share a file: one takes every n-th document.

    Args:
        reader: a datatrove reader of files. Its attribute `num_invalid` is counted, if it has one.
        files: paths in its folder.
        stripes: tasks that share a file.
    """

    name = "Files"
    type = "📖 - READER"

    def __init__(self, reader: Any, files: list[str], stripes: int = 1) -> None:
        super().__init__()
        self.reader = reader
        self.files = files
        self.stripes = stripes

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield the task's documents."""
        shard, stripe = divmod(rank, self.stripes)
        files = self.files[shard :: world_size // self.stripes]
        for number, doc in enumerate(self.reader.read_files_shard(files)):
            if number % self.stripes == stripe:
                yield doc
        if stripe == 0 and (invalid := getattr(self.reader, "num_invalid", 0)):
            self.stat_update("invalid_rows", value=invalid)


def document_of(reader: Any, data: dict[str, Any], path: str, id_in_file: int | str) -> Any:
    """Return the fields of a document: as datatrove does, but a chat's text is that of its answers.

    The row's other fields become metadata, a chat's messages among them.
    """
    if reader.text_key not in data and (turns := turns_of(data)) is not None:
        data[reader.text_key] = "\n\n".join(answer for _, answer in answers_of(turns))
    text = data.get(reader.text_key)
    if text is not None and not isinstance(text, str):
        data[reader.text_key] = json.dumps(text, ensure_ascii=False, default=str)
    found: dict[str, Any] = reader._default_adapter(data, path, id_in_file)
    found["id"] = str(found["id"])
    return found


def open_corpus(
    path: str,
    *,
    text_key: str = "text",
    split: str = "train",
    data_format: str | None = None,
) -> Corpus:
    """Return a reader of a corpus.

    Args:
        path: a file, a folder, a URL that fsspec opens (`s3://...`), or a dataset on the Hugging
            Face hub.
        text_key: field of a row that holds the text.
        split: split of a dataset.
        data_format: `jsonl`, `parquet`, `warc`, `text` or `dataset`; by default what the names of
            the files say.

    Raises:
        ValueError: there is no such file, or no file of a known format.
    """
    options: dict[str, Any] = {"text_key": text_key, "adapter": document_of}
    if data_format == "dataset":
        reader = HuggingFaceDatasetReader(path, {"split": split}, **options)
        return Corpus(reader, _MIN_TASKS, 0, "dataset")
    folder, name = get_datafolder(path.rstrip("/")), ""
    if folder.isfile(""):
        parent, _, name = path.rpartition("/")
        folder = get_datafolder(parent or ".")
    elif not folder.isdir(""):
        if data_format is None and "://" not in path and path.count("/") <= 1:
            return open_corpus(path, text_key=text_key, split=split, data_format="dataset")
        raise ValueError(f"{path}: no such file or folder")
    files = [name] if name else folder.list_files()
    data_format = data_format or _format_of(files, path)
    if data_format not in _READERS:
        raise ValueError(f"format must be one of {', '.join(_FORMATS)}, dataset: {data_format!r}")
    suffixes = _FORMATS[data_format]
    chosen = [file for file in files if file.endswith(suffixes)] or files
    size = sum(folder.size(file) or 0 for file in chosen)
    reader = _READERS[data_format](folder, **options)
    shards = min(_MAX_TASKS, len(chosen))
    stripes = 1
    if data_format != "text" and size >= _STRIPED_BYTES and shards < _MIN_TASKS:
        stripes = -(-_MIN_TASKS // shards)
    files_reader = Files(reader, chosen, stripes)
    return Corpus(files_reader, shards * stripes, len(chosen), data_format)


def _format_of(files: list[str], path: str) -> str:
    """Return the format of most files.

    Raises:
        ValueError: no file has a known one.
    """
    counts = {
        name: sum(file.endswith(suffixes) for file in files) for name, suffixes in _FORMATS.items()
    }
    best = max(counts, key=lambda name: counts[name])
    if not counts[best]:
        endings = ", ".join(ending for endings in _FORMATS.values() for ending in endings[:1])
        raise ValueError(f"{path}: no file that ends in {endings}, or packed (.gz, .zst)")
    return best


def source_of(metadata: dict[str, Any]) -> str:
    """Return where a document is from: its `source`, the host of its URL, its dataset or file."""
    source = metadata.get("source")
    if isinstance(source, str) and source:
        return source
    url = metadata.get("url")
    if isinstance(url, str) and (host := urlsplit(url).hostname):
        return host
    for key in ("dataset", "file_path"):
        if isinstance(value := metadata.get(key), str):
            return value
    return "(unknown)"
