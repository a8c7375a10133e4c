"""Removes sentences, lines and list items that say again, word for word, what stands earlier.

    text -> Segmenter -> SeenSentences -> decision -> text

What may yet turn out to be a repeat is held; all else is let go at once. Decisions rest on what stays: a removed segment leaves no
trace in the segmenter.
"""

import bisect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from dedup.config import FilterConfig
from dedup.text.seen import SeenSentences
from dedup.text.segmenter import Kind, Mark, Segment, Segmenter, is_terminated
from dedup.text.words import key_prefix, sentence_key

RemovalKind = Literal["sentence", "line", "item", "quote", "loop"]

_REMOVABLE: Final = ("sentence", "line", "item", "quote")
# What a repeat must weigh, in bytes of UTF-8: there a Chinese character weighs three letters, as it does to a reader.
_MIN_ECHO: Final = 20  # right after the same words, or as they followed each other before: "Yes, sir." again is a dialogue
_MIN_ITEM: Final = 16  # in the same list
_MIN_LABELLED_ITEM: Final = 32  # "Source: The Guardian"
_MIN_NEAR: Final = 25  # within a few sentences of one paragraph or item; a line of old Chinese verse has eight characters
_NEAR_CHARS: Final = 200
_MIN_UNFINISHED: Final = 32  # at the text's end, the beginning of the sentence before it
_MIN_ALONE: Final = 60  # between other words than before: a short sentence may be true twice
_MIN_PARAGRAPH: Final = 150  # a paragraph of one sentence: shorter ones are refrains
_MAX_HISTORY_CHARS: Final = 1 << 18  # of earlier turns, the last are remembered: a request must not cost seconds before it begins
BLOCK_CHARS: Final = 2048  # a long text is read in blocks, so that nothing costs more than its length
_LEADS_IN: Final = (":", "：")
_FORMULA: Final = re.compile(r"[=^\\{}]")
_ROW: Final = re.compile(r"^[\"'\d]|[,;{}\[\]()]$")  # of JSON, CSV, code
_LABEL: Final = re.compile(r"[^\s:：]{1,20}(?: [^\s:：]{1,20})?[:：]")  # who speaks; what an answer is to


@dataclass(frozen=True, slots=True)
class Removal:
    """Characters [start, end) of what went in, not given out. first_start: where they were said first (below 0: an earlier turn)."""

    start: int
    end: int
    kind: RemovalKind
    first_start: int


@dataclass(frozen=True, slots=True)
class _Head:
    """An item's first sentence, said before: it goes if all of its line does. With what is to be put back if it goes."""

    segment: Segment
    key: str
    start: int
    first_start: int
    separator_at: int
    separator: str
    last_key: str
    times: int
    place: int
    mark: Mark


