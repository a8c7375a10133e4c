"""`dedup audit`: statistics, gate and report, and the command with real models and sockets."""

import html.parser
import json
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dedup.cli import main
from dedup_server.audit.answers import AnswersFile
from dedup_server.audit.compare import METRICS, Audit, audit, failures, intervals
from dedup_server.audit.page import html as page
from dedup_server.audit.questions import Answer, Parameters, Question, read_prompts
from dedup_server.audit.report import as_json, lines
from dedup_server.engines.local.engine import DEMO_MODEL
from dedup_server.errors import StartupError
from tests.demo_server import free_port
from tests.server.mock_upstream import LOOP, NOVEL, proxy, upstream
from tests.server.tiny_model import save_tiny_model

PARAMETERS = Parameters(max_tokens=64, temperature=0.7)
HOSTILE = (
    "<script>alert(1)</script><!-- \u202e\u2066 \x1b[2J\x1b]0;owned\x07 &amp; \"'> \ud800 "
    + "字" * 5000
)
CHINESE = "宝玉正在园中看花，忽见一个小丫头跑来。"


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    done = CliRunner().invoke(main, ["audit", *arguments], env=environment)
    return done.exit_code, done.stdout, done.stderr


def audited(
    *texts: list[str], models: list[str] | None = None, prompts: list[str] | None = None
) -> Audit:
    """Return an audit of `texts`: of each model, an answer to each prompt."""
    names = models or [f"model-{number}" for number in range(len(texts))]
    asked = prompts or [f"prompt {number}" for number in range(len(texts[0]))]
    return audit(
        names, asked, PARAMETERS, 0, [[Answer(text, "stop") for text in row] for row in texts]
    )


def novel(number: int) -> str:
    return f"{NOVEL} That was on day {number}."


# Statistics and gate


def test_intervals_contain_the_mean_and_are_reproducible() -> None:
    column = [float(number % 3 == 0) for number in range(90)]
    [(low, high)] = intervals([column], seed=1)
    assert 0.2 < low < 1 / 3 < high < 0.47
    assert intervals([column], seed=1) == [(low, high)]
    assert intervals([[0.25] * 10], seed=1) == [(0.25, 0.25)]


def test_a_model_compared_with_itself_passes() -> None:
    texts = [LOOP * 30 if number % 4 == 0 else novel(number) for number in range(40)]
    done = audited(texts, texts)
    assert {change.change for change in done.comparisons[0].changes} == {0.0}
    assert failures(done, None, 0.0) == []


def test_a_model_that_loops_more_fails_with_the_difference() -> None:
    good = [novel(number) for number in range(40)]
    bad = [LOOP * 30 if number % 2 else text for number, text in enumerate(good)]
    found = failures(audited(good, good, bad), None, 0.05)
    assert [one.split(" rose")[0] for one in found] == [
        "model-2: answers that loop",
        "model-2: rep-4",
    ]
    assert "rose by 50.0 points" in found[0]
    assert failures(audited(good, bad), None, 0.9) == []
    assert failures(audited(bad, good), None, 0.0) == []  # better is no failure


def test_a_rise_that_may_be_chance_passes() -> None:
    good = [novel(number) for number in range(40)]
    assert failures(audited(good, [LOOP * 30, *good[1:]]), None, 0.0) == []


def test_max_loop_rate_holds_for_later_models_or_one_that_is_alone() -> None:
    good = [novel(number) for number in range(10)]
    bad = [LOOP * 30, *good[1:]]
    assert failures(audited(bad, good), 0.05, 1) == []
    assert len(failures(audited(good, bad), 0.05, 1)) == 1
    assert failures(audited(good, bad), 0.1, 1) == []
    assert len(failures(audited(bad), 0.05, 1)) == 1


def test_samples_of_a_prompt_are_averaged() -> None:
    answers = [[Answer(text, "stop") for text in (LOOP * 30, NOVEL, NOVEL, NOVEL)]]
    done = audit(["one"], ["a", "b"], PARAMETERS, 0, answers)
    assert done.by_prompt(0, METRICS[0]) == [0.5, 0.0]


def test_empty_answers_are_measured() -> None:
    done = audited(["", NOVEL], ["", ""])
    assert failures(done, 0.0, 0.0) == []
    assert "passed" in "\n".join(lines(done))
    assert page(done)


# Report


