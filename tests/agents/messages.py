"""Anthropic's Messages API of the scripted upstream."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from tests.agents.models import Answer, Conversation
from tests.agents.strict import Json, require, require_fields, require_key, require_list
from tests.agents.usage import INPUT_TOKENS, OUTPUT_TOKENS, arguments_of, input_of, pieces

FIELDS = (
    "system tools tool_choice temperature top_p top_k stop_sequences stream metadata thinking "
    "service_tier output_config container context_management mcp_servers cache_control"
).split()
BLOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # optional fields, needed fields
    "text": (("cache_control", "citations"), ("text",)),
    "tool_use": (("cache_control", "caller"), ("id", "name", "input")),
    "tool_result": (("cache_control", "content", "is_error"), ("tool_use_id",)),
    "thinking": ((), ("thinking", "signature")),
}
MIN_BUDGET = 1024


def signature_of(thought: str) -> str:
    return base64.b64encode(hashlib.sha256(b"secret" + thought.encode()).digest()).decode()


def check(body: Json, headers: Mapping[str, str]) -> None:
    """Check a request as the API does.

    Raises:
        RefusedError: If it would be refused.
    """
    require_key(headers, "X-Api-Key", "Authorization")
    require(headers.get("anthropic-version"), "anthropic-version: header is required")
    require_fields(body, FIELDS, ("model", "messages", "max_tokens"), "body")
    require(int(body["max_tokens"]) > 0, "max_tokens: must be greater than 0")
    names = _check_tools(body)
    _check_thinking(body)
    messages = require_list(body["messages"], "messages")
    expected: list[str] = []
    seen: set[str] = set()
    for number, message in enumerate(messages):
        at = f"messages.{number}"
        require_fields(message, (), ("role", "content"), at)
        role = ("user", "assistant")[number % 2]
        require(message["role"] == role, f"{at}: roles must alternate, expected {role!r}")
        blocks = _check_blocks(message, at)
        _check_results(blocks, expected, at)
        expected = [block["id"] for block in blocks if block["type"] == "tool_use"]
        require(not expected or role == "assistant", f"{at}: tool_use in a message of the user")
        require(not seen & set(expected), f"{at}: tool_use ids must be unique")
        require(len(set(expected)) == len(expected), f"{at}: tool_use ids must be unique")
        seen.update(expected)
    require(not expected, f"messages: no tool_result follows {expected}")
    require(names or not seen, "tools: requests that include tool_use blocks must define tools")
    require(messages[-1]["role"] == "user", "messages: prefilling is not supported")


def _check_tools(body: Json) -> set[str]:
    names = set()
    for tool in require_list(body["tools"], "tools") if "tools" in body else []:
        optional = ("description", "type", "cache_control", "strict", "input_examples")
        require_fields(tool, optional, ("name", "input_schema"), "tools")
        names.add(tool["name"])
    choice = body.get("tool_choice")
    if choice is None:
        return names
    require(names, "tool_choice: may only be specified while providing tools")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    require(kind in ("auto", "any", "tool", "none"), f"tool_choice: {choice!r} is not valid")
    allowed: dict[object, tuple[str, ...]] = {
        "none": (),
        "tool": ("name", "disable_parallel_tool_use"),
    }
    require_fields(
        choice, allowed.get(kind, ("disable_parallel_tool_use",)), ("type",), "tool_choice"
    )
    require(kind != "tool" or choice.get("name") in names, "tool_choice: no such tool")
    return names


def _check_thinking(body: Json) -> None:
    """Check the parameters of thinking, and that the turn that is not over begins with a thought."""
    if not thinks(body):
        return
    thinking = body["thinking"]
    require_fields(thinking, ("display",), ("type", "budget_tokens"), "thinking")
    require(thinking["budget_tokens"] >= MIN_BUDGET, "thinking.budget_tokens: less than 1024")
    require(thinking["budget_tokens"] < body["max_tokens"], "max_tokens: less than the budget")
    require(body.get("temperature", 1) == 1, "temperature: may only be 1 with thinking")
    kind = (body.get("tool_choice") or {}).get("type", "auto")
    require(kind in ("auto", "none"), "thinking may not be enabled when tool_choice forces use")
    for message in reversed(require_list(body["messages"], "messages")):
        if message["role"] == "user" and not _has(message, "tool_result"):
            return
        if message["role"] == "assistant" and _has(message, "tool_use"):
            first = message["content"][0]["type"]
            require(first == "thinking", f"expected thinking, but found {first}")


def thinks(body: Json) -> bool:
    return bool((body.get("thinking") or {}).get("type") == "enabled")


def _has(message: Json, kind: str) -> bool:
    return kind in [block["type"] for block in blocks_of(message["content"])]


def blocks_of(content: Any) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content)


def _check_blocks(message: Json, at: str) -> list[Json]:
    if not isinstance(message["content"], str):
        require_list(message["content"], f"{at}.content")
    blocks = blocks_of(message["content"])
    for number, block in enumerate(blocks):
        where = f"{at}.content.{number}"
        kind = block.get("type")
        require(kind in BLOCKS, f"{where}: {kind!r} is not supported")
        optional, needed = BLOCKS[str(kind)]
        require_fields(block, optional, ("type", *needed), where)
        if kind == "text":
            require(block["text"].strip(), f"{where}: text content blocks must be non-empty")
        if kind == "thinking":
            signed = block["signature"] == signature_of(block["thinking"])
            require(signed, f"{where}: invalid signature in thinking block")
            require(message["role"] == "assistant", f"{where}: thinking of the user")
        if kind == "tool_use":
            require(isinstance(block["input"], dict), f"{where}.input: must be an object")
        if kind == "tool_result" and not isinstance(block.get("content", ""), str):
            for part in block["content"]:
                require_fields(part, ("cache_control",), ("type", "text"), where)
                require(part["text"].strip(), f"{where}: text content blocks must be non-empty")
    return blocks


def _check_results(blocks: list[Json], expected: list[str], at: str) -> None:
    """Require the results of the calls of the message before, ahead of everything else."""
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    require(sorted(results) == sorted(expected), f"{at}: tool_result {results} for {expected}")
    kinds = [block["type"] for block in blocks]
    require("tool_result" not in kinds[len(results) :], f"{at}: tool_result must come first")


def text_of(content: Any) -> str:
    return "".join(block["text"] for block in blocks_of(content))


def conversation(body: Json) -> Conversation:
    num_rounds, num_questions = 0, 0
    results: list[str] = []
    for message in body["messages"]:
        blocks = blocks_of(message["content"])
        found = [text_of(one.get("content", "")) for one in blocks if one["type"] == "tool_result"]
        if message["role"] == "user":
            results = found
        if message["role"] == "user" and not found:
            num_questions += 1
            num_rounds = 0
        num_rounds += bool(found)
    kind = (body.get("tool_choice") or {}).get("type")
    may_call = bool(body.get("tools")) and kind != "none"
    return Conversation(num_rounds, tuple(results), may_call, num_questions)


def whole(answer: Answer, body: Json, ids: Iterator[int]) -> Json:
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    message = {**_message(body, ids), "usage": usage, "stop_reason": _stop(answer)}
    return {**message, "content": list(_blocks(answer, body, ids))}


def events(answer: Answer, body: Json, ids: Iterator[int]) -> Iterator[Json]:
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
    yield {"type": "message_start", "message": {**_message(body, ids), "usage": usage}}
    yield {"type": "ping"}
    for index, block in enumerate(_blocks(answer, body, ids)):
        empty, deltas = _streamed(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": _stop(answer), "stop_sequence": None}
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    yield {"type": "message_delta", "delta": delta, "usage": usage}
    yield {"type": "message_stop"}


def _message(body: Json, ids: Iterator[int]) -> Json:
    head = {"id": f"msg_{next(ids)}", "type": "message", "role": "assistant", "content": []}
    return {**head, "model": body["model"], "stop_reason": None, "stop_sequence": None}


def _blocks(answer: Answer, body: Json, ids: Iterator[int]) -> Iterator[Json]:
    if answer.thought and thinks(body):
        thought = f"{answer.thought} ({next(ids)})"  # no two thoughts are alike
        yield {"type": "thinking", "thinking": thought, "signature": signature_of(thought)}
    if answer.text:
        yield {"type": "text", "text": answer.text}
    for call in answer.calls:
        call_id = f"toolu_{next(ids)}"
        yield {"type": "tool_use", "id": call_id, "name": call[0], "input": input_of(call)}


def _streamed(block: Json) -> tuple[Json, list[Json]]:
    """Return a block as it begins, and its deltas."""
    if block["type"] == "text":
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        return {**block, "text": ""}, deltas
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])
        ]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    arguments = arguments_of((block["name"], next(iter(block["input"].values()))))
    deltas = [
        {"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces(arguments)]
    ]
    return {**block, "input": {}}, deltas


def _stop(answer: Answer) -> str:
    return "tool_use" if answer.calls else "end_turn"
