"""Removes sentences, lines and list items that say again, word for word, what stands earlier.

    text -> Segmenter -> SeenSentences -> decision -> text

What may yet turn out to be a repeat is held; all else is let go at once. Decisions rest on what stays: a removed segment leaves no
trace in the segmenter.
"""

import bisect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from dedup.config import FilterConfig
from dedup.text.context import FORMULA, LEADS_IN, NEAR_CHARS, Context
from dedup.text.seen import Seen, SeenSentences
from dedup.text.segmenter import Kind, Mark, Segment, Segmenter, is_terminated
from dedup.text.words import UNSPACED, key_prefix, sentence_key, utf8_size

RemovalKind = Literal["sentence", "line", "item", "quote", "loop"]

_REMOVABLE: Final = ("sentence", "line", "item", "quote")
# What a repeat must weigh, in bytes of UTF-8.
_MIN_ECHO: Final = 20  # right after the same words, or as they followed each other before: "Yes, sir." again is a dialogue
_MIN_ITEM: Final = 16  # in the same list
_MIN_LABELLED_ITEM: Final = 32  # "Source: The Guardian"
_MIN_NEAR: Final = 25  # within a few sentences of one paragraph or item; a line of old Chinese verse has eight characters
_MIN_ALONE: Final = (
    60  # between other words than before, or a passage: a short sentence may be true twice
)
_MIN_SECTION: Final = 100  # under another heading, which may be what it is true of
_MIN_PARAGRAPH: Final = (
    150  # a paragraph of one sentence under a line that is none: what it is true of
)
_MIN_CUT_WORD: Final = 16  # at the text's end, broken off within a word of an earlier sentence
_MIN_CUT_SENTENCE: Final = 32  # ... between two words of it
_MIN_CUT_PASSAGE: Final = 8  # ... where what stands before it was said before, too
_PARALLEL_ITEMS: Final = 3  # side by side
_MAX_HISTORY_CHARS: Final = (
    1 << 18
)  # of earlier turns, the last are remembered: a request must not cost seconds before it begins
BLOCK_CHARS: Final = (
    2048  # a long text is read in blocks, so that nothing costs more than its length
)
_ROW: Final = re.compile(r"^[\"'\d]|[,;{}\[\]()]$")  # of JSON, CSV, code
_LABEL: Final = re.compile(
    r"[^\s:：]{1,20}(?: [^\s:：]{1,20})?[:：]"
)  # who speaks; what an answer is to
_UNSPACED: Final = re.compile(f"[{UNSPACED}]")
_OPEN: Final = re.compile(r"[(（\[][^)）\]]*$")


@dataclass(frozen=True, slots=True)
class Removal:
    """Characters [start, end) of what went in, not given out. first_start: where they were said first (below 0: an earlier turn)."""

    start: int
    end: int
    kind: RemovalKind
    first_start: int


class _Pending:
    """The text that no segment was taken of yet, and the separator before it. Counts what was given out of both.

    Offsets are those in the input.
    """

    def __init__(self, start: int) -> None:
        self.text = ""
        self.start = start
        self.given = 0
        self.separator = ""
        self.separator_at = 0
        self.separator_given = False

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def held_chars(self) -> int:
        return len(self.text) - self.given + (0 if self.separator_given else len(self.separator))

    def give(self, num_chars: int) -> str:
        """Return the separator and the first `num_chars` characters, less what was given before."""
        text = self.text[self.given : num_chars]
        if num_chars > self.given:
            self.given = num_chars
        if not self.separator_given:
            text = self.separator + text
            self.separator_given = True
        return text

    def advance(self, num_chars: int) -> None:
        """Go on behind a segment and its separator."""
        self.text = self.text[num_chars:]
        self.start += num_chars
        self.given, self.separator_given = 0, False

    def separate(self, at: int, separator: str) -> None:
        """Set the separator before the text."""
        self.separator_at, self.separator = at, separator

    def drop(self) -> None:
        """Leave out the text and its separator: the input ends before them."""
        if self.separator:
            self.start = self.separator_at
        self.text = self.separator = ""


@dataclass(frozen=True, slots=True)
class _Head:
    """An item's first sentence, said before: it goes if all of its line does. With what is to be put back if it goes."""

    segment: Segment
    start: int
    first_start: int
    seen: Seen
    separator_at: int
    separator: str
    before: Context
    mark: Mark


