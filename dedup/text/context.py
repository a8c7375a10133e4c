"""The context of a segment in the kept text.

It holds the list item and the section, the repeats before the segment, and the lines of verse.
"""

import re
from typing import Final

from dedup.text.segmenter import Segment, is_terminated
from dedup.text.words import UNSPACED

LEADS_IN: Final = (":", "：")
FORMULA: Final = re.compile(r"[=^\\{}]")
NEAR_CHARS: Final = 200  # added to an item's length, so that the text of another item is not near
_MIN_VERSE_CHARS: Final = 8  # shorter segments, such as "Rejoice!", are as common in prose
_VERSE_SEGMENTS: Final = 16  # looked at
_MIN_VERSE_SEGMENTS: Final = 2
_MAX_VERSE_LINE: Final = 60
_MAX_VERSE_CLAUSE: Final = 7  # characters of Chinese
_MAX_CLAUSE_DIFFERENCE: Final = 2
_CLAUSE: Final = re.compile(r"[^，。！？；：、,.!?;:“”‘’\"「」]+")
_UNSPACED: Final = re.compile(f"[{UNSPACED}]")
# Lines of verse joined into one: "..., Bring ..." and "... And ...".
_LINES_JOINED: Final = re.compile(
    r"[,;:—–] [\"“‘']?(?!I\b)[A-ZÀ-Þ][a-zß-ÿ]{0,4}\b"
    r"|[a-z] (?:And|But|For|From|If|In|Nor|O|Of|On|Or|That|Till|To|When|Where|Which|While|Who|With)"
    r"\b"
)
_BLANK: Final = re.compile(r"__|[:：]$")  # to be filled in, with something else each time
# The beginning of one of several parallel parts: "2. ", "(B)", "Secondly,", 其次, "Scene two: ...".
_PARENT: Final = re.compile(
    r"[*_]*(?:[(（]?\d{1,3}[.)）、](?!\d)|[(（][A-Za-z][)）]"
    r"|(?:First|Second|Third|Fourth|Finally)(?:ly)?,"
    r"|首先|其次|再次|最后|第[一二三四五六七八九十]|[^\s:：]{1,20}+(?: [^\s:：]{1,20}+)?+[:：])"
)
# A line of bold text; the line under a title.
_TITLE: Final = re.compile(r"\*\*.{1,80}\*\*:?|([-=~^*#\"'`_])\1{3,}")


class Context:
    """The context of the next segment. A context does not change; `after` returns the next one.

    key, segment: the last segment kept.
    times: how often it occurs in a row.
    passage: bytes of the repeats that end with it, kept because each is short.
    chars: length of the kept text, with `NEAR_CHARS` added for each item.
    item: list items and other parallel parts begun so far.
    in_item: whether the last segment is in the last item.
    marker: the form of that item's marker.
    section: headings so far.
    recent: the last sentences and lines.
    """

    def __init__(self) -> None:
        self.key = ""
        self.segment: Segment | None = None
        self.times = 0
        self.passage = 0
        self.chars = 0
        self.item = 0
        self.in_item = False
        self.marker = ""
        self.section = 0
        self.recent: tuple[Segment, ...] = ()

    @property
    def is_verse(self) -> bool:
        """True if at least half of the last sentences and lines are lines of verse."""
        count, is_verse = 0, False
        for segment in self.recent:
            is_verse = _is_verse(segment, is_verse)
            count += is_verse
        return len(self.recent) >= _MIN_VERSE_SEGMENTS and 2 * count >= len(self.recent)

    @property
    def is_prose(self) -> bool:
        """True if the last segment is a sentence of prose."""
        if self.segment is None or self.segment.kind != "sentence":
            return False
        text = self.segment.text
        return is_terminated(text) and not text.endswith(LEADS_IN) and FORMULA.search(text) is None

    def is_in_item(self, separator: str) -> bool:
        """Return whether the text after `separator` belongs to the last item."""
        return self.in_item and separator.count("\n") < 2

    def after(self, segment: Segment, key: str, separator: str, repeated: int) -> "Context":
        """Return the context after a segment that is kept.

        Args:
            key: the segment's key.
            separator: the whitespace before the segment.
            repeated: bytes of the segment if it is a repeat, else 0.
        """
        kind, text = segment.kind, segment.text
        is_item, is_text = kind == "item", kind in ("sentence", "line")
        now = Context()
        now.key, now.segment, now.times = key, segment, 1
        if key == self.key:
            now.times += self.times
        if repeated and _BLANK.search(text) is None:
            now.passage = self.passage + repeated
        now.chars = self.chars + len(text)
        if is_item:
            now.chars += NEAR_CHARS
        if is_item or (is_text and _PARENT.match(text)):
            now.item, now.marker = self.item + 1, segment.marker
            # A second "Case 1: n is even." is the same case, not a parallel one; a second
            # "Breakfast:" is another day's.
            now.in_item = is_item or not repeated or text.endswith(LEADS_IN)
        else:
            now.item, now.marker, now.in_item = self.item, self.marker, self.is_in_item(separator)
        now.section = self.section + (
            kind == "heading" or (segment.whole and _TITLE.fullmatch(text) is not None)
        )
        now.recent = self.recent
        if is_text and len(key) >= _MIN_VERSE_CHARS:
            now.recent = (*self.recent[1 - _VERSE_SEGMENTS :], segment)
        return now


def _is_verse(segment: Segment, after_verse: bool) -> bool:
    """Return whether a sentence or line is a line of verse, or several of these joined.

    Args:
        after_verse: whether the one before it is.
    """
    text = segment.text
    if not text.isascii() and _UNSPACED.search(text):
        sizes = [len(clause) for clause in _CLAUSE.findall(text)]
        return (
            max(sizes, default=0) <= _MAX_VERSE_CLAUSE
            and max(sizes) - min(sizes) <= _MAX_CLAUSE_DIFFERENCE
        )
    if (
        segment.whole
        and len(text) <= _MAX_VERSE_LINE
        and (after_verse or segment.separator.count("\n") == 1)
    ):
        return _PARENT.match(text) is None
    return _LINES_JOINED.search(text) is not None
