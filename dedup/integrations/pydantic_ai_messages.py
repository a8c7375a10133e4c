"""Messages and streams of Pydantic AI: read for agent loops, and filtered."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, Final

from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    RetryPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import StreamedResponse

from dedup.answer.agent_loops import Call, Climb
from dedup.answer.frame import ChannelName, Delta
from dedup.answer.pieces import AnswerFilter

Json = dict[str, Any]

_CHANNELS: Final[dict[str, ChannelName]] = {
    "text": "content",
    "thinking": "reasoning",
    "tool_call": "tool_arguments",
}


def history(messages: list[Any]) -> list[Json]:
    """Return messages in the form of Anthropic's API, which has errors of tools."""
    found: list[Json] = []
    for message in messages:
        if isinstance(message, ModelResponse):
            calls, text = calls_of(message)
            ids = [part.tool_call_id for part in message.parts if isinstance(part, ToolCallPart)]
            made = [
                {"id": key, "function": {"name": call.name, "arguments": call.arguments}}
                for key, call in zip(ids, calls, strict=True)
            ]
            found.append({"role": "assistant", "content": text, "tool_calls": made})
        for part in message.parts if isinstance(message, ModelRequest) else ():
            if isinstance(part, UserPromptPart):
                content = part.content
                if not isinstance(content, str):
                    content = [{"type": "text", "text": str(one)} for one in content]
                found.append({"role": "user", "content": content})
            elif _is_result(part):
                result: Json = {"type": "tool_result", "tool_use_id": part.tool_call_id}
                result["content"] = _result(part)
                result["is_error"] = getattr(part, "outcome", "failed") != "success"
                found.append({"role": "user", "content": [result]})
    return found


def calls_of(response: ModelResponse) -> tuple[list[Call], str]:
    """Return the calls and the text of an answer."""
    calls = [
        Call(part.tool_name, part.args or "", has_result=False)
        for part in response.parts
        if isinstance(part, ToolCallPart)
    ]
    return calls, "".join([one.content for one in response.parts if isinstance(one, TextPart)])


