"""Items of a response: their texts by part, their calls."""

from collections.abc import Iterator
from typing import Any

from agents.models.fake_id import FAKE_RESPONSES_ID
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from openai.types.responses.response_reasoning_item import Content, Summary

from dedup.answer.agent_loops import Call
from dedup.answer.frame import ChannelName
from dedup.answer.pieces import AnswerFilter


def filtered_items(items: list[Any], text_filter: AnswerFilter) -> list[Any]:
    """Return the items of a whole answer with their texts filtered. Calls are not changed."""
    parts = [
        (channel, part, text, bool(getattr(item, "encrypted_content", None)))
        for index, item in enumerate(items)
        for part, channel, text in _texts_of(index, item)
    ]
    given = text_filter.whole(parts)
    return [with_texts(index, item, given) for index, item in enumerate(items)]


def message(text: str) -> ResponseOutputMessage:
    """Return a message of the agent."""
    block = ResponseOutputText(text=text, annotations=[], type="output_text")
    return ResponseOutputMessage(
        id=FAKE_RESPONSES_ID, content=[block], role="assistant", status="completed", type="message"
    )


def read(items: Any) -> tuple[list[Call], str]:
    """Return the calls and the text of an answer's items."""
    calls: list[Call] = []
    texts: list[str] = []
    for item in items:
        if item.type == "message":
            texts += [getattr(block, "text", "") for block in item.content]
        elif item.type.endswith("_call"):
            arguments = getattr(item, "arguments", getattr(item, "input", ""))
            calls.append(Call(getattr(item, "name", item.type), arguments, has_result=False))
    return calls, "".join(texts)


def _texts_of(index: int, item: Any) -> Iterator[tuple[str, ChannelName, str]]:
    """Yield the texts of a message or of reasoning: the part of each, its channel, itself."""
    channel: ChannelName = "content" if item.type == "message" else "reasoning"
    for field in ("summary", "content") if item.type in ("message", "reasoning") else ():
        for number, block in enumerate(getattr(item, field, None) or ()):
            if isinstance(getattr(block, "text", None), str):
                yield f"{index}/{field}/{number}", channel, block.text


def with_texts(index: int, item: Any, given: dict[str, str]) -> Any:
    """Return an item with the texts that were given. Blocks that have not come yet are added."""
    changes: dict[str, Any] = {}
    texts: dict[str, dict[int, str]] = {}
    for part, text in given.items():
        place, field, number = part.split("/")
        if int(place) == index:
            texts.setdefault(field, {})[int(number)] = text
    for field, new in texts.items():
        if field == "arguments":
            changes[field] = new[0]
            continue
        blocks = list(getattr(item, field, None) or ())
        for index_in, text in sorted(new.items()):
            if index_in < len(blocks):
                blocks[index_in] = blocks[index_in].model_copy(update={"text": text})
            elif field == "summary":
                blocks.append(Summary(text=text, type="summary_text"))
            elif item.type == "reasoning":
                blocks.append(Content(text=text, type="reasoning_text"))
            else:
                blocks.append(ResponseOutputText(text=text, annotations=[], type="output_text"))
        changes[field] = blocks
    return item.model_copy(update=changes)
