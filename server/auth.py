"""Who may ask: the clients' keys, if there are any."""

import hmac
from collections.abc import Iterable

from server.errors import ApiError


class Keys:
    """The keys clients may come with; none means that everyone may ask."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check(self, authorization: bytes | None) -> None:
        """Raises `ApiError` (401) unless the header carries a known key. Takes the same time whichever key is wrong, and where."""
        if not self._keys:
            return
        given = (authorization or b"").removeprefix(b"Bearer ").strip()
        matches = [hmac.compare_digest(given, key) for key in self._keys]  # all of them, so that time tells nothing
        if not any(matches):
            raise ApiError(
                401, "a valid API key is needed: Authorization: Bearer KEY", type="authentication_error", code="invalid_api_key"
            )
