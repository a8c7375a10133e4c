"""uvicorn's server, one that ends in order."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

_log = logging.getLogger("dedup.server")

_GOODBYE_SECONDS = 1  # of the grace period: enough to send held text and the error


class Server(uvicorn.Server):
    """Server that waits for the requests in progress when it is stopped.

    At a signal it serves on for the delay, then closes its port and waits for the grace period.
    Before that ends, or at a second signal, it cancels the requests that are left, so that each of
    them ends with an error; uvicorn would drop them. It does not raise the signal again at the end,
    as uvicorn does: an orderly shutdown exits with 0.

    Args:
        delay_seconds: from the first signal until the port is closed.
        on_stop: called at the first signal.
    """

    def __init__(
        self, config: uvicorn.Config, delay_seconds: float, on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._delay_seconds = delay_seconds
        self._on_stop = on_stop
        self._num_signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._num_signals += 1
        loop = asyncio.get_running_loop()
        if self._num_signals > 1:
            self.should_exit = True
            loop.call_soon_threadsafe(self._cancel_requests)
        else:
            loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Close the port after the delay."""
        self._on_stop()
        if not self._delay_seconds:
            self.should_exit = True
            return
        _log.info("stopping: not ready; the port closes in %g s", self._delay_seconds)
        asyncio.get_running_loop().call_later(self._delay_seconds, self._close)

    def _close(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = self.config.timeout_graceful_shutdown or 0
        if num_requests := len(self.server_state.tasks):
            plural = "s" * (num_requests > 1)
            _log.info("stopping: waiting up to %g s for %d request%s", grace, num_requests, plural)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(grace - _GOODBYE_SECONDS, self._cancel_requests)
        await super().shutdown(sockets)
        timer.cancel()

    def _cancel_requests(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()


class AdminServer(uvicorn.Server):
    """Server of the admin port. It ends when it is told to, not at a signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
