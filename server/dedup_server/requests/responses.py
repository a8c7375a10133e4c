"""Requests for OpenAI's Responses API."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dedup.answer import conversation
from dedup_server.requests.base import EndpointName, GenerationRequest, UntranslatableError
from dedup_server.requests.fields import IS_INTEGRAL, Input, JsonObject

Json = dict[str, Any]

# Fields that say the same in chat, by their names there.
_RENAMED = {"max_output_tokens": "max_tokens"}
# Fields that say nothing about what is generated, or that only this API has a use for.
_LEFT_OUT = {
    "input",
    "instructions",
    "text",
    "truncation",
    "stream",
    "stream_options",
    "include",
    "background",
    "max_tool_calls",
    "top_logprobs",
    "tools",
    "tool_choice",
    "repetition",
}
# Fields with which the conversation, or the model's instructions, are not all in the request.
_UNTRANSLATABLE = ("previous_response_id", "conversation", "prompt")


class ResponsesRequest(GenerationRequest):
    @property
    def endpoint(self) -> EndpointName:
        return "responses"

    @property
    def last_prompt(self) -> str:
        given = self.body.get("input")
        return given if isinstance(given, str) else conversation.last_prompt(given)

    @property
    def earlier_answers(self) -> list[str]:
        return conversation.answers(self.body.get("input"))

    @property
    def wants_json(self) -> bool:
        form = _format_of(self.body)
        return form is not None and str(form.get("type", "")).startswith("json")

    history_field: ClassVar[str] = "input"
    chat_names: ClassVar[dict[str, str]] = {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "response_format": "text",
        "verbosity": "text",
        "reasoning_effort": "reasoning",
        "truncate": "truncation",
    }

    def as_chat(self) -> Json:
        body = {name: value for name, value in self.body.items() if value is not None}
        for name in _UNTRANSLATABLE:
            if name in body:
                raise UntranslatableError(name, "only what the request itself holds is known")
        chat = {_RENAMED.get(name, name): body[name] for name in body if name not in _LEFT_OUT}
        messages = _messages(body.get("input"))
        if body.get("instructions"):
            messages.insert(0, {"role": "system", "content": body["instructions"]})
        chat["messages"] = messages
        if body.get("truncation") == "auto":
            chat["truncate"] = True
        form = _format_of(body)
        if form is not None and form.get("type") == "json_schema":
            schema = {name: form[name] for name in form if name != "type"}
            chat["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form is not None:
            chat["response_format"] = form
        for field, name in (("text", "verbosity"), ("reasoning", "effort")):
            given = body.get(field)
            if isinstance(given, dict) and given.get(name) is not None:
                chat.pop(field, None)
                chat["reasoning_effort" if name == "effort" else name] = given[name]
        _add_tools(chat, body)
        return chat


class SampledResponsesRequest(ResponsesRequest):
    """A request for an engine in this process."""

    input: Input
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128), IS_INTEGRAL] | None = None
    text: JsonObject = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1

    def as_chat(self) -> Json:
        body = self.body
        include = body.get("include")
        if body.get("background"):
            raise UntranslatableError("background", "an answer is given at once")
        if body.get("top_logprobs"):
            raise UntranslatableError("top_logprobs", "no log-probabilities are given here")
        if isinstance(include, list) and "message.output_text.logprobs" in include:
            raise UntranslatableError("include", "no log-probabilities are given here")
        return super().as_chat()


def _format_of(body: Json) -> Json | None:
    text = body.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    return form if isinstance(form, dict) else None


def _messages(given: object) -> list[Json]:
    """Return the input as the messages of a chat."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Json] = []
    for item in given if isinstance(given, list) else [None]:
        if not isinstance(item, dict):
            raise UntranslatableError("input", "must be a string or a list of objects")
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _text_of(item.get("content"))})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)  # one turn calls them all
        elif kind == "function_call_output":
            output = {"tool_call_id": item.get("call_id"), "content": _text_of(item.get("output"))}
            messages.append({"role": "tool", **output})
        elif kind != "reasoning":
            raise UntranslatableError("input", f"items of type {kind!r} are not supported")
    return messages


def _text_of(content: object) -> str:
    """Return the text of a message's content."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [None]:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise UntranslatableError("input", "only text is supported, no other parts")
        texts.append(part["text"])
    return "".join(texts)


def _add_tools(chat: Json, body: Json) -> None:
    """Add the functions that may be called."""
    tools = body.get("tools")
    if tools:
        chat["tools"] = []
        for tool in tools if isinstance(tools, list) else [None]:
            if not isinstance(tool, dict) or tool.get("type") != "function":
                raise UntranslatableError("tools", "only functions are supported")
            function = {name: tool[name] for name in tool if name != "type"}
            chat["tools"].append({"type": "function", "function": function})
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise UntranslatableError("tool_choice", "only functions are supported")
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    if choice is not None:
        chat["tool_choice"] = choice
