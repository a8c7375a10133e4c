"""Preference pairs from the server's incident log.

For DPO (arXiv 2305.18290), in TRL's format.
"""

from typing import Any

from dedup.training.incidents import Incident, fields_of


def preference_pair(incident: Incident) -> dict[str, Any] | None:
    """Return the preference pair of an incident; None if the incident was not healed.

    Returns:
        `prompt`, `chosen` (the healed answer) and `rejected` (the looping one): lists of messages
        if the request was a chat, else strings.

    Raises:
        ValueError: The incident lacks a field.
    """
    prompt, kept, looped, healed = fields_of(incident)
    if not healed or not looped:
        return None
    if isinstance(prompt, str):
        return {"prompt": prompt, "chosen": kept + healed, "rejected": kept + looped}
    return {
        "prompt": prompt,
        "chosen": _assistant_turn(kept + healed),
        "rejected": _assistant_turn(kept + looped),
    }


def _assistant_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
