"""A request to the model, and the answer that is given."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import ModelResponse, TextPart

from dedup.answer.agent_loops import Climb, Ladder
from dedup.answer.conversation import answers, last_prompt
from dedup.answer.pieces import AnswerFilter
from dedup.config import Policy
from dedup.integrations.pydantic_ai.messages import calls_of, history, with_notice

_log: Final = logging.getLogger("dedup.integrations")

Ask = Callable[[list[Any], Any], Awaitable[ModelResponse]]


class Turn:
    """A request, and the answer that is given."""

    def __init__(
        self,
        policy: Policy,
        ladder: Ladder,
        messages: list[Any],
        settings: Any,
        parameters: Any,
    ) -> None:
        self._messages, self._settings, self._parameters = messages, settings, parameters
        conversation = history(messages)
        is_text = parameters.allow_text_output and parameters.output_object is None
        choice = (settings or {}).get("tool_choice")
        is_free = parameters.allow_text_output and choice in (None, "auto", "none")
        self._is_text = is_text
        self.climb: Climb | None = None
        if parameters.function_tools:
            self.climb = ladder.climb(conversation, forces_call=not is_free)
        self.filter = AnswerFilter(
            policy,
            prompt=last_prompt(conversation),
            history=answers(conversation) if policy == "strict" else (),
            wants_json=not is_text,
        )

    async def answer(self, ask: Ask) -> ModelResponse:
        """Return the answer that leaves the loop, or the last one, or the one that ends the turn."""
        given = await ask(self._messages, self._settings)
        usage = given.usage
        while self.climb is not None and (rung := self.climb.next(*calls_of(given))):
            notice = self.climb.notice
            if rung == "stop":
                if not self._is_text:
                    raise UnexpectedModelBehavior(notice)
                given = replace(given, parts=[TextPart(notice)], finish_reason="stop")
                break
            settings = self._settings
            if rung == "answer":
                settings = {**(settings or {}), "tool_choice": "none"}
            try:
                tried = await ask(with_notice(self._messages, notice), settings)
            except Exception as error:
                _log.warning("another answer for an agent in a loop failed: %s", error)
                continue
            usage = usage + tried.usage
            if tried.parts:
                given = tried
        return replace(given, usage=usage)
