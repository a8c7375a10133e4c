"""What an engine promises: it turns a request into chunks.

A chunk is OpenAI's own streaming chunk as a plain dict (`chat.completion.chunk` or `text_completion`), so what an upstream sends
passes through with every field it has. An engine that was asked not to stream may instead yield one whole response
(`choices[i].message`, or `choices[i].text` with its finish_reason): a response is a stream of one chunk.
"""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from server.schema import GenerationRequest

Chunk = dict[str, Any]

# A field in which an engine that counts may say, with any chunk, what was used until then; it does not reach the reader.
USED = "used_so_far"


class Engine(Protocol):
    """Generates for one or more models."""

    @property
    def models(self) -> list[str]:
        """The names under which the engine's models are asked for."""
        ...

    async def start(self) -> None:
        """Gets ready to serve: loads weights, opens a connection pool."""
        ...

    async def ready(self) -> bool:
        """Whether a request would be answered now."""
        ...

    def validate(self, request: GenerationRequest) -> None:
        """Raises `server.errors.ApiError` (400) that names what the engine cannot do of what the request asks for."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Yields the answer's chunks; raises `server.errors.ApiError` before the first, or in mid-stream when the engine fails.

        Closing the generator (`aclose`, cancellation) stops the generation at once and frees what it holds.
        """
        ...

    async def stop(self) -> None:
        """Ends what still runs and frees everything."""
        ...
