"""Removes sentences, lines and list items that repeat, word for word, what was kept before.

    text -> Segmenter -> RepeatJudge -> kept text

Text that may turn out to be a repeat is held; all other text is released at once. Decisions rest on
the text that is kept: a removed segment leaves no trace in the segmenter.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from dedup.config import FilterConfig
from dedup.text.context import Context
from dedup.text.repeats import RepeatJudge
from dedup.text.seen import Seen, SeenSentences
from dedup.text.segmenter import Kind, Mark, Segment, Segmenter, is_terminated, segments_of
from dedup.text.words import key_prefix, sentence_key, utf8_size

RemovalKind = Literal["sentence", "line", "item", "quote", "loop"]

_REMOVABLE: Final = ("sentence", "line", "item", "quote")
_LINES: Final = ("code", "table")  # never removed
# Marks of which a text has pairs, the second one another mark than the first or the same.
_PAIRS: Final = ("()", "[]", "（）", "【】", "“”", "「」", "『』", "《》")
_TWICE: Final = ('"', "**", "`")
# Lines that are remembered, and how long one must be: if a loop is found, its line that has begun
# must not have been released.
_MAX_LINES: Final = 64
_LEAST_LINE: Final = 4
# Characters of earlier turns that are remembered: more would delay the first token by seconds.
_MAX_HISTORY_CHARS: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Removal:
    """Characters [start, end) of the input that were removed.

    kind: what was removed. first_start: offset of the text that they repeat; below 0 if that is in
    an earlier turn.
    """

    start: int
    end: int
    kind: RemovalKind
    first_start: int


class _Pending:
    """The pending segment and the separator before it, with what was released of both.

    start: offset of the segment in the input. num_released: characters of it that were released.
    separator_at: offset of the separator. begun: offset up to which all was released elsewhere.
    """

    def __init__(self, start: int) -> None:
        self.text = ""
        self.start = start
        self.num_released = 0
        self.separator = ""
        self.separator_at = self.begun = 0
        self._separator_released = False

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def held_chars(self) -> int:
        held = len(self.text) - self.num_released
        if not self._separator_released:
            held += len(self.separator)
        return held

    def release(self, num_chars: int) -> str:
        """Return the separator and the first `num_chars` characters, without what was released."""
        text = self.text[self.num_released : num_chars]
        if num_chars > self.num_released:
            self.num_released = num_chars
        if not self._separator_released:
            text = self.separator[max(0, self.begun - self.separator_at) :] + text
            self._separator_released = True
        return text

    def advance(self, num_chars: int) -> None:
        """Advance past a segment and its separator."""
        self.text = self.text[num_chars:]
        self.start += num_chars
        self.num_released, self._separator_released = max(0, self.begun - self.start), False

    def separate(self, at: int, separator: str) -> None:
        """Set the separator before the segment."""
        self.separator_at, self.separator = at, separator

    def drop(self) -> None:
        """Drop the segment and its separator: the input ends before them."""
        if self.separator:
            self.start = self.separator_at
        self.text = self.separator = ""


@dataclass(frozen=True, slots=True)
class _Head:
    """A repeated first sentence of a list item, held until the item ends.

    It is removed if the rest of the item is. before, mark: the context and the segmenter's state to
    return to.
    """

    segment: Segment
    start: int
    first_start: int
    seen: Seen
    separator_at: int
    separator: str
    before: Context
    mark: Mark

    @property
    def end(self) -> int:
        return self.start + len(self.segment.text)


class SentenceFilter:
    """A filter of repeated sentences. Offsets are those in the input.

    Args:
        config: the policy and its limits.
        removes: whether repeats are removed; if not, they are counted as flagged.
        history: earlier texts of the conversation.
        allowed_copies: a function that returns how many copies of a sentence are legitimate. A
            sentence with any is never removed.

    Attributes:
        removed: the removed spans, in order.
        num_kept, num_removed, num_flagged: sentences.
    """

    def __init__(
        self,
        config: FilterConfig,
        removes: bool,
        history: Iterable[str] = (),
        allowed_copies: Callable[[str], int] | None = None,
    ) -> None:
        self.removed: list[Removal] = []
        self.num_kept = self.num_removed = self.num_flagged = 0
        self._max_segment_chars = config.max_segment_chars
        self._removes = removes
        self._allowed_copies = allowed_copies
        self._segmenter = Segmenter(config.max_segment_chars)
        similarity = config.similarity if config.policy == "strict" else 1.0
        self._judge = RepeatJudge(SeenSentences(config.max_sentences, similarity))
        self._lines = SeenSentences(_MAX_LINES)
        self._pending = _Pending(0)
        self._head: _Head | None = None
        self._lacks_beginning = False  # that of a quotation was removed, and not its end so far
        self._flushed = False
        self._remember(history)

    @property
    def held_chars(self) -> int:
        held = self._pending.held_chars
        if self._head:
            held += len(self._head.separator) + len(self._head.segment.text)
        return held

    @property
    def end(self) -> int:
        """The offset after the last character that was fed and not dropped by `cut`."""
        return self._pending.end

    def feed(self, text: str) -> Iterable[str]:
        """Yield the kept text.

        A piece that follows a removal is yielded only after the removal is recorded in `removed`.

        Returns:
            An iterator, to be exhausted; or a tuple of one piece if the delta only continues a
            sentence that is kept, as most deltas do.
        """
        self._pending.text += text
        self._segmenter.feed(text)
        segment = self._segmenter.take()
        if segment is None and self._pending.num_released and self._head is None:
            return (self._pending.release(self._segmenter.certain_chars),)
        return self._feed(segment)

    def flush(self) -> Iterator[str]:
        """Yield the rest of the kept text, now that the text has ended."""
        self._flushed = True
        self._segmenter.flush()
        yield from self._judge_all(self._segmenter.take())
        if self._head:
            self._remove_head(self._head)
        yield self._pending.release(len(self._pending.text))

    def cut(self, second_copy: int) -> Iterator[str]:
        """Yield the rest of the kept text, now that a loop ends the text.

        Drops what is held of the loop's second copy, and an unfinished sentence that begins as an
        earlier one does. `end` is then where the kept text ends.

        Args:
            second_copy: offset of the loop's second copy.
        """
        pending, head = self._pending, self._head
        in_copy = pending.start >= second_copy
        if (
            not pending.text
            or pending.num_released
            or not self._could_repeat()
            or not (in_copy or self._begins_again())
        ):
            yield from self.flush()
            return
        pending.drop()
        if head and head.start >= second_copy:
            pending.start = head.separator_at if head.separator else head.start
            self._head = None
        elif head:
            yield self._keep_head()

    def begin(self, text: str) -> Iterator[str]:
        """Yield text that was released as it came. Its last sentence may go on in what is fed next.

        Its sentences count, but it is not edited.
        """
        removes, self._removes = self._removes, False
        yield from self.feed(text)
        yield self._pending.release(len(self._pending.text))
        self._pending.begun = self.end
        self._removes = removes
        self.num_kept = self.num_flagged = 0

    def resume(self, at: int) -> None:
        """Go on from the offset `at` on as with a new text. Earlier sentences still count."""
        self._segmenter = Segmenter(self._max_segment_chars)
        self._pending = _Pending(at)
        self._head, self._flushed = None, False

    def _feed(self, segment: Segment | None) -> Iterator[str]:
        """Yield what can be kept, from `segment` on."""
        yield from self._judge_all(segment)
        pending = self._pending
        if pending.text and (pending.num_released or not self._could_repeat()):
            yield self._keep_head()
            yield pending.release(self._segmenter.certain_chars)

    def _judge_all(self, segment: Segment | None) -> Iterator[str]:
        """Yield what is kept of `segment` and of those that the segmenter has after it."""
        pending = self._pending
        while segment:
            start, size = pending.start, len(segment.text) + len(segment.separator)
            key = _key_of(segment)
            earlier = self._judge.seen.match(key, segment.scope) if key else None
            first_start = self._first_start(segment, key, earlier)
            if first_start is None or not self._removes:
                if self._head:
                    yield self._keep_head()
                yield pending.release(len(segment.text))
                self._keep(segment, key, earlier, first_start is not None)
            elif segment.kind == "item" and not segment.whole:
                self._hold_head(segment, key, first_start)
            else:
                self._remove(segment, key, start, first_start)
            pending.advance(size)
            segment = self._segmenter.take()

    def _first_start(self, segment: Segment, key: str, earlier: Seen | None) -> int | None:
        """Return the offset of what the pending segment repeats; None if it is to be kept."""
        pending, judge = self._pending, self._judge
        if not key or not (earlier or self._flushed) or (pending.num_released and self._removes):
            return None
        size = len(segment.text) + len(segment.separator)
        first_start = judge.first_start(
            segment,
            key,
            earlier,
            in_item=self._head is None and judge.context.is_in_item(pending.separator),
            at_end=self._flushed and size == len(pending.text),
        )
        if first_start is None or self._ends_quotation(segment):
            return None
        if self._allowed_copies and self._allowed_copies(segment.text):
            return None
        return first_start

    def _ends_quotation(self, segment: Segment) -> bool:
        """Return whether a sentence ends a quotation or bracket that began in text that is kept."""
        if self._lacks_beginning or segment.kind != "sentence":
            return False
        return _half_of_pair(segment.text) < 0

    def _keep(self, segment: Segment, key: str, earlier: Seen | None, is_flagged: bool) -> None:
        """Count and remember a segment that is kept."""
        if self._lacks_beginning and _half_of_pair(segment.text) < 0:
            self._lacks_beginning = False
        self.num_flagged += is_flagged
        # What had begun in text that was released already has been counted there.
        self.num_kept += bool(key) and self._pending.start >= self._pending.begun
        seen = self._advance(segment, key, utf8_size(key) if earlier else 0)
        if key and not is_flagged:
            self._judge.seen.add(seen)
        if segment.kind in _LINES and len(line := segment.text.strip()) >= _LEAST_LINE:
            self._lines.add(Seen(line, seen.start))

    def _advance(self, segment: Segment, key: str, repeated: int) -> Seen:
        """Move the context past a segment that is kept; return what is to be remembered of it.

        Args:
            repeated: bytes of the segment if it is a repeat, else 0.
        """
        pending, judge = self._pending, self._judge
        start, before = pending.start, judge.context
        now = before.after(segment, key, pending.separator, repeated)
        judge.context = now
        judge.last_removed = ""
        pending.separate(start + len(segment.text), segment.separator)
        item, marker = (now.item, now.marker) if now.in_item else (0, "")
        return Seen(
            key, start, segment.scope, before.key, before.chars, item, marker, before.section
        )

    def _remove(self, segment: Segment, key: str, start: int, first_start: int) -> None:
        """Remove a segment and the weaker of the two separators around it.

        The stronger one still separates the segments before and after it.
        """
        pending = self._pending
        at, separator = pending.separator_at, pending.separator
        end = start + len(segment.text)
        stays = start == 0 or _is_stronger(separator, segment.separator)
        if separator and not segment.separator:  # between 。 and a word there may be none
            stays = stays or len(segment.text) < len(pending.text)
        if at < pending.begun:  # some of it is released
            stays = stays or not _is_stronger(segment.separator, separator)
        if stays:
            self._record(start, end + len(segment.separator), segment.kind, first_start)
        else:
            pending.separate(end, segment.separator)
            if at + len(separator) == start:
                self._record(at, end, segment.kind, first_start)
            else:
                self._record(at, at + len(separator), segment.kind, first_start)
                self._record(start, end, segment.kind, first_start)
        self.num_removed += 1
        if half := _half_of_pair(segment.text):
            self._lacks_beginning = half > 0
        self._judge.last_removed = key
        self._segmenter.rollback(pending.separator)
        if self._head and "\n" in segment.separator:
            self._remove_head(self._head)

    def _hold_head(self, segment: Segment, key: str, first_start: int) -> None:
        """Hold the first sentence of an item, which is a repeat."""
        before, pending = self._judge.context, self._pending
        start, at, separator = pending.start, pending.separator_at, pending.separator
        seen = self._advance(segment, key, utf8_size(key))
        self._head = _Head(
            segment, start, first_start, seen, at, separator, before, self._segmenter.mark()
        )

    def _keep_head(self) -> str:
        """Return the held first sentence, as its item is not all repeats; empty if none is held."""
        head, self._head = self._head, None
        if head is None:
            return ""
        self.num_kept += 1
        self._judge.seen.add(head.seen)
        return head.separator + head.segment.text

    def _remove_head(self, head: _Head) -> None:
        """Remove the held first sentence: the rest of its item was removed."""
        pending = self._pending
        at, first_start = head.separator_at, head.first_start
        if head.start == 0 or _is_stronger(head.separator, pending.separator):
            rest_end = pending.separator_at + len(pending.separator)
            self._record(head.start, head.end, "item", first_start)
            self._record(pending.separator_at, rest_end, "item", first_start)
            pending.separate(at, head.separator)
        else:
            self._record(at, at + len(head.separator), "item", first_start)
            self._record(head.start, head.end, "item", first_start)
        self.num_removed += 1
        self._judge.context = head.before
        self._segmenter.rollback(pending.separator, head.mark)
        self._head = None

    def _record(self, start: int, end: int, kind: Kind, first_start: int) -> None:
        """Insert a removal in order, near the end. One of nothing is not recorded."""
        start = max(start, self._pending.begun)
        if start < end:
            removal = Removal(start, end, kind, first_start)  # type: ignore[arg-type]
            bisect.insort(self.removed, removal, key=lambda removal: removal.start)

    def _begins_again(self) -> bool:
        """Return whether the pending text is the beginning of an earlier sentence."""
        text = self._pending.text
        if not text.strip():
            return True
        if "\n" in text:
            return False
        if self._segmenter.peek()[0] in _LINES:
            return self._lines.could_match(text.strip())
        if is_terminated(text.rstrip()):
            return False
        key = key_prefix(self._segmenter.peek()[1])
        return next(self._judge.seen.beginning_with(key), None) is not None

    def _could_repeat(self) -> bool:
        """Return whether the pending segment may turn out to be a repeat."""
        if not self._removes:
            return False
        kind, content = self._segmenter.peek()
        if kind is None:
            return True
        if kind in _LINES:
            return self._lines.could_match(self._pending.text.strip())
        return kind in _REMOVABLE and self._judge.seen.could_match(key_prefix(content))

    def _remember(self, history: Iterable[str]) -> None:
        """Remember the sentences of the last `_MAX_HISTORY_CHARS` characters of earlier texts."""
        room = _MAX_HISTORY_CHARS
        recent = []
        for text in reversed(list(history)):
            recent.append(text[max(0, len(text) - room) :])
            room -= len(recent[-1])
        for text in reversed(recent):
            for segment in segments_of(text, self._max_segment_chars):
                if key := _key_of(segment):
                    self._judge.seen.add(Seen(key, -1, segment.scope))


def _key_of(segment: Segment) -> str:
    """Return the key of a segment without its marker; empty for a kind that is never removed."""
    if segment.kind not in _REMOVABLE:
        return ""
    return sentence_key(segment.text[segment.marker_chars :])


def _half_of_pair(text: str) -> int:
    """Return 1 if a text begins a quotation or bracket that it does not end, -1 if it ends one, or 0."""
    for begin, end in _PAIRS:
        if text.count(begin) != text.count(end):
            return 1 if text.count(begin) > text.count(end) else -1
    for mark in _TWICE:
        if text.count(mark) % 2:
            return -1 if text.endswith(mark) else 1
    return 0


def _is_stronger(separator: str, other: str) -> bool:
    """Return whether `separator` separates more than `other`: a blank line, a line's end.

    A separator that indents a line stays with it.
    """
    indented = "\n" in other and other[-1] != "\n"
    return not indented and min(2, separator.count("\n")) > min(2, other.count("\n"))
