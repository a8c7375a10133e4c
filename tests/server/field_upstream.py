"""An upstream that answers with the events of a field case, and a client that reads them through our server."""

import asyncio
import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from tests.server.mock_upstream import Upstream, event

Part = (
    tuple[Literal["content", "reasoning"], str] | tuple[Literal["tool"], tuple[int, str, str]]
)  # a call: index, name, arguments
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]

_PIECE_CHARS = 12
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass
class Choice:
    parts: list[Part]
    finish: str = "stop"

    @property
    def num_chars(self) -> int:
        return sum(len(said if isinstance(said, str) else said[2]) for _, said in self.parts)


class FieldUpstream(Upstream):
    """Plays `choices`, and counts the characters it got to write until it was hung up on."""

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[Choice] = []
        self.written = 0

    @property
    def share(self) -> float:
        """The share of the answer that was generated."""
        return self.written / sum(choice.num_chars for choice in self.choices)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            choices = [
                {"index": index, **_whole(choice)} for index, choice in enumerate(self.choices)
            ]
            return web.json_response(
                {
                    "id": "u",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "m",
                    "choices": choices,
                }
            )
        response = await self._begin(request)
        for index, choice in enumerate(self.choices):
            begun: set[int] = set()
            for name, said in choice.parts:
                for piece in _pieces(said if isinstance(said, str) else said[2]):
                    delta: dict[str, Any] = {
                        "reasoning_content" if name == "reasoning" else "content": piece
                    }
                    if not isinstance(said, str):
                        delta = {"tool_calls": [_call(said, piece, said[0] not in begun)]}
                        begun.add(said[0])
                    await self._write(response, event(_chunk(index, delta)), len(piece))
            await self._write(response, event(_chunk(index, {}, choice.finish)), 0)
        await self._write(response, b"data: [DONE]\n\n", 0)
        return response

    async def say(self, request: web.Request) -> web.StreamResponse:
        (choice,) = self.choices
        body = await request.json()
        assert body["stream"]
        response = await self._begin(request)
        usage = {"input_tokens": 3, "output_tokens": 1}
        await self._name(
            response,
            {"type": "message_start", "message": {"id": "m", "content": [], "usage": usage}},
        )
        for index, (name, said) in enumerate(choice.parts):
            block, kind, slot = _BLOCKS[name]
            block = (
                block if isinstance(said, str) else {**block, "id": f"t{said[0]}", "name": said[1]}
            )
            await self._name(
                response, {"type": "content_block_start", "index": index, "content_block": block}
            )
            for piece in _pieces(said if isinstance(said, str) else said[2]):
                delta = {"type": kind, slot: piece}
                await self._name(
                    response,
                    {"type": "content_block_delta", "index": index, "delta": delta},
                    len(piece),
                )
            await self._name(response, {"type": "content_block_stop", "index": index})
        ending = {"stop_reason": _STOP_REASONS[choice.finish], "stop_sequence": None}
        await self._name(
            response, {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 9}}
        )
        await self._name(response, {"type": "message_stop"})
        return response

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        self.written = 0
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        return response

    async def _name(
        self, response: web.StreamResponse, message: dict[str, Any], num_chars: int = 0
    ) -> None:
        await self._write(
            response, b"event: " + message["type"].encode() + b"\n" + event(message), num_chars
        )

    async def _write(self, response: web.StreamResponse, data: bytes, num_chars: int) -> None:
        await response.write(data)
        self.written += num_chars
        await asyncio.sleep(0.001)  # so that hanging up is worth something


_BLOCKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "content": ({"type": "text", "text": ""}, "text_delta", "text"),
    "reasoning": ({"type": "thinking", "thinking": ""}, "thinking_delta", "thinking"),
    "tool": ({"type": "tool_use", "input": {}}, "input_json_delta", "partial_json"),
}


@dataclass
class Got:
    """A choice, as a client got it."""

    content: str = ""
    reasoning: str = ""
    arguments: dict[int, str] = field(default_factory=dict)  # by the tool call
    finish_reason: str | None = None  # a `stop_reason` of the Messages API
    repetition: dict[str, Any] | None = None

    def add_call(self, index: int, arguments: str) -> None:
        self.arguments[index] = self.arguments.get(index, "") + arguments


def ask(url: str, endpoint: Endpoint, body: dict[str, Any]) -> dict[int, Got]:
    """Return the choices of the answer, by their index."""
    data = json.dumps({"model": "novel", **body}).encode()
    request = urllib.request.Request(url + endpoint, data, {"Content-Type": "application/json"})
    got: dict[int, Got] = {}
    with urllib.request.urlopen(request, timeout=30) as response:
        if not body.get("stream"):
            _note_choices(got, json.load(response))
            return got
        for line in response:
            if line.startswith(b"data: {"):
                message = json.loads(line[6:])
                assert "error" not in message, message
                if endpoint == "/v1/messages":
                    _note_message(got.setdefault(0, Got()), message)
                else:
                    _note_choices(got, message)
    return got


def _note_choices(got: dict[int, Got], chunk: dict[str, Any]) -> None:
    for choice in chunk["choices"]:
        one = got.setdefault(choice["index"], Got())
        said = choice.get("delta") or choice.get("message") or choice
        one.content += said.get("content") or said.get("text") or ""
        one.reasoning += said.get("reasoning_content") or ""
        for position, call in enumerate(said.get("tool_calls") or ()):
            one.add_call(call.get("index", position), call["function"]["arguments"])
        one.finish_reason = choice.get("finish_reason") or one.finish_reason
        one.repetition = choice.get("repetition") or one.repetition


def _note_message(got: Got, message: dict[str, Any]) -> None:
    delta = message.get("delta", {})
    got.content += delta.get("text", "")
    got.reasoning += delta.get("thinking", "")
    if "partial_json" in delta:
        got.add_call(message["index"], delta["partial_json"])
    got.finish_reason = delta.get("stop_reason") or got.finish_reason
    got.repetition = delta.get("repetition") or got.repetition


def _pieces(text: str) -> list[str]:
    return [text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS)]


def _chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choices = [{"index": index, "delta": delta, "finish_reason": finish_reason}]
    return {
        "id": "u",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
    }


def _call(call: tuple[int, str, str], arguments: str, begins: bool) -> dict[str, Any]:
    index, name, _ = call
    head = {"id": f"t{index}", "type": "function"} if begins else {}
    return {
        "index": index,
        **head,
        "function": {**({"name": name} if begins else {}), "arguments": arguments},
    }


def _whole(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for name, said in choice.parts:
        if not isinstance(said, str):
            function = {"name": said[1], "arguments": said[2]}
            message.setdefault("tool_calls", []).append(
                {"id": f"t{said[0]}", "type": "function", "function": function}
            )
        else:
            message["reasoning_content" if name == "reasoning" else "content"] = said
    return {"message": message, "finish_reason": choice.finish}
