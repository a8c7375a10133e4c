"""Transcripts and scanned pages, without what a recogniser has made up by repeating itself.

Speech recognisers repeat a line over silence and music, for minutes. People repeat themselves too, so
text alone is no evidence: times are. Nobody says a line faster than a tongue can move, takes half a
minute for three words, or says it again and again by the clock.

    segment -> loop within its text? -> run of repeats? -> kept, or dropped
"""

import copy
import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, TypeVar

from dedup.config import FilterConfig
from dedup.text.filter import RepetitionFilter

Segment = TypeVar("Segment")
Reason = Literal["loop", "too fast", "too slow", "by the clock", "too often"]

_SKIP: Final = FilterConfig(policy="loops", on_loop="skip")
_MAX_HELD: Final = 64  # segments
_MAX_PERIOD: Final = 4  # segments in which a repeat is looked for
_MIN_EVIDENCE: Final = 2  # repeats that no one can have said
_MIN_SHARE: Final = 0.25  # of the repeats
_MIN_CLOCKED: Final = 5  # repeats that follow each other by the clock
_CLOCK_SECONDS: Final = 0.05  # recognisers count time in steps of 0.02 s
_MIN_CLOCK_SECONDS: Final = 0.9  # shorter ones are words, whose lengths differ by less than that
_MAX_RATE: Final = 30.0  # letters a second; fast readers reach 25
_IDLE_RATE: Final = 3.0  # letters a second, if it goes on for
_IDLE_SECONDS: Final = 10.0
_WIDE_LETTERS: Final = 3  # letters that a Chinese character, kana or Hangul syllable counts for


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """Text that was dropped.

    Args:
        index: Number of the segment, or of the page, from 0.
        text: What was dropped of it.
        start, end: Times of the segment in seconds; None if it has none.
        reason: `loop`: the text of one segment or page loops. Of segments that repeat: they were
            `too fast` or `too slow` to be speech, follow each other `by the clock`, or are more
            than `max_copies`, `too often`.
    """

    index: int
    text: str
    start: float | None
    end: float | None
    reason: Reason


class _Piece(NamedTuple):
    """A segment, as far as it is looked at."""

    number: int
    segment: Any
    text: str
    start: float | None
    end: float | None
    is_repeat: bool = False

    @property
    def seconds(self) -> float | None:
        return None if self.start is None or self.end is None else self.end - self.start


def clean_segments(
    segments: Iterable[Segment],
    dropped: list[Dropped] | None = None,
    *,
    max_copies: int | None = 32,
) -> Iterator[Segment]:
    """Yield the segments of a transcript without the repeats that nobody has said.

        segments, info = model.transcribe("talk.mp3")
        for segment in clean_segments(segments):
            print(segment.start, segment.text)

    Works on live transcripts: a repeat is held until it is certain, at most `max_copies` of them;
    all other segments pass at once. What stays keeps its times and its type. Of a segment whose own
    text loops, the text is shortened, and its words (`words`) with it.

    Args:
        segments: Objects with `text`, `start` and `end` (faster-whisper), dicts with these keys
            (openai-whisper, WhisperX), or dicts with `text` and `timestamp` (transformers). Times
            may be None: then only what repeats too often is dropped.
        dropped: A list, to which what was dropped is appended.
        max_copies: Repeats of a line in a row, or twice the repeats of a word in one segment, that
            are no speech whatever their times; None if there is no such number.

    Raises:
        TypeError: A segment is of none of these types.
        ValueError: `max_copies` is less than 1.
    """
    if max_copies is not None and max_copies < 1:
        raise ValueError(f"max_copies must be 1 or more, or None, got {max_copies}")
    report = [] if dropped is None else dropped
    run = _Run(report, max_copies)
    for index, segment in enumerate(segments):
        piece = _shortened(_piece(index, segment), report, max_copies)
        yield from run.feed(piece)
    yield from run.flush()


def clean_pages(pages: Iterable[str], dropped: list[Dropped] | None = None) -> Iterator[str]:
    """Yield the texts of scanned pages without the loops in them.

    Each page is looked at by itself: headers, footers and forms that repeat from page to page stay.

    Args:
        pages: Texts of the pages.
        dropped: A list, to which what was dropped is appended.
    """
    for index, page in enumerate(pages):
        text, removed, _ = _without_loops(page)
        for start, end in removed:
            if dropped is not None:
                dropped.append(Dropped(index, page[start:end], None, None, "loop"))
        yield text


