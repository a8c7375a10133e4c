"""Measure the signals of a corpus beside datatrove's Gopher filter and sentence deduplication.

    python benchmarks/corpus_speed.py          # a minute; needs: pip install 'dedup-llm[corpus]' spacy jieba

Texts: the installed packages' licences and descriptions (English), and Chinese answers of real models in benchmarks/*.jsonl, their
sentences shuffled into documents. CPU seconds of one process, median of `--repeat` runs that take turns; MB of UTF-8. Datatrove's filter
gets thresholds that no document exceeds, so that it computes all its figures, as the signals do.
"""

import argparse
import gc
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path

from dedup.corpus import gopher, redpajama, repetition_signals
from dedup.corpus.signals import own_signals
from dedup.text.segmenter import load_punkt
from dedup.version import build_form

HERE = Path(__file__).parent
DOCUMENT_CHARS = {"English": 3000, "Chinese": 3000}
_IDEOGRAPHS = re.compile("[\u4e00-\u9fff]")
_SENTENCE = re.compile(r"[^。！？\n]+[。！？\n]")


def english(num_bytes: int) -> list[str]:
    """Return documents of packages' licences and descriptions, none twice."""
    texts: dict[str, str] = {}
    for distribution in distributions():
        for file in distribution.files or ():
            if file.name in ("METADATA", "LICENSE", "LICENSE.txt", "LICENSE.md"):
                try:
                    text = Path(str(file.locate())).read_text("utf-8")
                except (OSError, UnicodeDecodeError):
                    continue
                texts.setdefault(text[:300], text)
    return cut("\n".join(texts.values()), DOCUMENT_CHARS["English"], num_bytes)


def chinese(num_bytes: int) -> list[str]:
    """Return documents of the Chinese sentences in the transcripts, shuffled, none twice a document."""
    sentences: dict[str, None] = {}
    for path in sorted(HERE.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            for text in strings(json.loads(line)):
                if len(_IDEOGRAPHS.findall(text)) > len(text) / 3:
                    sentences.update(dict.fromkeys(_SENTENCE.findall(text)))
    found = list(sentences)
    rng = random.Random(0)
    parts: list[str] = []
    size = 0
    while size < num_bytes:
        rng.shuffle(found)
        parts += found
        size += sum(len(one.encode()) for one in found)
    return cut("".join(parts), DOCUMENT_CHARS["Chinese"], num_bytes)


def strings(value: object) -> Iterator[str]:
    """Yield the strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, dict):
        yield from strings(list(value.values()))


def cut(text: str, chars: int, num_bytes: int) -> list[str]:
    """Return a text as documents, of about `num_bytes` together."""
    documents = [text[at : at + chars] for at in range(0, len(text), chars)]
    size = 0
    for number, document in enumerate(documents):
        size += len(document.encode())
        if size >= num_bytes:
            return documents[: number + 1]
    return documents


def gophers(language: str) -> Callable[[str], object]:
    """Return datatrove's filter, with thresholds that nothing exceeds."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherRepetitionFilter

    never = 1e9
    gopher_filter = GopherRepetitionFilter(
        dup_line_frac=never,
        dup_para_frac=never,
        dup_line_char_frac=never,
        dup_para_char_frac=never,
        top_n_grams=tuple((n, never) for n in (2, 3, 4)),  # type: ignore[arg-type]
        dup_n_grams=tuple((n, never) for n in range(5, 11)),  # type: ignore[arg-type]
        language=language,
    )
    return lambda text: gopher_filter.filter(Document(text, ""))


def signatures(language: str, folder: str) -> Callable[[str], object]:
    """Return the part of datatrove's sentence deduplication that reads documents."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import SentDedupConfig, SentenceDedupSignature
    from datatrove.utils.hashing import HashConfig

    config = SentDedupConfig(hash_config=HashConfig(hash_fc="sha1"))
    step = SentenceDedupSignature(folder, config=config, language=language)
    return lambda text: step.get_hashes(Document(text, ""), 0)


def measured(folder: str) -> Callable[[str], object]:
    """Return all that an audit does with a document."""
    from datatrove.data import Document
    from datatrove.io import get_datafolder

    from dedup.corpus.audit import TaskMeasures
    from dedup.corpus.thresholds import DEFAULT

    task = TaskMeasures(get_datafolder(folder), 0, DEFAULT)
    return lambda text: task.add(Document(text, str(hash(text))))


def cpu_seconds(work: Callable[[str], object], documents: list[str]) -> float:
    from datatrove.utils.text import split_into_parts

    split_into_parts.cache_clear()
    begun = time.process_time()
    for document in documents:
        work(document)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--kilobytes", type=int, default=200, help="a language")
    args = parser.parse_args()
    load_punkt()
    folder = tempfile.mkdtemp()
    print(f"dedup is {build_form()}")
    for name, language, documents in (
        ("English", "eng", english(args.kilobytes * 1000)),
        ("Chinese", "zho", chinese(args.kilobytes * 1000)),
    ):
        megabytes = sum(len(document.encode()) for document in documents) / 1e6
        contestants: dict[str, Callable[[str], object]] = {
            "datatrove's Gopher filter": gophers(language),
            "datatrove's sentence hashes": signatures(language, folder),
            "all signals": repetition_signals,
            "  ours": own_signals,
            "  Gopher's": gopher.gopher_signals,
            "  RedPajama's": redpajama.redpajama_signals,
            "an audit (signals, counts)": measured(folder),
        }
        for work in contestants.values():
            work(documents[0])
        gc.freeze()  # what spaCy has loaded is not to be searched for garbage in everybody's time
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(args.repeat):
            for contestant, work in contestants.items():
                times[contestant].append(cpu_seconds(work, documents))
        speeds = {one: megabytes / statistics.median(found) for one, found in times.items()}
        print(f"{name}, {len(documents)} documents, {megabytes:.2f} MB")
        for contestant, speed in speeds.items():
            ratio = speed / speeds["datatrove's Gopher filter"]
            print(f"  {contestant:28} {speed:7.2f} MB/s   {ratio:5.1f}x")


if __name__ == "__main__":
    main()
