"""Detects that a generation has nothing new to say: exact cycles, near-verbatim and drift loops, floods.

The detector is online: fed piece by piece it answers as soon as a loop is certain. It looks at the sequence in steps of `STEP`
symbols counted from its start, never at what a caller happened to pass at once, so its answer does not depend on the pieces.

Exact cycles, worst case O(1) a step: the last `GRAM` symbols are searched backwards in the window (one search in C); where they
stood before gives the only period worth looking at, and the run of symbols equal to those one period earlier is extended step by
step. The period itself costs nothing.

Near loops: the share of the last words that continue a 3-gram of words seen before, numbers folded. A text that says something
new keeps that share low; a counter, a name or a shuffled set of sentences does not.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dedup.config import LoopConfig
from dedup.units import UnitStream, digits_folded

STEP = 4
GRAM = 12
WIDE_GRAM = 6  # a character of a script written without spaces says as much as two or three letters
FIRST_WIDE = "\u2e80"  # where the CJK blocks begin

LoopKind = Literal["exact", "near", "flood"]


@dataclass(frozen=True, slots=True)
class LoopEvent:
    """A loop. Offsets and the period are symbols of what was fed.

    onset: where the first copy begins. detected_at: how much had been read when it was certain. copies: whole copies until then.
    """

    kind: LoopKind
    onset: int
    detected_at: int
    period: int
    copies: int


@dataclass(frozen=True, slots=True)
class Run:
    """The sequence from `start` to where it was last looked at equals what stands `period` symbols earlier."""

    start: int
    period: int


class LoopDetector:
    """Feeds on a sequence of characters or tokens; reports its first loop.

        detector = LoopDetector()
        for delta in deltas:
            if event := detector.feed(delta): ...

    Tokens are symbols too: `feed([17, 4, 9])`. Near loops are looked for in text only. Memory: the last `max_period` symbols
    plus a run's worth, and the 3-grams of the last 4,096 words.
    """

    def __init__(self, config: LoopConfig | None = None) -> None:
        self.config = config or LoopConfig()
        self.event: LoopEvent | None = None
        self.run: Run | None = None
        self._text = ""  # the window and what has not been looked at yet
        self._base = 0  # offset of _text[0]
        self._looked = 0  # offset up to which steps were taken
        self._novelty = _Novelty(self.config.window)

    @property
    def fed(self) -> int:
        """Symbols fed so far."""
        return self._base + len(self._text)

    def feed(self, symbols: str | Sequence[int]) -> LoopEvent | None:
        """The first loop, as soon as it is certain; None until then. What is fed after a loop is not looked at.

        Token ids must be below 1,114,112, the number of symbols that a string can hold.
        """
        is_text = isinstance(symbols, str)
        self._text += symbols if is_text else "".join(map(chr, symbols))  # type: ignore[operator,arg-type]
        while self.event is None and self._looked + STEP <= self.fed:
            self._looked += STEP
            end = self._looked - self._base
            self.event = self._look_for_cycle(end)
            if self.event is None and is_text:
                self.event = self._novelty.feed(self._text[end - STEP : end], self._looked)
        self._forget()
        return self.event

    def resume(self) -> None:
        """Goes on after a loop: looks for the next one."""
        self.event = None
        self._novelty = _Novelty(self.config.window)

    def copy(self) -> "LoopDetector":
        """A detector in the same state that goes on independently."""
        twin = LoopDetector(self.config)
        twin.event, twin.run, twin._text = self.event, self.run, self._text
        twin._base, twin._looked, twin._novelty = self._base, self._looked, self._novelty.copy()
        return twin

    def _look_for_cycle(self, end: int) -> LoopEvent | None:
        text, run = self._text, self.run
        if run and text[end - STEP : end] == text[end - STEP - run.period : end - run.period]:
            return self._judge(run, end)
        self.run = None
        wide = max(text[max(0, end - WIDE_GRAM) : end]) >= FIRST_WIDE
        gram_start = end - (WIDE_GRAM if wide else GRAM)
        if gram_start < 1:
            return None
        found = text.rfind(text[gram_start:end], max(0, gram_start - self.config.max_period), end - 1)
        if found < 0:
            return None
        period = gram_start - found
        start = gram_start
        # The run began at most STEP + GRAM symbols ago, unless an earlier one of another period hid it: goal, O(1) amortised.
        floor = max(period, gram_start - period * 2 - 4 * STEP)
        while start > floor and text[start - 1] == text[start - 1 - period]:
            start -= 1
        self.run = Run(self._base + start, period)
        return self._judge(self.run, end)

    def _judge(self, run: Run, end: int) -> LoopEvent | None:
        span = self._base + end - run.start + run.period
        copies = span // run.period
        if copies < 3:
            return None
        unit = self._text[end - run.period : end]
        kind, needed = _needed_span(unit, copies)
        if span < needed:
            return None
        return LoopEvent(kind, run.start - run.period, self._looked, run.period, copies)

    def _forget(self) -> None:
        keep = 2 * self.config.max_period + 2 * GRAM
        if len(self._text) > 2 * keep:
            self._base += len(self._text) - keep
            self._text = self._text[-keep:]


def _needed_span(unit: str, copies: int) -> tuple[LoopKind, int]:
    """How many symbols a cycle of `unit` must cover to be a loop.

    Words said over are a loop soon. Digits and symbols stand in rows legitimately: table rules, dot leaders, padding, zeros.
    """
    letters = sum(map(str.isalpha, unit))
    if not letters:
        return "flood", 256 if any(map(str.isdigit, unit)) else 400
    if 4 * letters < len(unit):
        return "exact", 320
    if len(unit) > 3 and copies >= 5 and min(filter(str.isalpha, unit)) >= FIRST_WIDE:
        return "exact", 30
    return ("exact" if len(unit) > 1 else "flood"), 60 if copies >= 4 else 200


class _Novelty:
    """Whether the last words of a text say anything that it has not said before."""

    MEMORY = 4096  # words
    FORM_CHARS = 1024  # how far back the share of letters is taken
    LIMIT = 0.94  # share of covered words from which nothing new is said
    PROSE = 0.55  # share of letters below which a text is code, a table, a log: what repeats there is its form

    def __init__(self, window: int) -> None:
        self._window = window
        self._stream = UnitStream()
        self._grams: dict[tuple[str, str, str], int] = {}  # 3-gram -> offset where it last ended
        self._last = ("", "")
        self._covered: deque[int] = deque(maxlen=window)  # offset of the earlier 3-gram, or -1, a word
        self._ends: deque[int] = deque(maxlen=window)
        self._num_covered = 0
        self._chars: deque[tuple[int, int]] = deque(maxlen=self.FORM_CHARS // STEP)  # letters and symbols, a step
        self._letters = 0
        self._all = 0

    def copy(self) -> "_Novelty":
        twin = _Novelty(self._window)
        twin._stream._rest = self._stream._rest
        twin._grams, twin._last, twin._num_covered = self._grams.copy(), self._last, self._num_covered
        twin._covered, twin._ends = self._covered.copy(), self._ends.copy()
        twin._chars, twin._letters, twin._all = self._chars.copy(), self._letters, self._all
        return twin

    def feed(self, text: str, offset: int) -> LoopEvent | None:
        self._count_letters(text)
        for unit in self._stream.feed(text):
            unit = digits_folded(unit)
            gram = (*self._last, unit)
            earlier = self._grams.pop(gram, -1)
            self._grams[gram] = offset
            self._last = (gram[1], unit)
            if len(self._covered) == self._window:
                self._num_covered -= self._covered[0] >= 0
            self._covered.append(earlier)
            self._ends.append(offset)
            self._num_covered += earlier >= 0
            if len(self._grams) > self.MEMORY:
                del self._grams[next(iter(self._grams))]
        if self._num_covered < self.LIMIT * self._window or self._letters < self.PROSE * self._all:
            return None
        first = next(i for i, earlier in enumerate(self._covered) if earlier >= 0)
        period = max(1, self._ends[first] - self._covered[first])
        onset = max(0, self._covered[first] - STEP)
        return LoopEvent("near", onset, offset, period, max(2, (offset - onset) // period))

    def _count_letters(self, text: str) -> None:
        if len(self._chars) == self._chars.maxlen:
            letters, symbols = self._chars[0]
            self._letters -= letters
            self._all -= symbols
        letters = sum(map(str.isalpha, text))
        symbols = len(text) - text.count(" ")
        self._chars.append((letters, symbols))
        self._letters += letters
        self._all += symbols
