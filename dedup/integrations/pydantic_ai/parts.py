"""Parts of a stream that is being built."""

from collections.abc import Iterator
from typing import Any


def piece_events(
    manager: Any, index: int, kind: str, text: Any, delta: Any = None
) -> Iterator[Any]:
    """Add a piece to a part; yield its event.

    Args:
        manager: The stream's parts.
        index: The part.
        kind: `text`, `thinking` or `tool_call`.
        text: The piece.
        delta: The model's own piece, if it is not one that was held.
    """
    more: dict[str, Any] = {}
    if delta is not None:
        more = {
            "provider_name": delta.provider_name,
            "provider_details": delta.provider_details,
        }
    if kind == "text":
        if citations := getattr(delta, "citations_delta", None):
            more["citations"] = citations
        if text or any(more.values()):
            yield from manager.handle_text_delta(vendor_part_id=index, content=text, **more)
    elif kind == "thinking":
        signature = getattr(delta, "signature_delta", None)
        if text or signature or any(more.values()):
            yield from manager.handle_thinking_delta(
                vendor_part_id=index, content=text or None, signature=signature, **more
            )
    elif text or delta is not None:
        yield from manager.handle_tool_call_delta_events(
            vendor_part_id=index,
            tool_name=getattr(delta, "tool_name_delta", None),
            args=text,
            tool_call_id=getattr(delta, "tool_call_id", None),
            **more,
        )
