"""What an API's answer promises: it turns what an engine sends into what the reader gets. Sans-IO, one object a request.

Each API (chat and text completions, responses, messages) has its own way to carry text, to end at a cut and to say that something
went wrong; all else about a request's life is the same and stands in `dedup_server.completion`.
"""

from typing import Protocol

from dedup_server.channel import Channel
from dedup_server.errors import ApiError
from dedup_server.wire.sse import Event


class Answer(Protocol):
    """One answer, streamed (`feed` its events, then `end` or `fail` once) or whole (`whole` once)."""

    input_tokens: int | None  # as the engine reports them; None until it does
    output_tokens: int | None

    @property
    def channels(self) -> list[Channel]:
        """Every text that the answer has had so far."""
        ...

    @property
    def cut(self) -> bool:
        """Whether a text of the answer ended at a loop."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the engine has said itself, in the API's own way, that it failed."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the engine has said that the answer is at its end. A stream that ends before has failed."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing more can come that a reader gets: the engine is hung up on."""
        ...

    def feed(self, event: Event) -> bytes:
        """The events that the reader gets for `event`: itself, unchanged, wherever nothing in it changes; none while text is held.

        Raises `ApiError` where the event is an error, or nothing that this API has.
        """
        ...

    def end(self) -> bytes:
        """The last events: what was held, how a cut ends, what closes the stream."""
        ...

    def fail(self, error: ApiError) -> bytes:
        """The last events where something failed: what was held, then the error, and no word of a normal ending."""
        ...

    def whole(self, body: bytes) -> bytes:
        """The reader's body for the engine's; the same bytes where nothing changes. Raises `ApiError` where it is no answer."""
        ...
