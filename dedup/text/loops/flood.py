"""Floods: long stretches of a few symbols and digits, periodic or not."""

from typing import Final

from dedup.text.loops.history import History

_FEW_TOKENS: Final = 24
# The least length of a flood, by the most different characters that it has.
_NEEDED: Final[tuple[tuple[int, int], ...]] = ((3, 700), (6, 1200))
_NEEDED_BLANK: Final = 320  # of spaces and line ends alone
_FENCED_FACTOR: Final = 2  # fenced code holds drawings and matrices


class Flood:
    """The flood that a text is in.

    chars: its different characters; none outside a flood. start: its offset.
    """

    def __init__(self) -> None:
        self.chars: frozenset[str] = frozenset()
        self.start = 0

    def begins(self, history: History) -> bool:
        """Return whether the last tokens are a flood.

        Costs O(1) if they are not; O(the remembered text) if they may be.
        """
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
            if history.in_fence(index):
                needed *= _FENCED_FACTOR
        if size < needed:
            return False
        self.chars, self.start = chars, history.start_of(index)
        return True

    def goes_on(self, token: str) -> bool:
        """Return whether the flood goes on with `token`. If not, it has ended."""
        if self.chars.issuperset(token):
            return True
        self.end()
        return False

    def end(self) -> None:
        """Leave the flood."""
        self.chars = frozenset()

    def _widen(self, chars: frozenset[str], history: History) -> tuple[frozenset[str], int]:
        """Return the characters of the stretch at the end, and the index of its first token."""
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
