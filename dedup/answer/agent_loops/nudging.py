"""A notice behind the last result of a tool: the roles still alternate, and what is before is the same."""

from typing import Any

Json = dict[str, Any]

_OUTPUTS = ("function_call_output", "custom_tool_call_output")


def nudged(messages: list[Any], notice: str) -> list[Any] | None:
    """Return messages with a notice appended to the last tool result; None if there is no result.

    Nothing else is changed, and what changes is a copy.

    Args:
        messages: The messages of a request; see `find_loop`.
        notice: The text.
    """
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        changed = _with_notice(message, notice) if isinstance(message, dict) else None
        if changed is not None:
            return [*messages[:index], changed, *messages[index + 1 :]]
    return None


def _with_notice(message: Json, notice: str) -> Json | None:
    """Return a message with a notice behind the last result in it; None if it has none."""
    role = message.get("role")
    if role in ("tool", "function"):
        return _appended(message, "content", notice, "text")
    if role is None and message.get("type") in _OUTPUTS:
        return _appended(message, "output", notice, "input_text")
    content = message.get("content")
    if role != "user" or not isinstance(content, list):
        return None
    for index in range(len(content) - 1, -1, -1):
        block = content[index]
        if isinstance(block, dict) and block.get("type") == "tool_result":
            changed = _appended(block, "content", notice, "text")
            if changed is not None:
                return {**message, "content": [*content[:index], changed, *content[index + 1 :]]}
    return None


def _appended(holder: Json, field: str, notice: str, kind: str) -> Json | None:
    """Return the holder of a result with the notice as its last text; None if it holds no text.

    Args:
        field: Its field that holds the result.
        kind: The type of a part of text.
    """
    content = holder.get(field)
    if isinstance(content, list):
        return {**holder, field: [*content, {"type": kind, "text": notice}]}
    if isinstance(content, str) and content:
        return {**holder, field: f"{content}\n\n{notice}"}
    return {**holder, field: notice} if not content else None
