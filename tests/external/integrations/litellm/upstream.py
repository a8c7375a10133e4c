"""A scripted OpenAI-compatible model server. The requested model selects the script.

    python tests/external/integrations/litellm/upstream.py PORT

`GET /stats` returns the numbers of requests, chunks and hang-ups by model, and the last messages.
"""

import asyncio
import json
import random
import sys
from collections import Counter, defaultdict
from typing import Any

from aiohttp import web

OPENING = "The river rose in the night, and by morning the bridge was gone. "
CIRCLE = "I am going round and round in circles here. "
COPIES = 120
WORDS = (
    "river bridge morning village night water stone house road field winter summer letter garden"
    " window table harbour market teacher doctor captain forest valley island engine signal answer"
    " rises falls turns opens closes waits leaves returns carries breaks slowly quickly often never"
    " old new small large quiet bright cold warm early late under over near beyond without behind"
).split()


def prose(size: int) -> str:
    """Return sentences of random words, which do not repeat, of about so many characters."""
    words, text = random.Random(7), ""
    while len(text) < size:
        text += " ".join(words.choices(WORDS, k=words.randint(6, 14))).capitalize() + ". "
    return text


CLEAN = {
    "english": OPENING + "Nobody in the village had heard it fall.",
    "chinese": "桥在夜里塌了，村里没有人听见。第二天早上，大家都到河边去看。",
    "code": "Use this:\n\n```python\nfor n in range(3):\n    print(n)\n    print(n)\n```\n\nIt prints.",
    "json": '{"rows": [{"a": 1, "b": 2}, {"a": 1, "b": 2}], "note": "two equal rows"}',
    "long": prose(2400),
}
TEXTS = {
    **CLEAN,
    "loop": OPENING + CIRCLE * COPIES,
    "short-loop": OPENING + CIRCLE * 12,
    "repeats": OPENING + "Nobody had heard it fall. " + OPENING + "So they built another one.",
    "reasoning": OPENING,
    "tools": "",
    "reasoning-loop": "",
    "tools-loop": "",
}
REASONING = {
    "reasoning": "The user asks about a river.",
    "reasoning-loop": OPENING + CIRCLE * COPIES,
}
ARGUMENTS = {
    "tools": '{"city": "Delft", "days": 3}',
    "tools-loop": '{"city": "Delft, or the town ' + "next to it, " * 400,
}
USAGE = {"prompt_tokens": 7, "completion_tokens": 23, "total_tokens": 30}

Json = dict[str, Any]
stats: dict[str, Counter[str]] = defaultdict(Counter)
last: Json = {}


def pieces(text: str) -> list[str]:
    return [text[at : at + 6] for at in range(0, len(text), 6)]


def deltas(model: str) -> list[Json]:
    """Return an answer in deltas."""
    found: list[Json] = [{"role": "assistant", "content": ""}]
    found += [{"reasoning_content": piece} for piece in pieces(REASONING.get(model, ""))]
    found += [{"content": piece} for piece in pieces(TEXTS[model])]
    if model in ARGUMENTS:
        function: Json = {"name": "get_weather", "arguments": ""}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        found.append({"tool_calls": [call]})
        for piece in pieces(ARGUMENTS[model]):
            found.append({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    return found


def message(model: str) -> Json:
    """Return the same, whole."""
    whole: Json = {"role": "assistant", "content": TEXTS[model] or None}
    if model in REASONING:
        whole["reasoning_content"] = REASONING[model]
    if model in ARGUMENTS:
        function = {"name": "get_weather", "arguments": ARGUMENTS[model]}
        whole["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    return whole


def reason_of(model: str) -> str:
    if model.endswith("loop"):
        return "length"
    return "tool_calls" if model == "tools" else "stop"


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    model, num_choices = body["model"], body.get("n") or 1
    stats[model]["requests"] += 1
    last.update(messages=body["messages"])
    head = {"id": "chatcmpl-1", "created": 1, "model": model}
    # Of several choices, all but the first answer with a text without repetition.
    scripts = [model, *["english"] * (num_choices - 1)]
    if not body.get("stream"):
        choices = [
            {"index": index, "message": message(one), "finish_reason": reason_of(one)}
            for index, one in enumerate(scripts)
        ]
        return web.json_response(
            {**head, "object": "chat.completion", "choices": choices, "usage": USAGE}
        )
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    events = [[{"index": 0, "delta": delta} for delta in deltas(model)]]
    for index, one in enumerate(scripts[1:], 1):
        events.append([{"index": index, "delta": delta} for delta in deltas(one)])
    try:
        for number in range(max(map(len, events))):
            for own, one in zip(events, scripts, strict=True):
                if number < len(own):
                    await send(response, head, {**own[number], "finish_reason": None})
                if number == len(own) - 1:
                    end = {"index": own[0]["index"], "delta": {}, "finish_reason": reason_of(one)}
                    await send(response, head, end)
            stats[model]["chunks"] += 1
            await asyncio.sleep(0.005)
        await response.write(b"data: [DONE]\n\n")
    except (ConnectionResetError, asyncio.CancelledError):
        stats[model]["hang_ups"] += 1
    return response


async def send(response: web.StreamResponse, head: Json, choice: Json) -> None:
    chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


async def report(request: web.Request) -> web.Response:
    return web.json_response({**stats, "last": last})


async def models(request: web.Request) -> web.Response:
    listed = [{"id": model, "object": "model"} for model in TEXTS]
    return web.json_response({"object": "list", "data": listed})


def main() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/stats", report)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
