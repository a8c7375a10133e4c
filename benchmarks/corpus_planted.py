"""Audit clean texts with planted repetition, and see whether it is ranked before all that is clean.

    python benchmarks/corpus_planted.py --clean BOOKS /usr/share/doc --loops LOOPS.jsonl
    python benchmarks/corpus_planted.py                # the standard library's documentation, own loops

Clean texts are cut into documents of some 2,500 characters; each file or folder given is a source.
Planted: one document in a thousand 99 times more, a line of boilerplate in every twentieth document,
a template in every thirtieth, and each row's `text` of the loops, a source a file.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dedup.corpus.jobs import Job, audit

HERE = Path(__file__).parent
DOCUMENT_CHARS, COPIES = 2500, 100
BOILERPLATE = (
    "Subscribe to our newsletter to receive the best stories of the week in your inbox.",
    "欢迎订阅我们的每周通讯，第一时间获取最新的精彩内容和活动信息。",
)
TEMPLATES = (
    "Your parcel with the number {} left our warehouse and will arrive within {} days.",
    "您的包裹编号为{}的货物已经离开我们的仓库，预计将在{}天之内送达您的手中。",
)
Row = dict[str, str]


def texts_in(path: Path) -> Iterator[str]:
    """Yield the texts of a file, or of all files in a folder that are UTF-8."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            yield file.read_text("utf-8")
        except (UnicodeDecodeError, OSError):
            continue


def documents(text: str) -> Iterator[str]:
    """Yield a text's documents, each of whole lines."""
    part: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size >= DOCUMENT_CHARS:
            yield "".join(part)
            part, size = [], 0
    if size >= DOCUMENT_CHARS // 4:
        yield "".join(part)


def clean_rows(paths: list[Path], most: int) -> list[Row]:
    """Return at most `most` documents of each source, none of which begins as another does."""
    rows = []
    for path in paths:
        found = {doc[:200]: doc for text in texts_in(path) for doc in documents(text)}
        chosen = list(found.values())
        random.Random(0).shuffle(chosen)
        rows += [{"text": doc, "source": f"clean {path.name}"} for doc in chosen[:most]]
    return rows


def plant(rows: list[Row], loops: list[Path]) -> tuple[list[Row], list[str]]:
    """Return the rows with what is planted in them, and the documents that are copied."""
    rng = random.Random(1)
    copied = [rows[number]["text"] for number in range(0, len(rows), 1000)]
    planted = []
    for number, row in enumerate(rows):
        text, language = row["text"], number // 60 % 2
        if number % 20 == 7:
            text += "\n" + BOILERPLATE[language]
        elif number % 30 == 11:
            text += "\n" + TEMPLATES[language].format(rng.randrange(10**6), number % 9 + 2)
        planted.append({**row, "text": text})
    for text in copied:
        planted += [{"text": text, "source": "planted copies"}] * (COPIES - 1)
    for path in loops:
        for line in path.read_text("utf-8").splitlines():
            planted.append({"text": json.loads(line)["text"], "source": f"planted {path.stem}"})
    rng.shuffle(planted)
    return planted, copied


def show(results: dict[str, Any], rows: list[Row], copied: list[str]) -> None:
    """Print what was found, in the audit's own order."""
    sizes = Counter(row["source"] for row in rows)
    print(f"{'source, as ranked':40} {'documents':>9} {'in loops':>9} {'taken':>6}")
    for row in results["sources"]:
        looping = row["looping_chars"] / row["chars"]
        print(
            f"{row['source']:40} {sizes[row['source']]:9} {looping:9.2%} {row['taken_documents']:6}"
        )
    sentences = results["repeats"]["sentences"]
    first = [row["example"] for row in results["repeats"]["documents"]["texts"]]
    is_copied = [any(text.startswith(one[:200]) for text in copied) for one in first]
    print(f"\ncopied documents: {len(copied)}; first in the list: {sum(is_copied[: len(copied)])}")
    own = "".join(copied)
    others = [row for row in sentences["texts"] if row["example"].strip() not in own]
    for name, begins in (("boilerplate", BOILERPLATE), ("templates", TEMPLATES)):
        found = others if name == "boilerplate" else sentences["templates"]
        for begin in begins:
            key = begin.split("{}")[0]
            ranks = [n for n, row in enumerate(found, 1) if key in row["example"]]
            print(f"{name}: rank {ranks[0] if ranks else None} ({begin[:30]}...)")
    print("\nfirst sentences:", *(row["example"].strip()[:90] for row in others[:6]), sep="\n  ")
    for row in results["worst"]:
        if row["exceeded"] and row["source"].startswith("clean"):
            print("taken of", row["source"], row["exceeded"], repr(row["example"][:200]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    stdlib = Path(random.__file__).parent
    parser.add_argument(
        "--clean", nargs="+", type=Path, default=[stdlib / "pydoc_data", stdlib / "asyncio"]
    )
    parser.add_argument("--loops", nargs="*", type=Path, default=[])
    parser.add_argument("--most", type=int, default=2000, help="documents of a source")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    rows, copied = plant(clean_rows(args.clean, args.most), args.loops)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "planted.jsonl"
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_text("\n".join(lines) + "\n", "utf-8")
        show(audit(Job(str(path), f"{name}/out", workers=args.workers)), rows, copied)


if __name__ == "__main__":
    main()
