"""Texts from public reports, each with the right outcome: missed loops and wrong cuts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedup import FilterConfig, LoopEvent, Removal, RepetitionFilter

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in map(
        json.loads, Path(__file__).with_name("field_cases.jsonl").read_text("utf-8").splitlines()
    )
}
KNOWN = {
    "contract-duties-of-five": "a section of one wording is cut, the fourth time",
    "contract-duties-of-four": "a section of one wording is cut, the fourth time",
    "flood-emoji-mixture": "found late",
    "flood-ha-haa": "not found",
    "long-cycle-code-fence": "found late",
    "ru-ektenia": "a response of the litany is removed",
    "shuffled-status-lines": "found late",
    "zh-keywords-shuffled": "not found",
    "zh-nianfo": "a chant is cut",
    "zh-path-parts-of-seven": "a line of one wording is cut, the seventh time",
}
MAX_CHARS_IN_SMALL_DELTAS = 2500

Result = tuple[str, LoopEvent | None, list[Removal]]


def run(case: dict[str, Any], policy: str, size: int) -> Result:
    config = FilterConfig(policy=policy, edit=case.get("edit", True))  # type: ignore[arg-type]
    done = RepetitionFilter(config, prompt=case.get("prompt"))
    text = case["text"]
    out = (
        "".join(done.feed(text[at : at + size]) for at in range(0, len(text), size)) + done.flush()
    )
    return out, done.loop, done.removed


def faults(
    expected: dict[str, Any], out: str, loop: LoopEvent | None, removed: list[Removal]
) -> Iterator[str]:
    num_removed = sum(removal.end - removal.start for removal in removed)
    if "loop" in expected and (loop is not None) != expected["loop"]:
        yield f"loop {'reported' if loop else 'not reported'}"
    if (
        expected.get("loop")
        and loop
        and not expected.get("onset_min", 0) <= loop.onset <= expected.get("onset_max", loop.onset)
    ):
        yield f"onset {loop.onset}"
    if (
        not expected.get("removed_min_chars", 0)
        <= num_removed
        <= expected.get("removed_max_chars", num_removed)
    ):
        yield f"{num_removed} characters removed"
    yield from (f"lost {kept[:40]!r}" for kept in expected.get("must_keep", ()) if kept not in out)
    yield from (f"kept {gone[:40]!r}" for gone in expected.get("must_go", ()) if gone in out)


def parameters() -> Iterator[object]:
    for name, case in CASES.items():
        if "text" in case and not case.get("debatable"):
            marks = (
                [pytest.mark.xfail(reason=KNOWN[name], strict=True, raises=AssertionError)]
                if name in KNOWN
                else []
            )
            yield pytest.param(case, id=name, marks=marks)


@pytest.mark.parametrize("case", list(parameters()))
def test_the_outcome_is_right_under_every_policy(case: dict[str, Any]) -> None:
    found = {
        policy: list(faults(case["expected"], *run(case, policy, len(case["text"]) or 1)))
        for policy in case["policy"]
    }
    assert not any(found.values()), found


@pytest.mark.parametrize("name", CASES)
def test_deltas_do_not_matter(name: str) -> None:
    case = CASES[name]
    if "text" not in case:
        pytest.skip("for the proxy")
    sizes = [1, 3, 40] if len(case["text"]) <= MAX_CHARS_IN_SMALL_DELTAS else [7]
    for policy in case["policy"]:
        whole = run(case, policy, len(case["text"]) or 1)
        assert all(run(case, policy, size) == whole for size in sizes)


def test_known_faults_are_of_cases_there_are() -> None:
    assert KNOWN.keys() <= CASES.keys()
