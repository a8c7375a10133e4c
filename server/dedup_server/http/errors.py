"""Errors of the HTTP client."""


class HttpClientError(Exception):
    """Base of the client's errors; a deadline that passes is a `TimeoutError`."""


class ConnectError(HttpClientError):
    """No connection to the server."""


class BrokenError(HttpClientError):
    """A connection that ended, or went wrong, before the response was complete."""


class StaleError(BrokenError):
    """A kept connection that was closed before the first byte of the response: the request may be
    sent again.
    """


def reason(error: BaseException) -> str:
    """Return the reason that an error of the system or the network names."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
