"""Who may ask: the clients' keys, if there are any."""

import hmac
from collections.abc import Iterable

from dedup_server.errors import ApiError

Headers = list[tuple[bytes, bytes]]


class Keys:
    """The keys clients may come with; none means that everyone may ask."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check(self, headers: Headers) -> str | None:
        """Which key the headers carry, as a name that tells nothing of it; None where none is needed.

        Raises `ApiError` (401) unless it is a known one. Takes the same time whichever key is wrong, and where.
        """
        if not self._keys:
            return None
        given = _given(headers)
        matches = [
            hmac.compare_digest(given, key) for key in self._keys
        ]  # all of them, so that time tells nothing
        if not any(matches):
            raise ApiError(
                401,
                "a valid API key is needed: Authorization: Bearer KEY",
                type="authentication_error",
                code="invalid_api_key",
            )
        return f"key {matches.index(True) + 1}"


def _given(headers: Headers) -> bytes:
    """The key in the headers: OpenAI's, or Anthropic's and Azure's."""
    given = b""
    for name, value in headers:
        if name == b"authorization":
            return value.removeprefix(b"Bearer ").strip()
        if name in (b"x-api-key", b"api-key"):
            given = value.strip()
    return given
