"""Texts of prompts and completions: strings, or messages as chat requests have them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Conversation = str | Sequence[Message]

_FIELDS = ("reasoning_content", "thinking", "content")


def texts_of(completion: Conversation) -> list[str]:
    """Return the texts that the model generated: of the assistant, with its reasoning."""
    if isinstance(completion, str):
        return [completion]
    return [
        text
        for message in completion
        if message.get("role", "assistant") == "assistant"
        for name in _FIELDS
        if (text := _text(message.get(name)))
    ]


def prompt_text(prompt: Conversation) -> str:
    """Return what asks for the completion: the prompt, or the user's last message."""
    if isinstance(prompt, str):
        return prompt
    for message in reversed(prompt):
        if message.get("role") == "user" and (text := _text(message.get("content"))):
            return text
    return ""


def _text(content: str | Iterable[Mapping[str, Any]] | None) -> str:
    """Return the text of a message: a string, or parts of which some are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