class SentenceFilter:
    """Yields what stays of the text it is fed. With `removes` False everything stays, and repeats are counted as flagged.

    Offsets in `removed` count what `restart` left out too.
    """

    def __init__(self, config: FilterConfig, removes: bool, history: Iterable[str] = ()) -> None:
        self.removed: list[Removal] = []
        self.kept = self.dropped = self.flagged = 0
        self._max_segment_chars = config.max_segment_chars
        self._removes = removes
        self._segmenter = Segmenter(config.max_segment_chars)
        self._seen = SeenSentences(config.max_sentences, config.similarity if config.policy == "strict" else 1.0)
        self._last_key = ""  # of the last segment that stays
        self._place = 0  # characters that stay, up to the pending segment
        self._last_start = 0
        self._times = 0  # how often it stands there, running
        self._last_dropped = ""  # of the segment dropped since
        self._pending = ""  # the segment that has not ended, of which the first `_given` characters were let go
        self._given = 0
        self._separator = ""  # before it; let go with its first character
        self._separator_at = 0
        self._separator_given = False
        self._head: _Head | None = None
        self._flushed = False
        self._read = 0
        self._left_out = 0  # characters before `restart` that were not fed
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
        return head + len(self._pending) - self._given + (0 if self._separator_given else len(self._separator))

    def feed(self, text: str) -> Iterable[str]:
        """What stays, in pieces: one that comes behind a removal comes after `removed` says so."""
        self._pending += text
        self._read += len(text)
        self._segmenter.feed(text)
        segment = self._segmenter.take()
        if segment is None and self._given and self._head is None:  # nearly always: a sentence that stays goes on
            return (self._let_go(self._segmenter.certain_chars),)
        return self._feed(segment)

    def _feed(self, segment: Segment | None) -> Iterator[str]:
        yield from self._judge_all(segment)
        if self._pending and (self._given or not self._could_go()):
            yield self._keep_head()
            yield self._let_go(self._segmenter.certain_chars)

    def flush(self) -> Iterator[str]:
        """No more text will come."""
        self._flushed = True
        self._segmenter.flush()
        yield from self._judge_all(self._segmenter.take())
        if self._head:
            self._drop_head(self._head)
        yield self._let_go(len(self._pending))

    def cut(self, second_copy: int) -> Iterator[str]:
        """No more text will come, because of a loop; what is held of its second copy goes. `end` is where what stays ends."""
        start = self._read - len(self._pending)
        if not (self._pending and not self._given and start + self._left_out >= second_copy and self._could_go()):
            yield from self.flush()
            return
        end = self._separator_at if self._separator else start
        if head := self._head:
            if head.start + self._left_out >= second_copy:
                end = head.separator_at if head.separator else head.start
                self._head = None
            else:
                yield self._keep_head()
        self._read = end
        self._pending = self._separator = ""

    @property
    def end(self) -> int:
        """The offset after the last character that was fed and not dropped by `cut`."""
        return self._read + self._left_out

    def restart(self, at: int) -> None:
        """Goes on with the text from offset `at` on, as if it were a new one; what was said before counts."""
        self._segmenter = Segmenter(self._max_segment_chars)
        self._pending = self._separator = ""
        self._given, self._separator_given, self._head, self._flushed = 0, False, None, False
        self._left_out = at - self._read

    def _judge_all(self, segment: Segment | None) -> Iterator[str]:
        while segment:
            start = self._read - len(self._pending)
            key = sentence_key(segment.text[segment.marker_chars :]) if segment.kind in _REMOVABLE else ""
            first_start = None if self._given and self._removes else self._said_before(segment, key)
            if first_start is not None and self._removes:
                if segment.kind == "item" and not segment.whole:
                    self._hold_head(segment, key, start, first_start)
                else:
                    self._drop(segment, key, start, first_start)
            else:
                if self._head:
                    yield self._keep_head()
                yield self._let_go(len(segment.text))
                self.flagged += first_start is not None
                self.kept += bool(key)
                if key and first_start is None:
                    self._seen.add(key, start + self._left_out, segment.scope, self._last_key, self._place)
                self._pass_by(segment, key, start)
            self._pending = self._pending[len(segment.text) + len(segment.separator) :]
            self._given, self._separator_given = 0, False
            segment = self._segmenter.take()

    def _pass_by(self, segment: Segment, key: str, start: int) -> None:
        """Goes on behind a segment that stays."""
        self._times = self._times + 1 if key == self._last_key else 1
        self._last_key, self._last_start, self._last_dropped = key, start + self._left_out, ""
        self._place += len(segment.text) + (_NEAR_CHARS if segment.kind == "item" else 0)  # what another item says is far
        self._separator_at, self._separator = start + len(segment.text), segment.separator

    def _drop(self, segment: Segment, key: str, start: int, first_start: int) -> None:
        """Takes a segment out, and one of the two separators around it: the softer, so that what was apart stays apart."""
        at, space = self._separator_at, self._separator
        end = start + len(segment.text)
        if start == 0 or _parts_harder(space, segment.separator):
            self._record(start, end + len(segment.separator), segment.kind, first_start)
        else:
            self._separator_at, self._separator = end, segment.separator
            if at + len(space) == start:
                self._record(at, end, segment.kind, first_start)
            else:
                self._record(at, at + len(space), segment.kind, first_start)
                self._record(start, end, segment.kind, first_start)
        self.dropped += 1
        self._last_dropped = key
        self._segmenter.forget(self._separator)
        if self._head and "\n" in segment.separator:
            self._drop_head(self._head)

    def _hold_head(self, segment: Segment, key: str, start: int, first_start: int) -> None:
        before = (self._separator_at, self._separator, self._last_key, self._times, self._place)
        self._head = _Head(segment, key, start, first_start, *before, self._segmenter.mark())
        self._pass_by(segment, key, start)

    def _keep_head(self) -> str:
        """The head after all, for its line says something new."""
        head, self._head = self._head, None
        if head is None:
            return ""
        self.kept += 1
        self._seen.add(head.key, head.start + self._left_out, head.segment.scope, head.last_key, head.place)
        return head.separator + head.segment.text

    def _drop_head(self, head: _Head) -> None:
        """The whole item goes: what followed its head has gone already."""
        at, end = head.separator_at, head.start + len(head.segment.text)
        if head.start == 0 or _parts_harder(head.separator, self._separator):
            self._record(head.start, end, "item", head.first_start)
            self._record(self._separator_at, self._separator_at + len(self._separator), "item", head.first_start)
            self._separator_at, self._separator = at, head.separator
        else:
            self._record(at, at + len(head.separator), "item", head.first_start)
            self._record(head.start, end, "item", head.first_start)
        self.dropped += 1
        self._last_key, self._times, self._place = head.last_key, head.times, head.place
        self._segmenter.forget(self._separator, head.mark)
        self._head = None

    def _record(self, start: int, end: int, kind: Kind, first_start: int) -> None:
        """Adds a removal in its place, near the end."""
        if start < end:
            removal = Removal(start + self._left_out, end + self._left_out, kind, first_start)  # type: ignore[arg-type]
            bisect.insort(self.removed, removal, key=lambda removal: removal.start)

    def _said_before(self, segment: Segment, key: str) -> int | None:
        """Where the segment was said first, if it is one to remove."""
        weight = len(key.encode("utf-8", "surrogatepass"))
        if self._flushed and not segment.separator and not is_terminated(segment.text):
            # The text has ended in it: the beginning of what was just said says nothing.
            return self._last_start if weight >= _MIN_UNFINISHED and segment.firm and self._last_key.startswith(key) else None
        if weight < _MIN_ITEM or not segment.firm or segment.wrapped or _FORMULA.search(segment.text):
            return None
        seen = self._seen.match(key, segment.scope)
        if seen is None or segment.text.endswith(_LEADS_IN):
            return None
        labelled = _LABEL.match(segment.text, segment.marker_chars) is not None
        if segment.kind == "item":
            if segment.whole and "\n" not in segment.separator:
                return None  # the text may have been cut in it
            return seen.start if weight >= (_MIN_LABELLED_ITEM if labelled else _MIN_ITEM) else None
        if segment.kind == "line":  # verse and headings come back; a line said twice running is a fault
            again = key == self._last_key and (weight >= _MIN_ALONE or self._times >= 2) and not _ROW.search(segment.text)
            return seen.start if again else None
        if key == self._last_key or (seen.after and seen.after in (self._last_key, self._last_dropped)):
            return seen.start if weight >= _MIN_ECHO else None
        near = self._place - seen.place <= _NEAR_CHARS
        least = _MIN_PARAGRAPH if segment.whole else _MIN_NEAR if near else _MIN_ALONE
        return seen.start if weight >= least and not labelled else None

    def _could_go(self) -> bool:
        """Whether the pending segment may still be removed."""
        if not self._removes:
            return False
        kind, content = self._segmenter.open_as()
        if kind is None:
            return True
        return kind in _REMOVABLE and self._seen.could_match(key_prefix(content))

    def _let_go(self, num_chars: int) -> str:
        """The first `num_chars` characters of the pending segment that were not given yet, and the separator before it."""
        text = self._pending[self._given : num_chars]
        if num_chars > self._given:
            self._given = num_chars
        if not self._separator_given:
            text = self._separator + text
            self._separator_given = True
        return text

    def _remember(self, text: str) -> None:
        segmenter = Segmenter(self._max_segment_chars)
        for at in range(0, len(text) + 1, BLOCK_CHARS):
            segmenter.feed(text[at : at + BLOCK_CHARS])
            if at + BLOCK_CHARS > len(text):
                segmenter.flush()
            while segment := segmenter.take():
                key = sentence_key(segment.text[segment.marker_chars :])
                if key and segment.kind in _REMOVABLE:
                    self._seen.add(key, -1, segment.scope)


def _parts_harder(separator: str, other: str) -> bool:
    """Whether `separator` parts harder than `other`: by a blank line, a line's end, a space. A line keeps its own indentation."""
    indented = "\n" in other and other[-1] != "\n"
    return not indented and min(2, separator.count("\n")) > min(2, other.count("\n"))
