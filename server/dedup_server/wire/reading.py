"""Reading what a server sent."""

from typing import Any

from dedup.lenient_json import read_json
from dedup_server.errors import ApiError, UpstreamRefusalError, upstream_failed

_STATUSES = {
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def read_object(data: bytes) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        ApiError: `data` is no JSON object.
    """
    try:
        decoded = read_json(data)
    except (ValueError, RecursionError):
        raise upstream_failed("the upstream sent something that is not JSON") from None
    if not isinstance(decoded, dict):
        raise upstream_failed("the upstream sent JSON that is not an object")
    return decoded


def refusal_in(message: dict[str, Any]) -> ApiError:
    """Return the failure that a server reports in the middle of its answer, in OpenAI's shape."""
    error = message.get("error", message)
    if not isinstance(error, dict):
        error = {"message": str(error)}
    return UpstreamRefusalError(_status_of(error), error)


def count(usage: Any, name: str) -> int | None:
    """Return a count of a usage object; None if it has no such count."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None


def add_tokens(usage: dict[str, Any], **tokens: int) -> None:
    """Add tokens to the counts of a usage object, of those that it has."""
    for name, more in tokens.items():
        if type(usage.get(name)) is int:
            usage[name] += more


def _status_of(error: dict[str, Any]) -> int:
    """Return the status that an error would have had instead of an answer."""
    code = error.get("code")
    if type(code) is int and 400 <= code < 600:
        return code
    for name in (code, error.get("type")):
        if isinstance(name, str) and name in _STATUSES:
            return _STATUSES[name]
    return 502
