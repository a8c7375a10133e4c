"""The next turn of an agent that is in a loop: it is held until it is known not to go on with it.

    request -> loop? -> answer, held -> do its calls go on with the loop?
                          |                 no:  the reader gets it
                          |                 yes: nudge -> answer -> stop, as far as allowed

A history that loops is left alone. An attempt that goes on with the loop leaves no trace: the reader
gets one answer. Where a further attempt fails, the reader gets the one before it.
"""

import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from dedup.answer.agent_loops import AgentLoop, Call
from dedup.answer.agent_loops.ladder import ACTIONS, Action, Rung, notice_of
from dedup.answer.agent_loops.nudging import nudged
from dedup.answer.answer import Answer
from dedup.answer.frame import CONTENT, Delta, Finish, Frame, Start
from dedup.answer.usage import Spent, estimate_tokens
from dedup_server.engines.base import Call as EngineCall
from dedup_server.engines.base import Engine, Frames, StopGeneration, Take
from dedup_server.errors import ApiError
from dedup_server.requests.base import GenerationRequest
from dedup_server.wire.base import Reader

HOLD_CHARS: Final = 2000  # of content; a longer text is an answer, and is streamed
HOLD_BYTES: Final = 64 * 1024  # of all texts; the filter ends those that loop, once they pass

_log: Final = logging.getLogger("dedup.server")


class Turn:
    """Texts and calls of an answer, so far.

    Attributes:
        chars: Characters of content, all choices together.
        num_bytes: Bytes of all texts.
        is_complete: The engine has ended the answer.
        has_failed: It has reported a failure.
    """

    def __init__(self) -> None:
        self.chars = 0
        self.is_complete = False
        self.has_failed = False
        self._has_begun = False
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self.num_bytes = 0
        self._names: dict[tuple[int, str], str] = {}
        self._arguments: dict[tuple[int, str], list[str] | Any] = {}
        self._texts: dict[int, list[str]] = {}

    def feed(self, frame: Frame) -> None:
        """Take the next frame of the answer."""
        self._has_begun = True
        for delta in frame.deltas:
            key = (delta.choice, delta.part)
            if delta.tool is not None:
                self._names[key] = delta.tool[1]
            self.num_bytes += len(delta.text.encode("utf-8", "replace"))
            if delta.channel == CONTENT:
                self.chars += len(delta.text)
                self._texts.setdefault(delta.choice, []).append(delta.text)
            elif delta.channel == "tool_arguments":
                self._arguments.setdefault(key, []).append(delta.text)
        for call in frame.calls or ():
            self._names[call.choice, call.part] = call.name
            if call.arguments is not None:
                self._arguments[call.choice, call.part] = call.arguments
        if frame.input_tokens is not None:
            self._input_tokens = frame.input_tokens
        if frame.output_tokens is not None:
            self._output_tokens = frame.output_tokens
        self.is_complete = self.is_complete or frame.is_last
        self.has_failed = self.has_failed or frame.has_failed or frame.error is not None

    def calls(self, choice: int) -> list[Call]:
        """Return the tool calls of a choice."""
        calls: list[Call] = []
        for key, name in self._names.items():
            if key[0] == choice:
                arguments = self._arguments.get(key, "")
                if isinstance(arguments, list) and all(isinstance(one, str) for one in arguments):
                    arguments = "".join(arguments)
                calls.append(Call(name, arguments, has_result=False))
        return calls

    def text(self, choice: int) -> str:
        """Return the content of a choice."""
        return "".join(self._texts.get(choice, ()))

    def goes_on_with(self, loop: AgentLoop, num_choices: int) -> bool:
        """Return whether every choice makes the next step of a loop."""
        choices = range(num_choices)
        return all(loop.is_repeated_by(self.calls(one), self.text(one)) for one in choices)

    @property
    def is_empty(self) -> bool:
        """Return whether it has neither a call nor a text."""
        return not self._names and not self.chars

    def spent(self, prompt_tokens: int) -> Spent:
        """Return the turn's tokens; none if the engine refused it.

        Args:
            prompt_tokens: An estimate of the prompt's, for engines that report none.
        """
        given, made = self._input_tokens, self._output_tokens
        if not self._has_begun:
            return Spent(0, 0, is_estimated=False)
        is_estimated = given is None or made is None
        if given is None:
            given = prompt_tokens
        if made is None:
            made = estimate_tokens(self.num_bytes)
        return Spent(given, made, is_estimated)


