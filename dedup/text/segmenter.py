"""Cuts a stream of text into segments: sentences, lines, list items, headings, table rows, lines of code.

Sans-IO and incremental: `feed` text, `take` segments as they end, `flush` the rest. Rules for CJK are our own; whether a full stop
after an abbreviation ends a sentence is asked of nltk's Punkt, with its lists of words given here, so no data file is needed.

A segment is text plus the whitespace after it (its separator). All segments, one after another, are the text. A segment that its
taker removes is taken back with `forget`: what follows is then read as if it had never been there.
"""

import re
from functools import cache
from typing import Final, Literal, NamedTuple

Kind = Literal["sentence", "line", "item", "heading", "quote", "table", "code", "piece"]

_ABBREVIATIONS: Final = frozenset(
    "mr mrs ms dr prof rev hon st sr jr gen col lt sgt capt cmdr adm gov sen rep pres messrs mme mlle "  # people
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun "
    "inc ltd co corp dept univ assn bros est fig figs eq no nos vol vols ed eds pp ch sec art app al "
    "vs etc approx e.g i.e cf a.m p.m u.s u.k u.n ph.d b.a m.a d.c ca resp viz "
    "z.b d.h usw bzw ca str nr bspw u.a "  # German
    "mme mlle av env p.ex "  # French
    "sra srta ud uds ee.uu p.ej".split()  # Spanish
)
_SPACE: Final = re.compile(r"\s*")
_CLOSERS: Final = "\"'”’」』）)】》]*_"
# Where a segment may end: a line's end, or a terminator with what closes after it. The bound keeps a match small. Most pieces of text
# have none of the characters that begin one, and to look for those alone costs half.
_END_BEGUN: Final = re.compile(r"[\n。！？．…!?.]")
_END: Final = re.compile(rf"\n|[。！？．…!?.][。！？．…!?.{re.escape(_CLOSERS)}]{{0,64}}")
_CLAUSE_ENDS: Final = ",;，；、—–-"
_TERMINATORS: Final = frozenset(".!?。！？．…:：")
_WIDE_STOP: Final = frozenset("。！？．")
_MARKER: Final = re.compile(
    r"(?:[-*+•‣·]|\d{1,4}[.)、．]|[(（]?(?:\d{1,4}|[A-Za-z])[)）]|[一二三四五六七八九十]{1,3}、)(?=\s|(?<=[、．）]))\s*"
)
_MARKER_BEGUN: Final = re.compile(
    r"[-*+•‣·#>|\d.()（）、．一二三四五六七八九十`~\s]{0,8}|[(（]?[A-Za-z][)）]?"
)
_MARKS_ITEM: Final = re.compile(r"[-*+•‣·\d(（]")
_MIN_FULL_LINE: Final = (
    40  # characters: a line that long and without a full stop was broken for its width
)
_FENCE: Final = re.compile(r"`{3,}|~{3,}")
_BLOCK_CHARS: Final = 2048  # read at once of a whole text: time is linear in its length


class Segment(NamedTuple):
    """A piece of the text.

    separator: the whitespace after it. scope: the list, or the level of a list, that an item belongs to; 0 for other kinds.
    marker: what the item's marker looks like, its number or letter aside.
    marker_chars: how much of an item's or a quote's text is its marker. whole: it has its line for itself.
    firm: that it begins here does not depend on what comes before being there. wrapped: its sentence seems to go on over a line's
    end, before it or after it, as in verse and in text with hard line breaks.
    """

    text: str
    kind: Kind
    separator: str
    scope: int
    marker: str
    marker_chars: int
    whole: bool
    firm: bool
    wrapped: bool


class Mark(NamedTuple):
    """A place in the text: what stands before it says about what comes. Enough to read on, and small, so that it can be put back."""

    line_start: bool = True
    firm: bool = True
    fence: str = ""
    blocks: int = 0  # lists begun so far
    levels: tuple[
        tuple[int, str, int], ...
    ] = ()  # (indent, what its markers look like, scope) of the open list's levels
    broken: Literal["", "maybe", "surely"] = (
        ""  # whether the sentence of the line right before goes on in this one
    )


