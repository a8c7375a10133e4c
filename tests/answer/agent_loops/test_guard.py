"""The guard for harnesses."""

import pytest

from dedup.answer.agent_loops import AgentGuard, Call


def test_it_nudges_once_and_then_stops() -> None:
    guard = AgentGuard()
    call = ("look_up", {"city": "Delft"})
    actions = [guard.observe(call, "No entry was found.").action for _ in range(8)]
    assert actions == ["continue"] * 3 + ["nudge", "continue", "stop", "stop", "stop"]


def test_a_notice_that_was_appended_does_not_hide_the_loop() -> None:
    guard = AgentGuard()
    result = "No entry was found."
    for _ in range(4):
        verdict = guard.observe(("look_up", "{}"), result)
        if verdict.notice:
            result += "\n\n" + verdict.notice
    assert verdict.action == "nudge"
    assert guard.observe(("look_up", "{}"), result).loop is not None


def test_it_tells_beforehand() -> None:
    guard = AgentGuard()
    for _ in range(4):
        assert guard.before([("look_up", {"city": "Delft"})]) is None
        guard.observe(("look_up", {"city": "Delft"}), "No entry was found.")
    assert guard.before([("look_up", '{"city": "Delft"}')]) is not None
    assert guard.before([("look_up", {"city": "Gouda"})]) is None


def test_another_call_or_a_user_begins_anew() -> None:
    guard = AgentGuard(patience=1)
    step = [Call("look_up", {}, "No entry was found.")]
    for _ in range(5):
        last = guard.observe_step(step)
    assert last.action == "stop"
    assert guard.observe(("search", {}), "3 hits").action == "continue"
    assert [guard.observe_step(step).action for _ in range(4)][-1] == "nudge"
    guard.reset("Do it 30 times.")
    assert {guard.observe_step(step).action for _ in range(30)} == {"continue"}


def test_repeatable_tools_are_left_alone() -> None:
    guard = AgentGuard(["look_up"])
    assert {guard.observe(("look_up", {}), "none").action for _ in range(30)} == {"continue"}


def test_patience_must_be_positive() -> None:
    with pytest.raises(ValueError, match="patience must be 1 or more, got 0"):
        AgentGuard(patience=0)
