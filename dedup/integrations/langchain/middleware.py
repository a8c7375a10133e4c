"""Middleware for agents that leads them out of loops of tool calls."""

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import add_usage
from langgraph.constants import TAG_NOSTREAM

from dedup.answer.agent_loops import Call, Climb, Ladder
from dedup.answer.agent_loops.ladder import RUNGS
from dedup.integrations.langchain.messages import history, with_notice

Json = dict[str, Any]

_log: Final = logging.getLogger("dedup.integrations")


class AgentLoopMiddleware(AgentMiddleware[Any, Any, Any]):  # type: ignore[misc]
    """Middleware that leads an agent out of a loop of tool calls.

        agent = create_agent(model, tools, middleware=[AgentLoopMiddleware()])

    Where the history loops and the model's answer goes on with the loop, the model is asked again:
    with a notice behind the last result (`nudge`), then without calls (`answer`). At last the turn
    is ended with a text that says so (`stop`). The notices are not stored in the agent's state.

    Args:
        rungs: What may be done, of `nudge`, `answer` and `stop`. Without any, loops are reported.
        repeatable: Names of tools that are meant to be called again and again.

    Raises:
        ValueError: `rungs` names anything else.
    """

    def __init__(self, rungs: Sequence[str] = RUNGS, repeatable: Collection[str] = ()) -> None:
        super().__init__()
        self._ladder = Ladder(rungs, repeatable)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model, and again while its answer goes on with a loop."""
        turn = self._turn(request)
        if turn is None:
            return handler(request)
        while (asked := turn.asked) is not None:
            try:
                turn.take(handler(asked))
            except Exception as error:
                turn.take(None, error)
        return turn.response

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Call the model like `wrap_model_call`."""
        turn = self._turn(request)
        if turn is None:
            return await handler(request)
        while (asked := turn.asked) is not None:
            try:
                turn.take(await handler(asked))
            except Exception as error:
                turn.take(None, error)
        return turn.response

    def _turn(self, request: ModelRequest[Any]) -> "_Turn | None":
        """Return the turn of an agent in a loop; None if it is in none."""
        if not request.tools:
            return None
        choice = request.tool_choice
        is_free = choice in (None, "auto", "none") and (
            request.response_format is None or isinstance(request.response_format, ProviderStrategy)
        )
        climb = self._ladder.climb(history(request.messages), forces_call=not is_free)
        return _Turn(request, climb) if climb is not None else None


class _Turn:
    """The model's turn in a loop: the request that is to be made, None at last, and the answer."""

    def __init__(self, request: ModelRequest[Any], climb: Climb) -> None:
        if climb.has_rungs:  # a rejected answer must not be streamed: it comes whole
            tags = [*(request.model.tags or ()), TAG_NOSTREAM]
            request = request.override(model=request.model.model_copy(update={"tags": tags}))
        self.asked: ModelRequest[Any] | None = request
        self.response: ModelResponse[Any] = ModelResponse(result=[])
        self._request = request
        self._climb = climb
        self._usage: Any = None

    def take(self, response: ModelResponse[Any] | None, error: Exception | None = None) -> None:
        """Take an attempt, or its failure. Raises that of the first one."""
        if error is not None:
            if not self.response.result:
                raise error
            _log.warning("another answer for an agent in a loop failed: %s", error)
        if response is not None:
            calls, text, usage = _read(response)
            self._usage = add_usage(self._usage, usage)
            if calls or text or not self.response.result:
                self.response = response
        self.asked = None
        calls, text, _ = _read(self.response)
        rung = self._climb.next(calls, text)
        if rung == "nudge" or rung == "answer":
            changes: Json = {"tool_choice": "none"} if rung == "answer" else {}
            messages = with_notice(self._request.messages, self._climb.notice)
            self.asked = self._request.override(messages=messages, **changes)
            return
        if rung == "stop":
            metadata = {"finish_reason": "stop", "stop_reason": "repetition_detected"}
            stopped = AIMessage(self._climb.notice, response_metadata=metadata)
            self.response = ModelResponse(result=[stopped])
        if report := self._climb.report():
            message = next(one for one in self.response.result if isinstance(one, AIMessage))
            reported = {**message.response_metadata, "repetition": {"agent_loop": report}}
            message.response_metadata, message.usage_metadata = reported, self._usage


def _read(response: ModelResponse[Any]) -> tuple[list[Call], str, Any]:
    """Return the calls, the text and the usage of an answer."""
    for message in response.result:
        if isinstance(message, AIMessage):
            made = [*message.tool_calls, *message.invalid_tool_calls]
            calls = [Call(one["name"] or "", one["args"], has_result=False) for one in made]
            return calls, str(message.text), message.usage_metadata
    return [], "", None
