"""The output filter: deltas of a completion go in, and come out without their repetition.

    delta -> LoopScanner -> Editor (SentenceFilter -> Follower) -> delta

Each step holds what may turn out to be the beginning of a loop's second copy, or of a repeated
sentence, and releases all other text at once. Decisions are taken at offsets in the text, never at
the end of a delta, so that the result does not depend on how the text is cut into deltas. Stages:

    reading -> reading      text outside loops is passed on
    reading -> cut          at a loop; later text is dropped (`on_loop="cut"`)
    reading -> skipping     at a loop; text is dropped until the loop ends (`on_loop="skip"`)
    skipping -> reading     at the loop's end
    cut -> reading          `resume`
    any -> flushed          `flush`
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal

from dedup.config import FilterConfig
from dedup.text.editor import Editor
from dedup.text.follower import Follower
from dedup.text.loops import LoopEvent, LoopScanner
from dedup.text.metrics import RepetitionMeter
from dedup.text.prompt import NOTHING_REQUESTED, read_prompt
from dedup.text.sentences import Removal, SentenceFilter

__all__ = ["Removal", "RepetitionFilter"]

Stage = Literal["reading", "skipping", "cut", "flushed"]
_CUTTING: Final = ("loops", "balanced", "strict")
_BLOCK_CHARS: Final = 2048  # a long delta is read in blocks, for time linear in its length


class _Held:
    """Text that was fed but not passed on, as it may be a loop's second copy. start: its offset."""

    def __init__(self) -> None:
        self.text = ""
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def release(self, until: int) -> str:
        """Return the text up to the offset `until`."""
        size = until - self.start
        if size <= 0:
            return ""
        text, self.text = self.text[:size], self.text[size:]
        self.start += len(text)
        return text

    def drop(self, until: int) -> None:
        """Drop the text up to the offset `until`."""
        self.text = self.text[until - self.start :]
        self.start = until


