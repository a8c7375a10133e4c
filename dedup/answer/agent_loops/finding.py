"""`find_loop`, and a finder for servers that remembers the histories that it has read."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final

from dedup.answer.agent_loops.reading import MessageReader
from dedup.answer.agent_loops.scan import AgentLoop, LoopScan

# Steps at the end of a history that are read again with the next request: harnesses still change
# their messages, to mark what shall be cached.
_UNSETTLED: Final = 2
_LAST_MESSAGES: Final = 32  # among which those steps begin
_MAX_HISTORIES: Final = 256
_MAX_SIZE: Final = 8 * 2**20  # bytes of a request whose history is kept
_MAX_SIZES: Final = 64 * 2**20  # of all of them

Key = tuple[int, int, int]


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
    """Messages that have been read, and the state of the reader behind them.

    Args:
        messages: All messages of the request.
        end: Number of those that have been read.
        reader: The reader.
        size: Bytes of the request, about.
    """

    def __init__(self, messages: list[Any], end: int, reader: MessageReader, size: int) -> None:
        self.messages = messages
        self.end = end
        self.reader = reader
        self.size = size


class LoopFinder:
    """Finds loops like `find_loop`, and reads only what is new of a history that has grown.

    It keeps the messages themselves, and compares them: what it returns depends on the messages
    alone. They must not be changed after the call.

    Args:
        repeatable: See `find_loop`.
    """

    def __init__(self, repeatable: Collection[str] = ()) -> None:
        self._repeatable = frozenset(repeatable)
        self._histories: OrderedDict[Key, _History] = OrderedDict()
        self._size = 0  # of all of them

    def find(self, messages: list[Any], size: int = 0) -> AgentLoop | None:
        """Return the loop at the end of the messages; see `find_loop`.

        Args:
            messages: The messages.
            size: Bytes of the request, if they are known: what is kept is bounded by them.
        """
        num_messages, begin = len(messages), _begin(messages)
        known = self._known(messages, begin)
        if known is not None:
            start, reader = known.end, known.reader.copy()
        else:
            start, reader = 0, MessageReader(LoopScan(self._repeatable))
        reader.keep_from(max(start + 1, num_messages - _LAST_MESSAGES), _UNSETTLED)
        reader.read(messages, start, num_messages)
        reader.flush()
        if len(reader.kept) == _UNSETTLED:
            end, settled = reader.kept[0]
            self._keep(_History(messages, end, settled, size), known, begin)
        return reader.scan.loop

    def _known(self, messages: list[Any], begin: int) -> _History | None:
        """Return the longest history that the messages begin with, of those that end near theirs."""
        if not self._histories:
            return None
        num_messages = len(messages)
        for end in range(num_messages, max(0, num_messages - 2 * _LAST_MESSAGES), -1):
            history = self._histories.get(_key(messages, end, begin))
            if history is not None and history.messages[:end] == messages[:end]:
                return history
        return None

    def _keep(self, history: _History, before: _History | None, begin: int) -> None:
        """Keep a history in place of the one that it continues."""
        if before is not None:
            self._drop(_key(before.messages, before.end, begin))
        if history.size > _MAX_SIZE:
            return
        key = _key(history.messages, history.end, begin)
        self._drop(key)
        self._histories[key] = history
        self._size += history.size
        while len(self._histories) > _MAX_HISTORIES or self._size > _MAX_SIZES:
            self._drop(next(iter(self._histories)))

    def _drop(self, key: Key) -> None:
        history = self._histories.pop(key, None)
        if history is not None:
            self._size -= history.size


def _begin(messages: list[Any]) -> int:
    """Return a hash of the texts that a conversation begins with."""
    texts = [message.get("content") for message in messages[:2] if isinstance(message, dict)]
    return hash(tuple([text if isinstance(text, str) else str(text)[:1000] for text in texts]))


def _key(messages: list[Any], end: int, begin: int) -> Key:
    """Return a key of the messages before `end`: how many, and hashes of the first and last texts."""
    last = messages[end - 1]
    if not isinstance(last, dict):
        return end, begin, 0
    content = last.get("content", last.get("output"))
    name = last.get("tool_call_id", last.get("call_id"))
    if isinstance(content, list) and content and isinstance(content[-1], dict):
        name = content[-1].get("tool_use_id")
        content = content[-1].get("content", content[-1].get("text"))
    return end, begin, hash((str(name), content if isinstance(content, str) else ""))
