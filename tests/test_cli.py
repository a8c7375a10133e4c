"""The command line, as a shell runs it, with real processes and pipes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dedup.terminal import width
from tests.demo_server import clean_environment, free_port

DEDUP = [sys.executable, "-m", "dedup"]
A = "The river had risen in the night."
B = "Nobody remembered such a flood."


def dedup(*arguments: str, given: bytes = b"") -> tuple[int, bytes, str]:
    """Run `dedup`; return the exit code, standard output and standard error."""
    done = subprocess.run(
        [*DEDUP, *arguments],
        input=given,
        capture_output=True,
        check=False,
        timeout=60,
        env=clean_environment(),
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_the_version_says_which_form_runs() -> None:
    code, out, _ = dedup("--version")
    assert code == 0
    assert re.fullmatch(rb"dedup \d+\.\d+\.\d+ \((compiled|interpreted)\)\n", out)


def test_filter_text() -> None:
    assert dedup("filter", given=f"{A} {B} {A}\n".encode()) == (0, f"{A} {B}\n".encode(), "")


def test_filter_obeys_policy_and_on_loop() -> None:
    text = f"{A} " + "and the man of the house " * 40 + f"\n\n{B}\n"
    assert dedup("filter", "--policy", "off", given=text.encode())[1] == text.encode()
    assert B not in dedup("filter", given=text.encode())[1].decode()
    assert B in dedup("filter", "--on-loop", "skip", given=text.encode())[1].decode()


def test_filter_gives_what_it_can_before_the_input_ends() -> None:
    with subprocess.Popen(
        [*DEDUP, "filter"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{A}\n{B}\n".encode())
        process.stdin.flush()
        assert os.read(process.stdout.fileno(), 100).startswith(A[:20].encode())
        process.stdin.close()
        process.stdout.read()


def test_filter_lines_names_the_wrong_ones_and_answers_the_others() -> None:
    lines = [
        json.dumps({"id": "a", "text": f"{A} {A}"}).encode(),
        b"{broken",
        b'\xff{"text": "x"}',
        b"[1]",
        b'{"id": "b"}',
        b'{"id": "c", "text": 5}',
        b"",
        b'{"id": "\\ud800", "text": "half a pair \\ud800"}',
        json.dumps({"id": "d", "text": "我倒没个什么，" * 40}).encode(),
    ]
    code, out, errors = dedup("filter", "--jsonl", given=b"\n".join(lines))
    first, half, last = map(json.loads, out.splitlines())
    assert code == 1
    assert first == {
        "id": "a",
        "text": A,
        "loop": None,
        "removed": [{"start": 33, "end": 67, "kind": "sentence", "first_start": 0}],
    }
    assert half["text"] == "half a pair \ud800"
    assert last["loop"]["kind"] == "exact"
    starts = [line.split(":")[0] for line in errors.splitlines()]
    assert starts == ["line 2", "line 3", "line 4", "line 5", "line 6"]
    assert "invalid JSON" in errors
    assert "invalid UTF-8" in errors


def test_wrong_bytes_in_text_are_named_and_replaced() -> None:
    code, out, errors = dedup("filter", given=b"one\ntwo \xff\xfe\nthree\nfour \xe4\n")
    assert (code, out.decode()) == (1, "one\ntwo \ufffd\ufffd\nthree\nfour \ufffd\n")
    assert errors.splitlines() == ["line 2: invalid UTF-8", "line 4: invalid UTF-8"]


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    line = json.dumps({"id": 1, "text": A}) + "\n"
    with subprocess.Popen(
        [*DEDUP, "filter", "--jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(line.encode() * 5000, timeout=60)
    assert (process.returncode or 0, errors) == (0, b"")


def test_score_prints_a_table_with_the_worst_first(tmp_path: Path) -> None:
    looping, answers = tmp_path / "looping.txt", tmp_path / "answers.jsonl"
    looping.write_text("我在河边走了很久，然后又走回来。" * 20, encoding="utf-8")
    rows = [
        {"id": "新的一段中文", "text": "夜深了，屋里只点着一盏灯。"},
        {"text": f"{A} {A}"},
        {"id": "\x1b[2J\u202e", "text": B},
    ]
    answers.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    code, out, errors = dedup("score", str(looping), str(answers))
    heading, first, second, *others, total = out.decode().splitlines()
    assert (code, errors) == (0, "")
    assert heading.split() == [
        "text",
        "rep-4",
        "distinct-2",
        "dup.",
        "sentences",
        "loop",
        "onset",
        "chars",
    ]
    assert first.split()[-3:] == ["exact", "0", "320"]
    assert second.split()[-4:] == ["0.500", "-", "-", "67"]
    assert "\x1b" not in out.decode()
    assert "\u202e" not in out.decode()
    assert total.startswith("all 4: means, loops")
    assert total.split()[-2:] == ["1", str(320 + 67 + 13 + len(B))]
    assert {width(line) for line in (heading, first, second, *others, total)} == {width(heading)}


def test_score_reads_standard_input_as_text_or_json_lines() -> None:
    code, out, _ = dedup("score", given=f"{A} {A}\n".encode())
    assert code == 0
    assert out.decode().splitlines()[1].startswith("standard input")
    assert "0.500" in out.decode()
    code, out, errors = dedup(
        "score", given=json.dumps({"id": 7, "text": A}).encode() + b"\n{broken\n"
    )
    assert code == 1
    assert out.decode().splitlines()[1].split()[0] == "7"
    assert errors.startswith("line 2: invalid JSON")
    code, out, errors = dedup("score", given=b"one\ntwo \xff\n")
    assert (code, errors) == (1, "line 2: invalid UTF-8\n")
    assert len(out.splitlines()) == 2


def test_score_lines(tmp_path: Path) -> None:
    line = json.dumps({"id": 7, "text": f"{A} {A}"}).encode()
    _, out, _ = dedup("score", "--jsonl", given=line)
    assert json.loads(out)["id"] == 7
    assert json.loads(out)["duplicate_sentences"] == 0.5
    file = tmp_path / "answers.jsonl"
    file.write_bytes(line)
    assert dedup("score", "--jsonl", str(file), str(file)) == (0, out + out, "")
    assert dedup("score", "no-such-file")[0] == 2


@pytest.mark.parametrize("command", [[], ["serve"], ["filter"], ["score"], ["watch"], ["audit"]])
def test_help(command: list[str]) -> None:
    code, out, _ = dedup(*command, "--help")
    assert code == 0
    assert b"Usage" in out


def test_serve_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    unknown, broken, empty, bert = (
        tmp_path / name for name in ("unknown.toml", "broken.toml", "empty", "bert")
    )
    unknown.write_text('polcy = "strict"\n')
    broken.write_text("port = \n")
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "llama"}')
    bert.mkdir()
    (bert / "config.json").write_text(
        '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}'
    )
    (bert / "model.safetensors").write_bytes(b"")
    port = str(free_port())
    for arguments, expected in [
        (["--config", str(unknown)], "polcy"),
        (["--config", str(broken)], "TOML"),
        (["--config", str(tmp_path / "none.toml")], "none.toml"),
        (["--upstream", "no url"], "--upstream"),
        (["--model", str(tmp_path / "none")], "no such folder"),
        (["--model", str(empty)], "no weights"),
        (["--model", str(bert)], "cannot generate text"),
    ]:
        code, _, errors = dedup("serve", "--port", port, *arguments)
        assert code == 1, arguments
        lines = [line for line in errors.splitlines() if not line.startswith("loading")]
        assert len(lines) == 1, errors
        assert lines[0].startswith("dedup: error: ")
        assert expected in lines[0]


def test_a_line_nested_too_deeply_is_named_and_the_others_go_on() -> None:
    lines = (
        '{"id": 1, "text": '
        + "[" * 100_000
        + '\n{"id": 2, "text": "ok"}\n{"id": NaN, "text": "a"}\n{"id": 3, "text": "ok"}\n'
    )
    for command in ("filter", "score"):
        code, out, errors = dedup(command, "--jsonl", given=lines.encode())
        assert code == 1
        assert [json.loads(line)["id"] for line in out.splitlines()] == [2, 3]
        assert errors.splitlines() == [
            "line 1: invalid JSON: nested too deeply",
            "line 3: invalid JSON: NaN is not a number",
        ]


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*DEDUP, "filter"], input=b"hi", stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: standard output: No space left on device\n"
