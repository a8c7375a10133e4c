"""The place of a segment in the text that stays: its list item, its section, the repeats before it, and whether that is verse."""

import re
from typing import Final

from dedup.text.segmenter import Segment, is_terminated
from dedup.text.words import UNSPACED

LEADS_IN: Final = (":", "：")
FORMULA: Final = re.compile(r"[=^\\{}]")
NEAR_CHARS: Final = 200  # an item counts as so much longer: what another item says is far
_MIN_VERSE_CHARS: Final = 8  # shorter segments, such as "Rejoice!", are as common in prose
_VERSE_SEGMENTS: Final = 16  # looked back on
_MIN_VERSE_SEGMENTS: Final = 2
_MAX_VERSE_LINE: Final = 60
_MAX_VERSE_CLAUSE: Final = 7  # characters of Chinese
_MAX_CLAUSE_DIFFERENCE: Final = 2
_CLAUSE: Final = re.compile(r"[^，。！？；：、,.!?;:“”‘’\"「」]+")
_UNSPACED: Final = re.compile(f"[{UNSPACED}]")
# "..., Bring ..." and "... And ...": a line began there.
_LINES_JOINED: Final = re.compile(
    r"[,;:—–] [\"“‘']?(?!I\b)[A-ZÀ-Þ][a-zß-ÿ]{0,4}\b"
    r"|[a-z] (?:And|But|For|From|If|In|Nor|O|Of|On|Or|That|Till|To|When|Where|Which|While|Who|With)\b"
)
# What begins one of several things said side by side: "2. ", "(B)", "Secondly,", 其次, "Scene two: ...".
_BLANK: Final = re.compile(r"__|[:：]$")  # to be filled in; what follows is another thing each time
_PARENT: Final = re.compile(
    r"[*_]*(?:[(（]?\d{1,3}[.)）、](?!\d)|[(（][A-Za-z][)）]|(?:First|Second|Third|Fourth|Finally)(?:ly)?,"
    r"|首先|其次|再次|最后|第[一二三四五六七八九十]|[^\s:：]{1,20}+(?: [^\s:：]{1,20}+)?+[:：])"
)
_TITLE: Final = re.compile(
    r"\*\*.{1,80}\*\*:?|([-=~^*#\"'`_])\1{3,}"
)  # a line of bold text; the line under a title


class Context:
    """The text that stays, as far as it matters for judging the next segment. A context does not change; `after` makes the next.

    key, start, segment: the last segment.
    times: how often that stands there, running.
    passage: bytes of the repeats that end with it and were kept for being short.
    chars: length of the text, and more for each item.
    item, in_item, marker: number of list items and other parallel parts begun; whether the last one's lines go on; its marker.
    section: number of headings.
    recent: the last sentences and lines.
    """

    def __init__(self) -> None:
        self.key = ""
        self.start = 0
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
        count, before = 0, False
        for segment in self.recent:
            before = _reads_as_verse(segment, before)
            count += before
        return len(self.recent) >= _MIN_VERSE_SEGMENTS and 2 * count >= len(self.recent)

    @property
    def is_prose(self) -> bool:
        """True if the last segment is a sentence of prose."""
        if self.segment is None or self.segment.kind != "sentence":
            return False
        text = self.segment.text
        return is_terminated(text) and not text.endswith(LEADS_IN) and FORMULA.search(text) is None

    def is_in_item(self, separator: str) -> bool:
        """Return whether what follows `separator` belongs to the last item's lines."""
        return self.in_item and separator.count("\n") < 2

    def after(
        self, segment: Segment, key: str, start: int, separator: str, repeated: int
    ) -> "Context":
        """Return the context behind a segment that stays.

        Args:
            separator: the whitespace before the segment.
            repeated: the segment's bytes if it was said before, else 0.
        """
        kind, text = segment.kind, segment.text
        is_item, is_text = kind == "item", kind in ("sentence", "line")
        now = Context()
        now.key, now.start, now.segment = key, start, segment
        now.times = self.times + 1 if key == self.key else 1
        if repeated and _BLANK.search(text) is None:
            now.passage = self.passage + repeated
        now.chars = self.chars + len(text) + (NEAR_CHARS if is_item else 0)
        if is_item or (is_text and _PARENT.match(text)):
            now.item, now.marker = self.item + 1, segment.marker
            # "Case 1: n is even." said again is the same case again, not one beside it; so is no "Breakfast:".
            now.in_item = is_item or not repeated or text.endswith(LEADS_IN)
        else:
            now.item, now.marker, now.in_item = self.item, self.marker, self.is_in_item(separator)
        now.section = self.section + (
            kind == "heading" or (segment.whole and _TITLE.fullmatch(text) is not None)
        )
        is_asked = is_text and len(key) >= _MIN_VERSE_CHARS
        now.recent = (*self.recent[1 - _VERSE_SEGMENTS :], segment) if is_asked else self.recent
        return now


def _reads_as_verse(segment: Segment, before: bool) -> bool:
    """Return whether a sentence or line is a line of verse, or several of these joined; before: whether the last one is."""
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
        and (before or segment.separator.count("\n") == 1)
    ):
        return _PARENT.match(text) is None
    return _LINES_JOINED.search(text) is not None
