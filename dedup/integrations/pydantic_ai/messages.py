"""Messages of Pydantic AI: read for agent loops, and filtered."""

from dataclasses import replace
from typing import Any

from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from dedup.answer.agent_loops import Call, Climb
from dedup.answer.frame import ChannelName
from dedup.answer.pieces import AnswerFilter

Json = dict[str, Any]


def history(messages: list[Any]) -> list[Json]:
    """Return messages in the form of Anthropic's API, which has errors of tools."""
    found: list[Json] = []
    for message in messages:
        if isinstance(message, ModelResponse):
            calls, text = calls_of(message)
            ids = [part.tool_call_id for part in message.parts if isinstance(part, ToolCallPart)]
            made = [
                {"id": key, "function": {"name": call.name, "arguments": call.arguments}}
                for key, call in zip(ids, calls, strict=True)
            ]
            found.append({"role": "assistant", "content": text, "tool_calls": made})
        for part in message.parts if isinstance(message, ModelRequest) else ():
            if isinstance(part, UserPromptPart):
                content = part.content
                if not isinstance(content, str):
                    content = [{"type": "text", "text": str(one)} for one in content]
                found.append({"role": "user", "content": content})
            elif _is_result(part):
                result: Json = {"type": "tool_result", "tool_use_id": part.tool_call_id}
                result["content"] = _result(part)
                result["is_error"] = getattr(part, "outcome", "failed") != "success"
                found.append({"role": "user", "content": [result]})
    return found


def calls_of(response: ModelResponse) -> tuple[list[Call], str]:
    """Return the calls and the text of an answer."""
    calls = [
        Call(part.tool_name, part.args or "", has_result=False)
        for part in response.parts
        if isinstance(part, ToolCallPart)
    ]
    return calls, "".join([one.content for one in response.parts if isinstance(one, TextPart)])


def with_notice(messages: list[Any], notice: str) -> list[Any]:
    """Return messages with a notice behind the last tool's result."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        for number in range(len(message.parts) - 1, -1, -1):
            part = message.parts[number]
            if isinstance(message, ModelRequest) and _is_result(part):
                parts = list(message.parts)
                parts[number] = replace(part, content=f"{_result(part)}\n\n{notice}")
                changed = replace(message, parts=parts)
                return [*messages[:index], changed, *messages[index + 1 :]]
    return messages


def filtered(
    response: ModelResponse, text_filter: AnswerFilter, climb: Climb | None
) -> ModelResponse:
    """Return a whole answer with its texts filtered. Arguments of its calls are not changed."""
    texts = {
        str(index): part
        for index, part in enumerate(response.parts)
        if isinstance(part, TextPart | ThinkingPart)
    }
    given = text_filter.whole(
        (channel_of(part), index, part.content, bool(getattr(part, "signature", None)))
        for index, part in texts.items()
    )
    parts = list(response.parts)
    for index, part in texts.items():
        if given[index] != part.content:
            parts[int(index)] = replace(part, content=given[index])
    return with_report(replace(response, parts=parts), text_filter, climb)


def with_report(
    response: ModelResponse, text_filter: AnswerFilter, climb: Climb | None
) -> ModelResponse:
    """Return an answer with what was done in its metadata."""
    report = text_filter.report() or {}
    if climb is not None and (agent_loop := climb.report()):
        report["agent_loop"] = agent_loop
    if not report:
        return response
    return replace(response, metadata={**(response.metadata or {}), "repetition": report})


def channel_of(part: Any) -> ChannelName:
    if isinstance(part, ToolCallPart):
        return "tool_arguments"
    return "reasoning" if isinstance(part, ThinkingPart) else "content"


def _is_result(part: Any) -> bool:
    return isinstance(part, ToolReturnPart) or (
        isinstance(part, RetryPromptPart) and part.tool_name is not None
    )


def _result(part: Any) -> str:
    if isinstance(part, ToolReturnPart):
        return str(part.model_response_str(wrap_if_error=False))
    return str(part.content if isinstance(part.content, str) else part.model_response())