def with_notice(messages: list[Any], notice: str) -> list[Any]:
    """Return messages with a notice behind the last tool's result."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        for number in range(len(message.parts) - 1, -1, -1):
            part = message.parts[number]
            if isinstance(message, ModelRequest) and _is_result(part):
                parts = list(message.parts)
                parts[number] = replace(part, content=f"{_result(part)}\n\n{notice}")
                changed = replace(message, parts=parts)
                return [*messages[:index], changed, *messages[index + 1 :]]
    return messages


def filtered(
    response: ModelResponse, text_filter: AnswerFilter, climb: Climb | None
) -> ModelResponse:
    """Return a whole answer with its texts filtered. Arguments of its calls are not changed."""
    texts = {
        str(index): part
        for index, part in enumerate(response.parts)
        if isinstance(part, TextPart | ThinkingPart)
    }
    given = text_filter.whole(
        (_channel(part), index, part.content, bool(getattr(part, "signature", None)))
        for index, part in texts.items()
    )
    parts = list(response.parts)
    for index, part in texts.items():
        if given[index] != part.content:
            parts[int(index)] = replace(part, content=given[index])
    return with_report(replace(response, parts=parts), text_filter, climb)


def with_report(
    response: ModelResponse, text_filter: AnswerFilter, climb: Climb | None
) -> ModelResponse:
    """Return an answer with what was done in its metadata."""
    report = text_filter.report() or {}
    if climb is not None and (agent_loop := climb.report()):
        report["agent_loop"] = agent_loop
    if not report:
        return response
    return replace(response, metadata={**(response.metadata or {}), "repetition": report})


class FilteredStream(StreamedResponse):  # type: ignore[misc]
    """A model's stream, filtered. Where a text loops, the model's is closed."""

    def __init__(
        self, source: StreamedResponse, text_filter: AnswerFilter, climb: Climb | None
    ) -> None:
        super().__init__(source.model_request_parameters)
        self._source = source
        self._filter = text_filter
        self._climb = climb  # of a loop that is measured only
        self._is_cut = False

    async def _get_event_iterator(self) -> AsyncIterator[Any]:
        events = aiter(self._source)
        try:
            async for event in events:
                for given in self._feed(event):
                    yield given
                if self._filter.is_over:
                    self._is_cut = True
                    await self._close(events)
                    break
        except Exception:
            for given in self._flush():
                yield given
            raise
        for given in self._flush():
            yield given

    async def close_stream(self) -> None:
        """Close the model's stream."""
        await self._source.cancel()

    async def _close(self, events: Any) -> None:
        try:
            await self._source.cancel()
        except NotImplementedError:
            await events.aclose()

    def get(self) -> ModelResponse:
        """Return the answer so far."""
        state = super().get().state
        source = self._source.get()
        response = replace(source, parts=self._parts_manager.get_parts(), state=state)
        if self._is_cut:
            response = replace(response, finish_reason=self._filter.finish_reason)
        if self._climb is not None and self._finished:
            self._climb.next(*calls_of(response))
        return with_report(response, self._filter, self._climb)

    @property
    def usage(self) -> Any:
        return self._source.usage

    @property
    def model_name(self) -> str:
        return str(self._source.model_name)

    @property
    def provider_name(self) -> Any:
        return self._source.provider_name

    @property
    def provider_url(self) -> Any:
        return self._source.provider_url

    @property
    def timestamp(self) -> Any:
        return self._source.timestamp

    def _feed(self, event: Any) -> Iterator[Any]:
        if isinstance(event, PartStartEvent):
            yield from self._start(event.index, event.part)
        elif isinstance(event, PartDeltaEvent):
            yield from self._delta(event.index, event.delta)

    def _start(self, index: int, part: Any) -> Iterator[Any]:
        field = "args" if isinstance(part, ToolCallPart) else "content"
        text = getattr(part, field, None)
        if isinstance(part, TextPart | ThinkingPart | ToolCallPart) and isinstance(text, str):
            ahead, own = self._filtered(_channel(part), index, text)
            yield from ahead
            if own != text:
                part = replace(part, **{field: own})
        yield self._parts_manager.handle_part(vendor_part_id=index, part=part)

    def _delta(self, index: int, delta: Any) -> Iterator[Any]:
        kind = delta.part_delta_kind
        text = delta.args_delta if kind == "tool_call" else delta.content_delta
        own = text
        if isinstance(text, str) and text:
            ahead, own = self._filtered(_CHANNELS[kind], index, text)
            yield from ahead
        yield from self._handle(index, kind, own, delta)

    def _filtered(self, channel: ChannelName, index: int, text: str) -> tuple[list[Any], str]:
        """Filter a piece; return events of other parts that go ahead, and what is given of it."""
        ahead: list[Any] = []
        own = ""
        for delta in self._filter.feed(channel, str(index), text):
            if delta.part == str(index):
                own += delta.given
            else:
                ahead += self._held(delta)
        return ahead, own

    def _held(self, delta: Delta) -> Iterator[Any]:
        kind = next(name for name, channel in _CHANNELS.items() if channel == delta.channel)
        return self._handle(int(delta.part), kind, delta.given)

    def _handle(self, index: int, kind: str, text: Any, delta: Any = None) -> Iterator[Any]:
        """Add a piece to a part; yield its event."""
        manager = self._parts_manager
        more: Json = {}
        if delta is not None:
            more = {
                "provider_name": delta.provider_name,
                "provider_details": delta.provider_details,
            }
        if kind == "text":
            if citations := getattr(delta, "citations_delta", None):
                more["citations"] = citations
            if text or any(more.values()):
                yield from manager.handle_text_delta(vendor_part_id=index, content=text, **more)
        elif kind == "thinking":
            signature = getattr(delta, "signature_delta", None)
            if text or signature or any(more.values()):
                yield from manager.handle_thinking_delta(
                    vendor_part_id=index, content=text or None, signature=signature, **more
                )
        elif text or delta is not None:
            yield from manager.handle_tool_call_delta_events(
                vendor_part_id=index,
                tool_name=getattr(delta, "tool_name_delta", None),
                args=text,
                tool_call_id=getattr(delta, "tool_call_id", None),
                **more,
            )

    def _flush(self) -> Iterator[Any]:
        for delta in self._filter.flush():
            yield from self._held(delta)


def _channel(part: Any) -> ChannelName:
    if isinstance(part, ToolCallPart):
        return "tool_arguments"
    return "reasoning" if isinstance(part, ThinkingPart) else "content"


def _is_result(part: Any) -> bool:
    return isinstance(part, ToolReturnPart) or (
        isinstance(part, RetryPromptPart) and part.tool_name is not None
    )


def _result(part: Any) -> str:
    if isinstance(part, ToolReturnPart):
        return str(part.model_response_str(wrap_if_error=False))
    return str(part.content if isinstance(part.content, str) else part.model_response())
