"""Guard for harnesses: the same detection where there is no proxy."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dedup.answer.agent_loops.notices import NUDGE, STOP
from dedup.answer.agent_loops.scan import AgentLoop, LoopScan
from dedup.answer.agent_loops.steps import Call, Step

Action = Literal["continue", "nudge", "stop"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Advice on what to do behind a step.

    Args:
        action: `continue`: nothing. `nudge`: append `notice` to the result. `stop`: end the turn.
        loop: The loop that the agent is in.
        notice: A text for the agent; empty where there is nothing to tell it.
    """

    action: Action
    loop: AgentLoop | None = None
    notice: str = ""


_CONTINUE = Verdict("continue")


class AgentGuard:
    """Watches the calls of one agent.

        guard = AgentGuard()
        verdict = guard.observe(("get_status", {"job": 7}), result)
        if verdict.action == "nudge":
            result += "\\n\\n" + verdict.notice

    The first verdict on a loop is `nudge`. If the agent goes on with it for `patience` more copies,
    the verdict is `stop`.

    Args:
        repeatable: Names of tools that are meant to be called again and again.
        patience: Copies of the loop's cycle between `nudge` and `stop`.
    """

    def __init__(self, repeatable: Collection[str] = (), *, patience: int = 2) -> None:
        if patience < 1:
            raise ValueError(f"patience must be 1 or more, got {patience}")
        self._scan = LoopScan(repeatable)
        self._patience = patience
        self._nudged_at: int | None = None  # copies

    def observe(self, call: tuple[str, Any], result: str, *, is_error: bool = False) -> Verdict:
        """Take a call, `(name, arguments)`, with its result; return what to do about it."""
        name, arguments = call
        arguments = copy.deepcopy(arguments)  # which the harness may use again
        return self.observe_step([Call(name, arguments, result, is_error=is_error)])

    def observe_step(self, calls: Sequence[Call], text: str = "") -> Verdict:
        """Take the calls of one turn, made in parallel, or a turn that has only a text."""
        self._scan.feed(Step(list(calls), text))
        loop = self._scan.loop
        if loop is None:
            self._nudged_at = None
            return _CONTINUE
        if self._nudged_at is None:
            self._nudged_at = loop.copies
            return Verdict("nudge", loop, NUDGE)
        if loop.copies - self._nudged_at >= self._patience:
            return Verdict("stop", loop, STOP)
        return Verdict("continue", loop)

    def before(self, calls: Sequence[tuple[str, Any]]) -> AgentLoop | None:
        """Return the loop that calls would go on with, before they are made; None if none."""
        loop = self._scan.loop
        made = [Call(name, arguments, has_result=False) for name, arguments in calls]
        return loop if loop is not None and loop.is_repeated_by(made) else None

    def reset(self, prompt: str = "") -> None:
        """Begin anew: a user has spoken. `prompt` may ask for repetition, which is then allowed."""
        self._scan.reset(prompt)
        self._nudged_at = None
