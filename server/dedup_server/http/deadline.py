"""Deadlines of one exchange over HTTP."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of an exchange, in seconds.

    Args:
        connect: for the connection.
        first: from the request to the first byte of the body.
        idle: between two reads.
        total: of the whole exchange.
    """

    connect: float
    first: float
    idle: float
    total: float | None = None


class Deadline:
    """Timer of one exchange at a time.

    Goal: one timer per exchange, not one per read. A read only stores its time in `heard_at`; the
    timer compares when it is due, and starts again if there is time left.

    Args:
        expire: called with the reason when a deadline has passed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[str], None]) -> None:
        self.heard_at = 0.0  # the loop's time at the last read
        self.is_suspended = False
        self._loop = loop
        self._expire = expire
        self._limit = 0.0
        self._idle_limit = 0.0
        self._total_limit: float | None = None
        self._began_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, timeouts: Timeouts) -> None:
        """Start with the wait for the first byte of the body."""
        self._limit = timeouts.first
        self._idle_limit = timeouts.idle
        self._total_limit = timeouts.total
        self._began_at = self.heard_at = self._loop.time()
        self.is_suspended = False
        self._check()

    def begin_body(self) -> None:
        """Count pauses between reads from now on."""
        is_sooner = self._idle_limit < self._limit
        self._limit = self._idle_limit
        if is_sooner and self._timer is not None:
            self._timer.cancel()
            self._check()

    def suspend(self) -> None:
        """Count no pauses until `resume`: the consumer is slow, not the server."""
        self.is_suspended = True

    def resume(self) -> None:
        """Count pauses again."""
        self.is_suspended = False
        self.heard_at = self._loop.time()

    def restrict(self, seconds: float) -> None:
        """Replace all deadlines with one in `seconds`."""
        self.stop()
        self._limit = seconds
        self._total_limit = None
        self.resume()
        self._check()

    def stop(self) -> None:
        """Cancel all deadlines."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        now = self._loop.time()
        if self.is_suspended:
            self.heard_at = now
        due = self.heard_at + self._limit
        if self._total_limit is not None:
            due = min(due, self._began_at + self._total_limit)
        if now < due:
            self._timer = self._loop.call_at(due, self._check)
            return
        self._timer = None
        if self._total_limit is not None and now >= self._began_at + self._total_limit:
            self._expire(f"it took longer than {self._total_limit:g} s")
        else:
            self._expire(f"it sent nothing for {self._limit:g} s")
