"""The Responses API of the scripted upstream."""

from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from typing import Any

from tests.agents.models import Answer, Conversation
from tests.agents.strict import (
    Json,
    require,
    require_arguments,
    require_choice,
    require_fields,
    require_key,
    require_list,
)
from tests.agents.usage import INPUT_TOKENS, OUTPUT_TOKENS, arguments_of, pieces

FIELDS = (
    "instructions tools tool_choice parallel_tool_calls temperature top_p max_output_tokens stream "
    "store include metadata reasoning text truncation user service_tier prompt_cache_key "
    "stream_options max_tool_calls safety_identifier"
).split()
CALL_FIELDS = ("call_id", "name", "arguments")
USAGE: Json = {
    "input_tokens": INPUT_TOKENS,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": OUTPUT_TOKENS,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


class Issued:
    """The reasoning that was given out, and the item that each piece of it belongs to."""

    def __init__(self) -> None:
        self._summaries: dict[str, object] = {}
        self._owners: dict[str, str] = {}

    def record(self, items: list[Json]) -> None:
        for item, following in pairwise(items):
            if item["type"] == "reasoning":
                self._summaries[item["id"]] = item["summary"]
                self._owners[item["id"]] = following["id"]

    def check(self, items: list[Json]) -> None:
        """Require that each reasoning item comes back unchanged and before its own item.

        Raises:
            RefusedError: As the API refuses what it cannot place.
        """
        for number, item in enumerate(items):
            item_id = item.get("id")
            if item.get("type") == "reasoning":
                require(item_id in self._owners, f"item {item_id!r} not found")
                changed = item.get("summary") != self._summaries[str(item_id)]
                require(not changed, f"item {item_id!r} was changed")
                following = items[number + 1] if number + 1 < len(items) else {}
                owner = self._owners[str(item_id)]
                message = f"item {item_id!r} of type 'reasoning' was provided without its required following item"
                require(following.get("id") == owner, message)
            if item_id in self._owners.values():
                before = items[number - 1].get("id") if number else None
                owner = self._owners.get(str(before), "")
                message = f"item {item_id!r} was provided without its required 'reasoning' item"
                require(owner == item_id, message)


def check(body: Json, headers: Mapping[str, str]) -> None:
    """Check a request as the API does.

    Raises:
        RefusedError: If it would be refused.
    """
    require_key(headers, "Authorization")
    require_fields(body, FIELDS, ("model", "input"), "body")
    names = set()
    for tool in require_list(body["tools"], "tools") if body.get("tools") else []:
        optional = ("description", "strict")
        require_fields(tool, optional, ("type", "name", "parameters"), "tools")
        names.add(tool["name"])
    require_choice(body.get("tool_choice"), names)
    calls: list[str] = []
    answered: list[str] = []
    for number, item in enumerate(items_of(body)):
        at = f"input.{number}"
        kind = item.get("type", "message")
        if kind == "function_call":
            require_fields(item, ("id", "status"), ("type", *CALL_FIELDS), at)
            require_arguments(item["arguments"], f"{at}.arguments")
            require(item["call_id"] not in calls, f"{at}: two calls {item['call_id']!r}")
            calls.append(item["call_id"])
        elif kind == "function_call_output":
            require_fields(item, ("id", "status"), ("type", "call_id", "output"), at)
            call_id = item["call_id"]
            require(call_id in calls, f"{at}: no tool call found for {call_id!r}")
            require(call_id not in answered, f"{at}: two outputs for {call_id!r}")
            answered.append(call_id)
        elif kind == "reasoning":
            require_fields(
                item, ("status", "encrypted_content", "content"), ("type", "id", "summary"), at
            )
        else:
            _check_message(item, at)
            unanswered = sorted(set(calls) - set(answered))
            require(not unanswered, f"{at}: no tool output found for {unanswered}")
    unanswered = sorted(set(calls) - set(answered))
    require(not unanswered, f"input: no tool output found for {unanswered}")
    require(names or not calls, "tools: must be given when the input holds function calls")


def _check_message(item: Json, at: str) -> None:
    require_fields(item, ("type", "id", "status", "phase"), ("role", "content"), at)
    require(item["role"] in ("user", "assistant", "system", "developer"), f"{at}: unknown role")
    if isinstance(item["content"], str):
        return
    kind = "output_text" if item["role"] == "assistant" else "input_text"
    for part in require_list(item["content"], f"{at}.content"):
        require(part.get("type") == kind, f"{at}.content: {part.get('type')!r} is not {kind}")


def items_of(body: Json) -> list[Json]:
    given = body["input"]
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return require_list(given, "input")


def text_of(output: Any) -> str:
    if isinstance(output, str):
        return output
    return "".join(part["text"] for part in output)


def conversation(body: Json) -> Conversation:
    num_rounds, num_questions = 0, 0
    results: list[str] = []
    for item in items_of(body):
        kind = item.get("type", "message")
        if kind == "function_call_output":
            num_rounds += not results
            results.append(text_of(item["output"]))
            continue
        results = []
        if kind == "message" and item["role"] == "user":
            num_questions += 1
            num_rounds = 0
    may_call = bool(body.get("tools")) and body.get("tool_choice") != "none"
    return Conversation(num_rounds, tuple(results), may_call, num_questions)


def whole(answer: Answer, body: Json, ids: Iterator[int]) -> Json:
    response_id = f"resp_{next(ids)}"
    output = [item for item, _ in _items(answer, ids)]
    return _response(body, response_id, "completed", output)


def events(answer: Answer, body: Json, ids: Iterator[int]) -> Iterator[Json]:
    numbers = count()

    def event(kind: str, **fields: Any) -> Json:
        return {"type": f"response.{kind}", "sequence_number": next(numbers), **fields}

    response_id = f"resp_{next(ids)}"
    begun = _response(body, response_id, "in_progress", [])
    yield event("created", response=begun)
    yield event("in_progress", response=begun)
    output = []
    for index, (item, empty) in enumerate(_items(answer, ids)):
        output.append(item)
        yield event("output_item.added", output_index=index, item=empty)
        for kind, fields in _parts(item):
            yield event(kind, item_id=item["id"], output_index=index, **fields)
        yield event("output_item.done", output_index=index, item=item)
    yield event("completed", response=_response(body, response_id, "completed", output))


def _items(answer: Answer, ids: Iterator[int]) -> Iterator[tuple[Json, Json]]:
    """Yield each item as it ends and as it begins."""
    if answer.thought:
        thought = f"{answer.thought} ({next(ids)})"
        summary = [{"type": "summary_text", "text": thought}]
        item = {"id": f"rs_{next(ids)}", "type": "reasoning", "summary": summary}
        yield item, {**item, "summary": []}
    if answer.text:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        item = {"id": f"msg_{next(ids)}", "type": "message", "role": "assistant"}
        done = {**item, "status": "completed", "content": [part]}
        yield done, {**item, "status": "in_progress", "content": []}
    for call in answer.calls:
        number = next(ids)
        item = {"id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}"}
        item = {**item, "name": call[0]}
        done = {**item, "arguments": arguments_of(call), "status": "completed"}
        yield done, {**item, "arguments": "", "status": "in_progress"}


def _parts(item: Json) -> Iterator[tuple[str, Json]]:
    """Yield the events between an item's first and last."""
    if item["type"] == "function_call":
        for piece in pieces(item["arguments"]):
            yield "function_call_arguments.delta", {"delta": piece}
        arguments, name = item["arguments"], item["name"]
        yield "function_call_arguments.done", {"arguments": arguments, "name": name}
        return
    if item["type"] == "reasoning":
        (part,) = item["summary"]
        at = {"summary_index": 0}
        yield "reasoning_summary_part.added", {**at, "part": {**part, "text": ""}}
        for piece in pieces(part["text"]):
            yield "reasoning_summary_text.delta", {**at, "delta": piece}
        yield "reasoning_summary_text.done", {**at, "text": part["text"]}
        yield "reasoning_summary_part.done", {**at, "part": part}
        return
    (part,) = item["content"]
    at = {"content_index": 0}
    yield "content_part.added", {**at, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield "output_text.delta", {**at, "delta": piece, "logprobs": []}
    yield "output_text.done", {**at, "text": part["text"], "logprobs": []}
    yield "content_part.done", {**at, "part": part}


def _response(body: Json, response_id: str, status: str, output: list[Json]) -> Json:
    return {
        "id": response_id,
        "object": "response",
        "created_at": 1_790_000_000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE if status == "completed" else None,
        "metadata": {},
    }
