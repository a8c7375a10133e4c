"""The second look for loops: removing sentences can bring a loop together that was none.

    text that stays -> LoopDetector -> text that stays

Idle until something is removed; then what stays is followed from some periods before the removal to as far behind it, so that
filtering the output again changes nothing. Offsets are those in the text that stays.
"""

from collections.abc import Callable
from typing import Final

from dedup.config import LoopConfig
from dedup.text.loops import LoopDetector, LoopEvent
from dedup.text.pieces import Pieces

_MAX_REACH_CHARS: Final = 16_384
_REACH_PERIODS: Final = (
    4  # from so many of the longest periods before a removal to so many behind it
)
_MORE_CHARS: Final = 2048  # followed on while something is held


class Follower:
    """Follows the text that stays. `feed` gives out what is no loop's second copy; at a loop, `loop` is set and no more is given out.

    size: characters that were fed. given: characters that were given out.
    """

    def __init__(self, config: LoopConfig, allowed_copies: Callable[[str], int] | None) -> None:
        self.loop: LoopEvent | None = None
        self.size = 0
        self._config = config
        self._allowed_copies = allowed_copies
        self._detector: LoopDetector | None = None
        self._start = 0  # where the detector began
        self._until = 0  # where it ends
        self._reach = min(_REACH_PERIODS * config.max_period, _MAX_REACH_CHARS)
        self._recent = Pieces()  # the end of what was fed, and more
        self._held = ""  # fed, but it may be a loop's second copy

    @property
    def is_idle(self) -> bool:
        return self._detector is None

    @property
    def held_chars(self) -> int:
        return len(self._held)

    @property
    def given(self) -> int:
        return self.size - len(self._held)

    def pass_by(self, text: str) -> None:
        """Take in text while nothing is followed."""
        self.size += len(text)
        self._recent.append(text)
        if self._recent.size > 2 * self._reach:
            self._recent.shorten(self._reach)

    def begin(self) -> None:
        """Follow what comes: something was removed before it."""
        self._until = self.size + self._reach
        if self._detector is None:
            self._detector = LoopDetector(self._config, self._allowed_copies)
            self._recent.shorten(self._reach)
            self._start = self.size - self._recent.size
            self._detector.feed(self._recent.text())

    def feed(self, text: str) -> str:
        """Take in text; return what can be given out."""
        given = []
        while text and self._detector and self.loop is None:
            size = min(len(text), self._until - self.size)
            piece, text = text[:size], text[size:]
            self.pass_by(piece)
            self._held += piece
            self._detector.push(piece)
            given.append(self._release(self._detector))
            if self.size == self._until:
                if self._held:
                    self._until += _MORE_CHARS
                else:
                    self._detector = None
        if self.loop is None and text:
            self.pass_by(text)
            given.append(text)
        return "".join(given)

    def flush(self) -> str:
        """No more text will stay: return what was held."""
        if self._detector is None or self.loop:
            return ""
        self._detector.flush()
        given = self._release(self._detector)
        if self.loop is None:
            given, self._held = given + self._held, ""
        return given

    def stop(self) -> None:
        """Follow nothing until something is removed again."""
        self._detector = self.loop = None
        self._held = ""

    def _release(self, detector: LoopDetector) -> str:
        """Return what is no loop's second copy; at a loop, the last that is given out."""
        start = self.given
        while change := detector.next_change():
            if isinstance(change, LoopEvent):
                self.loop = LoopEvent(
                    change.kind,
                    self._start + change.onset,
                    self._start + change.detected_at,
                    change.period,
                    change.copies,
                )
                return self._take(self._start + detector.cut_at(change) - start)
        return self._take(self._start + detector.held_from - start)

    def _take(self, size: int) -> str:
        given, self._held = self._held[: max(0, size)], self._held[max(0, size) :]
        return given
