"""The texts of a conversation, in the shapes that the APIs have for one."""

from collections.abc import Iterator
from typing import Any

from dedup.answer.channel import Editing
from dedup.config import Policy


def answers(messages: object) -> list[str]:
    """Return the texts of the assistant's messages, less the empty ones."""
    return ["".join(texts) for texts in _texts_by(messages, "assistant")]


def last_prompt(messages: object) -> str:
    """Return the text of the last of a user's messages that has any.

    A message with a tool's result alone asks for nothing new.
    """
    prompts = ["\n".join(texts) for texts in _texts_by(messages, "user")]
    return prompts[-1] if prompts else ""


def editing_of(request: dict[str, Any], policy: Policy) -> Editing:
    """Return how the answer to a request for a chat or text completion is filtered."""
    messages, form = request.get("messages"), request.get("response_format")
    prompt = last_prompt(messages) or "\n".join(texts_in(request.get("prompt")))
    kind = form.get("type") if isinstance(form, dict) else None
    history = answers(messages) if policy == "strict" else ()
    return Editing(policy, prompt, history, str(kind).startswith("json"))


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts of a prompt: of a string, a message, a part, or a list of those."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one)
    elif isinstance(value, dict):
        yield from texts_in(value.get("content"))
        yield from texts_in(value.get("text"))


def _texts_by(messages: object, role: str) -> list[list[str]]:
    if not isinstance(messages, list):
        return []
    texts = []
    for message in messages:
        if isinstance(message, dict) and message.get("role") == role:
            texts.append(_parts(message.get("content")))
    return [parts for parts in texts if parts]


def _parts(content: object) -> list[str]:
    parts = [content]
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
    return [text for text in parts if isinstance(text, str) and text]
