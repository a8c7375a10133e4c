"""`find_loop`, and a finder for servers that remembers the histories that it has read."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final

from dedup.answer.agent_loops.reading import MessageReader
from dedup.answer.agent_loops.scan import AgentLoop, LoopScan

# Steps at the end of a history that are read again with the next request: harnesses still change
# their messages, to mark what shall be cached.
_UNSETTLED: Final = 2
_MAX_HISTORIES: Final = 128
_MAX_MESSAGES: Final = 20_000  # of all histories together


def find_loop(messages: list[Any], *, repeatable: Collection[str] = ()) -> AgentLoop | None:
    """Return the loop that an agent is in at the end of its history; None if it is in none.

    The calls, their arguments and their results are compared, from the last message of a user on.
    Time is linear in the history.

    Args:
        messages: The `messages` of a request for chat or of Anthropic's Messages API, or the
            `input` of the Responses API.
        repeatable: Names of tools that are meant to be called again and again.
    """
    reader = MessageReader(LoopScan(repeatable))
    reader.read(messages, 0, len(messages))
    reader.flush()
    return reader.scan.loop


class _History:
    """Messages that have been read, and the state of the reader behind them."""

    def __init__(self, messages: list[Any], end: int, reader: MessageReader) -> None:
        self.messages = messages
        self.end = end
        self.reader = reader


class LoopFinder:
    """Finds loops like `find_loop`, and reads only what is new of a history that has grown.

    It keeps the messages themselves, and compares them: what it returns depends on the messages
    alone. They must not be changed after the call.

    Args:
        repeatable: See `find_loop`.
    """

    def __init__(self, repeatable: Collection[str] = ()) -> None:
        self._repeatable = frozenset(repeatable)
        self._histories: OrderedDict[tuple[int, int], _History] = OrderedDict()
        self._num_messages = 0

    def find(self, messages: list[Any]) -> AgentLoop | None:
        """Return the loop at the end of the messages; see `find_loop`."""
        known = self._known(messages)
        if known is not None:
            start, reader = known.end, known.reader.copy()
        else:
            start, reader = 0, MessageReader(LoopScan(self._repeatable))
        settled = _step_starts(messages, start, _UNSETTLED)
        if len(settled) == _UNSETTLED and settled[-1] > start:
            end = settled[-1]
            reader.read(messages, start, end)
            reader.flush()
            self._keep(_History(messages, end, reader), known)
            start, reader = end, reader.copy()
        reader.read(messages, start, len(messages))
        reader.flush()
        return reader.scan.loop

    def _known(self, messages: list[Any]) -> _History | None:
        """Return the longest history that the messages begin with, of those near their end."""
        for end in _step_starts(messages, 0, 2 * _UNSETTLED + 2):
            history = self._histories.get(_key(messages, end))
            if history is not None and history.messages[:end] == messages[:end]:
                return history
        return None

    def _keep(self, history: _History, before: _History | None) -> None:
        """Keep a history in place of the one that it continues."""
        if before is not None:
            self._drop(_key(before.messages, before.end))
        key = _key(history.messages, history.end)
        self._drop(key)
        self._histories[key] = history
        self._num_messages += len(history.messages)
        while len(self._histories) > _MAX_HISTORIES or self._num_messages > _MAX_MESSAGES:
            self._drop(next(iter(self._histories)))

    def _drop(self, key: tuple[int, int]) -> None:
        history = self._histories.pop(key, None)
        if history is not None:
            self._num_messages -= len(history.messages)


def _step_starts(messages: list[Any], start: int, most: int) -> list[int]:
    """Return the indices at which the last steps begin, the last first, `most` at most."""
    starts: list[int] = []
    index = len(messages)
    while index > start and len(starts) < most:
        index -= 1
        if _is_agents(messages[index]) and not (index and _is_agents(messages[index - 1])):
            starts.append(index)
    return starts


def _is_agents(message: Any) -> bool:
    """Return whether the agent made a message, or an item of a response."""
    if not isinstance(message, dict):
        return False
    role = message.get("role")
    if role is not None:
        return bool(role == "assistant")
    return not str(message.get("type")).endswith("_output")


def _key(messages: list[Any], end: int) -> tuple[int, int]:
    """Return a key of the messages before `end`: how many, and a hash of the last one's text."""
    last = messages[end - 1] if end else None
    content = last.get("content", last.get("output")) if isinstance(last, dict) else None
    name = last.get("tool_call_id", last.get("call_id")) if isinstance(last, dict) else None
    if isinstance(content, list):
        content = str(content)
    return end, hash((str(name), content if isinstance(content, str) else ""))
