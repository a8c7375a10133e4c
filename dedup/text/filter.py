"""The output filter: text goes in as the model generates it and comes out as the reader gets it.

    delta -> LoopDetector -> SentenceFilter -> Follower -> delta

The stages hold what may turn out to be the beginning of a loop's second copy, or of a repeated sentence, and let go of all else at
once. Every decision is taken at an offset in the text, never at a delta's end, so how the text was cut into deltas cannot matter.

    reading -> reading      text that is no loop is passed on
    reading -> cut          at a loop; what is fed then is dropped (`on_loop="cut"`)
    reading -> skipping     at a loop; what is fed is dropped until the loop ends (`on_loop="skip"`)
    skipping -> reading     at the loop's end
    cut -> reading          `resume`
    any -> flushed          `flush`
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal

from dedup.config import FilterConfig
from dedup.text.follower import Follower
from dedup.text.loops import LoopDetector, LoopEvent
from dedup.text.metrics import RepetitionMeter
from dedup.text.prompt import NOTHING_REQUESTED, read_prompt
from dedup.text.sentences import BLOCK_CHARS, Removal, SentenceFilter

__all__ = ["Removal", "RepetitionFilter"]

Stage = Literal["reading", "skipping", "cut", "flushed"]
_CUTTING: Final = ("loops", "balanced", "strict")


class _Unpassed:
    """The text that was fed but not passed on: it may be a loop's second copy. start: its offset in the input."""

    def __init__(self) -> None:
        self.text = ""
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def take(self, until: int) -> str:
        """Return the text up to the offset `until`, which is passed on or dropped."""
        size = until - self.start
        if size <= 0:
            return ""
        text, self.text = self.text[:size], self.text[size:]
        self.start += len(text)
        return text

    def drop(self, until: int) -> None:
        """Go on at the offset `until`."""
        self.text = self.text[until - self.start :]
        self.start = until


