"""The transcripts of agents are legal requests, and the harnesses' rules act at their thresholds."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import _harnesses as rules
from _harnesses import Called, Rule, Step
from _transcripts.checks import problems
from agent_loops import Outcome, judged, steps
from agent_transcripts import FILE, built, read

Line = dict[str, Any]


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return read([FILE])


def test_the_file_is_what_the_stories_build(lines: list[Line]) -> None:
    assert built() == lines


def test_transcripts_are_legal_and_marked_right(lines: list[Line]) -> None:
    assert [(line["id"], problems(line)) for line in lines if problems(line)] == []
    assert len({line["id"] for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda line: line.update({"from": line["from"] + 1}), "`from` is not"),
        (lambda line: line.update(fourth=line["fourth"] + 2), "turns up to `fourth`"),
        (lambda line: line["messages"].pop(3), "before the results"),
        (lambda line: line["messages"].pop(4), "result of no call"),
        (lambda line: line["messages"].insert(3, {"role": "robot"}), "role robot"),
    ],
)
def test_the_checker_sees_what_is_wrong(change: Any, problem: str) -> None:
    line = next(line for line in built() if line["id"] == "exact-read-angular-component")
    assert problems(line) == []
    change(line)
    assert any(problem in found for found in problems(line))


def called(names: str, *, result: str = "x", error: bool = False) -> list[Step]:
    """Return a turn for each name; `_` is a user message."""
    return [
        Step(user=True) if name == "_" else Step(calls=(Called(name, {}, result, error),))
        for name in names
    ]


@pytest.mark.parametrize(
    ("rule", "silent", "acts"),
    [
        (rules.gemini_cli, "AAAA", "AAAAA"),
        (rules.gemini_cli, "AAAA_AAAA", "ABABABABAB"),
        (rules.gemini_cli, "ABCDEF" * 5, "ABCDE" * 5),
        (rules.opencode_across, "AABA", "AAA"),
        (rules.cline_notice, "AAB", "AAA"),
        (rules.cline, "AAAA", "AA_AAA"),
        (rules.openhands, "AAA_AAA", "AAAA"),
        (rules.openhands, "ABABA", "ABABAB"),
        (rules.hermes_notice, "AA_AA", "AAA"),
        (rules.hermes, "ABC" * 4, "ABC" * 5),
        (rules.oh_my_pi, "AAAA", "AA_AAA"),
    ],
)
def test_a_rule_acts_at_its_threshold(rule: Rule, silent: str, acts: str) -> None:
    assert not rule(called(silent))
    assert rule(called(acts))


def test_opencode_counts_the_calls_of_one_message() -> None:
    call = Called("A", {}, "x")
    assert rules.opencode([Step(calls=(call, call, call))])
    assert not rules.opencode(called("AAAAAA"))


def test_errors_count_for_openhands_and_hermes() -> None:
    failing = [Step(calls=(Called("q", {"n": n}, f"no {n}", True),)) for n in range(8)]
    assert rules.openhands_notice(called("AAA", error=True))
    assert not rules.openhands(called("AAA", error=True))
    assert rules.hermes(failing)
    assert not rules.hermes(failing[:7])


def test_cline_lets_rising_percentages_go_on() -> None:
    percents = [Step(calls=(Called("A", {}, f"{n}%"),)) for n in range(60)]
    changing = [Step(calls=(Called("A", {}, f"line {n}"),)) for n in range(20)]
    assert not rules.cline(percents)
    assert not rules.cline(changing[:19])
    assert rules.cline(changing)


def test_all_apis_give_the_same_steps(lines: list[Line]) -> None:
    for line in lines:
        items = line["input" if line["api"] == "responses" else "messages"]
        turns = [step for step in steps(line, len(items)) if not step.user]
        assert all(step.calls or step.text for step in turns), line["id"]
        assert all(call.name for step in turns for call in step.calls), line["id"]


def test_verdicts_are_asked_for_where_the_model_was(lines: list[Line]) -> None:
    """A detector that knows the marks finds every loop and nothing else."""

    def oracle(line: Line, end: int) -> bool:
        return line["label"] == "loop" and end >= int(line["fourth"])

    outcomes: list[Outcome] = [judged(line, oracle) for line in lines]
    assert all(outcome.fourth and outcome.end for outcome in outcomes if outcome.loop)
    assert not any(outcome.early or outcome.at is not None for outcome in outcomes)
