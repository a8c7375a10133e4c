"""Engines: each turns a request into the frames of an answer."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dedup.answer.continuation import Continuation, Support
from dedup.answer.frame import Frame
from dedup_server.requests.base import GenerationRequest
from dedup_server.wire.base import Reader

Frames = list[Frame]  # that came at once, in order
Take = Callable[[Frames], Awaitable[None] | None]


class StopGeneration(Exception):  # noqa: N818 - nothing is wrong
    """Raised by the consumer of an answer's frames to stop generating."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an engine.

    Args:
        request: The request.
        path: The endpoint of an upstream that answers it, below its base URL.
        reader: Reads the answer of that endpoint.
        continuation: The answer has begun: what follows continues it. `request` is then one for
            chat or text completions.
    """

    request: GenerationRequest
    path: str
    reader: Reader
    continuation: Continuation | None = None


class Engine(Protocol):
    """Generates for one or more models."""

    @property
    def models(self) -> list[str]:
        """Return the names under which the engine's models are asked for."""
        ...

    @property
    def is_local(self) -> bool:
        """Return whether it samples in this process: its requests are then checked in full."""
        ...

    def describe(self, model: str) -> dict[str, Any]:
        """Return what more there is to tell of a model in `/v1/models`."""
        ...

    async def start(self) -> None:
        """Get ready to serve: load weights, open a connection pool."""
        ...

    async def ready(self) -> bool:
        """Return whether a request would be answered now."""
        ...

    async def stop(self) -> None:
        """End what still runs, and free everything."""
        ...

    def validate(self, request: GenerationRequest) -> None:
        """Check what a request asks for.

        Raises:
            ApiError: (404) The model is unknown. (400) The engine cannot do what is asked.
        """
        ...

    def support(self, request: GenerationRequest) -> Support | None:
        """Return what the engine offers to continue answers; None if it cannot continue any.

        Args:
            request: One for chat or text completions.
        """
        ...

    async def generate(self, call: Call, take: Take) -> None:
        """Give `take` the frames of the answer as they come, up to its end.

        What `take` returns is awaited before more is given: the reader of the answer is slow.
        Cancelling the generation, and whatever `take` raises, stops it at once and frees what it
        holds.

        Raises:
            ApiError: Before the first frame, or later when the engine fails.
        """
        ...
