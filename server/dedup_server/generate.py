"""One text through a model in this process, without a server."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from dedup.config import FilterConfig, Policy
from dedup.lenient_json import read_json
from dedup.text.filter import RepetitionFilter
from dedup_server.engines.base import USED, EnoughError, Events
from dedup_server.engines.local.engine import LocalEngine
from dedup_server.schema import SAMPLED, parse


def generate(
    model: str,
    device: str | None,
    policy: Policy,
    text: str,
    parameters: dict[str, Any],
    write: Callable[[str], None],
) -> None:
    """Writes the answer to `text` as it comes, filtered. parameters: `LongInput`'s, and a completion request's; None is not given.

    Raises `StartupError` for a model that cannot be loaded, `ApiError` for parameters that are wrong.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    long_input = {name: given.pop(name) for name in ("before", "after", "overlap") if name in given}
    request = parse(
        SAMPLED, "completions", {"prompt": text, "stream": True, "long_input": long_input, **given}
    )
    engine = LocalEngine(model, device=device)
    said = RepetitionFilter(FilterConfig(policy=policy))

    def take(events: Events) -> None:
        for event in events:
            if event.name != USED:
                for choice in read_json(event.data)["choices"]:
                    write(said.feed(choice["text"]))
        if said.ended:
            raise EnoughError

    async def answer() -> None:
        await engine.start()
        try:
            engine.validate(request)
            with contextlib.suppress(EnoughError):
                await engine.generate(request, take)
        finally:
            await engine.stop()

    asyncio.run(answer())
    write(said.flush())
