"""A request's life: what an engine sends goes through the API's own answer to the reader, and what became of it is counted.

engine -> events -> Answer -> bytes -> reader, all in the engine's own call of `take`: no task is woken for a chunk.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from dedup.config import Policy
from dedup.lenient_json import write_json
from dedup_server.channel import Editing
from dedup_server.engines.base import Engine, EnoughError, Events, Take
from dedup_server.errors import ApiError, shutting_down, upstream_failed
from dedup_server.healing import Healer
from dedup_server.incidents import IncidentLog
from dedup_server.schema import ChatRequest, CompletionRequest, GenerationRequest, estimate_tokens
from dedup_server.telemetry import Outcome, Telemetry
from dedup_server.wire.base import Answer
from dedup_server.wire.chat import ChatAnswer
from dedup_server.wire.merged import Merged
from dedup_server.wire.messages import MessagesAnswer, messages_editing
from dedup_server.wire.responses import ResponsesAnswer, responses_editing

_log: Final = logging.getLogger("dedup.server")

# Sends bytes to the reader; what it returns is to be awaited before more is sent: the reader is slow.
Write = Callable[[bytes], Awaitable[None] | None]


def answer_for(
    request: GenerationRequest, policy: Policy, heals: bool = False, keeps: bool = False
) -> Answer:
    """The answer in the form that the request's endpoint has."""
    if isinstance(request, ChatRequest | CompletionRequest):
        return ChatAnswer(
            request.endpoint,
            Editing(
                policy,
                request.prompt_text,
                request.earlier_answers if policy == "strict" else (),
                request.wants_json,
            ),
            num_choices=request.num_choices,
            wants_usage=request.wants_usage or not request.stream,
            prompt_tokens=request.estimated_prompt_tokens,
            heals=heals,
            keeps=keeps,
        )
    if request.endpoint == "messages":
        return MessagesAnswer(messages_editing(request.body(), policy))
    return ResponsesAnswer(responses_editing(request.body(), policy))


