"""A scripted OpenAI-compatible server. The requested model selects the script.

    python tests/external/clients/upstream.py [PORT]     # prints its base URL

`novel` completes; `loop` completes and falls into a loop of thousands of chunks; `tools` calls a
tool, `tools-loop` with arguments that loop; `reasoning` reasons and completes, `reasoning-loop`
loops in its reasoning; the connection of `broken` is reset; `busy` is a 429; any other model is a
404. `GET /stats` returns the numbers of requests, chunks and disconnects by model.
"""

import asyncio
import base64
import itertools
import json
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from aiohttp import web

NOVEL = (
    "The river rose in the night, and by morning the bridge was gone."
    " Nobody in the village had heard it fall."
)
OPENING = "The river rose in the night, and by morning the bridge was gone. "
CIRCLE = "I am going round and round in circles here. "
THOUGHTS = (
    "The user asks about a river. Rivers rise when it rains upstream,"
    " and bridges fall when rivers rise."
)
TOOL, ARGUMENTS = "get_weather", '{"city": "Delft", "days": 3}'
VECTOR = [0.25, -0.5, 1.0]
MODELS = ["novel", "loop", "tools", "tools-loop", "reasoning", "reasoning-loop", "broken", "busy"]

COPIES = 2000  # copies in a loop: some 15 000 chunks
RETRY_AFTER = 1  # seconds
USAGE = {"prompt_tokens": 7, "completion_tokens": 23, "total_tokens": 30}
RESPONSES_USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 23,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 30,
}

Delta = dict[str, Any]
stats: dict[str, Counter[str]] = defaultdict(Counter)


def text_of(model: str) -> str:
    return OPENING + CIRCLE * COPIES if model == "loop" else NOVEL


def arguments_of(model: str) -> str:
    return (
        '{"city": "' + "Delft, or the town " + "next to it, " * COPIES
        if model == "tools-loop"
        else ARGUMENTS
    )


def thoughts_of(model: str) -> str:
    return OPENING + CIRCLE * COPIES if model == "reasoning-loop" else THOUGHTS


def pieces(text: str) -> Iterator[str]:
    """Return `text` in pieces of a few characters, as tokens arrive."""
    return (text[at : at + 6] for at in range(0, len(text), 6))


def deltas(model: str) -> Iterator[Delta]:
    """Return a chat completion in deltas."""
    yield {"role": "assistant", "content": None if model.startswith("tools") else ""}
    if model.startswith("tools"):
        function = {"name": TOOL, "arguments": ""}
        yield {
            "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]
        }
        for piece in pieces(arguments_of(model)):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        return
    if model.startswith("reasoning"):
        for piece in pieces(thoughts_of(model)):
            yield {"reasoning_content": piece}
    for piece in pieces(text_of(model)):
        yield {"content": piece}


def message(model: str) -> dict[str, Any]:
    """Return a whole chat completion."""
    if model.startswith("tools"):
        function = {"name": TOOL, "arguments": arguments_of(model)}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }
    thoughts = {"reasoning_content": thoughts_of(model)} if model.startswith("reasoning") else {}
    return {"role": "assistant", "content": text_of(model), **thoughts}


def finish_reason(model: str) -> str:
    """Return the finish_reason of a loop that is not cut: that of `max_tokens`."""
    if model in ("loop", "tools-loop"):
        return "length"
    return "tool_calls" if model == "tools" else "stop"


def sse(data: dict[str, Any]) -> bytes:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


