"""Loops of a model: lines of the server's incident log, and answers that loop."""

from typing import Any

from dedup.training.messages import Conversation
from dedup.training.onset import second_copy

Incident = dict[str, Any]


def incident_of(row: dict[str, Any], *, raw: bool = False) -> Incident | None:
    """Return the incident that a row describes; None if its answer does not loop.

    Args:
        row: A line of the incident log, which is returned as it is, or an answer with its `prompt`
            and `text`, as `dedup audit --answers` and the live suite write them.
        raw: The prompts of answers were completed without a chat template.

    Returns:
        `request`, `kept` (the answer up to the loop's second copy), `looped` (the rest) and
        `healed`.

    Raises:
        ValueError: The row is neither.
    """
    if "looped" in row:
        return row
    prompt, text = row.get("prompt"), row.get("text")
    if not isinstance(text, str) or not isinstance(prompt, str):
        raise ValueError(
            'neither an incident ("request", "kept", "looped", "healed")'
            ' nor an answer ("prompt", "text")'
        )
    start = second_copy(text, prompt)
    if start is None:
        return None
    request: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if raw:
        request = {"prompt": prompt}
    return {"request": request, "kept": text[:start], "looped": text[start:], "healed": None}


def fields_of(incident: Incident) -> tuple[Conversation, str, str, str | None]:
    """Return the prompt, and the fields `kept`, `looped` and `healed`.

    Raises:
        ValueError: A field is missing, or the request has no messages and no prompt.
    """
    try:
        request, kept, looped, healed = (
            incident[name] for name in ("request", "kept", "looped", "healed")
        )
    except KeyError as missing:
        raise ValueError(
            f"the field {missing} is missing: is this a line of an incident log?"
        ) from None
    prompt = request.get("messages", request.get("prompt"))
    is_messages = isinstance(prompt, list) and all(isinstance(one, dict) for one in prompt)
    if not isinstance(prompt, str) and not is_messages:
        raise ValueError("the request has neither messages nor a prompt that is a string")
    return prompt, kept, looped, healed
