"""Refusals of the scripted upstream, as strict as those of the real APIs."""

import json
from collections.abc import Collection, Mapping
from typing import Any

Json = dict[str, Any]


class RefusedError(Exception):
    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def require(holds: object, message: str, status: int = 400) -> None:
    """Raise a refusal unless `holds`.

    Raises:
        RefusedError: With the message and the status.
    """
    if not holds:
        raise RefusedError(message, status)


def require_fields(given: object, known: Collection[str], needed: Collection[str], at: str) -> Json:
    """Return an object that has all needed fields and no unknown one."""
    require(isinstance(given, dict), f"{at}: must be an object")
    assert isinstance(given, dict)
    unknown = sorted(given.keys() - set(known) - set(needed))
    require(not unknown, f"{at}: unrecognized fields {unknown}")
    missing = sorted(set(needed) - given.keys())
    require(not missing, f"{at}: missing fields {missing}")
    return given


def require_list(given: object, at: str) -> list[Any]:
    require(isinstance(given, list) and given, f"{at}: must be a non-empty list")
    assert isinstance(given, list)
    return given


def require_arguments(given: object, at: str) -> None:
    """Require the JSON text of an object."""
    try:
        parsed = json.loads(str(given))
    except ValueError:
        parsed = None
    require(isinstance(given, str) and isinstance(parsed, dict), f"{at}: not a JSON object")


def require_key(headers: Mapping[str, str], *names: str) -> None:
    require(any(headers.get(name) for name in names), "no API key", 401)


def require_choice(choice: object, names: Collection[str]) -> None:
    """Check `tool_choice` of chat or of the Responses API."""
    if choice is None:
        return
    require(names, "tool_choice: is only allowed when tools are specified")
    if isinstance(choice, dict):
        name = choice.get("name") or choice.get("function", {}).get("name")
        require(name in names, f"tool_choice: no tool {name!r}")
        return
    require(choice in ("none", "auto", "required"), f"tool_choice: {choice!r} is not valid")
