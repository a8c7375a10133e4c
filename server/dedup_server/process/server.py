"""uvicorn's server, one that ends in order."""

import asyncio
import logging
import socket
from types import FrameType

import uvicorn

_log = logging.getLogger("dedup.server")

_GOODBYE_SECONDS = 1  # of the grace period: enough to send held text and the error


class Server(uvicorn.Server):
    """Server that waits for the requests in progress when it is stopped.

    Before the grace period ends, or at a second signal, it cancels the requests that are left, so
    that each of them ends with an error; uvicorn would drop them. It does not raise the signal
    again at the end, as uvicorn does: an orderly shutdown exits with 0.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._cancel_requests)
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