class _Run:
    """Segments in a row of which each has been there just before.

    Args:
        dropped: Takes what is dropped.
        max_copies: See `clean_segments`.
    """

    def __init__(self, dropped: list[Dropped], max_copies: int | None) -> None:
        self._dropped = dropped
        self._max_copies = max_copies
        self._recent: deque[tuple[str, _Piece]] = deque(maxlen=_MAX_PERIOD)
        self._end: float | None = None  # of the last segment
        self._begin()

    def _begin(self) -> None:
        self._held: deque[_Piece] = deque()  # repeats that may be speech
        self._verdict: Reason | None = None
        self._num_repeats = self._num_fast = self._num_slow = self._num_clocked = 0

    def feed(self, piece: _Piece) -> Iterator[Any]:
        """Take a segment; yield those that stay."""
        key = _key(piece.text)
        before = next((one for name, one in reversed(self._recent) if name == key), None)
        self._recent.append((key, piece._replace(is_repeat=before is not None)))
        last_end, self._end = self._end, piece.end
        if before is None:
            yield from self.flush()
            yield piece.segment
            return
        self._count(piece, before, last_end)
        self._held.append(piece)
        self._verdict = self._verdict or self._judge()
        if self._verdict:
            for one in self._held:
                dropped = Dropped(one.number, one.text, one.start, one.end, self._verdict)
                self._dropped.append(dropped)
            self._held.clear()
        elif len(self._held) > _MAX_HELD:
            yield self._held.popleft().segment

    def flush(self) -> Iterator[Any]:
        """End the run; yield what was held."""
        for piece in self._held:
            yield piece.segment
        self._begin()

    def _count(self, piece: _Piece, before: _Piece, last_end: float | None) -> None:
        """Count a repeat, and what its times say."""
        self._num_repeats += 1
        for one in [piece] if before.is_repeat else [before, piece]:
            self._num_fast += _is_too_fast(one.text, one.seconds)
            self._num_slow += _is_too_slow(one.text, one.seconds)
        if piece.seconds is None or before.seconds is None or last_end is None:
            return
        is_clocked = (
            piece.seconds >= _MIN_CLOCK_SECONDS
            and abs(piece.seconds - before.seconds) <= _CLOCK_SECONDS
            and (piece.start or 0.0) - last_end <= _CLOCK_SECONDS  # people pause
        )
        self._num_clocked = self._num_clocked + 1 if is_clocked else 0

    def _judge(self) -> Reason | None:
        """Return why the repeats are no speech; None if they may be."""
        enough = max(_MIN_EVIDENCE, _MIN_SHARE * self._num_repeats)
        if self._num_fast + self._num_slow >= enough:
            return "too fast" if self._num_fast >= self._num_slow else "too slow"
        if self._num_clocked >= _MIN_CLOCKED:
            return "by the clock"
        if self._max_copies is not None and self._num_repeats > self._max_copies:
            return "too often"
        return None


def _shortened(piece: _Piece, dropped: list[Dropped], max_copies: int | None) -> _Piece:
    """Return a segment without the loop in its text, if no one can have said that."""
    text, removed, copies = _without_loops(piece.text)
    if not removed:
        return piece
    seconds = piece.seconds
    reason: Reason = "loop"
    if seconds is not None:
        if _is_too_fast(piece.text, seconds):
            reason = "too fast"
        elif _is_too_slow(piece.text, seconds):
            reason = "too slow"
        elif max_copies is None or copies <= max_copies / 2:
            return piece
    start, end = removed[-1]
    if not any(one.isalnum() for one in piece.text[end:]):
        removed[-1] = (start, len(piece.text))  # what is left of the last copy
        text = text[: len(text) - len(piece.text) + end]
    for start, end in removed:
        part = piece.text[start:end]
        dropped.append(Dropped(piece.number, part, piece.start, piece.end, reason))
    return piece._replace(segment=_with_text(piece.segment, text, piece.text, removed), text=text)


def _without_loops(text: str) -> tuple[str, list[tuple[int, int]], float]:
    """Return a text without its loops, the spans that were removed, and copies in the longest."""
    loops = RepetitionFilter(_SKIP)
    kept = loops.feed(text) + loops.flush()
    removed = [(one.start, one.end) for one in loops.removed]
    if not removed or loops.loop is None:
        return text, [], 0.0
    longest = max(end - start for start, end in removed)
    return kept, removed, longest / loops.loop.period


def _piece(index: int, segment: Any) -> _Piece:
    """Read a segment.

    Raises:
        TypeError: It has no text.
    """

    def read(name: str) -> Any:
        return segment.get(name) if isinstance(segment, dict) else getattr(segment, name, None)

    text = read("text")
    if not isinstance(text, str):
        raise TypeError(
            f"segment {index} is a {type(segment).__name__} without a text: "
            "a dict or an object with text, start and end is needed"
        )
    start, end = read("timestamp") or (read("start"), read("end"))
    return _Piece(index, segment, text, start, end)


def _with_text(segment: Any, text: str, before: str, removed: list[tuple[int, int]]) -> Any:
    """Return a segment with another text, and without the words that were removed."""
    is_dict = isinstance(segment, dict)
    changes: dict[str, Any] = {"text": text}
    words = segment.get("words") if is_dict else getattr(segment, "words", None)
    if words:
        changes["words"] = _kept_words(words, before, removed)
    if is_dict:
        return {**segment, **changes}
    if dataclasses.is_dataclass(segment) and not isinstance(segment, type):
        return dataclasses.replace(segment, **changes)
    named: Any = segment
    if hasattr(named, "_replace"):
        return named._replace(**changes)
    copied: Any = copy.copy(segment)
    for name, value in changes.items():
        setattr(copied, name, value)
    return copied


def _kept_words(words: Iterable[Any], text: str, removed: list[tuple[int, int]]) -> list[Any]:
    """Return the words of a text of which more than half is not in a removed span."""
    kept, at = [], 0
    for one in words:
        word = (one["word"] if isinstance(one, dict) else one.word).strip()
        found = text.find(word, at)
        start, end = (found, found + len(word)) if found >= 0 else (at, at)
        at = end
        lost = sum(max(0, min(end, to) - max(start, since)) for since, to in removed)
        if 2 * lost <= end - start:
            kept.append(one)
    return kept


def _key(text: str) -> str:
    """Return what two repeats have in common: their letters, without copies of them in a row."""
    letters = "".join(one for one in text.casefold() if one.isalnum()) or text.strip()
    # The first place but 0 at which a doubled text holds itself is its period.
    return letters[: (letters + letters).find(letters, 1)]


def _num_letters(text: str) -> int:
    return sum(_WIDE_LETTERS if one >= "\u2e80" else 1 for one in text if one.isalnum())


def _is_too_fast(text: str, seconds: float | None) -> bool:
    return seconds is not None and _num_letters(text) > _MAX_RATE * seconds


def _is_too_slow(text: str, seconds: float | None) -> bool:
    if seconds is None:
        return False
    return seconds >= _IDLE_SECONDS and _num_letters(text) < _IDLE_RATE * seconds
