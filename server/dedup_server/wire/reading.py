"""Reading what a server sent."""

from typing import Any

from dedup.lenient_json import read_json
from dedup_server.errors import ApiError, UpstreamRefusalError, upstream_failed


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
    return UpstreamRefusalError(502, error)


def count(usage: Any, name: str) -> int | None:
    """Return a count of a usage object; None if it has no such count."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None
