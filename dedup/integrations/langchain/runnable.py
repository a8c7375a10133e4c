"""Runnable that filters a chat model's answer, and stops the model where it loops."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from dedup.answer.frame import Delta
from dedup.answer.pieces import AnswerFilter
from dedup.config import Policy
from dedup.integrations.langchain.messages import places_in, with_texts

Json = dict[str, Any]


class RunnableRepetitionFilter(Runnable[BaseMessage, BaseMessage]):  # type: ignore[misc]
    """Filter behind a chat model: `model | RunnableRepetitionFilter()`.

    Content, reasoning and the arguments of tool calls are filtered. Where a text loops, the model's
    stream is closed. What was done is in `response_metadata["repetition"]`.

    Args:
        policy: `balanced`, `strict`, `loops`, `watch` or `off`.
        prompt: The user's message, which is evidence of what may repeat.

    Raises:
        ValueError: There is no such policy.
    """

    def __init__(self, policy: Policy = "balanced", *, prompt: str = "") -> None:
        AnswerFilter(policy)
        self._policy: Policy = policy
        self._prompt = prompt

    def invoke(
        self, input: BaseMessage, config: RunnableConfig | None = None, **kwargs: Any
    ) -> BaseMessage:
        """Return a whole answer without its repetition. Arguments of its calls are not changed."""
        answer = AnswerFilter(self._policy, prompt=self._prompt)
        places = [one for one in places_in(input) if one.channel != "tool_arguments"]
        texts = answer.whole((one.channel, one.part, one.text, one.is_locked) for one in places)
        metadata = input.response_metadata
        if report := answer.report():
            metadata = {**metadata, "repetition": report}
        return with_texts(input, texts, metadata)

    def transform(
        self, input: Iterator[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[BaseMessage]:
        """Yield the chunks of an answer without its repetition."""
        chunks = _Chunks(AnswerFilter(self._policy, prompt=self._prompt))
        try:
            for chunk in input:
                yield from chunks.feed(chunk)
                if chunks.is_over:
                    break
        except Exception:
            yield from chunks.flush()
            raise
        finally:
            if close := getattr(input, "close", None):
                close()
        yield from chunks.flush()

    async def atransform(
        self, input: AsyncIterator[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[BaseMessage]:
        """Yield the chunks of an answer like `transform`."""
        chunks = _Chunks(AnswerFilter(self._policy, prompt=self._prompt))
        try:
            async for chunk in input:
                for given in chunks.feed(chunk):
                    yield given
                if chunks.is_over:
                    break
        except Exception:
            for given in chunks.flush():
                yield given
            raise
        finally:
            if close := getattr(input, "aclose", None):
                await close()
        for given in chunks.flush():
            yield given


class _Chunks:
    """The chunks of an answer, filtered."""

    def __init__(self, text_filter: AnswerFilter) -> None:
        self._filter = text_filter
        self._shells: dict[str, Json] = {}
        self._id: str | None = None
        self._is_done = False

    @property
    def is_over(self) -> bool:
        return self._filter.is_over

    def feed(self, chunk: BaseMessage) -> Iterator[BaseMessage]:
        """Yield what is given of the next chunk, behind what was held before it."""
        self._id = chunk.id or self._id
        texts: dict[str, str] = {}
        for place in places_in(chunk):
            self._shells[place.part] = place.shell
            texts.setdefault(place.part, "")
            for delta in self._filter.feed(place.channel, place.part, place.text):
                if delta.part == place.part:
                    texts[place.part] += delta.given
                else:
                    yield self._held(delta)
        metadata = chunk.response_metadata
        if getattr(chunk, "chunk_position", None) == "last" and not self.is_over:
            yield from map(self._held, self._filter.flush())
            metadata = {**metadata, **self._report()}
        yield with_texts(chunk, texts, metadata)

    def flush(self) -> Iterator[BaseMessage]:
        """Yield the end of the answer, unless the model's last chunk had it."""
        for delta in self._filter.flush():
            yield self._held(delta)
        metadata = self._report()
        if self.is_over:
            metadata["finish_reason"] = self._filter.finish_reason
            metadata["stop_reason"] = "repetition_detected"
        if metadata:
            yield AIMessageChunk(
                content="", id=self._id, response_metadata=metadata, chunk_position="last"
            )

    def _report(self) -> Json:
        is_done, self._is_done = self._is_done, True
        report = None if is_done else self._filter.report()
        return {"repetition": report} if report else {}

    def _held(self, delta: Delta) -> AIMessageChunk:
        shell = AIMessageChunk(id=self._id, **self._shells[delta.part])
        return cast(AIMessageChunk, with_texts(shell, {delta.part: delta.given}, {}))
