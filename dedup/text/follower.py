"""The second look for loops: removing sentences can join a loop that the input did not have.

    kept text -> LoopScanner -> kept text

A follower is idle until something is removed. It then follows the kept text from some periods
before the removal to as far behind it, so that filtering the output again changes nothing. Offsets
are those in the kept text.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dedup.config import LoopConfig
from dedup.text.loops import LoopEvent, LoopScanner
from dedup.text.pieces import Pieces

_MAX_REACH_CHARS: Final = 16_384
_REACH_PERIODS: Final = 4  # followed before and behind a removal, in longest periods
_MORE_CHARS: Final = 2048  # followed on while something is held


class Follower:
    """A follower of the kept text.

    `feed` releases what is not a loop's second copy. At a loop it sets `loop`, and releases nothing
    more.

    num_fed: characters fed. num_released: characters released.
    """

    def __init__(self, config: LoopConfig, allowed_copies: Callable[[str], int] | None) -> None:
        self.loop: LoopEvent | None = None
        self.num_fed = 0
        self._config = config
        self._allowed_copies = allowed_copies
        self._scanner: LoopScanner | None = None
        self._start = 0  # offset where the scanner began
        self._until = 0  # offset where it ends
        self._reach = min(_REACH_PERIODS * config.max_period, _MAX_REACH_CHARS)
        self._recent = Pieces()  # at least the last `_reach` characters fed
        self._held = ""

    @property
    def is_idle(self) -> bool:
        return self._scanner is None

    @property
    def held_chars(self) -> int:
        return len(self._held)

    @property
    def num_released(self) -> int:
        return self.num_fed - len(self._held)

    def skip(self, text: str) -> None:
        """Feed text that is not held, while the follower is idle."""
        self.num_fed += len(text)
        self._recent.append(text)
        if self._recent.size > 2 * self._reach:
            self._recent.shorten(self._reach)

    def begin(self) -> None:
        """Follow the text that comes: something was removed before it."""
        self._until = self.num_fed + self._reach
        if self._scanner is None:
            self._scanner = LoopScanner(self._config, self._allowed_copies)
            self._recent.shorten(self._reach)
            self._start = self.num_fed - self._recent.size
            self._scanner.feed(self._recent.text())
            self._scanner.next_change()

    def feed(self, text: str) -> str:
        """Feed kept text; return what is released."""
        released = []
        while text and self._scanner and self.loop is None:
            size = min(len(text), self._until - self.num_fed)
            piece, text = text[:size], text[size:]
            self.skip(piece)
            self._held += piece
            self._scanner.feed(piece)
            released.append(self._release(self._scanner))
            if self.num_fed == self._until:
                if self._held:
                    self._until += _MORE_CHARS
                else:
                    self._scanner = None
        if self.loop is None and text:
            self.skip(text)
            released.append(text)
        return "".join(released)

    def flush(self) -> str:
        """Return what is held, now that no more text will be kept."""
        if self._scanner is None or self.loop:
            return ""
        self._scanner.flush()
        released = self._release(self._scanner)
        if self.loop is None:
            released += self._held
            self._held = ""
        return released

    def reset(self) -> None:
        """Become idle, and drop what is held."""
        self._scanner = self.loop = None
        self._held = ""

    def _release(self, scanner: LoopScanner) -> str:
        """Return what is not a loop's second copy; at a loop, the last text released."""
        while change := scanner.next_change():
            if isinstance(change, LoopEvent):
                self.loop = replace(
                    change,
                    onset=self._start + change.onset,
                    detected_at=self._start + change.detected_at,
                )
                return self._release_to(self._start + scanner.cut_offset(change))
        return self._release_to(self._start + scanner.held_from)

    def _release_to(self, offset: int) -> str:
        """Return the held text up to an offset."""
        size = max(0, offset - self.num_released)
        released, self._held = self._held[:size], self._held[size:]
        return released
