"""Preference pairs for training a model not to loop, from the server's incident log.

For DPO (arXiv 2305.18290), in TRL's format.
"""

from typing import Any

Incident = dict[str, Any]


def preference_pair(incident: Incident) -> dict[str, Any] | None:
    """Return the preference pair of an incident; None if the incident was not healed.

    Returns:
        `prompt`, `chosen` (the healed answer) and `rejected` (the looping one): lists of messages
        if the request was a chat, else strings.

    Raises:
        ValueError: The incident lacks a field.
    """
    try:
        request, kept, looped, healed = (
            incident[name] for name in ("request", "kept", "looped", "healed")
        )
    except KeyError as missing:
        raise ValueError(
            f"the field {missing} is missing: is this a line of an incident log?"
        ) from None
    if not healed or not looped:
        return None
    messages = request.get("messages")
    if messages is None:
        return {"prompt": request["prompt"], "chosen": kept + healed, "rejected": kept + looped}
    return {
        "prompt": messages,
        "chosen": _assistant_turn(kept + healed),
        "rejected": _assistant_turn(kept + looped),
    }


def _assistant_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
