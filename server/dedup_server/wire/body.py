"""What the bodies of several APIs have in common."""

from typing import Any

from dedup.lenient_json import read_json
from dedup_server.errors import upstream_failed


def read_object(data: bytes) -> dict[str, Any]:
    """What the engine sent. Raises `ApiError` where it is no JSON object."""
    try:
        decoded = read_json(data)
    except (ValueError, RecursionError):
        raise upstream_failed("the upstream sent something that is not JSON") from None
    if not isinstance(decoded, dict):
        raise upstream_failed("the upstream sent JSON that is not an object")
    return decoded


def said(messages: object, role: str) -> list[str]:
    """The texts of a conversation's messages by `role`, less the empty ones; parts other than text are left out."""
    return ["".join(texts) for texts in _texts(messages, role)]


def asked(messages: object) -> str:
    """Return the text of the last of a user's messages that has any: one with a tool's result alone asks for nothing new."""
    return next(("\n".join(texts) for texts in reversed(_texts(messages, "user"))), "")


def _texts(messages: object, role: str) -> list[list[str]]:
    by_role = (
        [m for m in messages if isinstance(m, dict) and m.get("role") == role]
        if isinstance(messages, list)
        else []
    )
    return [texts for message in by_role if (texts := _parts(message.get("content")))]


def _parts(content: object) -> list[str]:
    parts = (
        [part.get("text") for part in content if isinstance(part, dict)]
        if isinstance(content, list)
        else [content]
    )
    return [text for text in parts if isinstance(text, str) and text]
