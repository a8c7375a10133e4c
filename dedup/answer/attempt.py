"""An attempt to continue a text: the seam with what the reader has, and whole sentences behind it."""

import re
from typing import Final

from dedup.answer.boundary import SentenceGate, closing_of
from dedup.answer.continuation import OPENING_TOKENS, Continuation
from dedup.text.segmenter import is_terminated
from dedup.text.words import UNSPACED

_TRIED_CHARS: Final = 40
_MAX_IDLE: Final = 160  # pieces of which nothing passes
_LAST_WORD: Final = re.compile(r"(?<=[\W_])[A-Za-z0-9]+\Z")
_MARKER: Final = re.compile(r"\s*(?:[-*+•]|\(?\d{1,4}[.)、．])\s*")
_ROW: Final = re.compile(r"\s*\|")
_NUMBERED: Final = re.compile(r"\s*(\d{1,3})([.)、])")
_HEADED: Final = re.compile(r"\s*([-*+•] \*\*)")
# How a continuation must not begin: in lower case behind a sentence, or with the word before it.
_LOWER_CASE: Final = re.compile(r"\s*[a-z]+,? [a-z]")
_LAST_SPACED_WORD: Final = re.compile(r"[^\W\d_]+(?=[^\S\n]*\Z)")
_FIRST_SPACED_WORD: Final = re.compile(r"([^\S\n]*)([^\W\d_]+)(?=[^\w'’-])")
_FIRST_UNSPACED: Final = re.compile(rf"[{UNSPACED}]+")
_UNSPACED_END: Final = re.compile(rf"[{UNSPACED}。！？；：，、”’）》」』]\Z")
_UNSPACED_BEGIN: Final = re.compile(rf"[^\S\n]*[{UNSPACED}]")
_LEAST_STUTTER: Final = 2  # characters of scripts without spaces; 好好 is a word
_MOST_STUTTER: Final = 8