class SentenceFilter:
    """Yields what stays of the text it is fed. With `removes` False everything stays, and repeats are counted as flagged.

    Offsets are those in the input, with what `restart` left out. Sentences that `allowed_copies` allows any copies of stay.
    """

    def __init__(
        self,
        config: FilterConfig,
        removes: bool,
        history: Iterable[str] = (),
        allowed_copies: Callable[[str], int] | None = None,
    ) -> None:
        self.removed: list[Removal] = []
        self.kept = self.dropped = self.flagged = 0
        self._max_segment_chars = config.max_segment_chars
        self._removes = removes
        self._allowed_copies = allowed_copies
        self._segmenter = Segmenter(config.max_segment_chars)
        self._seen = SeenSentences(
            config.max_sentences, config.similarity if config.policy == "strict" else 1.0
        )
        self._context = Context()
        self._last_dropped = ""  # key of the segment dropped since the last that stays
        self._pending = _Pending(0)
        self._head: _Head | None = None
        self._flushed = False
        room = _MAX_HISTORY_CHARS
        recent = []
        for text in reversed(list(history)):
            recent.append(text[max(0, len(text) - room) :])
            room -= len(recent[-1])
        for text in reversed(recent):
            self._remember(text)

    @property
    def held_chars(self) -> int:
        head = len(self._head.separator) + len(self._head.segment.text) if self._head else 0
        return head + self._pending.held_chars

    def feed(self, text: str) -> Iterable[str]:
        """Yield the text that stays, in pieces. One that follows a removal is yielded after the removal is recorded in `removed`."""
        self._pending.text += text
        self._segmenter.feed(text)
        segment = self._segmenter.take()
        if (
            segment is None and self._pending.given and self._head is None
        ):  # nearly always: a sentence that stays goes on
            return (self._pending.give(self._segmenter.certain_chars),)
        return self._feed(segment)

    def _feed(self, segment: Segment | None) -> Iterator[str]:
        yield from self._judge_all(segment)
        if self._pending.text and (self._pending.given or not self._could_go()):
            yield self._keep_head()
            yield self._pending.give(self._segmenter.certain_chars)

    def flush(self) -> Iterator[str]:
        """No more text will come."""
        self._flushed = True
        self._segmenter.flush()
        yield from self._judge_all(self._segmenter.take())
        if self._head:
            self._drop_head(self._head)
        yield self._pending.give(len(self._pending.text))

    def cut(self, second_copy: int) -> Iterator[str]:
        """No more text will come, because of a loop. `end` is where what stays ends.

        What is held of the loop's second copy goes, and so does the beginning of a sentence that stands earlier.
        """
        pending, head = self._pending, self._head
        in_copy = pending.start >= second_copy
        if (
            not pending.text
            or pending.given
            or not self._could_go()
            or not (in_copy or self._is_begun_again())
        ):
            yield from self.flush()
            return
        pending.drop()
        if head and head.start >= second_copy:
            pending.start = head.separator_at if head.separator else head.start
            self._head = None
        elif head:
            yield self._keep_head()

    @property
    def end(self) -> int:
        """The offset after the last character that was fed and not dropped by `cut`."""
        return self._pending.end

    def restart(self, at: int) -> None:
        """Goes on with the text from offset `at` on, as if it were a new one; what was said before counts."""
        self._segmenter = Segmenter(self._max_segment_chars)
        self._pending = _Pending(at)
        self._head, self._flushed = None, False

    def _judge_all(self, segment: Segment | None) -> Iterator[str]:
        pending = self._pending
        while segment:
            start, size = pending.start, len(segment.text) + len(segment.separator)
            key = (
                sentence_key(segment.text[segment.marker_chars :])
                if segment.kind in _REMOVABLE
                else ""
            )
            said = self._seen.match(key, segment.scope) if key else None
            first_start = None
            if key and (said or self._flushed) and not (pending.given and self._removes):
                first_start = self._first_start(
                    segment, key, said, is_last=size == len(pending.text)
                )
                if (
                    first_start is not None
                    and self._allowed_copies
                    and self._allowed_copies(segment.text)
                ):
                    first_start = None
            if first_start is not None and self._removes:
                if segment.kind == "item" and not segment.whole:
                    self._hold_head(segment, key, start, first_start)
                else:
                    self._drop(segment, key, start, first_start)
            else:
                if self._head:
                    yield self._keep_head()
                yield pending.give(len(segment.text))
                self.flagged += first_start is not None
                self.kept += bool(key)
                seen = self._pass_by(segment, key, start, utf8_size(key) if said else 0)
                if key and first_start is None:
                    self._seen.add(seen)
            pending.advance(size)
            segment = self._segmenter.take()

    def _pass_by(self, segment: Segment, key: str, start: int, repeated: int) -> Seen:
        """Goes on behind a segment that stays; returns what is to be remembered of it."""
        before, pending = self._context, self._pending
        self._context = now = before.after(segment, key, start, pending.separator, repeated)
        self._last_dropped = ""
        pending.separate(start + len(segment.text), segment.separator)
        item, marker = (now.item, now.marker) if now.in_item else (0, "")
        return Seen(
            key, start, segment.scope, before.key, before.chars, item, marker, before.section
        )

    def _drop(self, segment: Segment, key: str, start: int, first_start: int) -> None:
        """Takes a segment out, and one of the two separators around it: the softer, so that what was apart stays apart."""
        at, space = self._pending.separator_at, self._pending.separator
        end = start + len(segment.text)
        if start == 0 or _parts_harder(space, segment.separator):
            self._record(start, end + len(segment.separator), segment.kind, first_start)
        else:
            self._pending.separate(end, segment.separator)
            if at + len(space) == start:
                self._record(at, end, segment.kind, first_start)
            else:
                self._record(at, at + len(space), segment.kind, first_start)
                self._record(start, end, segment.kind, first_start)
        self.dropped += 1
        self._last_dropped = key
        self._segmenter.forget(self._pending.separator)
        if self._head and "\n" in segment.separator:
            self._drop_head(self._head)

    def _hold_head(self, segment: Segment, key: str, start: int, first_start: int) -> None:
        before, pending = self._context, self._pending
        at, separator = pending.separator_at, pending.separator
        seen = self._pass_by(segment, key, start, utf8_size(key))
        self._head = _Head(
            segment, start, first_start, seen, at, separator, before, self._segmenter.mark()
        )

    def _keep_head(self) -> str:
        """The head after all, for its line says something new."""
        head, self._head = self._head, None
        if head is None:
            return ""
        self.kept += 1
        self._seen.add(head.seen)
        return head.separator + head.segment.text

    def _drop_head(self, head: _Head) -> None:
        """The whole item goes: what followed its head has gone already."""
        pending = self._pending
        at, end = head.separator_at, head.start + len(head.segment.text)
        if head.start == 0 or _parts_harder(head.separator, pending.separator):
            self._record(head.start, end, "item", head.first_start)
            self._record(
                pending.separator_at,
                pending.separator_at + len(pending.separator),
                "item",
                head.first_start,
            )
            pending.separate(at, head.separator)
        else:
            self._record(at, at + len(head.separator), "item", head.first_start)
            self._record(head.start, end, "item", head.first_start)
        self.dropped += 1
        self._context = head.before
        self._segmenter.forget(pending.separator, head.mark)
        self._head = None

    def _record(self, start: int, end: int, kind: Kind, first_start: int) -> None:
        """Adds a removal in its place, near the end."""
        if start < end:
            removal = Removal(start, end, kind, first_start)  # type: ignore[arg-type]
            bisect.insort(self.removed, removal, key=lambda removal: removal.start)

    def _first_start(
        self, segment: Segment, key: str, said: Seen | None, is_last: bool
    ) -> int | None:
        """Return where the segment was said first, if it is one to remove."""
        weight = utf8_size(key)
        if (
            self._flushed
            and is_last
            and "\n" not in segment.separator
            and not is_terminated(segment.text)
        ):
            return self._begun_at(segment, key, weight)
        if (
            said is None
            or weight < _MIN_ITEM
            or not segment.firm
            or segment.wrapped
            or segment.text.endswith(LEADS_IN)
        ):
            return None
        if FORMULA.search(segment.text):
            return None
        labelled = _LABEL.match(segment.text, segment.marker_chars) is not None
        if segment.kind == "item":
            if segment.whole and "\n" not in segment.separator:
                return None  # the text may have been cut in it
            return said.start if weight >= (_MIN_LABELLED_ITEM if labelled else _MIN_ITEM) else None
        context = self._context
        if (
            segment.kind == "line" or context.is_verse
        ):  # verse and titles come back; a line said twice running is a fault
            again = key == context.key and (weight >= _MIN_ALONE or context.times >= 2)
            return said.start if again and not _ROW.search(segment.text) else None
        if key == context.key or (said.after and said.after == self._last_dropped):
            return said.start if weight >= _MIN_ECHO else None
        return said.start if weight >= self._least(segment, said, weight, labelled) else None

    def _least(self, segment: Segment, said: Seen, weight: int, labelled: bool) -> int:
        """Return what a sentence must weigh to be removed where it does not go on with a repeat that was."""
        context, separator = self._context, self._pending.separator
        if self._head is None and context.is_in_item(separator) and _side_by_side(said, context):
            return weight + 1  # two things of which one says the same
        elsewhere = said.section != context.section
        if labelled:
            return weight + 1
        if (
            not elsewhere
            and said.after
            and said.after == context.key
            and context.passage + weight >= _MIN_ALONE
        ):
            return _MIN_ECHO
        if elsewhere:
            return _MIN_SECTION
        if segment.whole:
            return _MIN_ALONE if context.is_prose else _MIN_PARAGRAPH
        return _MIN_NEAR if context.chars - said.place <= NEAR_CHARS else _MIN_ALONE

    def _begun_at(self, segment: Segment, key: str, weight: int) -> int | None:
        """Return where the sentence stands that the text's unfinished end begins again, if the text was cut off in it."""
        if not segment.firm or weight < _MIN_CUT_PASSAGE:
            return None
        context, dropped = self._context, self._last_dropped
        broken = _OPEN.search(segment.text) is not None
        mid_line = segment.kind == "sentence" and not segment.whole
        for said in self._seen.beginning_with(key):
            if said.scope != segment.scope or (
                said.key == key and segment.whole and segment.kind != "item"
            ):
                continue  # a whole line may be all that was meant
            if said.key == key and segment.kind == "item":
                least = _MIN_ITEM
            elif dropped and dropped in (said.key, said.after):
                least = _MIN_CUT_PASSAGE
            elif (broken or _breaks_word(said.key, len(key))) and not context.is_verse:
                least = _MIN_CUT_WORD
            elif mid_line or (
                segment.kind == "line"
                and not context.is_verse
                and context.key
                and context.key in (said.key, said.after)
            ):
                least = _MIN_CUT_SENTENCE
            else:
                continue
            if weight >= least:
                return said.start
        return None

    def _is_begun_again(self) -> bool:
        """Return whether what is pending, unfinished, begins a sentence that stands earlier."""
        text = self._pending.text
        if "\n" in text or is_terminated(text.rstrip()):
            return False
        key = key_prefix(self._segmenter.open_as()[1])
        return next(self._seen.beginning_with(key), None) is not None

    def _could_go(self) -> bool:
        """Return whether the pending segment may still be removed."""
        if not self._removes:
            return False
        kind, content = self._segmenter.open_as()
        if kind is None:
            return True
        return kind in _REMOVABLE and self._seen.could_match(key_prefix(content))

    def _remember(self, text: str) -> None:
        segmenter = Segmenter(self._max_segment_chars)
        for at in range(0, len(text) + 1, BLOCK_CHARS):
            segmenter.feed(text[at : at + BLOCK_CHARS])
            if at + BLOCK_CHARS > len(text):
                segmenter.flush()
            while segment := segmenter.take():
                key = sentence_key(segment.text[segment.marker_chars :])
                if key and segment.kind in _REMOVABLE:
                    self._seen.add(Seen(key, -1, segment.scope))


def _side_by_side(said: Seen, context: Context) -> bool:
    """Return whether a sentence belongs to an item a few before the current one, with a marker of the same kind."""
    is_near = said.item > 0 and 0 < context.item - said.item <= _PARALLEL_ITEMS
    return is_near and (said.marker == context.marker or "" in (said.marker, context.marker))


def _breaks_word(key: str, at: int) -> bool:
    """Return whether a word, or a number, of `key` goes on over the offset `at`."""
    return (
        key[at - 1 : at].isalnum() and key[at : at + 1].isalnum() and not _UNSPACED.match(key, at)
    )


def _parts_harder(separator: str, other: str) -> bool:
    """Return whether `separator` parts harder than `other`: by a blank line, a line's end, a space. A line keeps its own indentation."""
    indented = "\n" in other and other[-1] != "\n"
    return not indented and min(2, separator.count("\n")) > min(2, other.count("\n"))
