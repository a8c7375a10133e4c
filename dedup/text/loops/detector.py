"""Detection of the first loop of a text."""

from collections.abc import Callable, Sequence

from dedup.config import LoopConfig
from dedup.text.loops.events import LoopEvent
from dedup.text.loops.scanner import LoopScanner

__all__ = ["LoopDetector", "LoopEvent"]


class LoopDetector:
    """A detector of a text's first loop. It is online: a loop is reported as soon as it is certain.

        detector = LoopDetector()
        for delta in deltas:
            if event := detector.feed(delta): ...

    The result does not depend on how the text was cut into deltas. Of token ids only exact cycles
    are detected. Time is O(1) a token, memory is bounded by `LoopConfig.max_period`.

    Args:
        config: the longest period that is detected.
        allowed_copies: a function that returns how many copies of a given period are legitimate; 0
            for no more than usual.
    """

    def __init__(
        self, config: LoopConfig | None = None, allowed_copies: Callable[[str], int] | None = None
    ) -> None:
        if config is not None and not isinstance(config, LoopConfig):
            raise TypeError(f"config must be a LoopConfig, got {config!r}")
        self._scanner = LoopScanner(config or LoopConfig(), allowed_copies)

    @property
    def event(self) -> LoopEvent | None:
        """The first loop; None if there is none so far."""
        return self._scanner.event

    @property
    def held_from(self) -> int:
        """Offset from which input is held as a possible second copy of a loop.

        The input length if nothing is held.
        """
        return self._scanner.held_from

    def feed(self, symbols: str | Sequence[int]) -> LoopEvent | None:
        """Read a delta; return the first loop once it is certain. Input after a loop is ignored.

        Args:
            symbols: text, or token ids below 1,114,112 (the number of code points of Unicode).
        """
        scanner = self._scanner
        if scanner.event is None:
            scanner.feed(symbols)
            scanner.next_change()
        return scanner.event

    def flush(self) -> LoopEvent | None:
        """Read the last token, now that the text has ended; return the first loop, if any."""
        scanner = self._scanner
        scanner.flush()
        if scanner.event is None:
            scanner.next_change()
        return scanner.event