class _Attempt:
    """A call of the engine, and what has come of its answer.

    Attributes:
        turn: What it says.
        held: Its frames, until it is released.
        is_released: The reader gets it.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.turn = Turn()
        self.held: Frames = []
        self.is_released = False


class AgentTurn:
    """The answer to an agent in a loop.

    Args:
        loop: The loop.
        rungs: What may be done about it, in order. Without any it is measured only.
        engine: What generates the answer.
        answer: The answer that the reader gets.
        num_choices: Number of its choices. Nothing is done unless all of them go on with the loop.

    Attributes:
        action: What was done at most; None if the answer does not go on with the loop.
        has_recovered: The answer that the reader gets does not go on with it; None where nothing
            was done, or the turn was ended.
    """

    def __init__(
        self,
        loop: AgentLoop,
        rungs: Sequence[Rung],
        engine: Engine,
        answer: Answer,
        num_choices: int,
    ) -> None:
        self.loop = loop
        self.action: Action | None = None
        self.has_recovered: bool | None = None
        self._rungs: Sequence[Rung] = () if loop.kind == "message" else rungs
        self._engine = engine
        self._answer = answer
        self._num_choices = num_choices
        self._attempts: list[_Attempt] = []
        self._spent = Spent(0, 0, is_estimated=False)  # on attempts that the reader does not get

    @property
    def is_holding(self) -> bool:
        """Return whether an answer is held that the reader may not get."""
        return bool(self._attempts) and not self._attempts[-1].is_released

    async def generate(self, call: EngineCall, take: Take) -> None:
        """Give `take` the frames of the one answer that the reader gets; see `Engine.generate`."""
        rungs = self._rungs_for(call.request)
        asked = call
        given: _Attempt | None = None  # the last one that the reader can have
        while True:
            attempt = _Attempt(asked.reader)
            self._attempts.append(attempt)
            if not self._rungs:
                self._accept(attempt)
            is_usable = await self._ask(attempt, asked, take)
            if attempt.is_released:
                return
            if is_usable and not (attempt.turn.is_empty and given):
                is_first, given = given is None, attempt
                if not attempt.turn.goes_on_with(self.loop, self._num_choices):
                    self.has_recovered = None if is_first else True
                    break
            self.action = self.action or "measured"
            self.has_recovered = None if len(self._attempts) == 1 else False
            changed = self._next(call, rungs)
            if changed is None:
                break
            asked = changed
            if self.action == "stopped":
                await _awaited(take(self._stop(call)))
                return
        assert given is not None  # the first attempt is usable, or has raised
        self._accept(given)
        await _awaited(take(self._passing(given, given.held)))

    def report(self) -> dict[str, str]:
        """Return the fields for the log."""
        fields = {"agent_loop": f"{self.loop.kind}/{self.loop.cycle}x{self.loop.copies}"}
        if self.action is not None:
            fields["agent_action"] = self.action
        return fields

    async def _ask(self, attempt: _Attempt, call: EngineCall, take: Take) -> bool:
        """Make a call of the engine; return whether its answer is complete.

        A failure of the first call, or of an answer that the reader gets already, is the answer's.
        """
        is_first = len(self._attempts) == 1

        def hold(frames: Frames) -> Awaitable[None] | None:
            return self._hold(attempt, call, frames, take)

        try:
            await self._engine.generate(call, hold)
        except StopGeneration:
            raise
        except Exception as failure:
            if is_first or attempt.is_released:
                raise
            is_expected = isinstance(failure, ApiError)
            _log.warning(
                "request_id=%s: another answer for an agent in a loop failed: %s",
                call.request.exchange.request_id,
                failure,
                exc_info=None if is_expected else failure,
            )
            return False
        turn = attempt.turn
        return is_first or (turn.is_complete and not turn.has_failed)

    def _hold(
        self, attempt: _Attempt, call: EngineCall, frames: Frames, take: Take
    ) -> Awaitable[None] | None:
        """Take frames of an answer, and let those pass that the reader is to have."""
        turn = attempt.turn
        for frame in frames:
            turn.feed(frame)
        if attempt.is_released:
            return take(self._passing(attempt, frames))
        attempt.held += frames
        is_first = len(self._attempts) == 1
        is_long = turn.chars > HOLD_CHARS * self._num_choices or turn.num_bytes > HOLD_BYTES
        if is_long or (turn.has_failed and is_first):
            if not is_first:
                self.has_recovered = True
            self._accept(attempt)
            frames = self._passing(attempt, attempt.held)
            return take(frames)
        return None

    def _next(self, call: EngineCall, rungs: list[Rung]) -> EngineCall | None:
        """Climb a rung, and return the next call of the engine; None if none is left."""
        request = call.request
        history = request.agent_history or []
        prompt = request.last_prompt
        while rungs:
            rung = rungs.pop(0)
            if rung == "stop":
                self.action = "stopped"
                return call
            changes: dict[str, Any] = {}
            if rung == "answer":
                changes.update(request.without_calls)
            changed = nudged(history, notice_of(rung, prompt))
            if changed is not None:
                self.action = ACTIONS[rung]
                changes[request.history_field] = changed
                reader = type(call.reader)()
                return EngineCall(request.changed(**changes), call.path, reader)
        return None

    def _accept(self, attempt: _Attempt) -> None:
        """Let the reader have an attempt: the others were in vain."""
        attempt.is_released = True
        self._spend(attempt)

    def _rungs_for(self, request: GenerationRequest) -> list[Rung]:
        """Return the rungs that make sense for a request."""
        rungs = list(self._rungs)
        if request.forces_call and "answer" in rungs:
            rungs.remove("answer")  # the client has no use for a text
        return rungs

    def _spend(self, accepted: _Attempt | None) -> None:
        """Count the tokens of all attempts but the accepted one."""
        tokens = self._answer.tokens
        for attempt in self._attempts:
            if attempt is not accepted:
                spent = attempt.turn.spent(tokens.prompt_tokens)
                tokens.spend(spent)
                self._spent = self._spent.plus(spent)

    def _passing(self, attempt: _Attempt, frames: Frames) -> Frames:
        """Return frames for the reader, with the tokens of all attempts and the report."""
        for frame in frames:
            if self._spent.input_tokens or self._spent.output_tokens:
                attempt.reader.charge(frame, self._spent)
            if frame.finishes:
                self._note(attempt.turn)
        return frames

    def _note(self, turn: Turn) -> None:
        """Note for the answer's report what was done, now that all its calls are known."""
        if self.action is None and turn.goes_on_with(self.loop, self._num_choices):
            self.action = "measured"
        if self.action is not None:
            report: dict[str, Any] = {**self.loop.report(), "action": self.action}
            if self.has_recovered is not None:
                report["recovered"] = self.has_recovered
            self._answer.agent_loop = report

    def _stop(self, call: EngineCall) -> Frames:
        """Return an answer that ends the agent's turn."""
        self._spend(None)
        self.has_recovered = None
        self._note(self._attempts[-1].turn)
        text = notice_of("stop", call.request.last_prompt)
        start = Start(call.request.model or "", self._num_choices)
        frames = [Frame([], start=start, input_tokens=0)]
        for choice in range(self._num_choices):
            frames.append(Frame([Delta(choice, CONTENT, CONTENT, text)]))
            # No client may take the text for the JSON that it asks for.
            reason = "length" if call.request.wants_json else "stop"
            frames.append(Frame([], [Finish(choice, reason)], output_tokens=0))
        return [*frames, Frame([], is_last=True)]


async def _awaited(pause: Awaitable[None] | None) -> None:
    if pause is not None:
        await pause
