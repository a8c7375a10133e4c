"""Floods: a long stretch made of a few symbols and digits, whether or not it has a period."""

from typing import Final

from dedup.text.loops.history import History

_FEW_TOKENS: Final = 24
# Characters that a stretch of so many different ones must have, most of them first.
_NEEDED: Final[tuple[tuple[int, int], ...]] = ((3, 700), (6, 1200))
_NEEDED_BLANK: Final = 320  # of spaces and line ends alone
_FENCED_FACTOR: Final = 2  # drawings and matrices stand in fenced code


class Flood:
    """The flood that a text is in. chars: its characters; empty outside a flood. start: its offset."""

    def __init__(self) -> None:
        self.chars: frozenset[str] = frozenset()
        self.start = 0

    def begins(self, history: History) -> bool:
        """Return whether the last tokens are a flood. Costs O(1) if they are not; O(what is remembered) if they may be."""
        last = history.tokens[-_FEW_TOKENS:]
        most = _NEEDED[-1][0]
        if len(last) < _FEW_TOKENS or len(frozenset(last[-1] + last[-2] + last[-3])) > most:
            return False
        chars = frozenset("".join(last))
        if len(chars) > most or any(map(str.isalpha, chars)):
            return False
        chars, index = self._widen(chars, history)
        size = history.end - history.start_of(index)
        if "".join(chars).isspace():
            needed = _NEEDED_BLANK
        else:
            needed = next(needed for most, needed in _NEEDED if len(chars) <= most)
            needed *= _FENCED_FACTOR if history.in_fence(index) else 1
        if size < needed:
            return False
        self.chars, self.start = chars, history.start_of(index)
        return True

    def goes_on(self, token: str) -> bool:
        """Return whether the flood that has begun goes on with `token`; if not, it has ended."""
        if self.chars.issuperset(token):
            return True
        self.chars = frozenset()
        return False

    def _widen(self, chars: frozenset[str], history: History) -> tuple[frozenset[str], int]:
        """Return the characters of the stretch that ends the text, and the index of its first token."""
        index = len(history.tokens)
        is_blank = "".join(chars).isspace()
        while index:
            wider = chars.union(history.tokens[index - 1])
            if (
                len(wider) > _NEEDED[-1][0]
                or (is_blank and wider != chars and not "".join(wider).isspace())
                or any(map(str.isalpha, wider - chars))
            ):
                break
            chars = wider
            index -= 1
        return chars, index
