"""Filtered streams: any iterator of text, without its repetition, and closed where it loops."""

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar

from dedup.text.filter import RepetitionFilter

Item = TypeVar("Item")


def filter_stream(
    source: Iterable[Item],
    repetition_filter: RepetitionFilter | None = None,
    *,
    text: Callable[[Item], str | None] | None = None,
) -> Iterator[str]:
    """Yield the text of a stream without its repetition, piece by piece.

        for piece in filter_stream(streamer):
            print(piece, end="")

    Where the text loops, the source is closed (`source.close()`, if it has that), so that nothing
    more is generated; so it is where the caller stops reading. If the source fails, the text that
    is held is yielded before the exception goes on.

    Args:
        source: Iterator of pieces of text, or of items that have one, such as a client's chunks.
        repetition_filter: A new filter, for a policy or a prompt. It has `loop` and `removed` at
            the end. None is `RepetitionFilter()`.
        text: Function that returns the text of an item, or None if it has none. May be left out
            where the items are strings.

    Raises:
        TypeError: An item is no string, and `text` was left out.
    """
    own = repetition_filter or RepetitionFilter()
    read = text or _string
    iterator = iter(source)
    is_open = True
    try:
        while not own.ended:
            try:
                item = next(iterator)
            except StopIteration:
                is_open = False
                break
            except Exception:
                is_open = False
                if held := own.flush():
                    yield held
                raise
            given = own.feed(read(item) or "")
            if own.ended:
                _close(source, iterator)
                is_open = False
            if given:
                yield given
        if rest := own.flush():
            yield rest
    finally:
        if is_open:
            _close(source, iterator)


async def filter_stream_async(
    source: AsyncIterable[Item],
    repetition_filter: RepetitionFilter | None = None,
    *,
    text: Callable[[Item], str | None] | None = None,
) -> AsyncIterator[str]:
    """Yield the text of an asynchronous stream without its repetition; see `filter_stream`.

    The source is closed with `aclose()`, or with `close()` if it has only that.
    """
    own = repetition_filter or RepetitionFilter()
    read = text or _string
    iterator = aiter(source)
    is_open = True
    try:
        while not own.ended:
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                is_open = False
                break
            except Exception:
                is_open = False
                if held := own.flush():
                    yield held
                raise
            given = own.feed(read(item) or "")
            if own.ended:
                await _close_async(source, iterator)
                is_open = False
            if given:
                yield given
        if rest := own.flush():
            yield rest
    finally:
        if is_open:
            await _close_async(source, iterator)


def _string(item: Any) -> str | None:
    if item is None or isinstance(item, str):
        return item
    raise TypeError(
        f"the stream has items of type {type(item).__name__}, not strings: "
        "pass text=, a function that returns the text of one"
    )


def _close(*sources: Any) -> None:
    """Close the first of the sources that can be closed: a client's stream, or the iterator."""
    for source in sources:
        close = getattr(source, "close", None)
        if close is not None:
            close()
            return


async def _close_async(*sources: Any) -> None:
    for source in sources:
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        if close is not None:
            done = close()
            if inspect.isawaitable(done):
                await done
            return
