"""The two halves of an API's codec: bytes to frames, and frames to bytes. Sans-IO, one pair a request."""

from typing import Protocol

from dedup.answer.frame import Decision, Frame
from dedup_server.errors import ApiError, upstream_failed
from dedup_server.wire.sse import Event, EventTooLongError, SSEDecoder


class Reader:
    """Reads the answer that a server sends in an API's form: streamed, or a whole body.

    A subclass for each API has `read` and `read_whole`.

    Attributes:
        gathers: Nobody needs the events one by one: events that continue a text may be made one.
    """

    def __init__(self) -> None:
        self.gathers = False
        self._decoder = SSEDecoder()

    def feed(self, received: bytes) -> list[Frame]:
        """Return the frames that the bytes complete. A failure is the last frame's `error`."""
        try:
            events = self._decoder.feed(received)
        except EventTooLongError as error:
            return [Frame([], error=upstream_failed(f"the upstream sent {error}"))]
        if len(events) == 1:
            return [self._frame(events[0])]
        return self._frames(events)

    def flush(self) -> list[Frame]:
        """Return the frames that the end of the stream completes."""
        return self._frames(self._decoder.flush())

    def read(self, event: Event) -> Frame:
        """Return the frame that a server-sent event is.

        Raises:
            ApiError: The event reports a failure, or is nothing that this API has.
        """
        raise NotImplementedError

    def read_whole(self, body: bytes) -> Frame:
        """Return the frame that a body which was not streamed is.

        Raises:
            ApiError: It is no answer of this API.
        """
        raise NotImplementedError

    def charge(self, frame: Frame, input_tokens: int, output_tokens: int) -> None:
        """Add the tokens of earlier attempts to the usage that a frame reports to its reader.

        The counts of the frame itself stay: they are those of its own attempt.
        """
        raise NotImplementedError

    def _frames(self, events: list[Event]) -> list[Frame]:
        frames: list[Frame] = []
        for event in events:
            frame = self._frame(event)
            frames.append(frame)
            if frame.error is not None:
                break
        return frames

    def _frame(self, event: Event) -> Frame:
        try:
            return self.read(event)
        except ApiError as error:
            return Frame([], error=error)


class Writer(Protocol):
    """Writes an answer in an API's form, streamed or whole.

    Streamed: `write` each frame, then `end` or `fail` once. Whole: `add` each frame, then `whole`.
    A frame that this API's reader read, and in which nothing changes, leaves as the bytes it came as.
    """

    def write(self, frame: Frame, decision: Decision) -> bytes:
        """Return the events that the reader of the answer gets for a frame."""
        ...

    def end(self) -> bytes:
        """Return the last events: what was held, how a cut ends, what closes the stream."""
        ...

    def fail(self, error: ApiError) -> bytes:
        """Return the last events where something failed: what was held, then the error."""
        ...

    def add(self, frame: Frame, decision: Decision) -> None:
        """Add a frame to the body that `whole` will return."""
        ...

    def whole(self) -> bytes:
        """Return the body of an answer that is not streamed."""
        ...

    def resume(self) -> None:
        """Note that what follows is another stream, which continues the answer."""
        ...
