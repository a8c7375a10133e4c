"""The output filter: what a model says goes in, what its reader gets comes out.

    delta -> LoopDetector -> SentenceFilter -> delta

What the detector takes for the beginning of a loop's second copy is held until it is certain; so is a sentence that may be a repeat.
All else is let go at once. Every decision is taken at a place in the text, never at a delta's end, so how the text was cut into
deltas cannot matter. Removing sentences can bring a loop together that was none: behind a removal a second detector follows what
stays for as long as a loop could reach back over it, so that filtering the output again changes nothing.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from dedup.config import FilterConfig
from dedup.text.loops.detector import LoopDetector, LoopEvent
from dedup.text.metrics import RepetitionCounter
from dedup.text.prompt import NOTHING_REQUESTED, read_prompt
from dedup.text.sentences import BLOCK_CHARS, Removal, SentenceFilter
from dedup.text.words import UnitStream

__all__ = ["Removal", "RepetitionFilter"]

_MAX_FOLLOWED_CHARS: Final = 16_384
_FOLLOWED_PERIODS: Final = 4  # what stays is followed from so far before a removal to so far behind it


class RepetitionFilter:
    """Filters one text. `feed` its deltas, `flush` at its end; what they return, joined, is the text less the spans in `removed`.

    Args:
        history: earlier texts of the conversation, for `strict`; of long ones the last 262,144 characters count.
        prompt: the request. The repetition it asks for, or holds itself, is allowed so often; see `requested`.
    """

    def __init__(self, config: FilterConfig | None = None, *, history: Iterable[str] = (), prompt: str | None = None) -> None:
        self.config = config or FilterConfig()
        self.loop: LoopEvent | None = None
        self.chars_in = self.chars_out = 0
        policy = self.config.policy
        self.requested = read_prompt(prompt) if prompt and policy != "off" else NOTHING_REQUESTED
        self._allowed_copies = self.requested.allowed_copies if self.requested.copies else None
        self._measures = policy != "off"
        self._cuts = policy in ("loops", "balanced", "strict")
        self._counter = RepetitionCounter(4)
        self._units = UnitStream()
        self._uncounted: list[str] = []  # read, but not counted: that can wait until there is a block of it, or somebody asks
        self._num_counted = 0
        self._detector = LoopDetector(self.config.loop, self._allowed_copies)
        self._unpassed = ""  # read, but not passed on: it may be a loop's second copy
        self._passed = 0
        self._sentences: SentenceFilter | None = None
        if policy in ("watch", "balanced", "strict") and self.config.edit:
            self._sentences = SentenceFilter(
                self.config, self._cuts, history if policy == "strict" else (), self._allowed_copies
            )
        self._follows = self._cuts and self._sentences is not None and self.config.on_loop == "cut"
        self._follower: LoopDetector | None = None
        self._num_stay = 0  # characters that the sentence filter let through
        self._followed_from = 0  # offset in what stays
        self._follow_until = 0  # offset in what stays
        self._num_removals = 0  # followed so far
        self._reach = min(_FOLLOWED_PERIODS * self.config.loop.max_period, _MAX_FOLLOWED_CHARS)
        self._recent: list[str] = []  # the end of what stays, and more
        self._recent_from = 0  # offset in what stays
        self._certain = ""  # stays, but the follower may find that it is a loop's second copy
        self._loops_removed: list[Removal] = []
        self.ended = False  # cut at a loop: what is fed from then on is dropped
        self._skipping = self._flushed = False

    @property
    def removed(self) -> list[Removal]:
        """What was not given out, in order."""
        spans = self._sentences.removed if self._sentences else []
        if not self._loops_removed:
            return list(spans)
        return sorted([*spans, *self._loops_removed], key=lambda removal: removal.start)

    @property
    def held_chars(self) -> int:
        """Characters fed that were neither given out nor removed yet."""
        if not self._cuts or self.ended:
            return 0
        held = len(self._certain) + (self._sentences.held_chars if self._sentences else 0)
        return held if self._skipping else held + len(self._unpassed)

    @property
    def sentences_kept(self) -> int:
        return self._sentences.kept if self._sentences else 0

    @property
    def sentences_removed(self) -> int:
        return self._sentences.dropped if self._sentences else 0

    @property
    def sentences_flagged(self) -> int:
        return self._sentences.flagged if self._sentences else 0

    def feed(self, delta: str) -> str:
        """The text that can be given to the reader now. Raises ValueError after `flush`."""
        if self._flushed:
            raise ValueError("feed after flush: a RepetitionFilter filters one text")
        size = len(delta)
        self.chars_in += size
        if not self._measures:
            self.chars_out += size
            return delta
        self._uncounted.append(delta)
        if self.chars_in - self._num_counted >= BLOCK_CHARS:
            self._count()
        given = ""
        if size <= BLOCK_CHARS and not self.ended:
            self._unpassed += delta
            self._detector.push(delta)
            given = self._advance()
        else:
            for at in range(0, size, BLOCK_CHARS):
                if self.ended:
                    break
                block = delta[at : at + BLOCK_CHARS]
                self._unpassed += block
                self._detector.push(block)
                given += self._advance()
        if self.ended:
            self._drop_loop(self.chars_in)
        return self._give(given, delta)

    def resume(self) -> None:
        """Goes on behind a cut: the next text comes in the loop's stead, and another loop will be another `loop`. What was said counts.

        Raises ValueError where nothing was cut.
        """
        if not self.ended:
            raise ValueError("resume without a cut: the text goes on as it is")
        self.ended = False
        self.loop = None
        self._detector.start_over()
        self._passed = self.chars_in
        self._follower = None
        if self._sentences:
            self._sentences.restart(self.chars_in)
            self._num_removals = len(self._sentences.removed)

    def flush(self) -> str:
        """The rest of the text; nothing when called again."""
        if self._flushed:
            return ""
        self._flushed = True
        if not self._measures or self.ended:
            return ""
        self._detector.flush()
        given = [self._advance()]
        if not self._skipping and not self.ended:
            given.append(self._pass(self.chars_in))
            if self._sentences and not self.ended:
                given += self._follow(self._sentences.flush())
        if not self.ended:
            given.append(self._finish_following())
        if self.ended or self._skipping:
            self._drop_loop(self.chars_in)
        return self._give("".join(given), "")

    def metrics(self) -> dict[str, float]:
        """Numbers about what went in: repeated 4-grams (`rep_4`), characters and sentences by what became of them."""
        self._count()
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

    def _count(self) -> None:
        self._counter.append(self._units.feed("".join(self._uncounted)))
        if self._flushed:
            self._counter.append(self._units.flush())
        self._uncounted.clear()
        self._num_counted = self.chars_in

    def _give(self, given: str, delta: str) -> str:
        text = given if self._cuts else delta
        self.chars_out += len(text)
        return text

    def _advance(self) -> str:
        """Looks at what was read, and passes on what is no loop."""
        given = ""
        while change := self._detector.next_change():
            if isinstance(change, LoopEvent):
                given += self._on_loop(change)
                if self.ended:
                    return given
            else:
                self._on_loop_end(change.at)
        if self._skipping:
            self._unpassed = self._unpassed[self._detector.looked_at - self._passed :]
            self._passed = self._detector.looked_at
            return given
        return given + self._pass(self._detector.held_from if self._cuts else self._passed + len(self._unpassed))

    def _on_loop(self, event: LoopEvent) -> str:
        if not self._cuts:
            self.loop = self.loop or event
            return ""
        cut_at = max(self._passed, _cut_at(event, self._detector))
        given = [self._pass(cut_at)]
        if self._sentences and not self.ended:
            given += self._follow(self._sentences.cut(event.onset + event.period))
            if not self.ended:
                cut_at = self._sentences.end
        if not self.ended:
            given.append(self._finish_following())
        if not self.ended:
            self.loop = self.loop or event
            self._begin_drop(cut_at, event.onset)
        return "".join(given)

    def _begin_drop(self, cut_at: int, onset: int) -> None:
        """From the offset `cut_at` on the text goes, up to its end or to the loop's."""
        if self._sentences:
            self._sentences.removed = [removal for removal in self._sentences.removed if removal.start < cut_at]
        self._loops_removed.append(Removal(cut_at, cut_at, "loop", onset))
        if self.config.on_loop == "cut":
            self.ended = True
            self._unpassed = self._certain = ""
        else:
            self._skipping = True

    def _drop_loop(self, end: int) -> None:
        span = self._loops_removed[-1]
        if end > span.start:
            self._loops_removed[-1] = replace(span, end=end)
        else:
            self._loops_removed.pop()

    def _on_loop_end(self, at: int) -> None:
        if not self._skipping:
            return
        self._skipping = False
        self._drop_loop(at)
        self._unpassed = self._unpassed[at - self._passed :]
        self._passed = at
        if self._sentences:
            self._sentences.restart(at)

    def _pass(self, until: int) -> str:
        """Passes on what was read up to the offset `until`."""
        size = until - self._passed
        if size <= 0:
            return ""
        text, self._unpassed = self._unpassed[:size], self._unpassed[size:]
        self._passed = until
        if self._sentences is None:
            return text
        texts = self._sentences.feed(text)
        if isinstance(texts, tuple) and self._follower is None and len(self._sentences.removed) == self._num_removals:
            text = "".join(texts)  # nearly always: nothing is removed, and was not lately
            if self._follows:
                self._num_stay += len(text)
                self._recent.append(text)
                if self._num_stay - self._recent_from > 2 * self._reach:
                    self._shorten_recent()
            return text
        return "".join(self._follow(texts))

    def _follow(self, texts: Iterable[str]) -> list[str]:
        """What can be given out of the text that stays."""
        if self._sentences is None or not self._follows:
            return list(texts)
        given = []
        for text in texts:
            if self._follower or len(self._sentences.removed) > self._num_removals:
                text = self._follow_on(text, self._sentences)
            else:
                self._num_stay += len(text)
                self._recent.append(text)
            given.append(text)
            if self.ended:
                break
        if self._num_stay - self._recent_from > 2 * self._reach:
            self._shorten_recent()
        return given

    def _follow_on(self, text: str, sentences: SentenceFilter) -> str:
        """What the second detector lets go of, `text` included."""
        if len(sentences.removed) > self._num_removals:
            self._num_removals = len(sentences.removed)
            self._follow_until = self._num_stay + self._reach
            if self._follower is None:
                self._follower = LoopDetector(self.config.loop, self._allowed_copies)
                self._shorten_recent()
                self._followed_from = self._recent_from
                self._follower.feed(self._recent[0])
        given = []
        while text and self._follower and not self.ended:
            size = min(len(text), self._follow_until - self._num_stay)
            piece, text = text[:size], text[size:]
            self._num_stay += size
            self._recent.append(piece)
            self._certain += piece
            self._follower.push(piece)
            given.append(self._release(self._follower))
            if self._num_stay == self._follow_until:
                if self._certain:
                    self._follow_until += BLOCK_CHARS
                else:
                    self._follower = None
        if not self.ended:
            self._num_stay += len(text)
            self._recent.append(text)
            given.append(text)
        return "".join(given)

    def _shorten_recent(self) -> None:
        self._recent = ["".join(self._recent)[-self._reach :]]
        self._recent_from = self._num_stay - len(self._recent[0])

    def _release(self, follower: LoopDetector) -> str:
        """What the follower does not take for a loop's second copy; at a loop, the last that is given out."""
        while change := follower.next_change():
            if isinstance(change, LoopEvent):
                given = self._certain[: self._num_releasable(_cut_at(change, follower))]
                onset = self._to_input(self._followed_from + change.onset)
                detected_at = self._to_input(self._followed_from + change.detected_at - 1) + 1
                self.loop = replace(change, onset=onset, detected_at=detected_at)
                stays = self._num_stay - len(self._certain) + len(given)
                self._begin_drop(self._to_input(stays - 1) + 1, onset)
                return given
        size = self._num_releasable(follower.held_from)
        given, self._certain = self._certain[:size], self._certain[size:]
        return given

    def _num_releasable(self, held_from: int) -> int:
        """How much of what is certain stands before the follower's offset `held_from`."""
        return max(0, self._followed_from + held_from - (self._num_stay - len(self._certain)))

    def _finish_following(self) -> str:
        """No more text will stay: gives out what is certain."""
        if self._follower is None:
            return ""
        self._follower.flush()
        given = self._release(self._follower)
        if not self.ended:
            given, self._certain = given + self._certain, ""
        return given

    def _to_input(self, offset: int) -> int:
        """The offset in what went in of a character of what stays."""
        for removal in self._sentences.removed if self._sentences else ():
            if removal.start > offset:
                break
            offset += removal.end - removal.start
        return offset


def _cut_at(event: LoopEvent, detector: LoopDetector) -> int:
    """Where a loop's second copy begins, or, of it, what is held."""
    return min(max(detector.held_from, event.onset + event.period), event.detected_at)
