"""The output filter: what a model says goes in, what its reader gets comes out.

    delta -> LoopDetector -> Segmenter -> SeenSentences -> decision -> delta

Text is looked at in steps of `STEP` characters counted from its start, so how it was cut into deltas cannot matter. What may yet turn
out to be a repeat is held; all else is let go at once. Decisions rest on what was emitted: a removed segment leaves no trace in the
segmenter, and a second detector follows the text as it is without what was removed.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from dedup.config import FilterConfig
from dedup.loops import STEP, LoopDetector, LoopEvent
from dedup.metrics import RepetitionCounter
from dedup.seen import SeenSentences
from dedup.segmenter import Segment, Segmenter
from dedup.units import UnitStream, key_prefix, sentence_key

RemovalKind = Literal["sentence", "line", "item", "quote", "loop"]

# A reader who asks for a text said over wants it said over.
_ASKED_FOR = re.compile(
    r"\b(?:repeat(?:ed|edly|ing)?|over and over|\d+ times|lyrics|chorus|refrain|verbatim)\b|重复|复述|\d+\s*[次遍]|歌词|副歌|繰り返し",
    re.IGNORECASE,
)
_REMOVABLE = ("sentence", "line", "item", "quote")
_MIN_KEY_BYTES = 16  # "Yes, sir." said again is a dialogue; in UTF-8 a Chinese character weighs three


@dataclass(frozen=True, slots=True)
class Removal:
    """Characters [start, end) of what went in, not given out. first_start: where they were said first (below 0: an earlier turn)."""

    start: int
    end: int
    kind: RemovalKind
    first_start: int


class RepetitionFilter:
    """Filters one text. `feed` its deltas, `flush` at its end; what they return, joined, is the text less the spans in `removed`.

    history: earlier texts of the conversation, for `strict`. prompt: what the reader asked; if it asks for repetition, the text is
    measured and flagged but not changed.
    """

    def __init__(self, config: FilterConfig | None = None, *, history: Iterable[str] = (), prompt: str | None = None) -> None:
        self.config = config or FilterConfig()
        self.loop: LoopEvent | None = None
        self.removed: list[Removal] = []
        self.sentences_kept = self.sentences_removed = self.sentences_flagged = 0
        self.chars_in = self.chars_out = 0
        policy = self.config.policy
        asked_for = prompt is not None and _ASKED_FOR.search(prompt) is not None
        self._measures = policy != "off"
        self._cuts = policy in ("loops", "balanced", "strict") and not asked_for
        self._judges = self._measures and policy != "loops" and self.config.edit
        self._removes = self._judges and self._cuts
        self._detector = LoopDetector(self.config.loop)  # follows what goes in
        self._follower: LoopDetector | None = None  # follows it less what was removed, from the first removal on
        self._checkpoint = LoopDetector(self.config.loop)  # the follower before the pending segment and its separator
        self._segmenter = Segmenter(self.config.max_segment_chars)
        self._seen = SeenSentences(self.config.max_sentences, self.config.similarity if policy == "strict" else 1.0)
        self._last_key = ""
        self._counter = RepetitionCounter(4)
        self._units = UnitStream()
        self._unread = ""  # fed, but not a whole step yet
        self._read = 0  # characters read in steps
        # Text that was read and neither given out nor removed. First comes what is certain to stay, unless a loop is cut in it:
        self._queue: deque[tuple[int, str]] = deque()  # (offset, text)
        # then the separator before the pending segment, and the segment, of which the first `_admitted` characters stay for certain.
        self._separator = (0, "")
        self._separator_queued = False
        self._pending = ""
        self._admitted = 0
        self._admitted_at = 0  # what had been read when the pending segment was found to stay
        self._skipping = False
        self._cut_at = 0
        self._ended = self._flushed = False
        if policy == "strict":
            self._remember(history)

    @property
    def ended(self) -> bool:
        """Whether the text was cut at a loop: what is fed from then on is dropped."""
        return self._ended

    @property
    def held_chars(self) -> int:
        """Characters fed that were neither given out nor removed yet."""
        if not self._cuts:
            return 0
        return sum(len(text) for _, text in self._queue) + self._num_undecided() + len(self._unread)

    def feed(self, delta: str) -> str:
        """The text that can be given to the reader now. Raises ValueError after `flush`."""
        if self._flushed:
            raise ValueError("feed after flush: a RepetitionFilter filters one text")
        self.chars_in += len(delta)
        if not self._measures:
            self.chars_out += len(delta)
            return delta
        self._counter.append(self._units.feed(delta))
        given = []
        if not self._ended:
            text = self._unread + delta
            whole = len(text) - len(text) % STEP
            self._unread = text[whole:]
            for at in range(0, whole, STEP):
                given.append(self._step(text[at : at + STEP]))
                if self._ended:
                    break
        if self._ended:
            self._unread = ""
            self._drop(self._cut_at, self.chars_in)
        return self._give(given, delta)

    def flush(self) -> str:
        """The rest of the text; nothing when called again."""
        if self._flushed:
            return ""
        self._flushed = True
        if not self._measures or self._ended:
            return ""
        self._counter.append(self._units.flush())
        rest, self._unread = self._unread, ""
        given = self._step(rest)
        return self._give([given if self._ended or self._skipping else given + self._finish()], "")

    def metrics(self) -> dict[str, float]:
        """Numbers about what went in: repeated 4-grams (`rep_4`), characters and sentences by what became of them."""
        return {
            "rep_4": self._counter.rep,
            "chars_in": self.chars_in,
            "chars_out": self.chars_out,
            "removed_chars": sum(removal.end - removal.start for removal in self.removed),
            "sentences_kept": self.sentences_kept,
            "sentences_removed": self.sentences_removed,
            "sentences_flagged": self.sentences_flagged,
            "loops": int(self.loop is not None),
        }

    def _give(self, given: list[str], delta: str) -> str:
        text = "".join(given) if self._cuts else delta
        self.chars_out += len(text)
        return text

    # A step: read, judge the segments that ended, look for a loop, let go.

    def _step(self, text: str) -> str:
        self._read += len(text)
        event = self._detector.feed(text)
        if self._skipping:
            if self._detector.run is not None or event is not None:
                self._detector.resume()
                self._drop(self._read - len(text), self._read)
                return ""
            self._skipping = False
        self._read_on(text)
        drop_from = 0
        if event:
            drop_from = event.onset + event.period
        elif found := self._follower and self._follower.event:
            drop_from = self._to_input(found.onset + found.period)
            event = replace(found, onset=self._to_input(found.onset), detected_at=self._read)
        if event:
            self.loop = self.loop or event
            if self._cuts:
                return self._end(drop_from)
            self._detector.resume()
        self._admit()
        return self._release()

    def _read_on(self, text: str) -> None:
        """Adds `text` to what is pending and judges the segments that it ends."""
        if not self._judges:
            self._queue.append((self._read - len(text), text))
            return
        self._pending += text
        self._segmenter.feed(text)
        if self._follower:
            self._follower.feed(text)
        self._judge_segments()

    def _judge_segments(self) -> None:
        while segment := self._segmenter.take():
            self._judge(segment)

    def _judge(self, segment: Segment) -> None:
        """Decides on a segment that has ended."""
        start = self._read - len(self._pending)
        end = start + len(segment.text)
        key = sentence_key(segment.text[segment.marker_chars :]) if segment.kind in _REMOVABLE else ""
        first_start = None if self._admitted and self._removes else self._said_before(segment, key)
        space = self._separator[1]
        if first_start is None or not self._removes:
            self.sentences_flagged += first_start is not None
            self.sentences_kept += bool(key)
            if key and first_start is None:
                self._seen.add(key, start, segment.scope)
            self._last_key = key
            self._queue_up(len(segment.text))
            if self._removes:
                self._checkpoint.feed(space + segment.text)
            self._separator = (end, segment.separator)
        else:
            self.sentences_removed += 1
            self._remove(segment, start, first_start)
        self._pending = self._pending[len(segment.text) + len(segment.separator) :]
        self._admitted, self._separator_queued = 0, False
        if first_start is not None and self._removes:
            self._refollow()

    def _remove(self, segment: Segment, start: int, first_start: int) -> None:
        """Takes a segment out, and one of the two separators around it: the softer, so that what was apart stays apart."""
        offset, space = self._separator
        end = start + len(segment.text)
        kind: RemovalKind = segment.kind  # type: ignore[assignment]
        if start == 0 or _parts_harder(space, segment.separator):
            self.removed.append(Removal(start, end + len(segment.separator), kind, first_start))
        else:
            self._separator = (end, segment.separator)
            if not space or offset + len(space) == start:
                start -= len(space)
            else:  # what stood between the separator and the segment is gone already
                self.removed.append(Removal(offset, offset + len(space), kind, first_start))
            self.removed.append(Removal(start, end, kind, first_start))
            self.removed.sort(key=lambda removal: removal.start)
        self._segmenter.forget(self._separator[1])

    def _said_before(self, segment: Segment, key: str) -> int | None:
        """Where the segment was said first, if it is one to remove."""
        if len(key.encode("utf-8", "surrogatepass")) < _MIN_KEY_BYTES or not segment.firm:
            return None
        if segment.kind == "line" and key != self._last_key:
            return None  # verse and headings come back; a line said twice running is a fault
        if segment.kind == "item" and not segment.whole:
            return None  # its marker cannot go while the rest of the line stays
        seen = self._seen.match(key, segment.scope)
        return seen.start if seen else None

    def _refollow(self) -> None:
        """After a removal: the follower as if the segment had never been there."""
        self._follower = self._checkpoint.copy()
        self._follower.feed(self._separator[1] + self._pending)

    def _admit(self) -> None:
        """Queues the pending segment as soon as it can no longer be a repeat."""
        if self._pending and (self._admitted or not self._could_go()):
            if not self._admitted:
                self._admitted_at = self._read
            self._queue_up(self._segmenter.certain_chars)

    def _could_go(self) -> bool:
        """Whether the pending segment may still be removed."""
        kind, content = self._segmenter.open_as()
        if not self._removes:
            return False
        if kind is None:
            return True
        return kind in _REMOVABLE and self._seen.could_match(key_prefix(content))

    def _queue_up(self, num_chars: int) -> None:
        """Queues the first `num_chars` characters of the pending segment, and the separator before it."""
        start = self._read - len(self._pending)
        if self._separator[1] and not self._separator_queued:
            self._queue.append(self._separator)
            self._separator_queued = True
        if num_chars > self._admitted:
            self._queue.append((start + self._admitted, self._pending[self._admitted : num_chars]))
            self._admitted = num_chars

    def _num_undecided(self) -> int:
        """Characters that are pending and not queued."""
        return len(self._pending) - self._admitted + (0 if self._separator_queued else len(self._separator[1]))

    def _release(self) -> str:
        """What is certain to stay and does not look like a loop's second copy."""
        run = self._detector.run
        hold_from = run.start if run else self._read
        num_held = 0  # characters at the end of what stays that look like a repeat there
        if self._follower and self._follower.run:
            num_held = max(0, self._follower.fed - self._follower.run.start - self._num_undecided())
        num_queued = sum(len(text) for _, text in self._queue)
        given = []
        while self._queue and num_queued > num_held:
            offset, text = self._queue[0]
            size = min(len(text), hold_from - offset, num_queued - num_held)
            if size <= 0:
                break
            given.append(text[:size])
            num_queued -= size
            self._queue.popleft()
            if size < len(text):
                self._queue.appendleft((offset + size, text[size:]))
                break
        return "".join(given)

    # The end of the text, of its own or at a loop.

    def _finish(self) -> str:
        """Judges what is pending as the last of the text, and lets everything go."""
        if self._judges:
            self._segmenter.flush()
            self._judge_segments()
        self._queue_up(len(self._pending))
        given = "".join(text for _, text in self._queue)
        self._queue.clear()
        return given

    def _end(self, drop_from: int) -> str:
        """Cuts the loop: of what is held, all from the offset `drop_from` on goes, and the text ends there."""
        read, pending_at = self._read, self._read - len(self._pending)
        held_from = pending_at + self._admitted
        if self._queue:
            held_from = self._queue[0][0]
        elif self._separator[1] and not self._separator_queued:
            held_from = self._separator[0]
        drop_from = max(drop_from, held_from)
        if self._admitted and drop_from > pending_at:
            # Up to there it was told from a repeat; cut shorter, it could be one.
            drop_from = max(drop_from, self._admitted_at)
        if self._judges:
            kept = self._pending[: max(0, drop_from - pending_at)]
            self._read -= len(self._pending) - len(kept)
            self._pending, self._admitted = kept, min(self._admitted, len(kept))
            self._segmenter.truncate(len(kept))
            offset, space = self._separator
            self._separator = (offset, space[: max(0, drop_from - offset)])
        self._queue = deque((offset, text[: drop_from - offset]) for offset, text in self._queue if offset < drop_from)
        given = self._finish()
        self._read = read
        self._cut_at = drop_from
        self._drop(drop_from, read)
        if self.config.on_loop == "cut":
            self._ended = True
        else:
            self._skipping = True
            self._detector.resume()
            self._follower, self._checkpoint = None, LoopDetector(self.config.loop)
            self._segmenter = Segmenter(self.config.max_segment_chars)
            self._pending, self._admitted, self._separator, self._separator_queued = "", 0, (0, ""), False
        return given

    def _drop(self, start: int, end: int) -> None:
        """Records that of the loop all from `start` to `end` was not given out."""
        if self.removed and self.removed[-1].kind == "loop" and self.removed[-1].end >= start:
            self.removed[-1] = replace(self.removed[-1], end=end)
            return
        while self.removed and self.removed[-1].start >= start:
            self.removed.pop()
        if self.removed:
            start = max(start, self.removed[-1].end)
        if start < end:
            self.removed.append(Removal(start, end, "loop", self.loop.onset if self.loop else start))

    def _to_input(self, offset: int) -> int:
        """The offset in what went in of a character of what stays."""
        for removal in self.removed:
            if removal.start > offset:
                break
            offset += removal.end - removal.start
        return offset

    def _remember(self, history: Iterable[str]) -> None:
        for text in history:
            segmenter = Segmenter(self.config.max_segment_chars)
            segmenter.feed(text)
            segmenter.flush()
            while segment := segmenter.take():
                key = sentence_key(segment.text[segment.marker_chars :])
                if key and segment.kind in _REMOVABLE:
                    self._seen.add(key, -1, segment.scope)


def _parts_harder(separator: str, other: str) -> bool:
    """Whether `separator` parts harder than `other`: by a blank line, a line's end, a space. A line keeps its own indentation."""
    indented = "\n" in other and other[-1] != "\n"
    return not indented and min(2, separator.count("\n")) > min(2, other.count("\n"))
