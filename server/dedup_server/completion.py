"""A request's life: what an engine generates goes through the answer and its codec to the reader.

    engine -> frames -> Answer -> Writer -> bytes -> reader

All of it happens in the engine's own call of `take`: no task is woken for a chunk.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from dedup.answer.agent_loops import AgentLoop
from dedup.answer.agent_loops.ladder import Rung
from dedup.answer.answer import Answer, TooManyTextsError
from dedup.answer.channel import Editing
from dedup.answer.continuation import Continuation, Healing
from dedup.answer.frame import UNCHANGED
from dedup.config import Policy
from dedup_server.agent_turn import AgentTurn
from dedup_server.endpoints import CHAT, ENDPOINTS
from dedup_server.engines.base import Call, Engine, Frames, StopGeneration, Take
from dedup_server.errors import ApiError, shutting_down, unsupported, upstream_failed
from dedup_server.incidents import IncidentLog
from dedup_server.keep_alive import COMMENT, KeepAlive
from dedup_server.requests.base import GenerationRequest, UntranslatableError, parse
from dedup_server.telemetry import Outcome, Telemetry

_log: Final = logging.getLogger("dedup.server")

# Sends bytes to the reader. What it returns is to be awaited before more is sent: the reader is slow.
Write = Callable[[bytes], Awaitable[None] | None]


def translated(request: GenerationRequest, engine: Engine) -> GenerationRequest | None:
    """Return the request that asks for the same answer in the words of chat.

    A request for chat or text completions is returned as it is. None is returned where chat cannot
    ask for the answer, and an upstream that the request goes to as it is may be able to.

    Raises:
        ApiError: (400) The engine answers chat requests only, and chat cannot ask for the answer.
    """
    if request.endpoint in ("chat", "completions"):
        return request
    try:
        body = request.as_chat()
        if not engine.is_local:
            return parse(CHAT.forwarded, body, request.exchange)
        return parse(CHAT.sampled, body, request.exchange)
    except UntranslatableError as error:
        if engine.is_local:
            raise unsupported(error.param, error.reason) from None
    except ApiError:
        if engine.is_local:
            raise
    return None


class Completion:
    """One request on its way. `stream` or `collect` once; cancelling either stops the engine.

    Args:
        request: The request, validated.
        engine: What generates the answer.
        policy: The filter's, unless the request says otherwise.
        telemetry: Counts what becomes of the request.
        read_prompt: Allow the repetition that the prompt asks for, unless the request says otherwise.
        heal: Continue answers that loop, unless the request says otherwise.
        incidents: The log of loops.
        agent_loop: The loop that the agent is in which asks.
        rungs: What may be done about it, unless the request says otherwise.
        keep_alive_seconds: Silence of a stream, while its text is held, behind which a comment is
            sent; 0 is never.

    Raises:
        ApiError: The engine cannot do what the request asks for.
    """

    def __init__(
        self,
        request: GenerationRequest,
        engine: Engine,
        policy: Policy,
        telemetry: Telemetry,
        *,
        read_prompt: bool = True,
        heal: bool = False,
        incidents: IncidentLog | None = None,
        agent_loop: AgentLoop | None = None,
        rungs: Sequence[Rung] = (),
        keep_alive_seconds: float = 0,
    ) -> None:
        self.outcome: Outcome = "client_gone"  # unless something better becomes of it
        self.started_at = time.perf_counter()
        self.first_text_at: float | None = None
        self._request = request
        self._endpoint = ENDPOINTS[request.endpoint]
        self._engine = engine
        self._telemetry = telemetry
        self._incidents = incidents
        self._chat = self._validated()
        self._healing = self._healing_of(heal)
        self.answer = Answer(
            self._editing(policy, read_prompt=read_prompt),
            num_choices=request.num_choices,
            heals=self._healing is not None,
            keeps=incidents is not None,
            prompt_tokens=request.prompt_tokens,
            max_tokens=self._healing.limit if self._healing is not None else None,
            clock=time.perf_counter,
        )
        self._turn = self._turn_of(agent_loop, rungs)
        self._writer = self._endpoint.writer(self.answer, request)
        self._first_loop: tuple[str, str] | None = None  # the text before it, and the loop
        self._looped_at: float | None = None  # when a loop was found, until there is new text
        self._heal_seconds = 0.0
        self._label = self._model_label()
        self._keep_alive_seconds = keep_alive_seconds
        self._has_ended = False  # the engine ended what is cut or continued: its usage may follow
        self._is_left = False
        self._is_delivered = True  # not where an error stands in the place of a whole answer

    def leave(self) -> None:
        """Note that the reader is gone.

        Being cancelled without that means that the server stops, and ends the answer as a failure
        does: with what was held, and an error.
        """
        self._is_left = True

    async def stream(self, begin: Write, write: Write) -> bytes:
        """Write the answer as server-sent events, the first of them with `begin`.

        `begin` may get nothing: the answer has begun, while its text is still held.

        Returns:
            The last events, which are to go with the end of the response.

        Raises:
            ApiError: Only before `begin`; later errors are events.
        """
        answer, writer = self.answer, self._writer
        has_begun = False
        unwritten = b""  # it goes with what comes next
        is_swallowed = is_paused = False  # the last frames gave nothing; the client does not read
        comment: Awaitable[None] | None = None  # that is being sent

        def is_held() -> bool:
            is_healing = self._looped_at is not None
            is_holding = self._turn is not None and self._turn.is_holding
            return not is_paused and (is_swallowed or is_healing or is_holding)

        def send_comment() -> None:
            nonlocal has_begun, comment
            comment = write(COMMENT) if has_begun else begin(COMMENT)
            has_begun = True

        async def behind_comment(sending: Awaitable[None], given: bytes) -> None:
            await sending
            if (pause := write(given)) is not None:
                await pause

        keep_alive = KeepAlive(self._keep_alive_seconds, is_held, send_comment)

        def take(frames: Frames) -> Awaitable[None] | None:  # one read, one decode, one write
            nonlocal has_begun, unwritten, is_swallowed, is_paused, comment
            given, unwritten = unwritten, b""
            is_paused = False
            failure: Exception | None = None
            for frame in frames:
                if self._has_ended:
                    answer.note_usage(frame)
                    continue
                failure = frame.error
                if failure is not None:
                    break
                decision = answer.feed(frame)
                given += writer.write(frame, decision)
                if decision is not UNCHANGED and answer.is_over:
                    self._has_ended = frame.finishes is not None
                    if not self._has_ended:
                        failure = StopGeneration()
                        break
            if self.first_text_at is None:
                self._note_text()
            if given and self._looped_at is not None:
                self._note_healing()
            if failure is not None:
                unwritten = given
                raise failure
            is_swallowed = not (given or answer.is_complete)
            if has_begun and not given:
                return None
            keep_alive.is_silent = False
            pause: Awaitable[None] | None
            if comment is not None:
                sending, comment = comment, None
                pause = behind_comment(sending, given)
            elif has_begun:
                pause = write(given)
            else:
                has_begun = True
                pause = begin(given)
            is_paused = pause is not None
            return pause

        self._telemetry.add("streams_in_progress", 1, self._label)
        keep_alive.start()
        try:
            await self._generate(take)
            last = unwritten + writer.end()
            self._note_text()
            self.outcome = self._outcome()
        except (Exception, asyncio.CancelledError) as failure:
            error = self._explain(failure, has_begun or bool(unwritten))
            if not (has_begun or unwritten):
                raise error from None
            last = unwritten + writer.fail(error)
            self._note_text()
        finally:
            keep_alive.stop()
            self._telemetry.add("streams_in_progress", -1, self._label)
            self._push()
        if comment is not None:
            await comment
        if has_begun:
            return last
        if (pause := begin(last)) is not None:
            await pause
        return b""

    async def collect(self) -> bytes:
        """Return the answer as one body. Raises `ApiError`."""
        answer, writer = self.answer, self._writer
        is_whole = False

        def take(frames: Frames) -> None:
            nonlocal is_whole
            is_over = False
            for frame in frames:
                if self._has_ended:
                    answer.note_usage(frame)
                    continue
                if frame.error is not None:
                    raise frame.error
                decision = answer.feed(frame)
                writer.add(frame, decision)
                if self._looped_at is not None and frame.deltas and not frame.is_whole:
                    self._note_healing()
                is_whole = is_whole or frame.is_whole
                if decision is not UNCHANGED and answer.is_over:
                    self._has_ended = frame.finishes is not None
                    is_over = not self._has_ended
                    if is_over:
                        break
            if self.first_text_at is None and not is_whole:
                self._note_text()  # of a whole answer nobody knows when its first text came
            if is_over:
                raise StopGeneration

        self._telemetry.add("streams_in_progress", 1, self._label)
        try:
            await self._generate(take)
            body = writer.whole()
            self.outcome = self._outcome()
            return body
        except (Exception, asyncio.CancelledError) as failure:
            self._is_delivered = False
            raise self._explain(failure, has_begun=False) from None
        finally:
            self._telemetry.add("streams_in_progress", -1, self._label)
            self._push()

    def report(self) -> dict[str, Any]:
        """Return what the log tells of the request: numbers, and no word of its text."""
        channels = self.answer.channels
        ttft_ms: float | None = None
        if self.first_text_at is not None:
            ttft_ms = round((self.first_text_at - self.started_at) * 1000, 1)
        removed = [channel.removed_chars for channel in channels]
        agent = self._turn.report() if self._turn is not None else {}
        return {
            **agent,
            "outcome": self.outcome,
            "ttft_ms": ttft_ms,
            "input_tokens": self.answer.tokens.input,
            "output_tokens": self.answer.tokens.output,
            "output_chars": sum([channel.chars_out for channel in channels]),
            "removed_chars": sum(removed) or None,
            "loop": self.answer.first_loop or None,
        }

    async def _generate(self, take: Take) -> None:
        """Generate the answer, to its end; one that loops is continued where it can be."""
        answer, healing = self.answer, self._healing
        endpoint = self._endpoint
        chat = self._chat
        request = chat if chat is not None and self._engine.is_local else self._request
        call = Call(request, endpoint.path, endpoint.reader())
        coming: Continuation | None = None  # until its first frame

        def take_continued(frames: Frames) -> Awaitable[None] | None:
            nonlocal coming
            if coming is not None:
                answer.resume(coming)
                self._writer.resume()
                coming = None
            return take(frames)

        while True:
            self._has_ended = False
            try:
                with contextlib.suppress(StopGeneration):
                    if call.continuation is not None:
                        await self._engine.generate(call, take_continued)
                    elif self._turn is not None:
                        await self._turn.generate(call, take)
                    else:
                        await self._engine.generate(call, take)
                if not answer.is_complete:
                    raise upstream_failed("the upstream's stream ended before the answer did")
            except ApiError as refused:
                if call.continuation is None:
                    raise
                _log.warning("an answer that looped could not be continued: %s", refused)
                answer.give_up()
                return
            coming = self._next(healing) if healing is not None else None
            if coming is None or chat is None:
                if healing is not None:
                    answer.end_with(healing.ending(answer.given, answer.looped))
                return
            endpoint = ENDPOINTS[chat.endpoint]
            call = Call(chat, endpoint.path, endpoint.reader(), coming)

    def _next(self, healing: Healing) -> Continuation | None:
        """Return how the answer goes on; None if it has come to its end."""
        answer = self.answer
        given = answer.given
        if answer.has_opened:
            freed = healing.freed(given + answer.kept, answer.num_tokens)
            return replace(freed, reasoning=answer.reasoning) if freed is not None else None
        if not answer.is_waiting:
            return None
        looped = answer.looped
        if self._first_loop is None:
            self._first_loop = (given, looped)
        self._looped_at = self._looped_at or time.perf_counter()
        if reasoning := answer.open_reasoning:
            return healing.answered(reasoning, answer.num_tokens)
        continuation = healing.next(given, looped, answer.tried, answer.num_tokens)
        if continuation is not None and answer.reasoning:
            return replace(continuation, reasoning=answer.reasoning)
        return continuation

    def _validated(self) -> GenerationRequest | None:
        """Return the request in the words of chat, which the engine agrees to."""
        request, engine = self._request, self._engine
        try:
            chat = translated(request, engine)
            engine.validate(chat if engine.is_local and chat is not None else request)
        except ApiError as error:
            raise error.renamed(request.chat_names) from None
        return chat

    def _healing_of(self, heal: bool) -> Healing | None:
        """Return how the answer is healed; None if it cannot or should not be."""
        options, chat = self._request.repetition, self._chat
        if options is not None and options.heal is not None:
            heal = options.heal
        if not heal or chat is None or self._request.num_choices > 1:
            return None
        support = self._engine.support(chat)
        return Healing(chat.sent, chat.last_prompt, support) if support is not None else None

    def _turn_of(self, loop: AgentLoop | None, rungs: Sequence[Rung]) -> AgentTurn | None:
        """Return how the agent's turn is answered; None if it is in no loop."""
        if loop is None:
            return None
        options, request = self._request.repetition, self._request
        if options is not None and options.agent_loops is not None:
            rungs = options.agent_loops
        if request.forbids_calls:
            rungs = ()  # the answer cannot go on with the loop
        return AgentTurn(loop, rungs, self._engine, self.answer, request.num_choices)

    def _editing(self, policy: Policy, *, read_prompt: bool) -> Editing:
        """Return how the answer is filtered."""
        options = self._request.repetition
        if options is not None and options.policy is not None:
            policy = options.policy
        if options is not None and options.read_prompt is not None:
            read_prompt = options.read_prompt
        locks_reasoning = self._endpoint.locks_reasoning
        editing = self._request.editing(policy, locks_reasoning=locks_reasoning)
        return editing if read_prompt else replace(editing, prompt="")

    def _model_label(self) -> str:
        """Return the model's label as far as it is known now.

        An upstream may list only later which models it has.
        """
        model = self._request.model
        if not model and self._engine.models:
            model = self._engine.models[0]
        return self._telemetry.model_label(model)

    def _outcome(self) -> Outcome:
        if self.answer.is_cut or self.answer.is_stopped:
            return "cut"
        if self.answer.has_failed:
            return "upstream_error"
        return "healed" if self._healing and self._healing.attempts else "ok"

    def _explain(self, failure: BaseException, has_begun: bool) -> ApiError:
        """Return the error that the reader gets; raise `failure` itself where nobody reads on."""
        if isinstance(failure, asyncio.CancelledError):
            if self._is_left:
                raise failure
            failure = shutting_down()
        elif isinstance(failure, TooManyTextsError):
            failure = upstream_failed(f"the upstream sent {failure}")
        elif not isinstance(failure, ApiError):
            _log.error("the engine failed", exc_info=failure)
            failure = ApiError(500, "the engine failed", type="server_error", code="engine_failed")
        # A refusal is the client's doing; what comes later, or from 500 on, the engine's.
        is_refusal = not has_begun and failure.status < 500
        self.outcome = "rejected" if is_refusal else "upstream_error"
        return failure

    def _note_text(self) -> None:
        """Note when the first text came."""
        channels = self.answer.channels
        if self.first_text_at is None and any(channel.chars_out for channel in channels):
            self.first_text_at = time.perf_counter()

    def _note_healing(self) -> None:
        """Note that there is text again behind a loop."""
        if self._looped_at is not None:
            self._heal_seconds += time.perf_counter() - self._looped_at
            self._looped_at = None

    def _push(self) -> None:
        """Count what became of the request."""
        telemetry, label, answer = self._telemetry, self._model_label(), self.answer
        seconds = time.perf_counter() - self.started_at
        telemetry.count("requests", 1, label, self._request.endpoint, self.outcome)
        telemetry.observe("request_duration_seconds", seconds, label)
        if self.first_text_at is not None and self._is_delivered:
            seconds = self.first_text_at - self.started_at
            telemetry.observe("time_to_first_token_seconds", seconds, label)
        if self._turn is not None:
            telemetry.count_turn(
                self._turn.loop, self._turn.action, self._turn.has_recovered, label
            )
        channels = answer.channels
        if self._healing and self._healing.attempts:
            telemetry.count("heal_attempts", self._healing.attempts, label)
            discarded = sum([channel.discarded_chars for channel in channels])
            telemetry.count("heal_discarded_chars", discarded, label)
            if self._heal_seconds:
                telemetry.observe("heal_seconds", self._heal_seconds, label)
        if self._incidents is not None and (self._first_loop or answer.is_cut):
            self._log_loop(self._incidents)
        if not channels and answer.tokens.output is None:
            return  # nothing was generated
        telemetry.count("tokens", answer.tokens.known_input, label, "input")
        telemetry.count("tokens", answer.num_tokens, label, "output")
        for channel in channels:
            telemetry.count_channel(channel, label, is_delivered=self._is_delivered)
        if channels:
            hold = max([channel.longest_hold_seconds for channel in channels])
            overhead = sum([channel.overhead_seconds for channel in channels])
            telemetry.observe("hold_seconds", hold, label)
            telemetry.observe("overhead_seconds", overhead, label)

    def _log_loop(self, incidents: IncidentLog) -> None:
        """Write the answer's first loop into the incident log."""
        answer, request = self.answer, self._request
        kept, looped = self._first_loop or (answer.given, answer.looped)
        incidents.write(
            {
                "request_id": request.exchange.request_id,
                "endpoint": request.endpoint,
                "outcome": self.outcome,
                "attempts": self._healing.attempts if self._healing else 0,
                "request": request.body,
                "kept": kept,
                "looped": looped,
                "continued": answer.given[len(kept) :],
                "healed": answer.given[len(kept) :] if self.outcome == "healed" else None,
            }
        )
