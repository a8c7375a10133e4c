"""Requests for Anthropic's Messages API."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from dedup.answer import conversation
from dedup.lenient_json import write_json
from dedup_server.requests.base import EndpointName, GenerationRequest, UntranslatableError
from dedup_server.requests.fields import IS_INTEGRAL, Input, JsonList

Json = dict[str, Any]

_RENAMED = {"stop_sequences": "stop"}
_LEFT_OUT = {
    "messages",
    "system",
    "stream",
    "metadata",
    "thinking",
    "output_config",
    "output_format",
    "tools",
    "tool_choice",
    "repetition",
}
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class MessagesRequest(GenerationRequest):
    @property
    def endpoint(self) -> EndpointName:
        return "messages"

    @property
    def last_prompt(self) -> str:
        return conversation.last_prompt(self.body.get("messages"))

    @property
    def earlier_answers(self) -> list[str]:
        return conversation.answers(self.body.get("messages"))

    @property
    def wants_json(self) -> bool:
        return _format_of(self.body) is not None

    no_tools: ClassVar[Any] = {"type": "none"}
    chat_names: ClassVar[dict[str, str]] = {
        "stop": "stop_sequences",
        "response_format": "output_config",
        "reasoning_effort": "output_config",
    }

    def as_chat(self) -> Json:
        body = {name: value for name, value in self.body.items() if value is not None}
        chat = {_RENAMED.get(name, name): body[name] for name in body if name not in _LEFT_OUT}
        thinking = body.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") != "disabled":
            raise UntranslatableError("thinking", "it cannot be asked for")
        chat["messages"] = []
        if "system" in body:
            system = _text_of(body["system"], "system")
            chat["messages"].append({"role": "system", "content": system})
        given = body.get("messages")
        for message in given if isinstance(given, list) else [None]:
            if not isinstance(message, dict):
                raise UntranslatableError("messages", "must be a list of objects")
            chat["messages"] += _messages_of(message)
        form = _format_of(body)
        if form is not None:
            schema = {"name": "answer", "schema": form.get("schema")}
            chat["response_format"] = {"type": "json_schema", "json_schema": schema}
        config = body.get("output_config")
        if isinstance(config, dict) and config.get("effort") is not None:
            chat["reasoning_effort"] = config["effort"]
        _add_tools(chat, body)
        return chat


class SampledMessagesRequest(MessagesRequest):
    """A request for an engine in this process."""

    messages: JsonList
    max_tokens: Annotated[int, Field(ge=1)]
    system: Input | None = None
    stop_sequences: list[str] | None = None
    n: Annotated[int, Field(ge=1, le=128), IS_INTEGRAL] | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1


def _format_of(body: Json) -> Json | None:
    """Return the format that the answer must have; None if it may be any text."""
    config = body.get("output_config")
    form = config.get("format") if isinstance(config, dict) else None
    form = form or body.get("output_format")
    return form if isinstance(form, dict) else None


def _messages_of(message: Json) -> list[Json]:
    """Return a message as messages of a chat."""
    content, role = message.get("content"), message.get("role")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    texts: list[str] = []
    calls: list[Json] = []
    results: list[Json] = []
    for one in content if isinstance(content, list) else [None]:
        block: Json = one if isinstance(one, dict) else {}
        kind = block.get("type")
        if kind == "text":
            texts.append(_text_of([block], "messages"))
        elif kind == "tool_use":
            calls.append(_call_of(block))
        elif kind == "tool_result":
            result = _text_of(block.get("content", ""), "messages")
            call_id = block.get("tool_use_id")
            results.append({"role": "tool", "tool_call_id": call_id, "content": result})
        elif kind not in ("thinking", "redacted_thinking"):
            raise UntranslatableError("messages", "only text is supported, no other blocks")
    if calls:
        text = "".join(texts) or None
        return [*results, {"role": role, "content": text, "tool_calls": calls}]
    if results and not texts:
        return results
    return [*results, {"role": role, "content": "".join(texts)}]


def _call_of(block: Json) -> Json:
    arguments = write_json(block.get("input") or {}).decode()
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _text_of(content: object, name: str) -> str:
    """Return the text of blocks, which stand in the field `name`."""
    if isinstance(content, str):
        return content
    texts = []
    for block in content if isinstance(content, list) else [None]:
        if not isinstance(block, dict) or not isinstance(block.get("text"), str):
            raise UntranslatableError(name, "only text is supported, no other blocks")
        texts.append(block["text"])
    return "\n\n".join(texts)


def _add_tools(chat: Json, body: Json) -> None:
    """Add the functions that may be called."""
    tools = body.get("tools")
    if tools:
        chat["tools"] = []
        for tool in tools if isinstance(tools, list) else [None]:
            if not isinstance(tool, dict) or "input_schema" not in tool:
                raise UntranslatableError("tools", "only functions are supported")
            function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
            if tool.get("description"):
                function["description"] = tool["description"]
            chat["tools"].append({"type": "function", "function": function})
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        kind = str(choice.get("type"))
        if choice.get("disable_parallel_tool_use"):
            chat["parallel_tool_calls"] = False
        if kind == "tool":
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        elif kind in _TOOL_CHOICES:
            chat["tool_choice"] = _TOOL_CHOICES[kind]
        else:
            raise UntranslatableError("tool_choice", f"{kind!r} is not supported")
