"""A step of an agent: the calls of one turn, with their results."""

import re
from typing import Any, Final

from dedup.answer.agent_loops.notices import without_notices
from dedup.answer.agent_loops.outcome import Outcome
from dedup.answer.usage import estimate_tokens
from dedup.lenient_json import read_json

_UNREAD: Final = object()
_MAX_CHARS: Final = 4000  # of arguments whose words are read
_WORD: Final = re.compile(r"[\w./@$-]+")
_LETTER: Final = re.compile(r"[A-Za-z]")
_MARK: Final = re.compile(r"[./@_\d]")
_MAX_DEPTH: Final = 8  # of nested arguments; what is deeper is compared as a whole


class Call:
    """A tool call and its result.

    Args:
        name: The tool.
        arguments: JSON, or what it decodes to.
        result: The result's text; notices in it are left out.
        is_error: The result is marked as an error.
        has_result: The result has come.
    """

    def __init__(
        self,
        name: str,
        arguments: Any,
        result: str = "",
        *,
        is_error: bool = False,
        has_result: bool = True,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.result = without_notices(result)
        self.is_error = is_error
        self.has_result = has_result
        self._values: Any = _UNREAD
        self._fields: dict[str, Any] | None = None
        self._names: frozenset[str] | None = None
        self.spans: list[tuple[int, int, str]] | None = None  # volatile values in the result
        self._outcome: Outcome | None = None

    def take(self, result: str, *, is_error: bool) -> None:
        """Take the result."""
        self.result = without_notices(result)
        self.is_error = is_error
        self.has_result = True
        self._outcome = None

    @property
    def outcome(self) -> Outcome:
        """Return what came of the call."""
        if self._outcome is None:
            self._outcome = Outcome(self.result, self.name, is_marked=self.is_error)
        return self._outcome

    @property
    def values(self) -> Any:
        """Return the decoded arguments; the text itself, stripped, where it is not JSON."""
        if self._values is _UNREAD:
            self._values = _decoded(self.arguments)
        return self._values

    @property
    def fields(self) -> dict[str, Any]:
        """Return the values in the decoded arguments by name; `a.b` is nested in `a`."""
        if self._fields is None:
            self._fields = {}
            _flat(self.values, "", self._fields)
        return self._fields

    @property
    def names(self) -> frozenset[str]:
        """Return what the arguments name."""
        if self._names is None:
            given = [str(value) for value in self.fields.values()]
            words = _WORD.findall(" ".join(given)[:_MAX_CHARS])
            self._names = frozenset([word for word in words if _is_name(word)])
        return self._names


def _is_name(word: str) -> bool:
    """Return whether a word is a path, a host or an identifier; not a number, an option or a range."""
    letter = _LETTER.search(word)
    return (
        letter is not None and word[0] not in "-$" and _MARK.search(word, letter.end()) is not None
    )


def _flat(value: Any, name: str, found: dict[str, Any], depth: int = 0) -> None:
    """Add the values in nested arguments to `found`, each under its whole name."""
    if isinstance(value, dict) and value and depth < _MAX_DEPTH:
        for key, inner in value.items():
            _flat(inner, f"{name}.{key}" if name else str(key), found, depth + 1)
    elif isinstance(value, list) and value and depth < _MAX_DEPTH:
        for index, inner in enumerate(value):
            _flat(inner, f"{name}.{index}", found, depth + 1)
    else:
        found[name] = value


class Step:
    """The calls that an agent makes in one turn, or what it says in a turn without calls.

    Args:
        calls: The calls. All of a parallel batch are one step.
        text: What the agent says beside them.
        is_prompted: A harness has said before it that the turn before had no calls.
    """

    def __init__(self, calls: list[Call], text: str = "", *, is_prompted: bool = False) -> None:
        self.calls = calls
        self.text = text
        self.is_prompted = is_prompted

    @property
    def is_complete(self) -> bool:
        """Return whether every call has its result."""
        return all(call.has_result for call in self.calls)

    @property
    def num_tokens(self) -> int:
        """Return an estimate of the step's tokens: its text, arguments and results."""
        size = _num_bytes(self.text)
        for call in self.calls:
            arguments = call.arguments
            size += len(call.name) + _num_bytes(call.result)
            size += _num_bytes(arguments if isinstance(arguments, str) else str(arguments))
        return estimate_tokens(size)

    def sorted_calls(self) -> list[Call]:
        """Return the calls in an order that does not depend on the model's."""
        if len(self.calls) < 2:
            return self.calls
        return sorted(self.calls, key=_order)


def _order(call: Call) -> tuple[str, str]:
    values = call.values
    if isinstance(values, dict):
        values = sorted(values.items(), key=str)
    return call.name, repr(values)


def _decoded(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    text = arguments.strip()
    if not text:
        return {}
    try:
        return read_json(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        return text


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
