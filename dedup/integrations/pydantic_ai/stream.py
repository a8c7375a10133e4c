"""A model's stream, filtered."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, Final

from pydantic_ai.messages import (
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models import StreamedResponse

from dedup.answer.agent_loops import Climb
from dedup.answer.frame import ChannelName, Delta
from dedup.answer.pieces import AnswerFilter
from dedup.integrations.pydantic_ai.messages import calls_of, channel_of, with_report
from dedup.integrations.pydantic_ai.parts import piece_events

Json = dict[str, Any]

_CHANNELS: Final[dict[str, ChannelName]] = {
    "text": "content",
    "thinking": "reasoning",
    "tool_call": "tool_arguments",
}


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
            ahead, own = self._filtered(channel_of(part), index, text)
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
        yield from piece_events(self._parts_manager, index, kind, own, delta)

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
        return piece_events(self._parts_manager, int(delta.part), kind, delta.given)

    def _flush(self) -> Iterator[Any]:
        for delta in self._filter.flush():
            yield from self._held(delta)
