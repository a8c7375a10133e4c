"""A connection of the HTTP client, as an asyncio protocol."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from dedup_server.http.deadline import Deadline, Timeouts
from dedup_server.http.errors import BrokenError, StaleError, reason
from dedup_server.http.parser import BETWEEN_CHUNKS, END, HEAD, ResponseParser

# Takes a piece of a body; returns what to await before the next one, if anything.
Consumer = Callable[[bytes], Awaitable[None] | None]

# Stages of a connection. How far a response has come is the parser's stage.
_IDLE: Final = 0  # no exchange
_READING: Final = 1  # a request was sent, and its response has a consumer
_SKIPPING: Final = 2  # the consumer has left; the rest is read so that the connection can be reused
_CLOSED: Final = 3
_NEXT_STAGES: Final = {
    _IDLE: (_READING, _CLOSED),
    _READING: (_IDLE, _SKIPPING, _CLOSED),
    _SKIPPING: (_IDLE, _CLOSED),
    _CLOSED: (),
}

_PAUSE_BYTES: Final = 64 * 1024  # that may wait for a slow consumer
_SKIP_SECONDS: Final = 1.0


class Connection:
    """One connection with at most one exchange at a time.

    It is no subclass of `asyncio.Protocol`, which would make attribute access slow when compiled.

    Args:
        keep: called with the connection when it can be reused.
    """

    def __init__(self, keep: "Callable[[Connection], None]") -> None:
        self.parser = ResponseParser()
        self.idle_since = 0.0  # 0 before the end of the first exchange
        self._keep = keep
        self._stage = _IDLE
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._deadline = Deadline(self._loop, self._expire)
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._received = b""  # and not yet taken
        self._consumer: Consumer | None = None
        self._consumer_pause: Awaitable[None] | None = None

    @property
    def is_usable(self) -> bool:
        return (
            self._stage == _IDLE
            and self._transport is not None
            and not self._transport.is_closing()
        )

    async def send(self, message: bytes, method: str, timeouts: Timeouts) -> None:
        """Send a request and wait for the head of its response.

        Raises:
            BrokenError, TimeoutError: there is no response.
        """
        if self._transport is None:
            raise BrokenError("it closed the connection")
        self._begin(method, timeouts)
        self._transport.write(message)
        while self.parser.stage == HEAD:
            if self._error is not None:
                raise self._error
            await self.more()

    def _begin(self, method: str, timeouts: Timeouts) -> None:
        # Not in `send`, where mypyc would take `_error` for None from here on.
        self._enter(_READING)
        self._error = None
        self._received = b""
        self.parser.begin(method)
        self._deadline.start(timeouts)

    def take(self) -> bytes | None:
        """Return the body received since the last call, b"" at its end, None if there is `more`.

        Raises:
            BrokenError, TimeoutError: the response is incomplete.
            Exception: the consumer's own.
        """
        if self._received:
            received, self._received = self._received, b""
            self._resume_reading()
            return received
        if self._error is not None:
            raise self._error
        if self.parser.stage == END:
            self._release()
            return b""
        return None

    def more(self) -> "asyncio.Future[None]":
        """Return a future that is done when there is something to `take`."""
        self._waiter = self._loop.create_future()
        return self._waiter

    async def pour(self, consumer: Consumer) -> None:
        """Pass the body on to `consumer` as it arrives, until the consumer is slow, the response
        ends or something fails.
        """
        self._consumer = consumer
        try:
            await self.more()
        finally:
            self._consumer = None
        if self._consumer_pause is not None:
            pause, self._consumer_pause = self._consumer_pause, None
            await pause

    def skip(self) -> None:
        """Drop the rest of the response if it comes soon and is short; else the connection."""
        if self.parser.stage == END:
            self._release()
        elif self._stage == _READING:
            self._enter(_SKIPPING)
            self._resume_reading()
            self._deadline.restrict(_SKIP_SECONDS)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._stage != _CLOSED:
            self._enter(_CLOSED)
            self._deadline.stop()
            if self._transport is not None:
                self._transport.abort()
                self._transport = None

    # The methods of `asyncio.Protocol`.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        parser = self.parser
        stage = parser.stage
        if self._stage != _READING or stage == END:
            self._receive_unread(data)
            return
        self._deadline.heard_at = self._loop.time()
        try:
            body = parser.feed(data)
        except BrokenError as error:
            body = parser.take()
            self._fail(error)
        if body:
            if stage != BETWEEN_CHUNKS:  # else the body has begun
                self._deadline.begin_body()
            if self._consumer is None:
                self._buffer(body)
            else:
                self._hand_over(self._consumer, body)
                if self._consumer is not None and parser.stage != END:
                    return
        self._wake()

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._stage != _IDLE and self.parser.stage != END:
            if error is not None:
                self._fail(self._lost(reason(error)))
            elif not self.parser.feed_eof():
                self._fail(self._lost("it closed the connection"))
        self.abort()
        self._wake()

    def _lost(self, message: str) -> BrokenError:
        """Return the error for a connection that was lost before the end of a response."""
        if self.parser.num_head_bytes == 0 and self.idle_since > 0:
            return StaleError(message)
        return BrokenError(message)

    def _receive_unread(self, data: bytes) -> None:
        """Handle data that no consumer gets."""
        if self._stage != _SKIPPING:
            self.abort()  # nothing was requested
            return
        try:
            skipped = self.parser.feed(data)
        except BrokenError:
            self.abort()
            return
        if self.parser.stage == END:
            self._release()
        elif len(skipped) > _PAUSE_BYTES:
            self.abort()

    def _hand_over(self, consumer: Consumer, body: bytes) -> None:
        try:
            self._consumer_pause = consumer(body)
        except Exception as error:  # raised in the task that awaits `pour`
            self._fail(error)
        if self._consumer_pause is not None:
            self._consumer = None  # what arrives meanwhile is kept

    def _buffer(self, body: bytes) -> None:
        self._received += body
        deadline = self._deadline
        if len(self._received) > _PAUSE_BYTES and not deadline.is_suspended and self._transport:
            deadline.suspend()
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._deadline.is_suspended:
            self._deadline.resume()
            if self._transport is not None:
                self._transport.resume_reading()

    def _release(self) -> None:
        """End the exchange; keep the connection for the next one if it can be kept."""
        if self._stage == _CLOSED:
            return
        self._resume_reading()
        self._deadline.stop()
        self.idle_since = time.monotonic()
        if self.parser.keeps_alive:
            self._enter(_IDLE)
            self._keep(self)
        else:
            self.abort()

    def _expire(self, message: str) -> None:
        self._fail(TimeoutError(message))

    def _fail(self, error: Exception) -> None:
        """Close the connection; `take` raises the first error behind the body received before."""
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _enter(self, stage: int) -> None:
        assert stage in _NEXT_STAGES[self._stage], (self._stage, stage)
        self._stage = stage
