"""Chat completions of the scripted upstream."""

from collections.abc import Iterator, Mapping
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
from tests.agents.usage import CHAT_USAGE, arguments_of, pieces

FIELDS = (
    "tools tool_choice parallel_tool_calls temperature top_p n max_tokens max_completion_tokens "
    "stream stream_options stop seed user metadata store response_format reasoning_effort logprobs "
    "top_logprobs presence_penalty frequency_penalty service_tier prompt_cache_key"
).split()
ROLES = {
    "system": ("name",),
    "developer": ("name",),
    "user": ("name",),
    "assistant": ("name", "refusal", "tool_calls", "reasoning_content"),
    "tool": (),
}


def check(body: Json, headers: Mapping[str, str]) -> None:
    """Check a request as the API does.

    Raises:
        RefusedError: If it would be refused.
    """
    require_key(headers, "Authorization")
    require_fields(body, FIELDS, ("model", "messages"), "body")
    names = _check_tools(body)
    require_choice(body.get("tool_choice"), names)
    if body.get("stream_options") is not None:
        require(body.get("stream"), "stream_options: is only allowed when stream is enabled")
    unanswered: list[str] = []
    has_calls = False
    for number, message in enumerate(require_list(body["messages"], "messages")):
        at = f"messages.{number}"
        role = message.get("role")
        require(role in ROLES, f"{at}: unknown role {role!r}")
        if role == "tool":
            _check_result(message, unanswered, at)
            continue
        require(not unanswered, f"{at}: no tool message answers the calls {unanswered}")
        unanswered = _check_message(message, role, at)
        has_calls = has_calls or bool(unanswered)
    require(not unanswered, f"messages: no tool message answers the calls {unanswered}")
    require(names or not has_calls, "tools: must be specified when messages hold tool calls")
    require(body["messages"][-1]["role"] in ("user", "tool"), "messages: an answer is last")


def _check_tools(body: Json) -> set[str]:
    names = set()
    for tool in require_list(body["tools"], "tools") if "tools" in body else []:
        require_fields(tool, (), ("type", "function"), "tools")
        function = require_fields(
            tool["function"], ("description", "parameters", "strict"), ("name",), "tools.function"
        )
        names.add(function["name"])
    return names


def _check_result(message: Json, unanswered: list[str], at: str) -> None:
    require_fields(message, ("name",), ("role", "content", "tool_call_id"), at)
    call_id = message["tool_call_id"]
    require(call_id in unanswered, f"{at}: {call_id!r} answers no call directly before it")
    unanswered.remove(call_id)
    _check_content(message["content"], at)


def _check_message(message: Json, role: str, at: str) -> list[str]:
    """Return the ids of its calls."""
    require_fields(message, ("content", *ROLES[role]), ("role",), at)
    calls = message.get("tool_calls")
    if role != "assistant" or calls is None:
        _check_content(message.get("content"), at)
        return []
    ids = []
    for call in require_list(calls, f"{at}.tool_calls"):
        require_fields(call, ("index",), ("id", "type", "function"), f"{at}.tool_calls")
        require_fields(call["function"], (), ("name", "arguments"), f"{at}.tool_calls.function")
        require_arguments(call["function"]["arguments"], f"{at}.tool_calls.function.arguments")
        require(call["id"] not in ids, f"{at}: two calls {call['id']!r}")
        ids.append(call["id"])
    return ids


def _check_content(content: object, at: str) -> None:
    if isinstance(content, str):
        return
    for part in require_list(content, f"{at}.content"):
        require_fields(part, (), ("type", "text"), f"{at}.content")
        require(part["type"] == "text", f"{at}.content: {part['type']!r} is not supported")


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or [])


def conversation(body: Json) -> Conversation:
    messages = body["messages"]
    roles = [message["role"] for message in messages]
    since_user = messages[len(roles) - roles[::-1].index("user") :]
    rounds = [message for message in since_user if message.get("tool_calls")]
    results: list[str] = []
    for message in since_user:
        if message["role"] == "tool":
            results.append(text_of(message["content"]))
        else:
            results = []
    may_call = bool(body.get("tools")) and body.get("tool_choice") != "none"
    return Conversation(len(rounds), tuple(results), may_call, roles.count("user"))


def whole(answer: Answer, body: Json, ids: Iterator[int]) -> Json:
    head = _head(body, "chat.completion", ids)
    message: Json = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.thought:
        message["reasoning_content"] = answer.thought
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{next(ids)}",
                "type": "function",
                "function": {"name": call[0], "arguments": arguments_of(call)},
            }
            for call in answer.calls
        ]
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
        for index in range(body.get("n") or 1)
    ]
    return {**head, "choices": choices, "usage": CHAT_USAGE}


def events(answer: Answer, body: Json, ids: Iterator[int]) -> Iterator[Json]:
    """Yield the chunks. `[DONE]` is not among them."""
    head = _head(body, "chat.completion.chunk", ids)
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    rest: Json = {"usage": None} if with_usage else {}
    for index in range(body.get("n") or 1):
        for delta in _deltas(answer, ids):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            yield {**head, "choices": [choice], **rest}
    for index in range(body.get("n") or 1):
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": _finish(answer)}
        yield {**head, "choices": [choice], **rest}
    if with_usage:
        yield {**head, "choices": [], "usage": CHAT_USAGE}


def _deltas(answer: Answer, ids: Iterator[int]) -> Iterator[Json]:
    yield {"role": "assistant", "content": "" if answer.text else None}
    for piece in pieces(answer.thought):
        yield {"reasoning_content": piece}
    for piece in pieces(answer.text):
        yield {"content": piece}
    for index, call in enumerate(answer.calls):
        function = {"name": call[0], "arguments": ""}
        named = {"index": index, "id": f"call_{next(ids)}", "type": "function"}
        yield {"tool_calls": [{**named, "function": function}]}
        for piece in pieces(arguments_of(call)):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _head(body: Json, kind: str, ids: Iterator[int]) -> Json:
    head = {"id": f"chatcmpl-{next(ids)}", "object": kind, "created": 1_790_000_000}
    return {**head, "model": body["model"], "system_fingerprint": "fp"}


def _finish(answer: Answer) -> str:
    return "tool_calls" if answer.calls else "stop"
