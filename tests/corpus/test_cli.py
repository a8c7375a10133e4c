"""The commands: formats, reports, exit codes, and what is missing or wrong."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner, Result
from warcio.warcwriter import WARCWriter

from dedup.cli import corpus as command
from dedup.cli import main

CLEAN = "The harbour lay quiet under the first snow. The boats were drawn up on the stones."
LOOPING = "It was cold. " + "The captain looked at the sky and said nothing. " * 12
TEXTS = [CLEAN, LOOPING]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["corpus", *arguments, "--workers", "1"])


def as_jsonl(folder: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))


def as_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), folder / "a.parquet")


def as_text(folder: Path) -> None:
    (folder / "a.txt").write_text(TEXTS[0])
    (folder / "b.txt.gz").write_bytes(gzip.compress(TEXTS[1].encode()))


def as_warc(folder: Path) -> None:
    with (folder / "a.warc.wet.gz").open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for number, text in enumerate(TEXTS):
            record = writer.create_warc_record(
                f"https://site{number}.example/page",
                "conversion",
                payload=io.BytesIO(text.encode()),
                warc_content_type="text/plain",
                warc_headers_dict={"WARC-Identified-Payload-Type": "text/plain"},
            )
            writer.write_record(record)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of warcio
@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_text, as_warc])
def test_every_format_is_read(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    done = run("audit", str(tmp_path / "in"), "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "documents that loop           1 (exact 1)" in done.output
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["totals"]["documents"] == 2
    page = (tmp_path / "out/report.html").read_text()
    assert "loop_char_frac" in page
    assert "<script" not in page
    assert "http://" not in page


def test_invalid_rows_are_passed_over_and_counted(tmp_path: Path) -> None:
    good = json.dumps({"text": CLEAN}).encode()
    rows = [good, b"[1]", b"{broken", b'{"text": "\xff"}', b"", b'{"text": null}', good]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    done = run("audit", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "documents                     2 (" in done.output
    assert "invalid rows                  3, passed over" in done.output


def test_a_dataset_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "set").mkdir()
    as_parquet(tmp_path / "set")
    paths = (str(tmp_path / "set"), "-o", str(tmp_path / "out"))
    done = run("audit", *paths, "--format", "dataset")
    assert done.exit_code == 0, done.output
    assert "documents that loop           1 (exact 1)" in done.output


def test_the_exit_code_tells_whether_too_much_repeats(tmp_path: Path) -> None:
    as_jsonl(tmp_path)
    paths = (str(tmp_path / "a.jsonl.zst"), "-o", str(tmp_path / "out"))
    assert run("audit", *paths, "--fail-above", "0.99").exit_code == 0
    failed = run("audit", *paths, "--fail-above", "0.01")
    assert failed.exit_code == 1
    assert "failed: the filter would take 87." in failed.output


def test_clean_says_what_it_did(tmp_path: Path) -> None:
    as_jsonl(tmp_path)
    done = run("clean", str(tmp_path), "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "excluded  1 documents\n  loop_char_frac 1" in done.output


def test_a_page_shows_what_is_in_the_texts(tmp_path: Path) -> None:
    row = {"text": "<script>alert(1)</script> again and again. " * 30}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert run("audit", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "out")).exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "no/such/folder"], "no/such/folder: no such file or folder"),
        (["audit", "{empty}"], "no file that ends in .jsonl, .parquet, .warc, .txt"),
        (["audit", "x", "--threshold", "loops=0.1"], "loops is not a signal"),
        (["audit", "x", "--threshold", "loop_char_frac"], "is not NAME=VALUE"),
        (["audit", "{wrong}", "-o", "{out}"], "no document with a text (field 'text')"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.jsonl").write_text('{"body": "A text."}\n')
    names: dict[str, Any] = {
        "empty": tmp_path / "empty",
        "wrong": tmp_path / "wrong.jsonl",
        "out": tmp_path / "out",
    }
    done = run(*(argument.format(**names) for argument in arguments))
    assert done.exit_code != 0
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_NEEDED", ("datatrove", "no_such_package"))
    done = run("audit", str(tmp_path))
    assert done.output == "Error: no_such_package missing: pip install 'dedup-llm[corpus]'\n"
