"""Messages of LangChain: read for agent loops, and their texts by part."""

import copy
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)

from dedup.answer.agent_loops.nudging import nudged
from dedup.answer.frame import ChannelName

Json = dict[str, Any]

# Fields of content blocks that hold text.
_FIELDS: Final[dict[str, ChannelName]] = {
    "text": "content",
    "reasoning": "reasoning",
    "thinking": "reasoning",
}


class Place(NamedTuple):
    """A text of a message, and the part of an answer that it is a piece of."""

    channel: ChannelName
    part: str
    text: str
    is_locked: bool
    shell: Json  # fields of a chunk that has nothing but the text


def history(messages: list[AnyMessage]) -> list[Json]:
    """Return messages in the form of Anthropic's API, which has errors of tools."""
    history: list[Json] = []
    for message in messages:
        if isinstance(message, AIMessage):
            calls = [
                {"id": one["id"], "function": {"name": one["name"], "arguments": one["args"]}}
                for one in (*message.tool_calls, *message.invalid_tool_calls)
            ]
            content = message.text if isinstance(message.content, list) else message.content
            history.append({"role": "assistant", "content": str(content), "tool_calls": calls})
        elif isinstance(message, ToolMessage):
            result: Json = {"type": "tool_result", "tool_use_id": message.tool_call_id}
            result["content"], result["is_error"] = message.content, message.status == "error"
            history.append({"role": "user", "content": [result]})
        elif isinstance(message, HumanMessage):
            history.append({"role": "user", "content": message.content})
    return history


def with_notice(messages: list[AnyMessage], notice: str) -> list[AnyMessage]:
    """Return messages with a notice behind the last tool's result."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, ToolMessage):
            told = nudged([{"role": "tool", "content": message.content}], notice) or []
            changed = message.model_copy(update={"content": told[0]["content"]})
            return [*messages[:index], changed, *messages[index + 1 :]]
    return messages


def places_in(message: BaseMessage) -> Iterator[Place]:
    if not isinstance(message, AIMessage):
        raise TypeError(f"expected a chat model's message, got {type(message).__name__}")
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        shell: Json = {"content": "", "additional_kwargs": {"reasoning_content": ""}}
        yield Place("reasoning", "reasoning_content", reasoning, False, shell)
    if isinstance(message.content, str):
        yield Place("content", "content", message.content, False, {"content": ""})
    for part, block, field in _blocks(message.content):
        is_locked = bool(block.get("signature"))
        kept = {key: block[key] for key in ("type", "index") if key in block}
        shell = {"content": [{**kept, field: ""}]}
        yield Place(_FIELDS[field], part, block[field], is_locked, shell)
    for call in getattr(message, "tool_call_chunks", ()):
        empty = {**call, "name": None, "id": None, "args": ""}
        shell = {"content": "", "tool_call_chunks": [empty]}
        yield Place("tool_arguments", f"call:{call['index']}", call["args"] or "", False, shell)


def _blocks(content: str | list[Any]) -> Iterator[tuple[str, Json, str]]:
    """Yield the content blocks with text: the part that each is of, itself, the text's field."""
    for number, block in enumerate(content if isinstance(content, list) else ()):
        for field in _FIELDS if isinstance(block, dict) else ():
            if isinstance(block.get(field), str):
                yield f"{field}:{block.get('index', number)}", block, field


def with_texts(message: BaseMessage, texts: dict[str, str], metadata: Json) -> BaseMessage:
    """Return a message with other texts; the message itself where nothing changes."""
    places = {one.part: one.text for one in places_in(message) if one.part in texts}
    if metadata == message.response_metadata and places == texts:
        return message
    changes: Json = {"content": message.content, "response_metadata": metadata}
    if isinstance(message.content, str):
        changes["content"] = texts.get("content", message.content)
    else:
        changes["content"] = copy.deepcopy(message.content)
        for part, block, field in _blocks(changes["content"]):
            block[field] = texts.get(part, block[field])
    if "reasoning_content" in texts:
        reasoning = {"reasoning_content": texts["reasoning_content"]}
        changes["additional_kwargs"] = {**message.additional_kwargs, **reasoning}
    if not isinstance(message, AIMessageChunk):
        return message.model_copy(update=changes)
    calls = message.tool_call_chunks
    changes["tool_call_chunks"] = [
        {**one, "args": texts.get(f"call:{one['index']}", one["args"])} for one in calls
    ]
    kept = ("additional_kwargs", "name", "id", "usage_metadata", "chunk_position")
    return AIMessageChunk(**{key: getattr(message, key) for key in kept} | changes)
