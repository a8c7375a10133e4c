"""An answer with both halves of an endpoint's codec, for tests that look at what goes in and out."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from dedup.answer.answer import Answer
from dedup.answer.channel import Channel, Editing
from dedup.config import Policy
from dedup_server.endpoints import ENDPOINTS
from dedup_server.engines.base import Call, Engine, Frames
from dedup_server.errors import ApiError
from dedup_server.requests.base import EndpointName, Exchange, GenerationRequest, parse
from dedup_server.wire.sse import Event, SSEDecoder

BODIES: dict[EndpointName, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": ""}], "stream": True},
    "completions": {"prompt": "", "stream": True},
    "responses": {"input": "", "stream": True},
    "messages": {"messages": [], "stream": True},
}


def forwarded(
    endpoint: EndpointName, body: object, exchange: Exchange | None = None
) -> GenerationRequest:
    """Return a request for an upstream."""
    return parse(ENDPOINTS[endpoint].forwarded, body, exchange)


def sampled(endpoint: EndpointName, body: object) -> Any:
    """Return a request for an engine in this process."""
    return parse(ENDPOINTS[endpoint].sampled, body)


def call(request: GenerationRequest) -> Call:
    """Return what an engine is asked for."""
    endpoint = ENDPOINTS[request.endpoint]
    return Call(request, endpoint.path, endpoint.reader())


class Wired:
    """An answer between the reader and the writer of its endpoint; `answer` decides."""

    def __init__(
        self,
        endpoint: EndpointName,
        editing: Editing | None = None,
        *,
        num_choices: int = 1,
        **body: Any,
    ) -> None:
        row = ENDPOINTS[endpoint]
        request = parse(row.forwarded, {**BODIES[endpoint], **body})
        editing = replace(editing or Editing("balanced"), locks_reasoning=row.locks_reasoning)
        self.answer = Answer(editing, num_choices=num_choices, prompt_tokens=request.prompt_tokens)
        self.reader = row.reader()
        self.writer = row.writer(self.answer, request)

    def feed(self, event: Event) -> bytes:
        frame = self.reader.read(event)
        return self.writer.write(frame, self.answer.feed(frame))

    def end(self) -> bytes:
        return self.writer.end()

    def fail(self, error: ApiError) -> bytes:
        return self.writer.fail(error)

    def whole(self, body: bytes) -> bytes:
        frame = self.reader.read_whole(body)
        self.writer.add(frame, self.answer.feed(frame))
        return self.writer.whole()

    @property
    def channels(self) -> list[Channel]:
        return self.answer.channels

    @property
    def cut(self) -> bool:
        return self.answer.is_cut

    @property
    def over(self) -> bool:
        return self.answer.is_over

    @property
    def complete(self) -> bool:
        return self.answer.is_complete

    @property
    def failed(self) -> bool:
        return self.answer.has_failed

    @property
    def input_tokens(self) -> int | None:
        return self.answer.tokens.input

    @property
    def output_tokens(self) -> int | None:
        return self.answer.tokens.output


class Chunks:
    """The chunks of chat or text completions for the frames of an engine, unfiltered."""

    def __init__(self, request: GenerationRequest) -> None:
        self._answer = Answer(Editing("off"), num_choices=request.num_choices)
        self._writer = ENDPOINTS[request.endpoint].writer(self._answer, request)
        self._decoder = SSEDecoder()

    def of(self, frames: Frames) -> list[dict[str, Any]]:
        written = b"".join([self._writer.write(one, self._answer.feed(one)) for one in frames])
        chunks = self._decode(written)
        if any(frame.is_last for frame in frames):
            chunks += self._decode(self._writer.end())
        return chunks

    def _decode(self, written: bytes) -> list[dict[str, Any]]:
        events = self._decoder.feed(written)
        return [json.loads(event.data) for event in events if event.data != b"[DONE]"]


def editing_of(endpoint: EndpointName, body: dict[str, Any], policy: Policy) -> Editing:
    """Return how the answer to a request is filtered."""
    row = ENDPOINTS[endpoint]
    request = parse(row.forwarded, body)
    return request.editing(policy, locks_reasoning=row.locks_reasoning)


async def generate_chunks(
    engine: Engine,
    request: GenerationRequest,
    take: Callable[[list[dict[str, Any]]], Awaitable[Any] | None],
) -> None:
    """Give `take` the chunks that an engine generates, unfiltered."""
    chunks = Chunks(request)
    await engine.generate(call(request), lambda frames: take(chunks.of(frames)))
