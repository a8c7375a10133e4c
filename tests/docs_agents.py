"""The upstream of docs/guides/agents.md: a model that searches for the same words until it is told that this is no use."""

import json
from typing import Any

from aiohttp import web

from tests.server.mock_upstream import Upstream

SEARCH = {"name": "search", "arguments": '{"query": "retention of invoices"}'}
ANSWER = "No document says it. Please ask the records office."
FOUND_NOTHING = "No document matches."
USAGE = {"prompt_tokens": 310, "completion_tokens": 21, "total_tokens": 331}


def looping_history(num_steps: int) -> list[dict[str, Any]]:
    """Return the messages of an agent that has made this search so many times."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How long do we keep invoices?"}]
    for number in range(num_steps):
        call = {"id": f"call_{number}", "type": "function", "function": SEARCH}
        messages += [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": FOUND_NOTHING},
        ]
    return messages


class SearchingUpstream(Upstream):
    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "qwen3-8b"}]})

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        call = {"id": "call_next", "type": "function", "function": SEARCH}
        message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
        if body["messages"][-1]["content"] != FOUND_NOTHING:
            message = {"role": "assistant", "content": ANSWER}
        reason = "tool_calls" if "tool_calls" in message else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        head = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        return web.json_response({**head, "choices": [choice], "usage": USAGE})


def transcripts() -> str:
    """Return a transcript that loops and one that does not, as JSON lines."""
    rows = [("invoices", looping_history(12)), ("deploy", looping_history(2))]
    lines = [json.dumps({"id": name, "messages": messages}) for name, messages in rows]
    return "\n".join(lines) + "\n"
