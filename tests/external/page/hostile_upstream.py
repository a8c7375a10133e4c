"""An upstream whose models have hostile names and completions."""

import asyncio
import hashlib
import json
from contextlib import AbstractContextManager

from aiohttp import web

from tests.server.mock_upstream import served

MARKUP = (
    "<img src=x onerror=alert(1)><script>alert(2)</script><b>bold</b> &amp; "
    "\u202egnp.exe\u202c \u2066x\u2069 \0 \ud83d\ude00"
)
LONG_LINE = "x" * 1_000_000
ANSWERS = {
    "<b>markup</b>": MARKUP,
    "long": LONG_LINE,
    "slow": "A word and another word, said slowly so that somebody can stop it. ",
    "breaks": "This is the beginning of an answer",
}


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": name} for name in ANSWERS]})


async def _chat(request: web.Request) -> web.StreamResponse:
    model = (await request.json())["model"]
    if model not in ANSWERS:
        return web.json_response({"error": {"message": MARKUP}}, status=400)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def say(text: str, finish_reason: str | None = None) -> None:
        choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]
        chunk = {
            "id": "h",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
            "choices": choices,
        }
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    text = ANSWERS[model]
    size = 50_000 if model == "long" else 7
    for at in range(0, len(text), size):
        await say(text[at : at + size])
    if model == "slow":
        for number in range(600):
            digest = hashlib.sha256(bytes([number % 256])).hexdigest()  # news, and no loop
            await say(f"Number {number} has the digest {digest}. ")
            await asyncio.sleep(0.1)
    if model == "breaks":
        return response
    await say("", "stop")
    await response.write(b"data: [DONE]\n\n")
    return response


def hostile_upstream() -> AbstractContextManager[str]:
    """Yield the base URL."""
    return served([web.get("/v1/models", _models), web.post("/v1/chat/completions", _chat)])
