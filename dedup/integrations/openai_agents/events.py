"""Events of a streamed response, without its repetition."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseIncompleteEvent,
    ResponseOutputItemDoneEvent,
)

from dedup.answer.frame import ChannelName, Delta
from dedup.answer.pieces import AnswerFilter
from dedup.integrations.openai_agents.items import with_texts

# By the name in the events' types: the channel, the list or field of the item that the text is in.
_TEXTS: Final[dict[str, tuple[ChannelName, str]]] = {
    "output_text": ("content", "content"),
    "reasoning_text": ("reasoning", "content"),
    "reasoning_summary_text": ("reasoning", "summary"),
    "function_call_arguments": ("tool_arguments", "arguments"),
}


class EventFilter:
    """Filter of the events of one answer.

    Args:
        text_filter: The filter of its texts.
        source: The model's events. It is closed where a text loops.
    """

    def __init__(self, text_filter: AnswerFilter, source: AsyncIterator[Any]) -> None:
        self._filter = text_filter
        self._source = source
        self._given: dict[str, str] = {}
        self._last: dict[str, Any] = {}  # event of each part
        self._items: dict[int, Any] = {}
        self._is_done: set[int] = set()
        self._response: Response | None = None

    async def events(self) -> AsyncIterator[Any]:
        """Yield the events. Behind a loop come those that end the items and the response."""
        try:
            async for event in self._source:
                for given in self._feed(event):
                    yield given
                if self._filter.is_over:
                    break
        except Exception:
            for delta in self._filter.flush():
                yield self._delta(delta)
            raise
        finally:
            if close := getattr(self._source, "aclose", None):
                await close()
        if self._filter.is_over:
            for event in self._ending():
                yield event

    def _feed(self, event: Any) -> Iterator[Any]:
        kind, number = event.type, getattr(event, "output_index", 0)
        name, _, end = kind.removeprefix("response.").rpartition(".")
        if isinstance(getattr(event, "response", None), Response):
            self._response = event.response
        if end == "delta" and name in _TEXTS:
            channel, field = _TEXTS[name]
            part = f"{number}/{field}/{getattr(event, f'{field}_index', 0)}"
            self._last[part] = event
            self._given.setdefault(part, "")
            for delta in self._filter.feed(channel, part, event.delta):
                yield self._delta(delta)
            return
        if end == "done":
            for part in [one for one in self._last if one.startswith(f"{number}/")]:
                yield from self._end(part)
        elif kind == "response.completed":
            yield from map(self._delta, self._filter.flush())
        if kind == "response.output_item.added":
            self._items[number] = event.item
        elif kind == "response.output_item.done":
            self._is_done.add(number)
            self._items[number] = with_texts(number, event.item, self._given)
        yield self._rewritten(event, number, name)

    def _end(self, part: str) -> Iterator[Any]:
        channel = _TEXTS[self._last[part].type.removeprefix("response.").removesuffix(".delta")][0]
        yield from map(self._delta, self._filter.end(channel, part))

    def _delta(self, delta: Delta) -> Any:
        self._given[delta.part] += delta.given
        event = self._last[delta.part]
        if event.delta == delta.given:
            return event
        return event.model_copy(update={"delta": delta.given})

    def _rewritten(self, event: Any, number: int, name: str) -> Any:
        """Return an event that holds whole texts with those that were given."""
        if event.type == "response.completed":
            items = [with_texts(n, one, self._given) for n, one in enumerate(event.response.output)]
            response = event.response.model_copy(update={"output": items})
            return event.model_copy(update={"response": response})
        if not event.type.endswith(".done"):
            return event
        if name == "output_item":
            return event.model_copy(update={"item": self._items[number]})
        field = _TEXTS[name][1] if name in _TEXTS else "content"
        if hasattr(event, "summary_index"):
            field = "summary"
        text = self._given.get(f"{number}/{field}/{getattr(event, f'{field}_index', 0)}")
        if text is None:
            return event
        for slot in ("text", "arguments"):
            if hasattr(event, slot):
                return event.model_copy(update={slot: text})
        if hasattr(getattr(event, "part", None), "text"):
            return event.model_copy(update={"part": event.part.model_copy(update={"text": text})})
        return event

    def _ending(self) -> Iterator[Any]:
        """Yield the end of an answer that was cut."""
        number = next(reversed(self._last.values())).sequence_number
        items: list[Any] = []
        for index, item in sorted(self._items.items()):
            items.append(with_texts(index, item, self._given))
            if index not in self._is_done:
                number += 1
                yield ResponseOutputItemDoneEvent(
                    item=items[-1],
                    output_index=index,
                    sequence_number=number,
                    type="response.output_item.done",
                )
        if self._response is None:
            raise TypeError("the model's events have no response.created")
        is_usable = self._filter.finish_reason == "stop"
        status: Any = "completed" if is_usable else "incomplete"
        response = self._response.model_copy(update={"output": items, "status": status})
        if is_usable:
            yield ResponseCompletedEvent(
                response=response, sequence_number=number + 1, type="response.completed"
            )
        else:
            yield ResponseIncompleteEvent(
                response=response, sequence_number=number + 1, type="response.incomplete"
            )