class RepetitionFilter:
    """A filter of one text.

    `feed` its deltas, `flush` at its end. The results, joined, are the text without the spans in
    `removed`.

    Args:
        config: the policy and its limits.
        history: earlier texts of the conversation, for the policy `strict`. Their last 262,144
            characters count.
        prompt: the request. Repetition that it asks for, or contains itself, is allowed.
        begun: what of the text has been released already. It counts, is not changed and not
            released again; `chars_in` and offsets count it.

    Raises:
        TypeError: `config` is none.

    Attributes:
        loop: the first loop, in offsets of the input; None if there is none.
        ended: True after a cut at a loop: text fed later is dropped.
        chars_in, chars_out: characters fed, and released.
        requested: the repetition that the prompt allows.
    """

    def __init__(
        self,
        config: FilterConfig | None = None,
        *,
        history: Iterable[str] = (),
        prompt: str | None = None,
        begun: str = "",
    ) -> None:
        if config is not None and not isinstance(config, FilterConfig):
            raise TypeError(
                f"config must be a FilterConfig, got {config!r}:"
                ' for a policy, RepetitionFilter(FilterConfig(policy="strict"))'
            )
        self.config = config or FilterConfig()
        self.loop: LoopEvent | None = None
        self.ended = False
        self.chars_in = self.chars_out = 0
        policy = self.config.policy
        self.requested = NOTHING_REQUESTED
        if prompt and policy != "off":
            self.requested = read_prompt(prompt)
        allowed: Callable[[str], int] | None = None
        if self.requested.copies:
            allowed = self.requested.allowed_copies
        self._cuts = policy in _CUTTING
        self._stage: Stage = "reading"
        self._meter = RepetitionMeter()
        self._scanner = LoopScanner(self.config.loop, allowed)
        self._held = _Held()
        self._editor: Editor | None = None
        if policy in ("watch", "balanced", "strict") and self.config.edit:
            earlier = history if policy == "strict" else ()
            sentences = SentenceFilter(self.config, self._cuts, earlier, allowed)
            follower: Follower | None = None
            if self._cuts and self.config.on_loop == "cut":
                follower = Follower(self.config.loop, allowed)
            self._editor = Editor(sentences, follower)
        self._loop_removals: list[Removal] = []
        if begun and policy != "off":
            self._begin(begun)

    @property
    def removed(self) -> list[Removal]:
        """The removed spans, in order."""
        spans = list(self._editor.sentences.removed) if self._editor else []
        if not self._loop_removals:
            return spans
        return sorted([*spans, *self._loop_removals], key=lambda removal: removal.start)

    @property
    def held_chars(self) -> int:
        """Characters fed that were neither released nor removed yet."""
        if not self._cuts or self._stage == "cut":
            return 0
        held = 0
        if self._editor:
            held = self._editor.held_chars
        if self._stage != "skipping":
            held += len(self._held.text)
        return held

    @property
    def sentences_kept(self) -> int:
        return self._editor.sentences.num_kept if self._editor else 0

    @property
    def sentences_removed(self) -> int:
        return self._editor.sentences.num_removed if self._editor else 0

    @property
    def sentences_flagged(self) -> int:
        """Repeated sentences that the policy `watch` kept."""
        return self._editor.sentences.num_flagged if self._editor else 0

    def feed(self, delta: str) -> str:
        """Feed a delta; return the text that can be released now.

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
        out = ""
        if size <= _BLOCK_CHARS and not self.ended:
            out = self._read(delta)
        else:
            for at in range(0, size, _BLOCK_CHARS):
                if self.ended:
                    break
                out += self._read(delta[at : at + _BLOCK_CHARS])
        if self.ended:
            self._end_removal(self.chars_in)
        return self._emit(out, delta)

    def flush(self) -> str:
        """End the text; return the rest of it. A second call returns nothing."""
        if self._stage == "flushed":
            return ""
        out = ""
        if self.config.policy != "off":
            self._meter.flush()
            if not self.ended:
                out = self._finish()
        self._stage = "flushed"
        return self._emit(out, "")

    def metrics(self) -> dict[str, float]:
        """Return metrics of the text so far.

        Returns:
            `rep_4`, the share of repeated 4-grams of the input (0 to 1), and counts of characters,
            sentences and loops.
        """
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

    def _emit(self, text: str, delta: str) -> str:
        """Count and return what is released; the delta itself if the policy changes nothing."""
        if not self._cuts:
            text = delta
        self.chars_out += len(text)
        return text

    def _begin(self, text: str) -> None:
        """Read a text that has been released: whatever repeats in it was let pass."""
        self.chars_in = self.chars_out = len(text)
        for at in range(0, len(text), _BLOCK_CHARS):
            block = text[at : at + _BLOCK_CHARS]
            self._scanner.feed(block)
            while self._scanner.next_change():
                pass
            if self._editor:
                self._editor.begin(block)
        self._scanner.resume()
        self._held.start = len(text)

    def _read(self, text: str) -> str:
        """Feed the scanner; return what can be released."""
        self._held.text += text
        self._scanner.feed(text)
        return self._scan()

    def _finish(self) -> str:
        """Return the rest of a text that was not cut."""
        self._scanner.flush()
        out = self._scan()
        if self._stage == "reading":
            out += self._pass_on(self.chars_in)
            if self._editor and not self.ended:
                out += self._editor.flush()
                self._cut_if_joined(self._editor)
        if self.ended or self._stage == "skipping":
            self._end_removal(self.chars_in)
        return out

    def _scan(self) -> str:
        """Handle the loops in what was fed; return what can be released."""
        out = ""
        while change := self._scanner.next_change():
            if isinstance(change, LoopEvent):
                out += self._enter_loop(change)
                if self.ended:
                    return out
            elif self._stage == "skipping":
                self._leave_loop(change.at)
        if self._stage == "skipping":
            self._held.drop(self._scanner.scanned_chars)
            return out
        until = self._scanner.held_from if self._cuts else self._held.end
        return out + self._pass_on(until)

    def _pass_on(self, until: int) -> str:
        """Pass the text up to the offset `until` on to the editor; return what can be released."""
        text = self._held.release(until)
        editor = self._editor
        if not text or editor is None:
            return text
        out = editor.feed(text)
        self._cut_if_joined(editor)
        return out

    def _enter_loop(self, event: LoopEvent) -> str:
        """Cut or skip at a loop; return the rest of the text before it."""
        if not self._cuts:
            self.loop = self.loop or event
            return ""
        cut_offset = max(self._held.start, self._scanner.cut_offset(event))
        out = self._pass_on(cut_offset)
        editor = self._editor
        if editor and not self.ended:
            out += editor.cut(event.onset + event.period)
            cut_offset = editor.sentences.end
            self._cut_if_joined(editor)
        if not self.ended:
            self.loop = self.loop or event
            self._begin_removal(cut_offset, event.onset)
        return out

    def _leave_loop(self, at: int) -> None:
        """Go on after a skipped loop, which ends at the offset `at`."""
        self._stage = "reading"
        self._end_removal(at)
        self._held.drop(at)
        if self._editor:
            self._editor.resume(at)

    def _cut_if_joined(self, editor: Editor) -> None:
        """Cut the text if removals have joined a loop."""
        if editor.loop:
            self.loop = editor.loop
            self._begin_removal(editor.cut_offset, editor.loop.onset)

    def _begin_removal(self, offset: int, onset: int) -> None:
        """Remove the text from an offset on, up to its end or the loop's."""
        if self._editor:
            self._editor.truncate(offset)
        self._loop_removals.append(Removal(offset, offset, "loop", onset))
        if self.config.on_loop == "skip":
            self._stage = "skipping"
            return
        self._stage, self.ended = "cut", True
        self._held.text = ""

    def _end_removal(self, end: int) -> None:
        """Set the end of the last loop's removal; forget a removal of nothing."""
        span = self._loop_removals[-1]
        if end > span.start:
            self._loop_removals[-1] = replace(span, end=end)
        else:
            self._loop_removals.pop()
