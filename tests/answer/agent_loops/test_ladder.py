"""The ladder: which rung comes next, and what is reported."""

from typing import Any

import pytest

from dedup.answer.agent_loops import Call, Climb, Ladder, find_loop
from dedup.answer.agent_loops.notices import ANSWER, ANSWER_ZH, NUDGE, NUDGE_ZH, STOP, STOP_ZH
from tests.answer.agent_loops.histories import history, turn

STEP = turn("look_up", {"city": "Delft"}, "No entry was found for this city in the register.")
AGAIN = [Call("look_up", {"city": "Delft"}, has_result=False)]
OTHER = [Call("look_up", {"city": "Gouda"}, has_result=False)]
LOOP = history("chat", *[STEP] * 5)


def climb(*rungs: str, **options: Any) -> Climb:
    found = Ladder(rungs).climb(LOOP, **options)
    assert found is not None
    return found


def test_rungs_are_climbed_in_order() -> None:
    one = climb("stop", "answer", "nudge")
    assert [one.next(AGAIN) for _ in range(4)] == ["nudge", "answer", "stop", None]


def test_an_answer_that_leaves_the_loop_is_given() -> None:
    one = climb("nudge", "answer", "stop")
    assert one.next(OTHER) is None
    assert one.report() is None
    one = climb("nudge", "stop")
    assert one.next(AGAIN) == "nudge"
    assert one.next([], "There is no entry.") is None
    report = one.report()
    assert report is not None
    assert report == {**one.loop.report(), "action": "nudged", "recovered": True}


def test_a_loop_that_goes_on() -> None:
    one = climb("nudge")
    assert one.next(AGAIN) == "nudge"
    assert one.next(AGAIN) is None
    assert (one.action, one.has_recovered) == ("nudged", False)
    one = climb("stop")
    assert one.next(AGAIN) == "stop"
    assert (one.action, one.has_recovered) == ("stopped", None)
    one = climb()
    assert not one.has_rungs
    assert one.next(AGAIN) is None
    assert (one.action, one.has_recovered) == ("measured", None)
    assert one.next(AGAIN) is None
    assert one.has_recovered is None


def test_a_forced_call_leaves_out_answer() -> None:
    one = climb("nudge", "answer", "stop", forces_call=True)
    assert [one.next(AGAIN), one.next(AGAIN)] == ["nudge", "stop"]


def test_turns_without_calls_are_measured_only() -> None:
    says = {"role": "assistant", "content": "I will look into the register of the city now."}
    asks = {"role": "user", "content": "Continue."}
    messages = [{"role": "user", "content": "Find Delft."}, *[says, asks] * 6]
    found = find_loop(messages)
    assert found is not None
    assert found.kind == "message"
    one = Ladder().climb(messages)
    assert one is not None
    assert not one.has_rungs


@pytest.mark.parametrize(
    ("prompt", "notices"),
    [("Find Delft.", [NUDGE, ANSWER, STOP]), ("查一下代尔夫特。", [NUDGE_ZH, ANSWER_ZH, STOP_ZH])],
)
def test_notices(prompt: str, notices: list[str]) -> None:
    one = Ladder().climb([{"role": "user", "content": prompt}, *LOOP[1:]])
    assert one is not None
    found = []
    while one.next(AGAIN):
        found.append(one.notice)
    assert found == notices


def test_options() -> None:
    assert Ladder(repeatable=["look_up"]).climb(LOOP) is None
    with pytest.raises(
        ValueError, match="rungs must be a list of nudge, answer or stop, got 'scold'"
    ):
        Ladder("scold")
    with pytest.raises(TypeError, match="repeatable must be a collection of names, got 'look_up'"):
        Ladder(repeatable="look_up")
