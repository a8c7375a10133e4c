"""A model that filters another one's answers, and leads its agent out of loops of tool calls."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from typing import Any

from agents import (
    Model,
    ModelResponse,
    Usage,
    custom_span,
    get_current_trace,
)

from dedup.answer.agent_loops import Climb, Ladder
from dedup.answer.agent_loops.ladder import RUNGS
from dedup.answer.conversation import answers, last_prompt
from dedup.answer.pieces import AnswerFilter
from dedup.config import Policy
from dedup.integrations.openai_agents.events import EventFilter
from dedup.integrations.openai_agents.items import filtered_items, message
from dedup.integrations.openai_agents.turn import climbed, held_events


class RepetitionModel(Model):  # type: ignore[misc]
    """Model that filters another model's answers, and leads its agent out of loops of tool calls.

        agent = Agent(name="clerk", model=RepetitionModel(OpenAIResponsesModel(...)), tools=[...])

    Where a streamed text loops, the model's stream is closed. Where the history loops and the
    answer goes on with the loop, the model is asked again: with a notice behind the last result
    (`nudge`), then without calls (`answer`); at last the turn is ended with a text that says so
    (`stop`). What was done is a custom span `repetition` of the trace.

    Args:
        model: The model.
        policy: `balanced`, `strict`, `loops`, `watch` or `off`.
        rungs: What may be done about a loop. Without any, loops are reported.
        repeatable: Names of tools that are meant to be called again and again.

    Raises:
        ValueError: There is no such policy, or no such rung.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy = "balanced",
        *,
        rungs: Sequence[str] = RUNGS,
        repeatable: Collection[str] = (),
    ) -> None:
        AnswerFilter(policy)
        self._model = model
        self._policy: Policy = policy
        self._ladder = Ladder(rungs, repeatable)

    async def get_response(
        self, system_instructions: Any, input: Any, model_settings: Any, *rest: Any, **options: Any
    ) -> ModelResponse:
        """Return the answer to a request; see `Model.get_response`."""
        usage = Usage()

        async def ask(given: Any, settings: Any) -> ModelResponse:
            response = await self._model.get_response(
                system_instructions, given, settings, *rest, **options
            )
            usage.add(response.usage)
            return response

        climb = self._climb(input, model_settings, rest, options)
        if climb is None:
            response = await ask(input, model_settings)
        else:
            response, is_stopped = await climbed(
                climb, input, model_settings, ask, lambda one: one.output
            )
            if is_stopped:
                response = replace(response, output=[message(climb.notice)])
        text_filter = self._filter(input, rest, options)
        output = filtered_items(response.output, text_filter)
        _report(text_filter, climb)
        return replace(response, output=output, usage=usage)

    async def stream_response(
        self, system_instructions: Any, input: Any, model_settings: Any, *rest: Any, **options: Any
    ) -> AsyncIterator[Any]:
        """Yield the events of an answer; see `Model.stream_response`.

        Those of an agent in a loop are held until it is known that the answer leaves the loop.
        """

        def source(given: Any, settings: Any) -> AsyncIterator[Any]:
            events: AsyncIterator[Any] = self._model.stream_response(
                system_instructions, given, settings, *rest, **options
            )
            return events

        climb = self._climb(input, model_settings, rest, options)
        if climb is None:
            events = source(input, model_settings)
        else:
            events = held_events(climb, input, model_settings, source)
        text_filter = self._filter(input, rest, options)
        async for event in EventFilter(text_filter, events).events():
            if event.type in ("response.completed", "response.incomplete"):
                _report(text_filter, climb)
            yield event

    async def close(self) -> None:
        """Close the model."""
        await self._model.close()

    def get_retry_advice(self, request: Any) -> Any:
        """Return the model's advice."""
        return self._model.get_retry_advice(request)

    def _climb(self, input: Any, settings: Any, rest: Any, options: Any) -> Climb | None:
        """Return the climb of an agent in a loop; None if it is in none."""
        tools = options.get("tools") or options.get("handoffs") or rest[:1] + rest[2:3]
        if not isinstance(input, list) or not any(tools):
            return None
        forces_call = settings.tool_choice not in (None, "auto", "none")
        return self._ladder.climb(input, forces_call=forces_call)

    def _filter(self, input: Any, rest: Any, options: Any) -> AnswerFilter:
        schema = options.get("output_schema", rest[1] if len(rest) > 1 else None)
        wants_json = schema is not None and not schema.is_plain_text()
        prompt = input if isinstance(input, str) else last_prompt(input)
        history = answers(input) if self._policy == "strict" else ()
        return AnswerFilter(self._policy, prompt=prompt, history=history, wants_json=wants_json)


def _report(text_filter: AnswerFilter, climb: Climb | None) -> None:
    report = text_filter.report() or {}
    if climb is not None and (agent_loop := climb.report()):
        report["agent_loop"] = agent_loop
    if report and get_current_trace() is not None:
        with custom_span("repetition", data=report):
            pass