class Segmenter:
    """`feed(text)`, then `take()` until it gives None; at the end `flush()`, then `take()` again until None."""

    def __init__(self, max_segment_chars: int = 2000) -> None:
        self._max = max_segment_chars
        self._text = ""
        self._scan = 0
        self._place = self._before = Mark()
        self._flushed = False
        self._indent = 0
        self._certain = 0

    @property
    def certain_chars(self) -> int:
        """How much of the text that no segment was taken of belongs to the next segment, whatever comes."""
        return self._certain

    def feed(self, text: str) -> None:
        self._text += text

    def flush(self) -> None:
        """No more text will come: what is pending is the last segment."""
        self._flushed = True

    def open_as(self) -> tuple[Kind | None, str]:
        """What the next segment is so far: its kind (None: not known yet) and the part of it that says something."""
        return self._classify(self._text[: self._certain])

    def take(self) -> Segment | None:
        """The next segment, once it and the separator after it have ended."""
        found = self._find_end()
        if found is None:
            return None
        end, ended, firm = found
        pending = self._text
        self._certain = end
        space = _SPACE.match(pending, end).end()  # type: ignore[union-attr]
        if space == len(pending) and not self._flushed:
            return None
        self._text, self._scan = pending[space:], 0
        return self._advance(
            pending[:end], ended, firm, pending[end:space], pending[space : space + 1]
        )

    def mark(self) -> Mark:
        """The place before the last segment taken."""
        return self._before

    def forget(self, separator: str, since: Mark | None = None) -> None:
        """Reads on as if the last segment taken, or all since a mark, had not been there, and `separator` stood in its place."""
        before = since or self._before
        line_start = "\n" in separator or (before.line_start and not separator)
        if "\n" in separator:
            self._indent = _indent(separator)
        # Only a segment that begins firmly is removed, so the next one begins firmly too.
        broken = before.broken if separator.count("\n") == 1 else ""
        self._place = Mark(line_start, True, before.fence, before.blocks, before.levels, broken)

    def _find_end(self) -> tuple[int, Kind | None, bool] | None:
        """Where the pending segment ends, its kind if the end decides it, and whether the next one begins firmly."""
        text = self._text
        if not text:
            self._certain = 0
            return None
        certain = kind = None
        at = first = self._scan
        while begun := _END_BEGUN.search(text, at):
            start, end = _END.match(text, begun.start()).span()  # type: ignore[union-attr]
            if text[start] == "\n":
                return start, "line", True
            if at == first:
                kind = self._classify(text)[0]
            if kind in ("code", "table", "heading"):
                at = self._scan = end
                continue
            # At the end of what was fed the terminator may go on, and so may the word that tells whether it is one. Where the
            # kind is not known yet, the line may turn out to be code.
            verdict = (
                self._ends_sentence(start, end)
                if kind and (end < len(text) or self._flushed)
                else None
            )
            if verdict is None:
                certain = end
                break
            ends, firm = verdict
            if ends:
                return end, "sentence", firm
            at = self._scan = end
        else:
            self._scan = len(text)
        self._certain = len(text.rstrip()) if certain is None else certain
        if len(text) >= self._max:
            self._certain = min(self._certain, self._max)
            return self._max, "piece", False
        return (len(text), None, True) if self._flushed else None

    def _ends_sentence(self, start: int, end: int) -> tuple[bool, bool] | None:
        """(whether the terminator at [start, end) ends a sentence, whether for certain); None: the next word must be seen."""
        text = self._text
        if not _WIDE_STOP.isdisjoint(text[start:end]):
            return True, True
        if end < len(text) and not text[end].isspace():
            return False, False  # 3.14, example.org, ?x=1
        if text[start] in "!?" or text[start : start + 2] == ".." or "…" in text[start:end]:
            return True, True
        word = _word_before_stop(text[max(0, end - 40) : end])
        if not word:
            return True, True
        before = word.rsplit("(", 1)[-1].lstrip("\"'“‘[*_").lower()
        number = before.isdigit() and len(before) < 3  # 1973 ends a sentence; 7 may be a marker
        if (
            before not in _ABBREVIATIONS
            and not (len(before) == 1 and before.isalpha())
            and not number
        ):
            return True, True
        if before.isdigit() and text[:start].strip() == before:
            return False, False  # "12." alone is a marker
        following = text[end : end + 64].split(maxsplit=1)
        rest = text[end:].lstrip()
        if "\n" in text[end : len(text) - len(rest)] or (self._flushed and not rest):
            return True, True
        if not self._flushed and not (
            len(following) > 1 or text[end : end + 64] != text[end:] or rest[-1:].isspace()
        ):
            return None
        return _punkt_breaks(f"{word}.", following[0][:32]) if following else True, False

    def _classify(self, text: str) -> tuple[Kind | None, str]:
        place = self._place
        if place.fence:
            return "code", ""
        if not place.line_start:
            return "sentence", text
        head = text[:12]
        if head[:3] in ("```", "~~~", ">>>") or head[:1] in tuple("{}[]<\\"):
            return "code", ""
        if head[:1] == "|":
            return "table", ""
        if head[:1] == "#":
            return "heading", ""
        if head[:1] == ">":
            return "quote", text.lstrip("> ")
        if marker := _MARKER.match(text):
            return "item", text[marker.end() :]
        if _MARKER_BEGUN.fullmatch(text) and not self._flushed:
            return None, ""
        if self._indent >= 4 and not place.levels:
            return "code", ""
        return "line", text

    def _advance(
        self, text: str, ended: Kind | None, firm: bool, separator: str, following: str
    ) -> Segment:
        """Makes the segment, and moves on to the place behind it."""
        place = self._before = self._place
        fence, blocks, levels = place.fence, place.blocks, place.levels
        kind, content = self._classify(text)
        if ended == "piece":
            kind = "piece"
        elif kind in (None, "line"):
            kind = "sentence" if ended == "sentence" else "line"
        marker_chars, scope, marker = 0, 0, ""
        if kind == "item":
            marker_chars = len(text) - len(content)
            marker = _marker_kind(text)
            levels, scope = self._scope(marker)
            blocks = max(blocks, scope)  # what was ever opened: a new list's scope is new
        elif kind == "quote":
            marker_chars = len(text) - len(content)
        elif kind == "code" and place.line_start and (mark := _FENCE.match(text)):
            if not fence:
                fence = mark.group()
            elif mark.group().startswith(fence) and mark.end() == len(text.rstrip()):
                fence = ""
        if kind != "item" and levels and place.line_start and self._indent <= levels[0][0]:
            levels = ()
        num_line_ends, indent = separator.count("\n"), self._indent
        line_start = num_line_ends > 0
        if line_start:
            self._indent = _indent(separator)
        last = text[-1:]
        unfinished = (num_line_ends == 1 or kind == "sentence") and not is_terminated(text)
        broken: Literal["", "maybe", "surely"] = ""
        if text and unfinished and num_line_ends == 1 and kind != "heading":
            mid_line = (
                kind == "sentence" or len(text) >= _MIN_FULL_LINE
            )  # no title stands there, and none is so long
            broken = "surely" if mid_line or last in _CLAUSE_ENDS else "maybe"
        goes_on = broken != "" and (following.islower() or last in _CLAUSE_ENDS)
        if (
            kind == "item"
            and broken
            and following
            and self._indent > indent
            and not _MARKS_ITEM.match(following)
        ):
            goes_on = True  # hangs under its marker
        came_on = place.broken == "surely" or (place.broken == "maybe" and text[:1].islower())
        wrapped = came_on or goes_on or (unfinished and kind == "sentence")
        self._place = Mark(line_start, firm or line_start, fence, blocks, levels, broken)
        whole = place.line_start and (line_start or not following)
        return Segment(
            text, kind or "line", separator, scope, marker, marker_chars, whole, place.firm, wrapped
        )

    def _scope(self, marker: str) -> tuple[tuple[tuple[int, str, int], ...], int]:
        """The list's open levels with that of the pending item among them, and the scope of that item.

        Bullets that follow a number are one level below it, indented or not.
        """
        place = self._place
        levels = tuple(level for level in place.levels if level[0] <= self._indent)
        same = [
            number for number, level in enumerate(levels) if level[:2] == (self._indent, marker)
        ]
        if same:
            levels = levels[: same[-1] + 1]
        else:
            levels += ((self._indent, marker, place.blocks + 1),)
        return levels, levels[-1][2]


