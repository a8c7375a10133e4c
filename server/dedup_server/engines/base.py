"""What an engine promises: it turns a request into an answer in the API's own form, streamed or whole."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from dedup_server.schema import GenerationRequest, Requests
from dedup_server.wire.sse import Event

Events = list[Event]  # that came at once, in order
Take = Callable[[Events], Awaitable[None] | None]

# The name of an event with which an engine that counts says what was used until then (`usage`); it does not reach the reader.
USED = b"dedup.used"


class EnoughError(Exception):
    """Raised by the taker of an answer's events: what may still come is not wanted."""


class Engine(Protocol):
    """Generates for one or more models."""

    @property
    def models(self) -> list[str]:
        """The names under which the engine's models are asked for."""
        ...

    @property
    def requests(self) -> Requests:
        """The endpoints it answers at, each with the shape in which a request must come."""
        ...

    async def start(self) -> None:
        """Gets ready to serve: loads weights, opens a connection pool."""
        ...

    async def ready(self) -> bool:
        """Whether a request would be answered now."""
        ...

    def validate(self, request: GenerationRequest) -> None:
        """Raises `dedup_server.errors.ApiError` that names what the engine cannot do of what the request asks for: an unknown model is
        a 404, else it is a 400."""
        ...

    async def generate(self, request: GenerationRequest, take: Take) -> None:
        """Gives `take` the answer's events as they come, up to its end. What `take` returns is awaited before more is given: the
        reader is slow. Raises `dedup_server.errors.ApiError` before the first event, or later when the engine fails; and what
        `take` raises.

        Cancelling it, and whatever `take` raises, stops the generation at once and frees what it holds.
        """
        ...

    @property
    def has_all_methods(self) -> bool:
        """Whether it obeys every parameter against repetition that this project has."""
        ...

    def can_go_on(self, request: GenerationRequest) -> bool:
        """Whether it can go on with an answer that has said something already (`request.said`)."""
        ...

    def can_avoid(self, request: GenerationRequest) -> bool:
        """Whether it can be kept from going on with `request.avoided`, and told not to end at once."""
        ...

    async def whole(self, request: GenerationRequest) -> bytes | None:
        """The answer in one piece; None where the engine wants to be asked to `generate` it and its chunks be put together."""
        ...

    async def stop(self) -> None:
        """Ends what still runs and frees everything."""
        ...
