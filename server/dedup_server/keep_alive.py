"""Comments in a stream of events: clients, and what is between, close streams that are silent."""

import asyncio
from collections.abc import Callable
from typing import Final

COMMENT: Final = b": held\n\n"
_LOOKS: Final = 4  # until a stream counts as silent: it is so for a quarter longer at most


class KeepAlive:
    """Calls a function again and again while a stream is silent because its text is held.

    Args:
        seconds: Of silence before a call; 0 is never.
        is_held: Says whether the stream is silent for that reason.
        send: Sends a comment.
    """

    def __init__(
        self, seconds: float, is_held: Callable[[], bool], send: Callable[[], None]
    ) -> None:
        self.is_silent = True  # since the last look; whoever writes sets it to False
        self._num_silent = 0  # looks
        self._seconds = seconds
        self._is_held = is_held
        self._send = send
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at the stream from now on; `stop` ends that."""
        if self._seconds:
            self._timer = asyncio.get_running_loop().call_later(self._seconds / _LOOKS, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._num_silent = self._num_silent + 1 if self.is_silent else 0
        if self._num_silent >= _LOOKS and self._is_held():
            self._num_silent = 0
            self._send()
        self.is_silent = True
        self.start()
