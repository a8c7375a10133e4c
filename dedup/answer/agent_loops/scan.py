"""Search for a cycle of steps at the end of an agent's history, one step after the other.

A step that is like the one `p` steps before it continues a run of period `p`. A run that is long
enough is a loop. The state is the last steps and a counter for each period, so that each new step
costs the same.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from dedup.answer.agent_loops.asked import PATIENT_COPIES, copies_asked, is_watching
from dedup.answer.agent_loops.likeness import (
    EXACT,
    FAILURE,
    NEAR,
    UNLIKE,
    differ_as_asked,
    have_same_results,
    is_next,
    likeness,
    measures,
    moves_numbers,
)
from dedup.answer.agent_loops.novelty import tells_nothing_new
from dedup.answer.agent_loops.steps import Call, Step
from dedup.answer.agent_loops.waiting import are_patient, looks_up

LoopKind = Literal["exact", "near", "failure", "message"]

MAX_CYCLE: Final = 4
_MEMORY: Final = 16  # steps among which one is looked for that has told the same
_MIN_STEPS: Final = 4
_MIN_COPIES: Final = 3
_MEASURED_COPIES: Final = 7  # of a result whose numbers move: that may be what is looked for
_HOPELESS_STEPS: Final = 8  # of failures: then the next call is not awaited
_KINDS: Final[dict[int, LoopKind]] = {EXACT: "exact", NEAR: "near", FAILURE: "failure"}


@dataclass(frozen=True, slots=True)
class AgentLoop:
    """A loop that an agent is in.

    Args:
        kind: `exact`: the same calls with the same results. `near`: their arguments are worded
            anew. `failure`: calls that fail alike, whatever their arguments. `message`: turns
            without calls that say the same.
        cycle: Steps of one copy, 1 to 4.
        from_step: Number of the first step of the loop, from 0 on, among all turns of the agent.
        steps: Steps in the loop.
        tokens: An estimate of the tokens of these steps.
        last_tokens: The same, of the last step.
        next_steps: The step that would be the next one; all of the last ones where they differ.
    """

    kind: LoopKind
    cycle: int
    from_step: int
    steps: int
    tokens: int
    last_tokens: int
    next_steps: tuple[Step, ...]

    @property
    def copies(self) -> int:
        """Return how often the cycle has been made in full."""
        return self.steps // self.cycle

    def is_repeated_by(self, calls: list[Call], text: str = "") -> bool:
        """Return whether the agent's next turn goes on with the loop.

        Args:
            calls: The calls of the turn, which have no results yet.
            text: What it says.
        """
        if self.kind == "failure" and self.steps >= _HOPELESS_STEPS:
            names = {call.name for step in self.next_steps for call in step.calls}
            return bool(calls) and all(call.name in names for call in calls)
        return any(is_next(calls, text, step) for step in self.next_steps)

    def report(self) -> dict[str, str | int]:
        """Return the fields that are shown to clients and in logs."""
        return {
            "kind": self.kind,
            "cycle": self.cycle,
            "from_step": self.from_step,
            "steps": self.steps,
            "tokens": self.tokens,
        }


class LoopScan:
    """The steps since the last message of a user, and whether they end in a loop.

    Args:
        repeatable: Tools that are meant to be called again and again. A step that calls one of them
            is in no loop.
    """

    def __init__(self, repeatable: Collection[str] = ()) -> None:
        self._repeatable = frozenset(repeatable)
        self._prompt = ""
        self._num_steps = 0
        self._tokens = 0
        self._last: list[Step] = []  # the last `_MEMORY`, the newest at the end
        self._last_tokens: list[int] = []
        self._found = [UNLIKE] * (MAX_CYCLE + 1)  # the last step's likeness, by period
        self._runs = [0] * (MAX_CYCLE + 1)  # steps like the one a period before, by period
        self._grades = [EXACT] * (MAX_CYCLE + 1)  # the weakest likeness in each run
        self._starts = [0] * (MAX_CYCLE + 1)  # tokens before each run
        # Of the same call made again at once: whether its numbers have moved, and have stayed, and
        # whether they may measure something.
        self._has_moved = self._has_stayed = self._measures = False

    def copy(self) -> "LoopScan":
        """Return a scan in the same state."""
        scan = LoopScan(self._repeatable)
        scan._prompt = self._prompt
        scan._num_steps, scan._tokens = self._num_steps, self._tokens
        scan._last, scan._last_tokens = list(self._last), list(self._last_tokens)
        scan._found = list(self._found)
        scan._runs, scan._grades = list(self._runs), list(self._grades)
        scan._starts = list(self._starts)
        scan._has_moved, scan._has_stayed = self._has_moved, self._has_stayed
        scan._measures = self._measures
        return scan

    @property
    def ends_in_text(self) -> bool:
        """Return whether the last step has no calls."""
        return bool(self._last) and not self._last[-1].calls

    def joined(self, other: "LoopScan") -> "LoopScan":
        """Return a scan that has taken the steps of both: what was a user's message was a harness's.

        Args:
            other: What has become of this scan behind that message: texts. With any calls, it is
                returned as it is.
        """
        num_steps = other._num_steps - self._num_steps
        if num_steps != len(other._last) or any(step.calls for step in other._last):
            return other
        scan = self.copy()
        for step in other._last:
            scan.feed(step)
        return scan

    def feed(self, step: Step) -> None:
        """Take the next step of the agent, with all its results."""
        tokens = step.num_tokens
        self._num_steps += 1
        if any(call.name in self._repeatable for call in step.calls):
            self._forget()
            self._tokens += tokens
            return
        last = self._last
        before = self._found
        self._found = [UNLIKE] * (MAX_CYCLE + 1)
        for period in range(1, min(len(last), MAX_CYCLE) + 1):
            if period > 1 and self._found[1] != UNLIKE:  # the step is the last one once more
                found = min(before[period - 1], self._found[1])
            else:
                any_number = period == 1 and not is_watching(self._prompt)
                found = likeness(step, last[-period], any_number=any_number)
            if found == FAILURE and (
                period > 1  # what fails alike behind other calls is trial and error
                or differ_as_asked(step, last[-1], self._prompt)
            ):
                found = UNLIKE
            self._found[period] = found
            if period == 1:
                self._weigh_numbers(step, last[-1])
        if self._found[1] == UNLIKE and last and self._is_told_anew(step):
            self._found[1] = NEAR
        for period in range(1, MAX_CYCLE + 1):
            found = self._found[period]
            if found == UNLIKE:
                self._runs[period] = 0
                continue
            if not self._runs[period]:
                self._grades[period] = EXACT
                self._starts[period] = self._tokens - sum(self._last_tokens[-period:])
            self._runs[period] += 1
            self._grades[period] = min(self._grades[period], found)
        last.append(step)
        self._last_tokens.append(tokens)
        self._tokens += tokens
        if len(last) > _MEMORY:
            del last[0]
            del self._last_tokens[0]

    def _weigh_numbers(self, step: Step, before: Step) -> None:
        """Take numbers that move in one copy and stay in another for news.

        An id or a counter differs in each copy. What is measured stays, and moves.
        """
        if self._found[1] == UNLIKE:
            self._has_moved = self._has_stayed = self._measures = False
            return
        moves = moves_numbers(step, before)
        if (self._has_stayed and moves) or (self._has_moved and not moves):
            if not (self._has_moved and self._has_stayed):
                self._runs[1] = 0  # what seemed to be the same was not
            if moves:
                self._found[1] = UNLIKE
        self._measures = self._measures or (moves and measures(step))
        self._has_moved = self._has_moved or moves
        self._has_stayed = self._has_stayed or not moves

    def _is_told_anew(self, step: Step) -> bool:
        """Return whether a step says anew what one of the last ones says, or nothing that is new."""
        for period in range(2, min(len(self._last), MAX_CYCLE) + 1):
            if NEAR not in self._found or not have_same_results(step, self._last[1 - period]):
                break
            if self._found[period] == NEAR:
                return True
        return tells_nothing_new(step, self._last)

    def reset(self, prompt: str = "") -> None:
        """Begin anew: a user has spoken. Steps are numbered on."""
        self._prompt = prompt
        self._forget()

    @property
    def loop(self) -> AgentLoop | None:
        """Return the loop that the steps end in; None if they end in none."""
        for period in range(1, MAX_CYCLE + 1):
            steps = self._runs[period] + period
            if not self._runs[period] or steps < max(_MIN_STEPS, _MIN_COPIES * period):
                continue
            if period > 1 and self._runs[1] + 1 >= steps:
                continue  # the same step each time, which is allowed
            if steps <= self._copies_allowed(period) * period:
                continue
            return self._loop_of(period, steps)
        return None

    def _copies_allowed(self, period: int) -> int:
        """Return how many copies of a cycle may be meant."""
        steps = self._last[-period:]
        measured = _MEASURED_COPIES if period == 1 and self._measures else 0
        asked = copies_asked(self._prompt)
        if asked <= PATIENT_COPIES and looks_up(steps):
            asked = 0  # "until" is in many prompts
        if self._grades[period] == FAILURE:
            return asked  # what is waited for is asked for in the same way
        is_patient = are_patient(steps)
        return max(asked, PATIENT_COPIES) if is_patient else max(asked, measured)

    def _loop_of(self, period: int, steps: int) -> AgentLoop:
        kind = _KINDS[self._grades[period]]
        following: tuple[Step, ...] = (self._last[-period],)
        if not any(step.calls for step in self._last[-period:]):
            kind = "message"
        elif period == 1 and kind != "exact":
            following = tuple(self._last[-min(steps, MAX_CYCLE) :])
        return AgentLoop(
            kind,
            period,
            self._num_steps - steps,
            steps,
            self._tokens - self._starts[period],
            self._last_tokens[-1],
            following,
        )

    def _forget(self) -> None:
        self._last.clear()
        self._last_tokens.clear()
        self._found = [UNLIKE] * (MAX_CYCLE + 1)
        self._runs = [0] * (MAX_CYCLE + 1)
        self._has_moved = self._has_stayed = False
