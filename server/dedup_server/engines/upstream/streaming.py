"""Whole answers of an upstream that are requested as streams, so that a loop in one ends early.

An upstream streams all of them until it shows that it cannot: it refuses to, or its streams lack
the usage that its whole answers have.
"""

from typing import Final

from dedup.lenient_json import write_json
from dedup_server.errors import ApiError
from dedup_server.requests.base import GenerationRequest

_MAX_NOTED: Final = 1024  # models and fields are the clients'
_REFUSALS: Final = (400, 422, 500, 501)


class Streaming:
    """Memory of what an upstream does not stream.

    Args:
        is_allowed: The operator lets whole answers be streamed.
    """

    def __init__(self, is_allowed: bool) -> None:
        self._is_allowed = is_allowed
        self._refused: set[tuple[str, str | None, frozenset[str]]] = set()
        # By path and model: whether only whole answers have a usage; False if none at all has one.
        self._lacks_usage: dict[tuple[str, str | None], bool] = {}

    def suits(self, path: str, request: GenerationRequest) -> bool:
        """Return whether the whole answer to a request is to be streamed."""
        if not self._is_allowed or not request.is_streamable:
            return False
        if self._lacks_usage and self._lacks_usage.get((path, request.model)):
            return False
        return not self._refused or _key(path, request) not in self._refused

    def note_refusal(self, path: str, request: GenerationRequest) -> None:
        """Note that the upstream answers requests with these fields only as a whole."""
        if len(self._refused) >= _MAX_NOTED:
            self._refused.clear()
        self._refused.add(_key(path, request))

    def note_no_usage(self, path: str, request: GenerationRequest, *, is_streamed: bool) -> None:
        """Note an answer without a usage."""
        key = path, request.model
        if is_streamed:
            if len(self._lacks_usage) >= _MAX_NOTED:
                self._lacks_usage.clear()
            self._lacks_usage.setdefault(key, True)
        elif key in self._lacks_usage:
            self._lacks_usage[key] = False


def refuses_stream(error: ApiError) -> bool:
    """Return whether an upstream's refusal may be about the stream that was requested."""
    return error.status in _REFUSALS and b"stream" in write_json(error.body()).lower()


def _key(path: str, request: GenerationRequest) -> tuple[str, str | None, frozenset[str]]:
    return path, request.model, request.fields