def refusal(model: str) -> web.Response | None:
    if model == "busy":
        error = {
            "message": "Rate limit reached.",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        return web.json_response(
            {"error": error}, status=429, headers={"Retry-After": str(RETRY_AFTER)}
        )
    if model not in MODELS:
        text = f"The model `{model}` does not exist."
        error = {
            "message": text,
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        return web.json_response({"error": error}, status=404)
    return None


def reset(request: web.Request) -> None:
    assert request.transport
    request.transport.abort()  # type: ignore[attr-defined]


def counted(handler: Any) -> Any:
    """Count the request by its model, and a client that disconnects."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = str(body.get("model"))
        stats[model]["requests"] += 1
        try:
            return refusal(model) or await handler(request, body, model)
        except (asyncio.CancelledError, ConnectionError):
            stats[model]["hang_ups"] += model != "broken"
            raise

    return handle


async def send(request: web.Request, model: str, events: Iterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for position, event in enumerate(events):
        await response.write(event)
        stats[model]["chunks"] += 1
        if model == "broken" and position == 8:
            reset(request)
            return response
        await asyncio.sleep(0.001)
    return response


def completion_events(body: dict[str, Any], model: str, chat: bool) -> Iterator[bytes]:
    kind = "chat.completion.chunk" if chat else "text_completion"
    head = {"id": "u-1", "object": kind, "created": int(time.time()), "model": model}
    wants_usage = (body.get("stream_options") or {}).get("include_usage")
    rest = {"usage": None} if wants_usage else {}
    choices = range(body.get("n") or 1)

    def chunk(choice: int, part: Delta, reason: str | None = None) -> bytes:
        choices = [{"index": choice, **part, "logprobs": None, "finish_reason": reason}]
        return sse({**head, "choices": choices, **rest})

    parts = (
        ({"delta": delta} for delta in deltas(model))
        if chat
        else ({"text": piece} for piece in pieces(text_of(model)))
    )
    for part, choice in itertools.product(parts if len(choices) == 1 else list(parts), choices):
        yield chunk(choice, part)
    for choice in choices:
        yield chunk(choice, {"delta": {}} if chat else {"text": ""}, finish_reason(model))
    if wants_usage:
        yield sse({**head, "choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


@counted
async def completions(request: web.Request, body: dict[str, Any], model: str) -> web.StreamResponse:
    chat = request.path.endswith("/chat/completions")
    if body.get("stream"):
        return await send(request, model, completion_events(body, model, chat))
    if model == "broken":
        reset(request)
    answer = {"message": message(model)} if chat else {"text": text_of(model)}
    choices = [
        {"index": index, **answer, "logprobs": None, "finish_reason": finish_reason(model)}
        for index in range(body.get("n") or 1)
    ]
    kind = "chat.completion" if chat else "text_completion"
    head = {"id": "u-1", "object": kind, "created": int(time.time()), "model": model}
    return web.json_response({**head, "choices": choices, "usage": USAGE})


def output(text: str, status: str = "completed") -> dict[str, Any]:
    content = (
        [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        if status == "completed"
        else []
    )
    return {
        "type": "message",
        "id": "msg_1",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def response_object(
    model: str, outputs: list[dict[str, Any]], status: str = "completed"
) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": model,
        "output": outputs,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": RESPONSES_USAGE if status == "completed" else None,
        "metadata": {},
    }


def response_events(model: str) -> Iterator[bytes]:
    numbers = itertools.count()

    def event(kind: str, **fields: Any) -> bytes:
        return sse({"type": f"response.{kind}", "sequence_number": next(numbers), **fields})

    place: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    text = text_of(model)
    done = output(text)
    yield event("created", response=response_object(model, [], "in_progress"))
    yield event("in_progress", response=response_object(model, [], "in_progress"))
    yield event("output_item.added", output_index=0, item=output("", "in_progress"))
    yield event(
        "content_part.added",
        **place,
        part={"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    )
    for piece in pieces(text):
        yield event("output_text.delta", **place, delta=piece, logprobs=[])
    yield event("output_text.done", **place, text=text, logprobs=[])
    yield event("content_part.done", **place, part=done["content"][0])
    yield event("output_item.done", output_index=0, item=done)
    yield event("completed", response=response_object(model, [done]))


@counted
async def responses(request: web.Request, body: dict[str, Any], model: str) -> web.StreamResponse:
    if body.get("stream"):
        return await send(request, model, response_events(model))
    if model == "broken":
        reset(request)
    return web.json_response(response_object(model, [output(text_of(model))]))


@counted
async def embeddings(request: web.Request, body: dict[str, Any], model: str) -> web.StreamResponse:
    asked = body["input"] if isinstance(body["input"], list) else [body["input"]]
    packed = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    vector = packed if body.get("encoding_format") == "base64" else VECTOR
    data = [
        {"object": "embedding", "index": index, "embedding": vector} for index in range(len(asked))
    ]
    return web.json_response(
        {
            "object": "list",
            "data": data,
            "model": model,
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
    )


async def models(request: web.Request) -> web.Response:
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "script"} for name in MODELS]
    return web.json_response({"object": "list", "data": data})


async def seen(request: web.Request) -> web.Response:
    return web.json_response(stats)


def create_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/stats", seen)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", completions)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/v1/responses", responses)
    app.router.add_post("/v1/embeddings", embeddings)
    return app


async def main(port: int) -> None:
    runner = web.AppRunner(create_app(), handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