class Completion:
    """One request on its way. `stream` or `collect` once; cancelling either stops the engine at once."""

    def __init__(
        self,
        request: GenerationRequest,
        engine: Engine,
        policy: Policy,
        telemetry: Telemetry,
        *,
        heal: bool = False,
        incidents: IncidentLog | None = None,
    ) -> None:
        """heal: unless the request says otherwise. incidents: where loops are told of."""
        self.outcome: Outcome = "client_gone"  # unless something better becomes of it
        self.started_at = time.perf_counter()
        self.first_text_at: float | None = None
        self._request = request
        self._engine = engine
        self._telemetry = telemetry
        chosen = request.repetition.policy if request.repetition else None
        heals = Healer.heals(request, engine, heal)
        self.answer = answer_for(request, chosen or policy, heals, incidents is not None)
        self._healer = Healer(request, engine) if heals else None
        self._incidents = incidents
        self._first_loop: tuple[str, str] | None = None  # what had been said, what was thrown away
        self._looped_at: float | None = None  # when a loop was found, until there is new text
        self._heal_seconds = 0.0
        self._label = self._model_label()
        self._gone = False
        self._delivered = True  # what was said; not where an error stands in the place of an answer that was not streamed

    def _model_label(self) -> str:
        """Return the model's label as far as it is known now: an upstream may say only later which models it has."""
        engine = self._engine
        return self._telemetry.model_label(
            self._request.model or (engine.models[0] if engine.models else None)
        )

    def leave(self) -> None:
        """The reader is gone. Being cancelled without that means that the server stops, and ends the answer as a failure does: with
        what was held, and an error."""
        self._gone = True

    async def stream(self, begin: Write, write: Write) -> bytes:
        """Writes the answer as server-sent events, the first of them with `begin`, and gives the last, which are to go with the end.
        Raises `ApiError` only before `begin`; later errors are events.

        `begin` may get nothing: the answer has begun, while its text is still held.
        """
        answer = self.answer
        begun = False
        unwritten = b""  # it goes with what comes next

        def take(events: Events) -> Awaitable[None] | None:  # one read, one decode, one write
            nonlocal begun, unwritten
            given, failure = self._feed(events)
            given, unwritten = unwritten + given, b""
            if failure is not None or answer.over:
                unwritten = given
                raise failure or EnoughError
            if not begun:
                begun = True
                return begin(given)
            return write(given) if given else None

        self._telemetry.add("streams_in_progress", 1, self._label)
        try:
            await self._generate(take)
            last = unwritten + answer.end()
            self._note_text()
            self.outcome = self._outcome()
        except (Exception, asyncio.CancelledError) as failure:
            error = self._explain(failure, begun or bool(unwritten))
            if not (begun or unwritten):
                raise error from None
            last = unwritten + answer.fail(error)
            self._note_text()
        finally:
            self._telemetry.add("streams_in_progress", -1, self._label)
            self._push()
        if begun:
            return last
        if (pause := begin(last)) is not None:
            await pause
        return b""

    async def collect(self) -> bytes:
        """The answer as one response. Raises `ApiError`."""
        self._telemetry.add("streams_in_progress", 1, self._label)
        try:
            body = await self._engine.whole(self._request)
            response = await self._merged() if body is None else self.answer.whole(body)
            self.outcome = self._outcome()
            return response
        except (Exception, asyncio.CancelledError) as failure:
            self._delivered = False
            raise self._explain(failure, begun=False) from None
        finally:
            self._telemetry.add("streams_in_progress", -1, self._label)
            self._push()

    def report(self) -> dict[str, Any]:
        """What the log says of it: numbers, and no word of its text."""
        channels = self.answer.channels
        loop = next(
            ((channel.name, channel.filter.loop) for channel in channels if channel.filter.loop),
            None,
        )
        first = self.first_text_at
        return {
            "outcome": self.outcome,
            "ttft_ms": round((first - self.started_at) * 1000, 1) if first is not None else None,
            "input_tokens": self.answer.input_tokens,
            "output_tokens": self.answer.output_tokens,
            "output_chars": sum(channel.chars_out for channel in channels),
            "removed_chars": sum(
                int(channel.filter.chars_in - channel.filter.chars_out) for channel in channels
            )
            or None,
            "loop": f"{loop[0]}/{loop[1].kind}" if loop and loop[1] else None,
        }

    async def _merged(self) -> bytes:
        answer = self.answer
        assert isinstance(answer, ChatAnswer)
        merged = Merged(self._request.endpoint)

        def take(events: Events) -> None:
            for event in events:
                if event.data:
                    for chunk in answer.chunks(event):
                        merged.add(chunk)
                        if self._looped_at is not None:
                            self._note_healing(self._looped_at)
            self._note_text()
            if answer.over:
                raise EnoughError

        await self._generate(take)
        for chunk in answer.last_chunks():
            merged.add(chunk)
        response = merged.response()
        response["usage"] = response.get("usage") or answer.usage()
        return write_json(response)

    async def _generate(self, take: Take) -> None:
        """The answer, to its end; one that loops goes on differently where it can."""
        answer, healer = self.answer, self._healer
        request: GenerationRequest | None = self._request
        resume: Callable[[], None] | None = None  # before the first that comes of an attempt

        def take_resumed(events: Events) -> Awaitable[None] | None:
            nonlocal resume
            if resume is not None:
                resume()
                resume = None
            return take(events)

        while request is not None:
            try:
                with contextlib.suppress(EnoughError):
                    await self._engine.generate(request, take if resume is None else take_resumed)
            except ApiError as refused:
                if resume is None:
                    raise
                _log.warning("an answer that looped could not go on: %s", refused)
                return  # it ends at the cut
            if not answer.complete and not answer.over:
                raise upstream_failed("the upstream's stream ended before the answer did")
            if healer is None or not isinstance(answer, ChatAnswer) or not answer.waits:
                return
            said = self._said_before(answer)
            request = healer.next(said, answer.looped, answer.num_tokens)
            if request is not None:
                self._looped_at = self._looped_at or time.perf_counter()
                resume = functools.partial(answer.resume, request.said[len(said) :])

    def _said_before(self, answer: ChatAnswer) -> str:
        """What the reader got until a loop; the first one is noted."""
        said = answer.said
        if self._first_loop is None:
            self._first_loop = (said, answer.looped)
        return said

    def _feed(self, events: Events) -> tuple[bytes, ApiError | None]:
        """What the reader gets for what came at once: what stands before a failure is not lost by it."""
        answer = self.answer
        given = b""
        for event in events:
            if not event.data:  # a comment keeps the connection alive
                given += event.encode()
                continue
            try:
                given += answer.feed(event)
            except ApiError as error:
                self._note_text()
                return given, error
            if answer.over:
                break
        if self.first_text_at is None:
            self._note_text()
        if given and self._looped_at is not None:
            self._note_healing(self._looped_at)
        return given, None

    def _outcome(self) -> Outcome:
        if self.answer.cut:
            return "cut"
        if self.answer.failed:
            return "upstream_error"
        return "healed" if self._healer and self._healer.attempts else "ok"

    def _explain(self, failure: BaseException, begun: bool) -> ApiError:
        """The error that the reader gets; raises `failure` itself where nobody reads on."""
        if isinstance(failure, asyncio.CancelledError):
            if self._gone:
                raise failure
            failure = shutting_down()
        elif not isinstance(failure, ApiError):
            _log.error("the engine failed", exc_info=failure)
            failure = ApiError(500, "the engine failed", type="server_error", code="engine_failed")
        # A refusal is the client's doing; what comes later, or from 500 on, the engine's.
        self.outcome = "rejected" if not begun and failure.status < 500 else "upstream_error"
        return failure

    def _tell_of_loop(self) -> None:
        """Writes the answer's first loop into the incident log."""
        answer, request = self.answer, self._request
        if self._incidents is None or not isinstance(answer, ChatAnswer):
            return
        if self._first_loop is None and not answer.cut:
            return
        kept, looped = self._first_loop or (answer.said, answer.looped)
        self._incidents.write(
            {
                "request_id": request.exchange.request_id,
                "endpoint": request.endpoint,
                "outcome": self.outcome,
                "attempts": self._healer.attempts if self._healer else 0,
                "request": request.body(),
                "kept": kept,
                "looped": looped,
                "healed": answer.said[len(kept) :] if self.outcome == "healed" else None,
            }
        )

    def _note_text(self) -> None:
        if self.first_text_at is None and any(
            channel.chars_out for channel in self.answer.channels
        ):
            self.first_text_at = time.perf_counter()

    def _note_healing(self, looped_at: float) -> None:
        """There is text again."""
        self._heal_seconds += time.perf_counter() - looped_at
        self._looped_at = None

    def _push(self) -> None:
        """Counts what became of the request."""
        telemetry, label, answer = self._telemetry, self._model_label(), self.answer
        telemetry.count("requests", 1, label, self._request.endpoint, self.outcome)
        telemetry.observe("request_duration_seconds", time.perf_counter() - self.started_at, label)
        if self.first_text_at is not None and self._delivered:
            telemetry.observe(
                "time_to_first_token_seconds", self.first_text_at - self.started_at, label
            )
        if self._healer and self._healer.attempts:
            telemetry.count("heal_attempts", self._healer.attempts, label)
            telemetry.count(
                "heal_discarded_chars",
                sum(channel.discarded_chars for channel in answer.channels),
                label,
            )
            if self._heal_seconds:
                telemetry.observe("heal_seconds", self._heal_seconds, label)
        self._tell_of_loop()
        channels = answer.channels
        input_tokens, output_tokens = answer.input_tokens, answer.output_tokens
        if not channels and output_tokens is None:
            return  # nothing was generated
        if input_tokens is None:
            input_tokens = self._request.estimated_prompt_tokens
        if output_tokens is None:
            output_tokens = estimate_tokens(sum(channel.bytes_in for channel in channels))
        telemetry.count("tokens", input_tokens, label, "input")
        telemetry.count("tokens", output_tokens, label, "output")
        for channel in channels:
            channel.push(telemetry, label, delivered=self._delivered)
        if channels:
            telemetry.observe(
                "hold_seconds", max(channel.longest_hold for channel in channels), label
            )
            telemetry.observe(
                "overhead_seconds", sum(channel.overhead for channel in channels), label
            )
