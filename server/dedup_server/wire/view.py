"""Typed view of a chunk: the fields that tell whether it only continues a text."""

from typing import Any

import msgspec


class DeltaView(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class ChoiceView(msgspec.Struct):
    index: int = 0
    delta: DeltaView | None = None
    text: str | None = None
    finish_reason: str | None = None

    def plain(self) -> tuple[str, str] | None:
        """The field and the text, where the choice carries one text and nothing else that is filtered."""
        delta = self.delta
        if delta is None:
            return ("text", self.text) if self.text else None
        if delta.refusal or delta.tool_calls or delta.function_call or self.text:
            return None
        if delta.content:
            return (
                None if delta.reasoning or delta.reasoning_content else ("content", delta.content)
            )
        if delta.reasoning_content:
            return None if delta.reasoning else ("reasoning_content", delta.reasoning_content)
        return ("reasoning", delta.reasoning) if delta.reasoning else None


class ChunkView(msgspec.Struct):
    choices: list[ChoiceView]
    usage: Any = None
    error: Any = None


read_view = msgspec.json.Decoder(ChunkView).decode
