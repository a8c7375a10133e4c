"""One text through a model in this process, without a server."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from dedup.config import FilterConfig, Policy
from dedup.text.filter import RepetitionFilter
from dedup_server.endpoints import COMPLETIONS
from dedup_server.engines.base import Call, Frames, StopGeneration
from dedup_server.engines.local.engine import LocalEngine
from dedup_server.requests.base import parse


def generate(
    model: str,
    device: str | None,
    policy: Policy,
    text: str,
    parameters: dict[str, Any],
    write: Callable[[str], None],
) -> None:
    """Write the completion of `text` as it comes, filtered.

    Args:
        model: A path or a hub id.
        device: Where it runs; None chooses.
        policy: The filter's.
        text: The prompt.
        parameters: Those of `LongInput` and of a completion request; None is not given.
        write: Called with each piece.

    Raises:
        StartupError: The model cannot be loaded.
        ApiError: A parameter is wrong.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    long_input = {name: given.pop(name) for name in ("before", "after", "overlap") if name in given}
    body = {"prompt": text, "stream": True, "long_input": long_input, **given}
    request = parse(COMPLETIONS.sampled, body)
    engine = LocalEngine(model, device=device)
    text_filter = RepetitionFilter(FilterConfig(policy=policy))

    def take(frames: Frames) -> None:
        for frame in frames:
            for delta in frame.deltas:
                write(text_filter.feed(delta.text))
        if text_filter.ended:
            raise StopGeneration

    async def run() -> None:
        await engine.start()
        try:
            engine.validate(request)
            with contextlib.suppress(StopGeneration):
                call = Call(request, COMPLETIONS.path, COMPLETIONS.reader())
                await engine.generate(call, take)
        finally:
            await engine.stop()

    asyncio.run(run())
    write(text_filter.flush())
