"""The editor of a text: removes repeated sentences, and finds the loops that removals join.

text -> SentenceFilter -> Follower -> text
"""

from collections.abc import Iterable
from dataclasses import replace

from dedup.text.follower import Follower
from dedup.text.loops import LoopEvent
from dedup.text.sentences import SentenceFilter


class Editor:
    """An editor of one stream. Once it has set `loop`, it is fed no more text until `resume`.

    Args:
        sentences: the filter that removes sentences, or only flags them.
        follower: the second look for loops; None if loops do not end the text.

    Attributes:
        loop: the loop that removals joined, in offsets of the input.
        cut_offset: where the text is to be cut at that loop.
    """

    def __init__(self, sentences: SentenceFilter, follower: Follower | None) -> None:
        self.sentences = sentences
        self.loop: LoopEvent | None = None
        self.cut_offset = 0
        self._follower = follower
        self._num_followed = 0  # removals that the follower knows of

    @property
    def held_chars(self) -> int:
        held = self.sentences.held_chars
        if self._follower:
            held += self._follower.held_chars
        return held

    def feed(self, text: str) -> str:
        """Feed text; return what can be released."""
        sentences, follower = self.sentences, self._follower
        kept = sentences.feed(text)
        if (
            isinstance(kept, tuple)
            and (follower is None or follower.is_idle)
            and len(sentences.removed) == self._num_followed
        ):
            text = "".join(kept)  # nearly always: nothing is removed, and was not lately
            if follower:
                follower.skip(text)
            return text
        return self._follow(kept)

    def flush(self) -> str:
        """Return the rest of the text, now that it has ended."""
        return self._finish(self.sentences.flush())

    def cut(self, second_copy: int) -> str:
        """Return the rest of the text, now that a loop ends it. See `SentenceFilter.cut`."""
        return self._finish(self.sentences.cut(second_copy))

    def resume(self, at: int) -> None:
        """Go on after a cut with the text from the input offset `at` on."""
        self.loop = None
        self.sentences.resume(at)
        self._num_followed = len(self.sentences.removed)
        if self._follower:
            self._follower.reset()

    def begin(self, text: str) -> None:
        """Read text that was released as it came. See `SentenceFilter.begin`."""
        self._follow(self.sentences.begin(text))

    def truncate(self, offset: int) -> None:
        """Forget the removals from the input offset `offset` on: a cut removes all of that."""
        removed = self.sentences.removed
        self.sentences.removed = [removal for removal in removed if removal.start < offset]

    def _finish(self, kept: Iterable[str]) -> str:
        """Return the last of the kept text."""
        out = self._follow(kept)
        follower = self._follower
        if follower and self.loop is None:
            out += follower.flush()
            self._check(follower)
        return out

    def _follow(self, kept: Iterable[str]) -> str:
        """Return what can be released of the kept text."""
        follower = self._follower
        if follower is None:
            return "".join(kept)
        released = []
        for text in kept:
            if len(self.sentences.removed) > self._num_followed:
                self._num_followed = len(self.sentences.removed)
                follower.begin()
            released.append(follower.feed(text))
            self._check(follower)
            if self.loop:
                break
        return "".join(released)

    def _check(self, follower: Follower) -> None:
        """Set `loop` if the follower has found one."""
        event = follower.loop
        if event is None:
            return
        self.loop = replace(
            event,
            onset=self._to_input(event.onset),
            detected_at=self._to_input(event.detected_at - 1) + 1,
        )
        self.cut_offset = self._to_input(follower.num_released - 1) + 1

    def _to_input(self, offset: int) -> int:
        """Return the offset in the input of a character of the kept text."""
        for removal in self.sentences.removed:
            if removal.start > offset:
                break
            offset += removal.end - removal.start
        return offset