class RepetitionFilter:
    """Filters one text. `feed` its deltas, `flush` at its end; what they return, joined, is the text less the spans in `removed`.

    Args:
        history: earlier texts of the conversation, for `strict`; of long ones the last 262,144 characters count.
        prompt: the request. The repetition it asks for, or holds itself, is allowed so often; see `requested`.
    """

    def __init__(
        self,
        config: FilterConfig | None = None,
        *,
        history: Iterable[str] = (),
        prompt: str | None = None,
    ) -> None:
        self.config = config or FilterConfig()
        self.loop: LoopEvent | None = None
        self.chars_in = self.chars_out = 0
        self.ended = False  # cut at a loop: what is fed from then on is dropped
        policy = self.config.policy
        self.requested = read_prompt(prompt) if prompt and policy != "off" else NOTHING_REQUESTED
        allowed: Callable[[str], int] | None = (
            self.requested.allowed_copies if self.requested.copies else None
        )
        self._cuts = policy in _CUTTING
        self._stage: Stage = "reading"
        self._meter = RepetitionMeter()
        self._detector = LoopDetector(self.config.loop, allowed)
        self._unpassed = _Unpassed()
        self._sentences: SentenceFilter | None = None
        self._follower: Follower | None = None
        if policy in ("watch", "balanced", "strict") and self.config.edit:
            self._sentences = SentenceFilter(
                self.config, self._cuts, history if policy == "strict" else (), allowed
            )
            if self._cuts and self.config.on_loop == "cut":
                self._follower = Follower(self.config.loop, allowed)
        self._num_followed = 0  # removals
        self._loops_removed: list[Removal] = []

    @property
    def removed(self) -> list[Removal]:
        """The spans that were not given out, in order."""
        spans = self._sentences.removed if self._sentences else []
        if not self._loops_removed:
            return list(spans)
        return sorted([*spans, *self._loops_removed], key=lambda removal: removal.start)

    @property
    def held_chars(self) -> int:
        """Characters fed that were neither given out nor removed yet."""
        if not self._cuts or self._stage == "cut":
            return 0
        held = self._follower.held_chars if self._follower else 0
        held += self._sentences.held_chars if self._sentences else 0
        return held if self._stage == "skipping" else held + len(self._unpassed.text)

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
        """Take in a delta; return the text that can be given to the reader now.

        Raises:
            ValueError: after `flush`.
        """
        if self._stage == "flushed":
            raise ValueError("feed after flush: a RepetitionFilter filters one text")
        size = len(delta)
        self.chars_in += size
        if self.config.policy == "off":
            self.chars_out += size
            return delta
        self._meter.feed(delta)
        given = ""
        if size <= BLOCK_CHARS and not self.ended:
            given = self._read(delta)
        else:
            for at in range(0, size, BLOCK_CHARS):
                if self.ended:
                    break
                given += self._read(delta[at : at + BLOCK_CHARS])
        if self.ended:
            self._end_drop(self.chars_in)
        return self._give(given, delta)

    def resume(self) -> None:
        """Go on behind a cut: the next text comes in the loop's stead, and another loop will be another `loop`. What was said counts.

        Raises:
            ValueError: where nothing was cut.
        """
        if self._stage != "cut":
            raise ValueError("resume without a cut: the text goes on as it is")
        self._stage, self.ended, self.loop = "reading", False, None
        self._detector.start_over()
        self._unpassed.start = self.chars_in
        if self._follower:
            self._follower.stop()
        if self._sentences:
            self._sentences.restart(self.chars_in)
            self._num_followed = len(self._sentences.removed)

    def flush(self) -> str:
        """Return the rest of the text; nothing when called again."""
        if self._stage == "flushed":
            return ""
        if self.config.policy != "off":
            self._meter.flush()
        given = ""
        if self.config.policy != "off" and not self.ended:
            self._detector.flush()
            given = self._advance()
            if self._stage == "reading":
                given += self._pass(self.chars_in)
                if self._sentences and not self.ended:
                    given += self._follow(self._sentences.flush(), self._sentences)
            if not self.ended:
                given += self._end_following()
            if self.ended or self._stage == "skipping":
                self._end_drop(self.chars_in)
        self._stage = "flushed"
        return self._give(given, "")

    def metrics(self) -> dict[str, float]:
        """Return numbers about the input: repeated 4-grams (`rep_4`), characters and sentences by what became of them."""
        return {
            "rep_4": self._meter.rep,
            "chars_in": self.chars_in,
            "chars_out": self.chars_out,
            "removed_chars": sum(removal.end - removal.start for removal in self.removed),
            "sentences_kept": self.sentences_kept,
            "sentences_removed": self.sentences_removed,
            "sentences_flagged": self.sentences_flagged,
            "loops": int(self.loop is not None),
        }

    def _give(self, given: str, delta: str) -> str:
        text = given if self._cuts else delta
        self.chars_out += len(text)
        return text

    def _read(self, text: str) -> str:
        self._unpassed.text += text
        self._detector.push(text)
        return self._advance()

    def _advance(self) -> str:
        """Look at what was read; return what of it is no loop."""
        given = ""
        while change := self._detector.next_change():
            if isinstance(change, LoopEvent):
                given += self._on_loop(change)
                if self.ended:
                    return given
            elif self._stage == "skipping":
                self._on_loop_end(change.at)
        if self._stage == "skipping":
            self._unpassed.drop(self._detector.looked_at)
            return given
        return given + self._pass(self._detector.held_from if self._cuts else self._unpassed.end)

    def _on_loop(self, event: LoopEvent) -> str:
        if not self._cuts:
            self.loop = self.loop or event
            return ""
        cut_at = max(self._unpassed.start, self._detector.cut_at(event))
        given = self._pass(cut_at)
        if self._sentences and not self.ended:
            given += self._follow(self._sentences.cut(event.onset + event.period), self._sentences)
            cut_at = self._sentences.end
        if not self.ended:
            given += self._end_following()
        if not self.ended:
            self.loop = self.loop or event
            self._begin_drop(cut_at, event.onset)
        return given

    def _on_loop_end(self, at: int) -> None:
        self._stage = "reading"
        self._end_drop(at)
        self._unpassed.drop(at)
        if self._sentences:
            self._sentences.restart(at)

    def _begin_drop(self, cut_at: int, onset: int) -> None:
        """Drop the text from the offset `cut_at` on, up to its end or to the loop's."""
        if self._sentences:
            self._sentences.removed = [
                removal for removal in self._sentences.removed if removal.start < cut_at
            ]
        self._loops_removed.append(Removal(cut_at, cut_at, "loop", onset))
        if self.config.on_loop == "skip":
            self._stage = "skipping"
            return
        self._stage, self.ended = "cut", True
        self._unpassed.text = ""

    def _end_drop(self, end: int) -> None:
        span = self._loops_removed[-1]
        if end > span.start:
            self._loops_removed[-1] = replace(span, end=end)
        else:
            self._loops_removed.pop()

    def _pass(self, until: int) -> str:
        """Pass on what was read up to the offset `until`; return what of it stays."""
        text = self._unpassed.take(until)
        sentences, follower = self._sentences, self._follower
        if not text or sentences is None:
            return text
        texts = sentences.feed(text)
        if (
            isinstance(texts, tuple)
            and (follower is None or follower.is_idle)
            and len(sentences.removed) == self._num_followed
        ):
            text = "".join(texts)  # nearly always: nothing is removed, and was not lately
            if follower:
                follower.pass_by(text)
            return text
        return self._follow(texts, sentences)

    def _follow(self, texts: Iterable[str], sentences: SentenceFilter) -> str:
        """Return what can be given out of the text that stays."""
        follower = self._follower
        if follower is None:
            return "".join(texts)
        given = []
        for text in texts:
            if len(sentences.removed) > self._num_followed:
                self._num_followed = len(sentences.removed)
                follower.begin()
            given.append(follower.feed(text))
            if follower.loop:
                self._cut_followed(follower, follower.loop)
                break
        return "".join(given)

    def _end_following(self) -> str:
        """Return what is held of the text that stays, for no more of it will come."""
        follower = self._follower
        if follower is None:
            return ""
        given = follower.flush()
        if follower.loop:
            self._cut_followed(follower, follower.loop)
        return given

    def _cut_followed(self, follower: Follower, event: LoopEvent) -> None:
        """Cut the text at a loop that removals brought together."""
        onset, detected_at = self._to_input(event.onset), self._to_input(event.detected_at - 1) + 1
        self.loop = replace(event, onset=onset, detected_at=detected_at)
        self._begin_drop(self._to_input(follower.given - 1) + 1, onset)

    def _to_input(self, offset: int) -> int:
        """Return the offset in the input of a character of what stays."""
        for removal in self._sentences.removed if self._sentences else ():
            if removal.start > offset:
                break
            offset += removal.end - removal.start
        return offset
