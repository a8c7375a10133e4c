"""A server of scripted models with tools, as strict as the real APIs, on a real socket.

A request that a real API would refuse gets a 400. The model's name chooses what it answers; faults
are set for single requests.
"""

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from aiohttp import web

from tests.agents import chat, messages, responses
from tests.agents.models import MODELS, Answer, Conversation
from tests.agents.strict import Json, RefusedError
from tests.server.mock_upstream import served

Fault = Literal["silence", "break", "error", "slow"] | int  # a number is the status of a refusal
Api = Literal["chat", "responses", "messages"]

PATHS: dict[Api, str] = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
CODECS: dict[Api, ModuleType] = {"chat": chat, "responses": responses, "messages": messages}
SLOW_SECONDS = 0.03  # between the pieces of a stream
PIECES_OF_WHOLE = 8


@dataclass
class Received:
    """A request, and what became of it.

    Attributes:
        raw: The body, byte for byte.
        status: The status of the response.
        error: Why it was refused; empty if it was not.
        conversation: What the model saw; None if it was not asked.
        answer: What it answered.
        was_left: Whether the client was gone before the answer ended.
    """

    api: Api
    raw: bytes
    body: Json
    status: int = 200
    error: str = ""
    conversation: Conversation | None = None
    answer: Answer = field(default_factory=Answer)
    was_left: bool = False


class AgentUpstream:
    """Answers requests and records them.

    Attributes:
        received: Every request, in order.
        faults: What goes wrong with the request of a number, counted from `clear`.
    """

    def __init__(self) -> None:
        self.url = ""
        self.received: list[Received] = []
        self.faults: dict[int, Fault] = {}
        self._ids = itertools.count(1)
        self._issued = responses.Issued()

    def clear(self) -> None:
        """Begin anew: the same requests get the same answers, ids included."""
        self.received.clear()
        self.faults.clear()
        self._ids = itertools.count(1)
        self._issued = responses.Issued()

    @property
    def refusals(self) -> list[str]:
        """Return why requests were refused that are not as the APIs demand."""
        return [one.error for one in self.received if one.error]

    async def models(self, request: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model", "owned_by": "script"} for name in MODELS]
        return web.json_response({"object": "list", "data": listed})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        api = next(api for api, path in PATHS.items() if path == request.path)
        raw = await request.read()
        received = Received(api, raw, json.loads(raw))
        fault = self.faults.get(len(self.received))
        self.received.append(received)
        try:
            return await self._answer(request, received, fault)
        except RefusedError as refused:
            received.status = refused.status
            received.error = str(refused)
            return _refusal(received)
        except (asyncio.CancelledError, ConnectionError):
            received.was_left = True
            raise

    async def _answer(
        self, request: web.Request, received: Received, fault: Fault | None
    ) -> web.StreamResponse:
        codec, body = CODECS[received.api], received.body
        codec.check(body, request.headers)
        if received.api == "responses":
            self._issued.check(responses.items_of(body))
        if isinstance(fault, int):
            received.status = fault
            return _refusal(received)
        if fault == "silence":
            await asyncio.sleep(60)
        received.conversation = codec.conversation(body)
        received.answer = MODELS[body["model"]].answer(received.conversation)
        if body.get("stream"):
            events = list(codec.events(received.answer, body, self._ids))
            self._record(events[-1].get("response"))
            return await self._stream(request, events, received.api, fault)
        whole = codec.whole(received.answer, body, self._ids)
        self._record(whole)
        return await self._whole(request, received, whole, fault)

    def _record(self, response: Json | None) -> None:
        if response and "output" in response:
            self._issued.record(response["output"])

    async def _whole(
        self, request: web.Request, received: Received, whole: Json, fault: Fault | None
    ) -> web.StreamResponse:
        if fault == "error":
            received.status = 500
            return _refusal(received)
        if fault == "slow":
            await asyncio.sleep(SLOW_SECONDS * PIECES_OF_WHOLE)
        if fault != "break":
            return web.json_response(whole)
        data = json.dumps(whole).encode()
        length = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        response = web.StreamResponse(headers=length)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        assert request.transport
        request.transport.close()
        return response

    async def _stream(
        self, request: web.Request, events: list[Json], api: Api, fault: Fault | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if fault in ("break", "error"):
            events = events[: len(events) // 2]
        for event in events:
            await response.write(_sse(event))
            await asyncio.sleep(SLOW_SECONDS if fault == "slow" else 0)
        if fault == "error":
            await response.write(_sse(_error("out of memory")))
        if fault == "break":
            assert request.transport
            request.transport.close()
        if api == "chat" and fault in (None, "slow"):
            await response.write(b"data: [DONE]\n\n")
        return response


def _sse(event: Json) -> bytes:
    named = f"event: {event['type']}\n" if "type" in event else ""
    return f"{named}data: {json.dumps(event)}\n\n".encode()


def _error(message: str) -> Json:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


def _refusal(received: Received) -> web.Response:
    return web.json_response(_error(received.error or "not now"), status=received.status)


def prefix_up_to_last_result(received: Received, result: str) -> bytes:
    """Return the body up to the end of the last result's text, white space of JSON left out."""
    data = compact(received.body)
    end = data.rindex(json.dumps(result)[1:-1].encode()) + len(result)
    return data[:end]


def compact(body: Any) -> bytes:
    """Return the JSON of a body with its fields in the order in which they came."""
    return json.dumps(body, separators=(",", ":")).encode()


@contextmanager
def agent_upstream() -> Iterator[AgentUpstream]:
    """Serve the scripted models in a thread."""
    upstream = AgentUpstream()
    generating = [web.post(path, upstream.generate) for path in PATHS.values()]
    with served([web.get("/v1/models", upstream.models), *generating]) as upstream.url:
        yield upstream
