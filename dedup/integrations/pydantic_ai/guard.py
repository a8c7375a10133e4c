"""A capability that filters the model's answers, and leads the agent out of loops of tool calls."""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import CompletedStreamedResponse, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel

from dedup.answer.agent_loops import Ladder
from dedup.answer.agent_loops.ladder import RUNGS
from dedup.answer.pieces import AnswerFilter
from dedup.config import Policy
from dedup.integrations.pydantic_ai.messages import filtered
from dedup.integrations.pydantic_ai.stream import FilteredStream
from dedup.integrations.pydantic_ai.turn import Turn


class RepetitionGuard(AbstractCapability[Any]):  # type: ignore[misc]
    """Capability that filters the model's answers, and leads the agent out of loops of tool calls.

        agent = Agent("openai:gpt-5.5", capabilities=[RepetitionGuard()])

    Where a streamed text loops, the model's stream is closed. Where the history loops and the
    answer goes on with the loop, the model is asked again: with a notice behind the last result
    (`nudge`), then without calls (`answer`); at last the turn is ended with a text that says so
    (`stop`), or, where the output is no plain text, with an `UnexpectedModelBehavior`. What was
    done is in the response's `metadata["repetition"]`.

    Args:
        policy: `balanced`, `strict`, `loops`, `watch` or `off`.
        rungs: What may be done about a loop. Without any, loops are reported.
        repeatable: Names of tools that are meant to be called again and again.

    Raises:
        ValueError: There is no such policy, or no such rung.
    """

    def __init__(
        self,
        policy: Policy = "balanced",
        *,
        rungs: Sequence[str] = RUNGS,
        repeatable: Collection[str] = (),
    ) -> None:
        AnswerFilter(policy)
        self.policy: Policy = policy
        self.ladder = Ladder(rungs, repeatable)

    def get_wrapper_model(self, model: Any) -> "RepetitionModel":
        """Return the model that filters `model`'s answers."""
        return RepetitionModel(model, self)


class RepetitionModel(WrapperModel):  # type: ignore[misc]
    """A model with a guard, for one that is used without an agent.

    Args:
        wrapped: The model, or its name.
        guard: The guard.
    """

    def __init__(self, wrapped: Any, guard: RepetitionGuard) -> None:
        super().__init__(wrapped)
        self._guard = guard

    async def request(self, messages: list[Any], model_settings: Any, parameters: Any) -> Any:
        """Return the answer to a request."""

        async def ask(given: list[Any], settings: Any) -> ModelResponse:
            return await self.wrapped.request(given, settings, parameters)

        turn = Turn(self._guard.policy, self._guard.ladder, messages, model_settings, parameters)
        return filtered(await turn.answer(ask), turn.filter, turn.climb)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[Any],
        model_settings: Any,
        parameters: Any,
        run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Stream the answer. That of an agent in a loop is held until it is known to leave the loop."""

        async def ask(given: list[Any], settings: Any) -> ModelResponse:
            stream = self.wrapped.request_stream(given, settings, parameters, run_context)
            async with stream as source:
                async for _ in source:
                    pass
                return source.get()

        turn = Turn(self._guard.policy, self._guard.ladder, messages, model_settings, parameters)
        if turn.climb is not None and turn.climb.has_rungs:
            response = filtered(await turn.answer(ask), turn.filter, turn.climb)
            yield CompletedStreamedResponse(
                response, model_request_parameters=parameters, replay_events=True
            )
            return
        stream = self.wrapped.request_stream(messages, model_settings, parameters, run_context)
        async with stream as source:
            yield FilteredStream(source, turn.filter, turn.climb)
