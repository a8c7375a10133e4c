"""A notice behind the last result of a tool: the roles still alternate, and what is before is the same."""

from typing import Any

Json = dict[str, Any]


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
        return {**message, "content": _appended(message.get("content"), notice, "text")}
    if role is None and str(message.get("type")).endswith("_call_output"):
        return {**message, "output": _appended(message.get("output"), notice, "input_text")}
    content = message.get("content")
    if role != "user" or not isinstance(content, list):
        return None
    for index in range(len(content) - 1, -1, -1):
        block = content[index]
        if isinstance(block, dict) and str(block.get("type")).endswith("tool_result"):
            changed = {**block, "content": _appended(block.get("content"), notice, "text")}
            return {**message, "content": [*content[:index], changed, *content[index + 1 :]]}
    return None


def _appended(content: Any, notice: str, kind: str) -> Any:
    """Return a result with the notice as its last text; `kind`: the type of a part of text."""
    if isinstance(content, list):
        return [*content, {"type": kind, "text": notice}]
    if isinstance(content, str) and content:
        return f"{content}\n\n{notice}"
    return notice
