"""An upstream and a local engine that say what a test scripts, for clients of every API."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from dedup_server.engines.local.decoding import OnEnd, Scores, Step
from dedup_server.engines.local.engine import LocalEngine
from dedup_server.settings import load
from dedup_server.telemetry import Telemetry
from tests.server import test_messages as messages
from tests.server import test_responses as responses
from tests.server.mock_upstream import event, running
from tests.server.tiny_model import save_tiny_model, tiny_config
from tests.server.traffic import Script, ScriptedUpstream, Sent

TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"

Json = dict[str, Any]


class ThreeApisUpstream(ScriptedUpstream):
    """Answers at `/responses` and `/messages` what it says first, and continues it in chat.

    It plays the first choice of a script. One that ends otherwise than with `stop` ends there
    where the script says, without a last event.

    Attributes:
        paths: Where it was asked, in order.
    """

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        super().__init__(scripts=scripts)
        self.paths: list[str] = []

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        return await super().generate(request)

    async def respond(self, request: web.Request) -> web.StreamResponse:
        script, is_streamed = await self._begin(request)
        if isinstance(script.ends, int):
            return _refused(script.ends)
        builders = {
            "content": responses.message_events,
            "reasoning_content": responses.reasoning_events,
            "arguments": responses.call_events,
        }
        parts = []
        for index, (slot, text) in enumerate(script.choices[0]):
            part = list(builders[slot](responses.pieces(text, 11)))
            for one in part:
                if "output_index" in one:
                    one["output_index"] = index
            parts.append(part)
        events = responses.stream(*parts)
        if is_streamed:
            return await self._send(request, script, events)
        return web.json_response(events[-1]["response"])

    async def say(self, request: web.Request) -> web.StreamResponse:
        script, is_streamed = await self._begin(request)
        if isinstance(script.ends, int):
            return _refused(script.ends)
        texts = script.choices[0]
        if not is_streamed:
            content = [_block_of(slot, text) for slot, text in texts]
            usage = {"input_tokens": 12, "output_tokens": 34}
            body = {**messages.body(*content), "role": "assistant", "model": "m", "usage": usage}
            return web.json_response(body)
        kinds = {
            "content": "text_delta",
            "reasoning_content": "thinking_delta",
            "arguments": "input_json_delta",
        }
        blocks = [
            messages.block(kinds[slot], messages.pieces(text, 11), index)
            for index, (slot, text) in enumerate(texts)
        ]
        return await self._send(request, script, messages.stream(*blocks))

    async def _begin(self, request: web.Request) -> tuple[Script, bool]:
        self.paths.append(request.path)
        body = await request.json()
        self.bodies.append(body)
        self.sent.setdefault(request.headers["X-Request-Id"], []).append(Sent(body))
        return self.scripts[body["model"]], bool(body.get("stream"))

    async def _send(
        self, request: web.Request, script: Script, events: Sequence[Json]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        with suppress(ConnectionError):  # the server may hang up
            await response.prepare(request)
            for one in events[:-3] if script.ends == "break" else events:
                await response.write(b"event: " + one["type"].encode() + b"\n" + event(one))
            if script.ends == "break":
                assert request.transport
                request.transport.close()
        return response


class SpokenEngine(LocalEngine):
    """A tiny model that says, one sequence after another, what `lines` has."""

    def __init__(self, folder: Path) -> None:
        save_tiny_model(folder, tiny_config(max_position_embeddings=4096))
        super().__init__(str(folder), name="tiny")
        self.lines: list[str] = []
        self.prompts: list[str] = []

    async def start(self) -> None:
        await super().start()
        loaded = self.loaded
        loaded.tokenizer.chat_template = TEMPLATE
        submit, end = loaded.decoder.submit, loaded.end_tokens[0]

        def scripted(prompt: list[int], step: Step, on_end: OnEnd) -> Any:
            self.prompts.append(loaded.tokenizer.decode(prompt))
            left = iter(loaded.tokenizer(self.lines.pop(0))["input_ids"])

            def said(scores: Scores) -> int | None:
                scores[:] = -10
                scores[next(left, end)] = 30
                return step(scores)

            return submit(prompt, said, on_end)

        loaded.decoder.submit = scripted  # type: ignore[method-assign]


@contextmanager
def local(engine: LocalEngine, **flags: Any) -> Iterator[str]:
    """Run our server with an engine in this process; give its address."""
    settings = load(**flags)
    with running(settings, engine, Telemetry(engine.models)) as url:
        yield url


def _block_of(slot: str, text: str) -> Json:
    if slot == "content":
        return {"type": "text", "text": text}
    if slot == "reasoning_content":
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "tool_use", "id": "t1", "name": "find", "input": json.loads(text)}


def _refused(status: int) -> web.Response:
    error = {"type": "rate_limit_error", "message": "not now"}
    return web.json_response({"type": "error", "error": error}, status=status)
