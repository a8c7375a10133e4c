"""Floods: a stretch of a few different characters without end, whether or not it has a period."""

from typing import Final

from dedup.text.loops.history import History
from dedup.text.loops.tokens import token_of

_MAX_CHARS: Final = 3  # different ones
_FEW_TOKENS: Final = 24
_NEEDED_BLANK: Final = 320  # characters, of spaces and line ends alone
_NEEDED_WEIGHT: Final = 150.0  # letters, see tokens.py; 1,250 symbols, 500 digits
_FENCED_FACTOR: Final = 2.0  # drawings and matrices stand in fenced code


class Flood:
    """The flood that a text is in. chars: its characters; empty outside a flood."""

    def __init__(self) -> None:
        self.chars: frozenset[str] = frozenset()
        self.start = 0  # offset

    def begins(self, history: History) -> bool:
        """Return whether the last tokens are a flood. Costs O(1) if they are not; O(what is remembered) if they may be."""
        last = history.tokens[-_FEW_TOKENS:]
        chars = frozenset("".join(last))
        if len(chars) > _MAX_CHARS or len(last) < _FEW_TOKENS:
            return False
        index = len(history.tokens)
        weight = 0.0
        while index and chars.issuperset(history.tokens[index - 1]):
            index -= 1
            weight += token_of(history.tokens[index]).weight
        start = history.start_of(index)
        if "".join(chars).isspace():
            is_flood = history.end - start >= _NEEDED_BLANK
        else:
            needed = _NEEDED_WEIGHT * (_FENCED_FACTOR if history.in_fence(index) else 1)
            is_flood = weight >= needed
        if is_flood:
            self.chars, self.start = chars, start
        return is_flood

    def goes_on(self, token: str) -> bool:
        """Return whether the flood that has begun goes on with `token`; if not, it has ended."""
        if self.chars.issuperset(token):
            return True
        self.chars = frozenset()
        return False