def _word_before_stop(text: str) -> str:
    """The word, or the last 32 characters of it, before the full stop that only closers follow in `text`; empty if there is none."""
    stop = text.rfind(".")
    if stop < 0 or text[stop + 1 :].strip(_CLOSERS):
        return ""
    words = text[max(0, stop - 32) : stop].rsplit(maxsplit=1)
    return words[-1] if words and not text[stop - 1].isspace() else ""


def is_terminated(text: str) -> bool:
    """Whether a segment ends as a sentence or a lead-in does."""
    return text[-1:] in _TERMINATORS or text.rstrip(_CLOSERS)[-1:] in _TERMINATORS


def _marker_kind(text: str) -> str:
    """What the marker of an item looks like: its number or its letters do not count."""
    marker = _MARKER.match(text)
    return re.sub(r"\w+", "1", marker.group().rstrip()) if marker else ""


def _indent(separator: str) -> int:
    """How far the line after `separator` is indented."""
    return len(separator.rsplit("\n", 1)[1].expandtabs(4))


@cache
def load_punkt() -> object:
    """nltk's Punkt. Loading it takes a quarter of a second, once: what serves many does it before its first text."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def _punkt_breaks(word: str, following: str) -> bool:
    """Punkt's verdict on whether a sentence ends between two words."""
    return bool(load_punkt().text_contains_sentbreak(f"{word} {following}"))  # type: ignore[attr-defined]


def segments_of(text: str) -> list[Segment]:
    """Return the segments of a whole text."""
    segmenter = Segmenter()
    segments: list[Segment] = []
    for at in range(0, len(text) + 1, _BLOCK_CHARS):
        segmenter.feed(text[at : at + _BLOCK_CHARS])
        if at + _BLOCK_CHARS > len(text):
            segmenter.flush()
        while segment := segmenter.take():
            segments.append(segment)
    return segments
