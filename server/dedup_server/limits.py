"""Limits of streams at once and of requests per minute. A refusal is a 429 with `Retry-After`."""

import math
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType

from dedup_server.errors import ApiError

_MAX_CALLERS = 10_000  # remembered; who has not asked for longest is forgotten, and starts afresh


class StreamLimit:
    """At most so many answers in progress: a context manager around each of them."""

    def __init__(self, max_streams: int | None) -> None:
        self.max_streams = max_streams
        self.in_progress = 0

    def __enter__(self) -> None:
        """Raise `ApiError` (429) if the limit is reached."""
        if self.max_streams is not None and self.in_progress >= self.max_streams:
            message = f"{self.in_progress} answers are in progress, which is the most this server gives at once"
            raise ApiError(
                429, message, type="rate_limit_error", code="too_many_streams", retry_after="1"
            )
        self.in_progress += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.in_progress -= 1


class RateLimit:
    """A bucket for each caller that holds a minute's requests and fills evenly (token bucket)."""

    def __init__(self, requests_per_minute: int | None, clock: Callable[[], float]) -> None:
        self._most = requests_per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # requests left, as of when

    def take(self, caller: str) -> None:
        """Raises `ApiError` (429)."""
        if self._most is None:
            return
        now = self._clock()
        left, at = self._buckets.pop(caller, (float(self._most), now))
        left = min(self._most, left + (now - at) * self._most / 60)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = math.ceil((1 - left) * 60 / self._most)
            message = f"more than {self._most} requests a minute"
            raise ApiError(
                429,
                message,
                type="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after=str(wait),
            )
