"""A guardrail that rejects calls of tools which go on with a loop."""

import weakref
from collections.abc import Collection
from typing import Any

from agents import ToolGuardrailFunctionOutput, ToolInputGuardrail, ToolOutputGuardrail

from dedup.answer.agent_loops import AgentGuard
from dedup.answer.agent_loops.ladder import notice_of
from dedup.answer.conversation import last_prompt


class AgentLoopGuardrail:
    """Guardrail that rejects a tool's call which goes on with a loop.

        guardrail = AgentLoopGuardrail()

        @function_tool(tool_input_guardrails=[guardrail.input], tool_output_guardrails=[guardrail.output])
        def search(query: str) -> str: ...

    One guardrail serves all tools of an agent. The model gets the last result once more, and a
    notice behind it. The call is not made.

    Args:
        repeatable: Names of tools that are meant to be called again and again.

    Attributes:
        input: For `tool_input_guardrails`.
        output: For `tool_output_guardrails`.
    """

    def __init__(self, repeatable: Collection[str] = ()) -> None:
        self.input: ToolInputGuardrail[Any] = ToolInputGuardrail(self._before, "agent_loop")
        self.output: ToolOutputGuardrail[Any] = ToolOutputGuardrail(self._after, "agent_loop")
        self._repeatable = repeatable
        self._guards: dict[int, AgentGuard] = {}  # by run

    def _guard(self, context: Any) -> AgentGuard:
        run = context.usage  # the run's, while the context is the call's
        guard = self._guards.get(id(run))
        if guard is None:
            guard = self._guards[id(run)] = AgentGuard(self._repeatable)
            guard.reset(last_prompt(context.turn_input))
            weakref.finalize(run, self._guards.pop, id(run), None)
        return guard

    def _before(self, data: Any) -> ToolGuardrailFunctionOutput:
        context = data.context
        call = (context.tool_name, context.tool_arguments)
        loop = self._guard(context).before([call])
        if loop is None:
            return ToolGuardrailFunctionOutput.allow()
        known = [
            one for step in loop.next_steps for one in step.calls if one.name == context.tool_name
        ]
        notice = notice_of("nudge", last_prompt(context.turn_input))
        return ToolGuardrailFunctionOutput.reject_content(
            f"{known[-1].result}\n\n{notice}", output_info=loop.report()
        )

    def _after(self, data: Any) -> ToolGuardrailFunctionOutput:
        context = data.context
        self._guard(context).observe((context.tool_name, context.tool_arguments), str(data.output))
        return ToolGuardrailFunctionOutput.allow()
