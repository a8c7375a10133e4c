"""The place of a segment in the text that stays: its list item, its section, the repeats before it, and whether that is verse."""

import re
from typing import Final, NamedTuple

from dedup.text.segmenter import Segment, is_terminated
from dedup.text.words import UNSPACED, utf8_size

LEADS_IN: Final = (":", "：")
FORMULA: Final = re.compile(r"[=^\\{}]")
NEAR_CHARS: Final = 200  # an item counts as so much longer: what another item says is far
_MIN_SEGMENT: Final = 16  # bytes of a segment that is asked whether it is verse: "Rejoice!" says nothing
_VERSE_SEGMENTS: Final = 16  # looked back on
_VERSE_MASK: Final = (1 << _VERSE_SEGMENTS) - 1
_MIN_VERSE_SEGMENTS: Final = 3
_MAX_VERSE_LINE: Final = 60
_MAX_VERSE_CLAUSE: Final = 7  # characters of Chinese
_MAX_CLAUSE_DIFFERENCE: Final = 2
_CLAUSE: Final = re.compile(r"[^，。！？；：、,.!?;:“”‘’\"「」]+")
_UNSPACED: Final = re.compile(f"[{UNSPACED}]")
_LINES_JOINED: Final = re.compile(r"[,;:—–] [\"“‘']?(?!I\b)[A-ZÀ-Þ][a-zß-ÿ]{0,4}\b")  # "..., And ...": a line began there
# What begins one of several things said side by side: "2. ", "(B)", "Secondly,", 其次, "Scene two: ...".
_BLANK: Final = re.compile(r"__|[:：]$")  # to be filled in; what follows is another thing each time
_PARENT: Final = re.compile(
    r"[*_]*(?:[(（]?\d{1,3}[.)）、](?!\d)|[(（][A-Za-z][)）]|(?:First|Second|Third|Fourth|Finally)(?:ly)?,"
    r"|首先|其次|再次|最后|第[一二三四五六七八九十]|[^\s:：]{1,20}(?: [^\s:：]{1,20})?[:：])"
)
_TITLE: Final = re.compile(r"\*\*.{1,80}\*\*:?|([-=~^*#\"'`_])\1{3,}")  # a line of bold text; the line under a title


class Context(NamedTuple):
    """The text that stays, as far as it matters for judging the next segment.

    key, start: of the last segment.
    times: how often that stands there, running.
    passage: bytes of the repeats that end with it and were kept for being short.
    chars: length of the text, and more for each item.
    item, in_item: number of list items and other parallel parts begun; whether the last one's lines go on.
    section: number of headings.
    prose: whether the last segment is a sentence of prose.
    verse: whether each of the last `num_verse` segments reads as verse, one a bit.
    """

    key: str = ""
    start: int = 0
    times: int = 0
    passage: int = 0
    chars: int = 0
    item: int = 0
    in_item: bool = False
    section: int = 0
    prose: bool = False
    verse: int = 0
    num_verse: int = 0

    @property
    def is_verse(self) -> bool:
        return self.num_verse >= _MIN_VERSE_SEGMENTS and 2 * self.verse.bit_count() >= self.num_verse

    def is_in_item(self, separator: str) -> bool:
        """Return whether what follows `separator` belongs to the last item's lines."""
        return self.in_item and separator.count("\n") < 2

    def after(self, segment: Segment, key: str, start: int, separator: str, repeated: int) -> "Context":
        """Return the context behind a segment that stays.

        Args:
            separator: the whitespace before the segment.
            repeated: the segment's bytes if it was said before, else 0.
        """
        kind, text = segment.kind, segment.text
        is_item = kind == "item"
        begins_part = is_item or (kind in ("sentence", "line") and _PARENT.match(text) is not None)
        # "Case 1: n is even." said again is the same case again, not one beside it; so is no "Breakfast:".
        same_part = begins_part and not is_item and repeated > 0 and not text.endswith(LEADS_IN)
        verse, num_verse = self.verse, self.num_verse
        if kind in ("sentence", "line") and utf8_size(key) >= _MIN_SEGMENT:
            verse = (verse << 1 | _reads_as_verse(segment, verse & 1 == 1)) & _VERSE_MASK
            num_verse = min(num_verse + 1, _VERSE_SEGMENTS)
        return Context(
            key,
            start,
            self.times + 1 if key == self.key else 1,
            self.passage + repeated if repeated and _BLANK.search(text) is None else 0,
            self.chars + len(text) + (NEAR_CHARS if is_item else 0),
            self.item + begins_part,
            not same_part if begins_part else self.is_in_item(separator),
            self.section + (kind == "heading" or (segment.whole and _TITLE.fullmatch(text) is not None)),
            kind == "sentence" and is_terminated(text) and not text.endswith(LEADS_IN) and FORMULA.search(text) is None,
            verse,
            num_verse,
        )


def _reads_as_verse(segment: Segment, before: bool) -> bool:
    """Return whether a sentence or line is a line of verse, or several of these joined; before: whether the last one is."""
    text = segment.text
    if _UNSPACED.search(text):
        sizes = [len(clause) for clause in _CLAUSE.findall(text)]
        return max(sizes, default=0) <= _MAX_VERSE_CLAUSE and max(sizes) - min(sizes) <= _MAX_CLAUSE_DIFFERENCE
    in_stanza = segment.whole and (before or segment.separator.count("\n") == 1)
    return (in_stanza and len(text) <= _MAX_VERSE_LINE) or _LINES_JOINED.search(text) is not None
