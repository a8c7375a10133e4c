"""The rungs with which an agent is led out of a loop, and the order in which they are climbed.

    answer -> does it go on with the loop? -> no: it is given
                                              yes: nudge -> answer -> stop, as far as allowed

A history that loops is left alone: only an answer that goes on with the loop is asked for again.
"""

import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Literal

from dedup.answer.agent_loops import notices
from dedup.answer.agent_loops.finding import LoopFinder
from dedup.answer.agent_loops.scan import AgentLoop
from dedup.answer.agent_loops.steps import Call
from dedup.answer.conversation import last_prompt

Rung = Literal["nudge", "answer", "stop"]
Action = Literal["measured", "nudged", "answered", "stopped"]

RUNGS: Final[tuple[Rung, ...]] = ("nudge", "answer", "stop")
ACTIONS: Final[dict[Rung, Action]] = {"nudge": "nudged", "answer": "answered", "stop": "stopped"}
_NOTICES: Final[dict[Rung, tuple[str, str]]] = {
    "nudge": (notices.NUDGE, notices.NUDGE_ZH),
    "answer": (notices.ANSWER, notices.ANSWER_ZH),
    "stop": (notices.STOP, notices.STOP_ZH),
}
_WANTED: Final = "must be a list of nudge, answer or stop"


def read_ladder(value: object) -> object:
    """Return a list of rungs without "measure", which is what is done without any.

    Raises:
        ValueError: It names anything else.
    """
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(_WANTED)
    for name in value:
        if name != "measure" and name not in RUNGS:
            raise ValueError(_WANTED)
    return [rung for rung in RUNGS if rung in value]  # in the order in which they are climbed


def notice_of(rung: Rung, prompt: str) -> str:
    """Return the notice of a rung, in the language of the user's last message."""
    return notices.in_language_of(prompt, *_NOTICES[rung])


class Climb:
    """The attempts to answer an agent that is in a loop; see `Ladder`.

    Args:
        loop: The loop.
        rungs: What may be done about it, in order.
        prompt: The user's last message.

    Attributes:
        action: What was done at most; None while no answer has gone on with the loop.
        has_recovered: The last answer leaves the loop; None where no other was asked for, or the
            turn was ended.
    """

    def __init__(self, loop: AgentLoop, rungs: Iterable[Rung], prompt: str) -> None:
        self.loop = loop
        self.action: Action | None = None
        self.has_recovered: bool | None = None
        self.notice = ""
        self._rungs = [] if loop.kind == "message" else list(rungs)
        self._prompt = prompt

    @property
    def has_rungs(self) -> bool:
        """Return whether anything may be done about the loop, or it is measured only."""
        return bool(self._rungs)

    def next(self, calls: Sequence[Call], text: str = "") -> Rung | None:
        """Take an answer; return the rung to try in its place, or None if it is the one to give.

        `notice` is then the rung's. An attempt that failed, or is empty, is passed over: take the
        answer before it once more.
        """
        is_asked_again = self.action not in (None, "measured")
        if not self.loop.is_repeated_by(list(calls), text):
            self.has_recovered = True if is_asked_again else None
            return None
        if not self._rungs:
            self.action = self.action or "measured"
            self.has_recovered = False if is_asked_again else None
            return None
        rung = self._rungs.pop(0)
        self.action, self.notice = ACTIONS[rung], notice_of(rung, self._prompt)
        self.has_recovered = None
        return rung

    def report(self) -> dict[str, Any] | None:
        """Return the `agent_loop` of a report; None if no answer went on with the loop."""
        if self.action is None:
            return None
        report: dict[str, Any] = {**self.loop.report(), "action": self.action}
        if self.has_recovered is not None:
            report["recovered"] = self.has_recovered
        return report


class Ladder:
    """Finds loops in the histories of agents, and says what to do about an answer.

        climb = ladder.climb(messages)
        answer = ask(messages)
        while climb and (rung := climb.next(calls_of(answer), text_of(answer))):
            if rung == "stop":
                return climb.notice
            answer = ask(nudged(messages, climb.notice), without_calls=rung == "answer")

    May be used by several threads.

    Args:
        rungs: What may be done, of `nudge`, `answer` and `stop`. Without any, loops are measured.
        repeatable: Names of tools that are meant to be called again and again.

    Raises:
        ValueError: `rungs` names anything else.
    """

    def __init__(self, rungs: Sequence[str] = RUNGS, repeatable: Collection[str] = ()) -> None:
        try:
            self._rungs: Any = read_ladder(rungs)
        except ValueError as error:
            raise ValueError(f"rungs {error}, got {rungs!r}") from None
        if isinstance(repeatable, str):
            raise TypeError(f"repeatable must be a collection of names, got {repeatable!r}")
        self._finder = LoopFinder(repeatable)
        self._lock = threading.Lock()

    def climb(self, messages: list[Any], *, forces_call: bool = False) -> Climb | None:
        """Return the climb out of the loop that the messages end in; None if they end in none.

        Args:
            messages: See `find_loop`. They must not be changed later.
            forces_call: The request forces a call: `answer` is left out.
        """
        with self._lock:
            loop = self._finder.find(messages)
        if loop is None:
            return None
        rungs = [rung for rung in self._rungs if not (forces_call and rung == "answer")]
        return Climb(loop, rungs, last_prompt(messages))
