"""Histories of agents, in the form of each API."""

import json
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Api = Literal["chat", "messages", "responses"]

APIS: tuple[Api, ...] = ("chat", "messages", "responses")


@dataclass(frozen=True)
class Made:
    """A call with its result."""

    name: str
    arguments: Json
    result: str
    is_error: bool = False


@dataclass(frozen=True)
class Turn:
    """A turn of the agent."""

    calls: tuple[Made, ...] = ()
    text: str = ""


Part = Turn | str  # a string is a message of the user


def turn(name: str, arguments: Json, result: str, *, is_error: bool = False) -> Turn:
    return Turn((Made(name, arguments, result, is_error),))


def history(api: Api, *parts: Part, start: str = "Do it.") -> list[Json]:
    """Return the messages of a request that begins with a message of the user."""
    messages: list[Json] = []
    for number, part in enumerate((start, *parts)):
        messages += _WRITERS[api](part, number)
    return messages


def _chat(part: Part, number: int) -> list[Json]:
    if isinstance(part, str):
        return [{"role": "user", "content": part}]
    message: Json = {"role": "assistant", "content": part.text or None}
    results: list[Json] = []
    for place, call in enumerate(part.calls):
        key = f"call_{number}_{place}"
        function = {"name": call.name, "arguments": json.dumps(call.arguments)}
        message.setdefault("tool_calls", []).append(
            {"id": key, "type": "function", "function": function}
        )
        results.append({"role": "tool", "tool_call_id": key, "content": call.result})
    return [message, *results]


def _messages(part: Part, number: int) -> list[Json]:
    if isinstance(part, str):
        return [{"role": "user", "content": part}]
    blocks: list[Json] = [{"type": "text", "text": part.text}] if part.text else []
    results: list[Json] = []
    for place, call in enumerate(part.calls):
        key = f"toolu_{number}_{place}"
        blocks.append({"type": "tool_use", "id": key, "name": call.name, "input": call.arguments})
        result: Json = {"type": "tool_result", "tool_use_id": key, "content": call.result}
        if call.is_error:
            result["is_error"] = True
        results.append(result)
    said = {"role": "assistant", "content": blocks}
    return [said, {"role": "user", "content": results}] if results else [said]


def _responses(part: Part, number: int) -> list[Json]:
    if isinstance(part, str):
        return [{"role": "user", "content": part}]
    items: list[Json] = [{"type": "reasoning", "id": f"rs_{number}", "summary": []}]
    if part.text:
        content = [{"type": "output_text", "text": part.text}]
        items.append({"type": "message", "role": "assistant", "content": content})
    outputs: list[Json] = []
    for place, call in enumerate(part.calls):
        key = f"call_{number}_{place}"
        items.append(
            {
                "type": "function_call",
                "call_id": key,
                "name": call.name,
                "arguments": json.dumps(call.arguments),
            }
        )
        outputs.append({"type": "function_call_output", "call_id": key, "output": call.result})
    return [*items, *outputs]


_WRITERS = {"chat": _chat, "messages": _messages, "responses": _responses}