class Attempt:
    """An attempt to continue a text.

    Args:
        continuation: How the engine is asked for it.
        passed: The text that the reader has.
        opened: The opening that it goes on with; None if it is one itself.

    Attributes:
        gate: Lets whole sentences pass.
        is_broken: It does not fit behind what the reader has: a line's end came where a sentence
            stands open or an item begins, or no space where the reader has one, or the next item on the line of the
            last, or the word that stands before it, or lower case behind a sentence. Or it leads nowhere: nothing
            passes, or the same a third time, or no language.
        tried: The beginning of what was generated.
    """

    def __init__(
        self, continuation: Continuation, passed: str, opened: "Attempt | None" = None
    ) -> None:
        kept = opened.kept if opened is not None else ""
        self.gate = SentenceGate(passed)
        self.is_broken = False
        self.tried = ""
        self._joined = self._filtered = ""  # an opening's text, before the filter and behind it
        self._opening = continuation.opening
        self._insertion = continuation.insertion
        if opened is not None:
            self._can_stop = opened.ends_well
        else:
            self._can_stop = continuation.opening is not None and continuation.opening.can_stop
        self._num_passed = self.gate.num_passed + len(continuation.insertion.rstrip())
        self._num_pieces = self._num_idle = 0
        before = passed + kept + continuation.insertion
        self._space = before[len(before.rstrip()) :]
        self._is_before_space = len(continuation.prefix) < len(before)
        is_prose = before[-1:].isascii() and not self.gate.fence
        self._needs_space = is_prose and is_terminated(before)
        self._lead: str | None = ""  # space that the engine generated at the seam
        self._before = before
        row = before.rstrip().rpartition("\n")[2]
        self._is_behind_row = not self.gate.fence and _ROW.match(row) is not None
        line = before.rpartition("\n")[2]
        self._next_item = _item_behind(line)
        self._is_marker = _MARKER.fullmatch(line) is not None

    @property
    def has_passed(self) -> bool:
        """Return whether the reader got anything of it that says something."""
        return self.gate.said_until > self._num_passed

    @property
    def is_opening(self) -> bool:
        """Return whether it is the opening of a continuation that another call goes on with."""
        return self._opening is not None and self._opening.is_own_call

    @property
    def ends_well(self) -> bool:
        """Return whether the reader's text can stop where it stands."""
        return self._can_stop or self.has_passed

    @property
    def has_opened(self) -> bool:
        """Return whether its opening is over, and a call without bans has to go on."""
        if not self.is_opening:
            return False
        # The engine ends it at its limit, and says how many tokens it took.
        is_over = self.has_passed or self._num_pieces > OPENING_TOKENS
        return is_over or self._next_item_at >= 0

    @property
    def kept(self) -> str:
        """Return what was generated and has not passed, up to the last word, which may be half.

        An item ends where the next one begins: in an opening, the engine could not end the line.
        """
        if self._next_item_at >= 0:
            return self.gate.held[: self._next_item_at].rstrip() + "\n"
        held = "" if self._joined else self._insertion  # by the filter
        if self._joined and self._joined.startswith(self._filtered):
            held = self._joined[len(self._filtered) :]
        return _LAST_WORD.sub("", self.gate.held + held)

    @property
    def _next_item_at(self) -> int:
        """Return where on the line of an item the next one begins; -1 if it does not."""
        if not self._next_item or self.has_passed:
            return -1
        held = self.gate.held
        begin = len(held) - len(held.lstrip("\n"))  # of the item's own line
        end = held.find("\n", begin)
        return held.find(self._next_item, begin, end if end >= 0 else len(held))

    def feed(self, text: str) -> str:
        """Feed a piece that was filtered; return what of the text passes."""
        if self.is_opening:
            self._filtered += text
        passed = self.gate.feed(text)
        self._num_idle = 0 if passed else self._num_idle + 1
        is_nowhere = self._num_idle > _MAX_IDLE or self.gate.is_lost
        if is_nowhere or (self._next_item_at >= 0 and not self.is_opening):
            self.is_broken = True
        return passed

    def join(self, text: str) -> str:
        """Return a piece of the text, with the space at the seam once."""
        joined = self._join(text)
        if self.is_opening:  # it is short
            self._joined += joined
        return joined

    def _begins_badly(self) -> bool:
        """Return whether the attempt stutters, or begins in lower case behind a sentence's end.

        A text that is all in lower case may.
        """
        if self.gate.fence:
            return False
        before = self._before.rstrip()
        if _LOWER_CASE.match(self.tried) and is_terminated(before) and not self._is_marker:
            return before != before.lower() or not re.search("[a-z]", before)
        return _stutters(self._before, self.tried)

    def _join(self, text: str) -> str:
        self._num_pieces += 1
        if len(self.tried) < _TRIED_CHARS:
            self.tried += text
            self.is_broken = self.is_broken or self._begins_badly()
        if self._lead is None:
            return text
        self._lead += text
        rest, fence = self._lead.lstrip(), self.gate.fence
        if not rest or (len(rest) < len(fence) and fence.startswith(rest)):
            return ""
        space = self._lead[: len(self._lead) - len(rest)]
        self._lead = None
        if self._opening is not None and self._opening.stands_open:
            has_mark = self._is_before_space and bool(self._space) and not space
            self.is_broken = self.is_broken or "\n" in space or has_mark
        elif self._is_marker:
            self.is_broken = self.is_broken or "\n" in space
        if fence and rest.startswith(fence):
            rest = closing_of(self._before.rstrip() + "\n", fence) + rest[len(fence) :]
            space = space[: space.rfind("\n") + 1]  # a fence is not indented
            if line := self._before.rpartition("\n")[2]:
                rest = rest if line.strip() else f"\n{rest}"
        elif self._is_behind_row and "\n" in self._space + space and not _ROW.match(rest):
            space = "\n\n"  # else it is taken for a row
        if not space and self._needs_space and rest[0].isascii() and rest[0].isalpha():
            space = " "
        elif self._space and "\n" not in self._space + space:
            space = ""
        elif space.startswith(self._space):
            space = space[len(self._space) :]
        elif self._space:
            space = ""
        if _UNSPACED_END.search(self._before) and _UNSPACED_BEGIN.match(space + rest):
            space = ""
        return self._insertion + space + rest


def _item_behind(line: str) -> str:
    """Return what begins the item behind that of a line; empty if it has no number and no heading."""
    if marker := _NUMBERED.match(line):
        return f" {int(marker[1]) + 1}{marker[2]}"
    marker = _HEADED.match(line)
    return f" {marker[1]}" if marker and line.count(marker[1]) == 1 else ""


def _stutters(before: str, text: str) -> bool:
    """Return whether a text begins by saying the last word, or some characters, a second time.

    What it says again may have begun in `before`.
    """
    run = _FIRST_UNSPACED.match(text)
    if run is not None:
        near = before[-_MOST_STUTTER:] + run.group()
        seam = len(near) - len(run.group())
        return any(
            near[at - size : at] == near[at : at + size]
            for size in range(_LEAST_STUTTER, _MOST_STUTTER + 1)
            for at in range(max(seam, size), min(seam + size, len(near) - size + 1))
        )
    last, first = _LAST_SPACED_WORD.search(before), _FIRST_SPACED_WORD.match(text)
    if last is None or first is None or not (first[1] or last.end() < len(before)):
        return False
    return last.group().lower() == first[2].lower()
