"""From the incident log to preference pairs, with which a model can be trained not to loop (DPO, arXiv 2305.18290; TRL's format)."""

from typing import Any

Incident = dict[str, Any]


def preference_pair(incident: Incident) -> dict[str, Any] | None:
    """`prompt`, `chosen` (the healed answer) and `rejected` (the looping one): messages where the request was a chat, else strings.
    None for an incident that was not healed. Raises ValueError for one that lacks something."""
    try:
        request, kept, looped, healed = (
            incident[name] for name in ("request", "kept", "looped", "healed")
        )
    except KeyError as missing:
        raise ValueError(f"it has no {missing}: is this a line of an incident log?") from None
    if not healed or not looped:
        return None
    messages = request.get("messages")
    if messages is None:
        return {"prompt": request["prompt"], "chosen": kept + healed, "rejected": kept + looped}
    return {"prompt": messages, "chosen": _said(kept + healed), "rejected": _said(kept + looped)}


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
