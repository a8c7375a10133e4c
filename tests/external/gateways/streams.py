"""A number of streams that is kept open, each read to its end and checked to the letter."""

import asyncio
import time
from dataclasses import dataclass, field

from tests.external.gateways.rig import PROSE, Client, request_bytes


@dataclass
class Streams:
    """Streams of `n` words, one each `every` ms, over as many connections that are kept alive.

    Attributes:
        num_ended: answers that were whole.
        problems: what was wrong with the others.
        ttfts, seconds: to the first character, and to the end of each whole answer.
    """

    port: int
    number: int
    n: int
    every: int
    is_last: bool = False
    num_open: int = 0
    peak: int = 0
    num_ended: int = 0
    problems: list[str] = field(default_factory=list)
    ttfts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    async def run(self, ramp_seconds: float) -> None:
        """Keep the streams open until `is_last` is set; then let each end."""
        await asyncio.gather(
            *(self._use_connection(at * ramp_seconds / self.number) for at in range(self.number))
        )

    async def _use_connection(self, delay: float) -> None:
        await asyncio.sleep(delay)
        request = request_bytes(self.port, f"n={self.n} every={self.every} first={self.every}")
        expected = "".join(PROSE[: self.n])
        client: Client | None = None
        while not self.is_last:
            self.num_open += 1
            self.peak = max(self.peak, self.num_open)
            began = time.monotonic()
            try:
                if client is None or client.transport.is_closing():
                    loop = asyncio.get_running_loop()
                    _, client = await loop.create_connection(Client, "127.0.0.1", self.port)
                answer = await client.ask(request)
                problem = answer.problem
                if not problem and answer.text != expected:
                    problem = f"{len(answer.text)} characters of {len(expected)}"
            except OSError as error:
                problem, client = (
                    f"{error}; after {len(client.received) if client else 0} bytes",
                    None,
                )
            self.num_open -= 1
            if problem:
                self.problems.append(f"{problem} ({time.monotonic() - began:.1f} s)")
            else:
                self.num_ended += 1
                self.ttfts.append(answer.ttft)
                self.seconds.append(time.monotonic() - began)
        if client:
            client.transport.close()
