"""The body of a chat or text completion that is not streamed."""

from typing import Any

Chunk = dict[str, Any]


class MergedBody:
    """Chunks put together as one response: `begin` with a body, if there is one, and `add`."""

    def __init__(self, *, is_chat: bool) -> None:
        self.is_begun = False
        self._is_chat = is_chat
        self._response: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def begin(self, response: dict[str, Any]) -> None:
        """Take a whole response, which later chunks continue."""
        self.is_begun = True
        self._response = response
        for position, choice in enumerate(response["choices"]):
            index = choice.get("index")
            self._choices[index if isinstance(index, int) else position] = choice

    def add(self, chunk: Chunk) -> None:
        for name, value in chunk.items():
            if name != "choices" and (value is not None or name not in self._response):
                self._response[name] = value
        for position, choice in enumerate(chunk.get("choices") or []):
            index = choice.get("index", position)
            if index not in self._choices:
                self._choices[index] = self._empty(index)
            self._add_choice(self._choices[index], choice)

    def response(self) -> dict[str, Any]:
        if self.is_begun:
            return self._response
        kind = "chat.completion" if self._is_chat else "text_completion"
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {**self._response, "object": kind, "choices": choices}

    def _empty(self, index: int) -> dict[str, Any]:
        text: dict[str, Any] = (
            {"message": {"role": "assistant", "content": None}} if self._is_chat else {"text": ""}
        )
        return {"index": index, **text, "logprobs": None, "finish_reason": None}

    def _add_choice(self, merged: dict[str, Any], choice: dict[str, Any]) -> None:
        for name, value in choice.items():
            if name == "delta" and isinstance(value, dict):
                _add_delta(merged["message"], value)
            elif name == "text":
                merged["text"] = (merged.get("text") or "") + (value or "")
            elif name == "logprobs":
                merged["logprobs"] = _joined(merged.get("logprobs"), value)
            elif value is not None:
                merged[name] = value


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            calls = message.setdefault("tool_calls", [])
            for call in value:
                _add_call(calls, call)
        elif name != "role" and isinstance(value, str) and isinstance(message.get(name), str):
            message[name] += value
        elif value is not None:
            message[name] = value


def _add_call(calls: list[dict[str, Any]], call: dict[str, Any]) -> None:
    place = call.get("index", len(calls))
    while len(calls) <= place and len(calls) < 128:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    if place >= len(calls):
        return
    merged = calls[place]
    function = call.get("function") or {}
    merged["function"]["name"] += function.get("name") or ""
    merged["function"]["arguments"] += function.get("arguments") or ""
    merged.update(
        {
            name: value
            for name, value in call.items()
            if name not in ("index", "function") and value is not None
        }
    )


def _joined(merged: Any, more: Any) -> Any:
    if not isinstance(merged, dict) or not isinstance(more, dict):
        return more or merged
    return {name: _sum(merged.get(name), more.get(name)) for name in {**merged, **more}}


def _sum(one: Any, other: Any) -> Any:
    return one + other if isinstance(one, list) and isinstance(other, list) else other or one