class Seen(html.parser.HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Audit:
    prompts = [f"{HOSTILE} {number}" for number in range(3)]
    done = audited(
        [NOVEL] * 3,
        [HOSTILE] * 3,
        models=[f"{HOSTILE[:60]} one", f"{HOSTILE[:60]} two"],
        prompts=prompts,
    )
    return replace(done, failures=failures(done, 0.0, 0.0))


def test_hostile_text_is_escaped_in_html() -> None:
    written = page(hostile())
    seen = Seen(written)
    assert not seen.tags & {"script", "img", "iframe", "object", "link"}
    assert not any(name.startswith("on") or name in ("href", "src") for name in seen.attributes)
    assert "<script>alert(1)</script>" in seen.text
    assert "\\u202e" in seen.text
    assert "\\x1b[2J" in seen.text
    assert not {"\x1b", "\u202e", "\u2066", "\x07", "\ud800"} & set(written)
    assert len(written) < 150_000  # of long texts the beginning


def test_hostile_text_is_escaped_on_a_terminal() -> None:
    for line in lines(hostile()):
        bare = click.unstyle(line)
        assert bare.isprintable()
        assert len(bare) < 600
    assert "\\x1b[2J" in "\n".join(lines(hostile()))


def test_json_has_all_figures() -> None:
    good = [novel(number) for number in range(30)]
    done = audited(good, [LOOP * 30] * 30)
    done = replace(done, failures=failures(done, None, 0.05))
    figures = json.loads(json.dumps(as_json(done)))
    assert figures["passed"] is False
    assert figures["comparisons"][0]["changes"]["loop_rate"] == {
        "change": 1.0,
        "low": 1.0,
        "high": 1.0,
    }
    assert len(figures["answers"]) == 60
    assert figures["answers"][-1]["loop"]["kind"] == "exact"


def test_charts_are_well_formed_and_the_page_loads_nothing() -> None:
    written = page(
        audited([NOVEL, CHINESE] * 3, [LOOP * 30, "我在河边走了很久，然后又走回来。" * 20] * 3)
    )
    assert written.count("<svg") == written.count("</svg>") > 8
    assert "NaN" not in written
    assert "http://" not in written.replace("http://www.w3.org", "")
    assert CHINESE in written


# Prompts and answers


def test_prompts(tmp_path: Path) -> None:
    text, rows, broken, empty = (
        tmp_path / name for name in ("a.txt", "b.jsonl", "c.jsonl", "d.txt")
    )
    text.write_text(f"\ufeffOne?\r\n\n{CHINESE}\nOne?\nwith \u2028 in it\n", encoding="utf-8")
    assert read_prompts(text) == ["One?", CHINESE, "with \u2028 in it"]
    rows.write_text(
        json.dumps({"prompt": "two\nlines", "id": 1}) + "\n\n" + json.dumps({"prompt": CHINESE}),
        encoding="utf-8",
    )
    assert read_prompts(rows) == ["two\nlines", CHINESE]
    broken.write_text('{"prompt": "a"}\n{"prompt": 5}\n')
    empty.write_text("\n \n")
    for path, expected in [
        (broken, "line 2"),
        (empty, "no prompts"),
        (tmp_path / "none", "No such file"),
        (tmp_path, "directory"),
    ]:
        with pytest.raises(StartupError, match=expected):
            read_prompts(path)


def test_answers_are_stored_and_an_incomplete_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first, second = Question(CHINESE, 1), Question("two", 1)
    file = AnswersFile(path)
    file.add("m", first, PARAMETERS, Answer(HOSTILE, "stop"))
    file.add("m", second, PARAMETERS, Answer("b", None))
    path.write_bytes(path.read_bytes()[:-5])
    again = AnswersFile(path)
    assert again.get("m", first, PARAMETERS) == Answer(HOSTILE, "stop")
    assert again.get("m", second, PARAMETERS) is None
    assert again.get("other", first, PARAMETERS) is None
    assert again.get("m", Question(CHINESE, 2), PARAMETERS) is None
    assert again.get("m", first, replace(PARAMETERS, temperature=0.8)) is None
    again.add("m", second, PARAMETERS, Answer("c", None))
    assert AnswersFile(path).get("m", second, PARAMETERS) == Answer("c", None)
    path.write_text('{"id": 1}\n')
    with pytest.raises(StartupError, match="line 1"):
        AnswersFile(path)


# The command


def prompts_file(folder: Path, count: int = 6) -> str:
    path = folder / "prompts.txt"
    path.write_text("".join(f"{CHINESE} {number}\n" for number in range(count)), encoding="utf-8")
    return str(path)


def test_local_models_resumed(tmp_path: Path) -> None:
    prompts, kept, made = prompts_file(tmp_path, 3), tmp_path / "kept.jsonl", tmp_path / "page.html"
    asked = [
        "--prompts",
        prompts,
        "--max-tokens",
        "24",
        "--answers",
        str(kept),
        "--html",
        str(made),
    ]
    demo = str(DEMO_MODEL)
    code, out, errors = run("--model", demo, "--model", demo, *asked)
    assert (code, errors) == (0, "")
    assert "demo_model (1)" in out
    assert "passed" in out
    written = kept.read_bytes()
    assert written.count(b"\n") == 3  # one model, asked once
    assert made.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    kept.write_bytes(written[:-30])
    assert run("--model", demo, "--model", demo, *asked)[:2] == (0, out)
    assert sorted(kept.read_bytes().splitlines()) == sorted(
        written.splitlines()
    )  # the same seed, the same answer
    untemplated = str(save_tiny_model(tmp_path / "tiny"))
    code, _, errors = run("--model", untemplated, *asked)
    assert code == 2
    assert "--raw" in errors
    raw = tmp_path / "raw.txt"
    raw.write_text("the cat sat\n")
    code, out, errors = run(
        "--model", untemplated, "--prompts", str(raw), "--max-tokens", "8", "--raw"
    )
    assert (code, errors) == (0, "")


def test_urls_and_the_gate(tmp_path: Path) -> None:
    prompts, numbers = prompts_file(tmp_path), tmp_path / "out.json"
    with upstream() as mock:
        code, out, errors = run(
            "--model", f"{mock.url}#novel", "--model", f"{mock.url}#loop",
            "--prompts", prompts, "--json", str(numbers),
            "--api-key-env", "AUDIT_KEY", AUDIT_KEY="s3cret",
        )  # fmt: skip
        assert (code, errors) == (1, "")
        assert "FAILED" in out
        assert "+100.0%" in out
        assert json.loads(numbers.read_text())["passed"] is False
        assert "s3cret" not in out + numbers.read_text()
        assert set(mock.authorizations) == {"Bearer s3cret"}
        assert all(
            "repetition" not in body and body["seed"] == 0 and body["top_p"] == 1
            for body in mock.bodies
        )
        assert (
            run("--model", f"{mock.url}#loop", "--prompts", prompts, "--max-loop-rate", "0.5")[0]
            == 1
        )
        assert run("--model", f"{mock.url}#loop", "--prompts", prompts)[0] == 0


def test_a_dedup_server_is_asked_not_to_filter(tmp_path: Path) -> None:
    with upstream() as mock, proxy(mock.url) as url:
        code, out, _ = run(
            "--model",
            f"{url}/v1#loop",
            "--prompts",
            prompts_file(tmp_path, 2),
            "--max-loop-rate",
            "0",
        )
        assert code == 1
        assert "100.0%" in out
        assert len(mock.bodies) == 2


def test_errors_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path, 2)
    away = f"http://127.0.0.1:{free_port()}/v1"
    with upstream() as mock:
        for arguments, expected in [
            (["--model", str(tmp_path / "none")], "no such folder"),
            (["--model", f"{away}#m"], "cannot be reached"),
            (["--model", mock.url], "novel, loop"),
            (["--model", f"{mock.url}#other"], "there is no model 'other'"),
            (["--model", "ftp://h"], "not the URL"),
            (["--model", mock.url, "--prompts", str(tmp_path / "none.txt")], "No such file"),
            (["--model", mock.url, "--html", str(tmp_path / "none" / "x.html")], "no folder"),
            (["--model", mock.url, "--answers", str(tmp_path)], "directory"),
            (["--model", mock.url, "--api-key-env", "NOT_SET"], "NOT_SET"),
            (["--model", mock.url, "--samples", "2", "--temperature", "0"], "--samples"),
        ]:
            code, out, errors = run(
                *(arguments if "--prompts" in arguments else [*arguments, "--prompts", prompts])
            )
            assert (code, out, errors.count("\n")) == (2, "", 1), (arguments, errors)
            assert errors.startswith("dedup: error: ")
            assert expected in errors
    assert run("--prompts", prompts)[0] == 2
    assert run("--model", "x")[0] == 2


def test_a_refusal_names_the_prompt(tmp_path: Path) -> None:
    hostile_prompts = tmp_path / "hostile.jsonl"
    hostile_prompts.write_text(json.dumps({"prompt": "\x1b[2J\u202eHi"}) + "\n")
    tiny_context = str(save_tiny_model(tmp_path / "tiny"))
    long = tmp_path / "long.txt"
    long.write_text("the cat sat on the mat " * 200)
    code, _, errors = run("--model", tiny_context, "--raw", "--prompts", str(long))
    assert (code, errors.count("\n")) == (2, 1)
    assert "no answer to 'the cat sat" in errors
    code, out, _ = run(
        "--model", tiny_context, "--raw", "--prompts", str(hostile_prompts), "--max-tokens", "5"
    )
    assert code == 0
    assert not {"\x1b", "\u202e"} & set(out)
