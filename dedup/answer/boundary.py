"""Whole sentences: where a text can stop, and a gate that lets text pass only up to there."""

import re
from typing import Final

from dedup.text.segmenter import Segment, Segmenter, is_terminated, segments_of

# A line that these end goes on, or says what comes next.
_OPEN_ENDS: Final = (*",;:，；、：—–-", "(", "[", "{", "（", "【", "“", "‘", "《", "「")
_VERSE_ENDS: Final = (",", ";", "，", "；")  # of a line
_MARKS: Final = "*_\"'”’」』）)】》] "
_LABEL: Final = re.compile(r"\s*(?:[-*+•]\s+)?(?:\*\*[^*\n]+\*\*|__[^_\n]+__)[:：]?\s*")
_BARE_MARKER: Final = re.compile(r"[-*+•‣·]|[(（]?(?:\d{1,4}|[A-Za-z])[.)、．）]")
_NUMBER: Final = re.compile(r"\d+")
# The cycles that are looked for: segments and characters of one, and its copies.
_LONGEST_CYCLE: Final = 4
_LEAST_CYCLE: Final = 3
_COPIES: Final = 3
_RULE: Final = re.compile(r"[|:\-\s=]+")


def is_whole(segment: Segment) -> bool:
    """Return whether a text can stop behind a segment.

    It cannot behind a heading, a label, a line that announces the next one, or half a sentence.
    """
    text = segment.text.rstrip()
    bare = text.rstrip(_MARKS)
    if not text or segment.kind in ("heading", "piece") or bare.endswith(_OPEN_ENDS):
        return False
    if segment.kind == "code":
        return not text.startswith(("```", "~~~")) or not text.strip("`~")
    if segment.kind == "table":
        return _RULE.fullmatch(text) is None
    if _BARE_MARKER.fullmatch(text):
        return False
    # A marker begins a text of its own: an item does not go on the line before it.
    is_half = segment.goes_on if segment.kind == "item" else segment.wrapped
    return is_terminated(text) or not (is_half or _LABEL.fullmatch(text))


def stands_open(text: str, following: str = "") -> bool:
    """Return whether a text ends within a sentence.

    Args:
        text: The text.
        following: What its author put behind it: a line's end there ends the sentence.
    """
    if not text.strip() or text.endswith("\n"):
        return False
    if re.match(r"[^\S\n]*\n", following):
        return False
    return not is_terminated(text.rstrip())


def can_stop(text: str, following: str = "") -> bool:
    """Return whether a text can stop at its end; see `stands_open`."""
    if stands_open(text, following):
        return False
    segments = segments_of(text.rstrip() + "\n")
    return bool(segments) and is_whole(segments[-1])


def is_structured(text: str) -> bool:
    """Return whether a text ends in code or in a table."""
    segments = segments_of(text)
    return bool(segments) and segments[-1].kind in ("code", "table")


def circles(text: str) -> bool:
    """Return whether a text ends in the third copy of some segments, but for their numbers."""
    copies, is_third = _Copies(), False
    segmenter = Segmenter()
    segmenter.feed(text.rstrip() + "\n")
    segmenter.flush()
    while segment := segmenter.take():
        is_third = copies.add(segment, bool(segmenter.fence))
    return is_third


class _Copies:
    """The last segments of a text, compared with those before them. Code and tables are not."""

    def __init__(self) -> None:
        self._keys: list[str] = []

    def add(self, segment: Segment, is_fenced: bool) -> bool:
        """Add a segment; return whether it ends the third copy of some."""
        is_code = is_fenced or segment.kind == "table"
        self._keys.append("" if is_code else _NUMBER.sub("0", segment.text.lower()))
        del self._keys[: -_COPIES * _LONGEST_CYCLE]
        return any(self._is_third(period) for period in range(1, _LONGEST_CYCLE + 1))

    def _is_third(self, period: int) -> bool:
        last = self._keys[-period:]
        is_long = len("".join(last)) > _LEAST_CYCLE
        return is_long and self._keys[-_COPIES * period :] == last * _COPIES


class SentenceGate:
    """A gate that text passes in whole sentences, lines and items.

    What it holds can still be withdrawn. Segments are those of the filter.

    Args:
        passed: The text that has passed already.

    Attributes:
        held: The text that waits for the end of its sentence.
        num_passed: Characters that have passed, `passed` among them.
        fence: The mark of the code fence that is open in the text that has passed, if one is.
        is_circling: The last segment was the third copy of some, but for their numbers. It does not
            pass.
    """

    def __init__(self, passed: str) -> None:
        self.held = ""
        self.num_passed = len(passed)
        self.fence = _open_fence(passed)
        self.is_circling = False
        self._segmenter = Segmenter()
        self._num_taken = 0
        self._num_begun = len(passed)
        self._copies = _Copies()
        self._segmenter.feed(passed)
        self._take()

    def feed(self, text: str) -> str:
        """Feed text; return what passes now, without the space behind it."""
        self.held += text
        self._segmenter.feed(text)
        return self._pass(self._take())

    def finish(self) -> str:
        """End the text; return what passes now. What cannot stand stays held."""
        self._segmenter.flush()
        return self._pass(self._take())

    def finish_verse(self) -> str:
        """Return the whole lines of verse that are held: a sentence of verse may have no end."""
        lines = self.held[: max(0, self.held.rfind("\n"))].rstrip()
        if self.is_circling or not lines.endswith(_VERSE_ENDS):
            return ""
        return self._pass(self.num_passed + len(lines))

    def _take(self) -> int:
        """Return up to which offset the text is whole."""
        until = 0
        while segment := self._segmenter.take():
            end = self._num_taken + len(segment.text)
            self._num_taken = end + len(segment.separator)
            is_third = self._copies.add(segment, bool(self._segmenter.fence))
            self.is_circling |= is_third and end > self._num_begun
            if is_whole(segment) and not self.is_circling:
                until = end
                if end > self.num_passed:
                    self.fence = self._segmenter.fence
        return until

    def _pass(self, until: int) -> str:
        size = until - self.num_passed
        if size <= 0:
            return ""
        passed, self.held = self.held[:size], self.held[size:]
        self.num_passed = until
        return passed


def _open_fence(text: str) -> str:
    segmenter = Segmenter()
    segmenter.feed(text)
    segmenter.flush()
    while segmenter.take():
        pass
    return segmenter.fence
