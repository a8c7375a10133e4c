"""The turn of an agent in a loop: attempts of the model, whole or streamed."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseOutputItemDoneEvent,
    ResponseTextDeltaEvent,
)

from dedup.answer.agent_loops import Climb
from dedup.answer.agent_loops.nudging import nudged
from dedup.integrations.openai_agents.items import message, read

_log: Final = logging.getLogger("dedup.integrations")


async def climbed(
    climb: Climb,
    given: Any,
    settings: Any,
    ask: Callable[[Any, Any], Awaitable[Any]],
    output_of: Callable[[Any], Any],
) -> tuple[Any, bool]:
    """Return the answer that leaves the loop, or the last one, and whether the turn is to end.

    Args:
        climb: The climb out of the loop.
        given, settings: The input and the settings of the request.
        ask: Asks the model.
        output_of: Returns the items of an answer; None if it has failed.
    """
    answer: Any = None
    asked, settings_asked = given, settings
    while True:
        try:
            tried = await ask(asked, settings_asked)
            if answer is None or output_of(tried):
                answer = tried
        except Exception as error:
            if answer is None:
                raise
            _log.warning("another answer for an agent in a loop failed: %s", error)
        rung = climb.next(*read(output_of(answer) or ()))
        if rung is None or rung == "stop":
            return answer, rung == "stop"
        asked = nudged(given, climb.notice) or given
        settings_asked = replace(settings, tool_choice="none") if rung == "answer" else settings


async def held_events(
    climb: Climb,
    given: Any,
    settings: Any,
    source: Callable[[Any, Any], AsyncIterator[Any]],
) -> AsyncIterator[Any]:
    """Yield the events of the answer that is given, once it is known; of a loop that is only measured, at once."""
    spent: list[Any] = []

    async def ask(asked: Any, settings_asked: Any) -> list[Any]:
        events = [event async for event in source(asked, settings_asked)]
        if (response := _response_of(events)) is not None and response.usage:
            spent.append(response.usage)
        return events

    if not climb.has_rungs:
        async for event in source(given, settings):
            if event.type == "response.completed":
                climb.next(*read(event.response.output))
            yield event
        return
    events, is_stopped = await climbed(climb, given, settings, ask, _output_of)
    for event in _stopped(events, climb.notice) if is_stopped else events:
        if event.type == "response.completed" and len(spent) > 1:
            counts = ("input_tokens", "output_tokens", "total_tokens")
            sums = {name: sum(getattr(one, name) for one in spent) for name in counts}
            usage = spent[-1].model_copy(update=sums)
            event = event.model_copy(
                update={"response": event.response.model_copy(update={"usage": usage})}
            )
        yield event


def _response_of(events: list[Any]) -> Any:
    done = [event.response for event in events if event.type == "response.completed"]
    return done[-1] if done else None


def _output_of(events: list[Any]) -> Any:
    """Return the items of a streamed answer; some models leave them out of the last event."""
    response = _response_of(events)
    items = [event.item for event in events if event.type == "response.output_item.done"]
    return None if response is None else response.output or items


def _stopped(events: list[Any], text: str) -> list[Any]:
    """Return the events of an answer that ends the turn."""
    item = message(text)
    number = 0
    head = [event for event in events[:1] if event.type == "response.created"]
    response = _response_of(events).model_copy(update={"output": [item]})
    return [
        *head,
        ResponseTextDeltaEvent(
            content_index=0,
            delta=text,
            item_id=item.id,
            logprobs=[],
            output_index=0,
            sequence_number=number + 1,
            type="response.output_text.delta",
        ),
        ResponseOutputItemDoneEvent(
            item=item, output_index=0, sequence_number=number + 2, type="response.output_item.done"
        ),
        ResponseCompletedEvent(
            response=response, sequence_number=number + 3, type="response.completed"
        ),
    ]
