"""The body of a chat or text completion that is put together from chunks.

It is what the engine would have answered without a stream, less the fields that are null or empty
in it and that no chunk has.
"""

from typing import Any

Json = dict[str, Any]

_MAX_CALLS = 128
_OF_STREAMS = ("choices", "obfuscation")  # fields of a chunk that no body has, or has otherwise
_NAMES = ("id", "type", "role", "format")  # strings of which each chunk has all


class MergedChoice:
    """A choice put together. Texts are kept in pieces, so that a long one takes linear time."""

    def __init__(self, index: int, *, is_chat: bool) -> None:
        self._fields: Json = {"index": index}
        self._message: Json | None = {"role": "assistant", "content": None} if is_chat else None
        self._texts: dict[str, list[str]] = {} if is_chat else {"text": []}
        self._calls: list[Json] = []
        self._arguments: list[list[str]] = []  # of each tool call

    def add_text(self, name: str, text: str) -> None:
        """Add a piece of one of the choice's texts."""
        pieces = self._texts.get(name)
        if pieces is None:
            pieces = self._texts[name] = []
        pieces.append(text)

    def add(self, choice: Json) -> None:
        for name, value in choice.items():
            if name == "delta":
                if isinstance(value, dict):
                    self._add_delta(value)
            elif name == "text":
                self.add_text(name, value or "")
            elif name != "index":
                _merge(self._fields, name, value)

    def body(self) -> Json:
        """Return the choice, to which nothing is added any more."""
        fields, message = self._fields, self._message
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        finish_reason = fields.get("finish_reason")
        if message is None:
            return {**fields, **texts, "finish_reason": finish_reason}
        message.update(texts)
        if self._calls:
            message["tool_calls"] = self._whole_calls()
        has_other = message.get("tool_calls") or message.get("function_call")
        if not message["content"] and (has_other or message.get("refusal")):
            message["content"] = None  # streams begin with an empty text whatever comes
        return {**fields, "message": message, "finish_reason": finish_reason}

    def extend(self, choice: Json) -> None:
        """Add what has come to a choice of a whole body, which it continues."""
        holder = choice.get("message")
        if not isinstance(holder, dict):
            holder = choice
        for name, pieces in self._texts.items():
            holder[name] = (holder.get(name) or "") + "".join(pieces)
        if self._calls:
            holder["tool_calls"] = [*(holder.get("tool_calls") or ()), *self._whole_calls()]
        choice.update({name: value for name, value in self._fields.items() if value is not None})

    def _whole_calls(self) -> list[Json]:
        for call, arguments in zip(self._calls, self._arguments, strict=True):
            call["function"]["arguments"] = "".join(arguments)
        return self._calls

    def _add_delta(self, delta: Json) -> None:
        message = self._message
        if message is None:
            return
        for name, value in delta.items():
            if name == "tool_calls" and isinstance(value, list):
                message.setdefault(name, [])
                for call in value:
                    if isinstance(call, dict):
                        self._add_call(call)
            elif isinstance(value, str) and name not in _NAMES:
                self.add_text(name, value)
            else:
                _merge(message, name, value, joins=True)

    def _add_call(self, call: Json) -> None:
        place = call.get("index", len(self._calls))
        if type(place) is not int or not 0 <= place < _MAX_CALLS:
            return
        while len(self._calls) <= place:
            self._calls.append({"id": None, "type": "function", "function": {"name": ""}})
            self._arguments.append([])
        merged = self._calls[place]
        for name, value in call.items():
            if name == "function" and isinstance(value, dict):
                for part, piece in value.items():
                    if part != "arguments":
                        _merge(merged[name], part, piece, joins=True)
                    elif isinstance(piece, str):
                        self._arguments[place].append(piece)
            elif name != "index" and (value or name not in merged):
                merged[name] = value


class MergedBody:
    """A response put together: `begin` with a body, if there is one, and `add` the chunks."""

    def __init__(self, *, is_chat: bool) -> None:
        self.is_begun = False
        self._is_chat = is_chat
        self._response: Json = {}
        self._choices: dict[int, MergedChoice] = {}

    def begin(self, response: Json) -> None:
        """Take a whole response, which later chunks continue."""
        self.is_begun = True
        self._response = response

    def add(self, chunk: Json) -> None:
        response = self._response
        for name, value in chunk.items():
            if name not in _OF_STREAMS and (value is not None or name not in response):
                response[name] = value
        for position, choice in enumerate(chunk.get("choices") or []):
            self._choice(index_of(choice, position)).add(choice)

    def add_text(self, index: int, name: str, text: str) -> None:
        """Add a chunk that adds nothing but a piece of a text to those before."""
        self._choice(index).add_text(name, text)

    def response(self) -> Json:
        """Return the response, to which nothing is added any more."""
        if self.is_begun:
            for position, choice in enumerate(self._response["choices"]):
                merged = self._choices.get(index_of(choice, position))
                if merged is not None:
                    merged.extend(choice)
            return self._response
        kind = "chat.completion" if self._is_chat else "text_completion"
        choices = [self._choices[index].body() for index in sorted(self._choices)]
        return {**self._response, "object": kind, "choices": choices}

    def _choice(self, index: int) -> MergedChoice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = MergedChoice(index, is_chat=self._is_chat)
        return choice


def index_of(holder: Json, position: int) -> int:
    index = holder.get("index")
    return index if isinstance(index, int) else position


def _merge(merged: Json, name: str, value: Any, *, joins: bool = False) -> None:
    """Merge another value of a field: lists are joined, of objects the fields are merged.

    Of all else the last value that is not null stays.

    Args:
        joins: Strings are pieces of a text, and joined as well.
    """
    before = merged.get(name)
    if before is None:
        merged[name] = value
    elif value is None:
        return
    elif isinstance(value, list) and isinstance(before, list):
        _extend(before, value, joins)
    elif isinstance(value, dict) and isinstance(before, dict):
        for key, more in value.items():
            _merge(before, key, more, joins=joins)
    elif joins and isinstance(value, str) and isinstance(before, str) and name not in _NAMES:
        merged[name] = before + value
    else:
        merged[name] = value


def _extend(merged: list[Any], more: list[Any], joins: bool) -> None:
    """Join lists; entries that have an `index`, as tool calls do, are pieces of the one there."""
    for entry in more:
        index = entry.get("index") if joins and isinstance(entry, dict) else None
        found = None
        if index is not None:
            found = next((one for one in merged if one.get("index") == index), None)
        if found is None:
            merged.append(entry)
        else:
            for name in entry:
                if name != "index":
                    _merge(found, name, entry[name], joins=joins)
