"""Cuts a stream into segments: sentences, lines, list items, headings, table rows, lines of code.

A segment is text plus the whitespace after it (its separator). All segments, joined, are the text.
A consumer that removes a segment calls `rollback`: the text after it is then read as if the segment
had never been there.

The rules for CJK are our own. nltk's Punkt decides whether a full stop after an abbreviation ends a
sentence; its abbreviations are listed here, so that no data file is needed.
"""

import re
from functools import cache
from typing import Final, Literal, NamedTuple

Kind = Literal["sentence", "line", "item", "heading", "quote", "table", "code", "piece"]

_ABBREVIATIONS: Final = frozenset(
    # people
    "mr mrs ms dr prof rev hon st sr jr gen col lt sgt capt cmdr adm gov sen rep pres messrs mme "
    "mlle "
    # dates, companies, references
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun "
    "inc ltd co corp dept univ assn bros est fig figs eq no nos vol vols ed eds pp ch sec art app "
    "al vs etc approx e.g i.e cf a.m p.m p.s p.p.s n.b u.s u.k u.n ph.d b.a m.a d.c ca resp viz "
    "z.b d.h usw bzw ca str nr bspw u.a "  # German
    "mme mlle av env p.ex "  # French
    "sra srta ud uds ee.uu p.ej".split()  # Spanish
)
_SPACE: Final = re.compile(r"\s*")
_CLOSERS: Final = "\"'”’」』）)】》]*_"
# Where a segment may end: at a line's end, or at a terminator and the closers after it. The bound
# keeps a match small. Most deltas have none of the characters that begin one; to search for those
# alone costs half.
_END_BEGUN: Final = re.compile(r"[\n。！？．…!?.]")
_END: Final = re.compile(rf"\n|[。！？．…!?.][。！？．…!?.{re.escape(_CLOSERS)}]{{0,64}}")
_LONGEST_WORD: Final = 32  # characters of a word that are looked at
_CLAUSE_ENDS: Final = ",;，；、—–-"
_TERMINATORS: Final = frozenset(".!?。！？．…:：")
_WIDE_STOP: Final = frozenset("。！？．")
_GO_ON: Final = frozenset("，、；：,;:")
_MARKER: Final = re.compile(
    r"(?:[-*+•‣·]|\d{1,4}[.)、．]|[(（]?(?:\d{1,4}|[A-Za-z])[)）]|[一二三四五六七八九十]{1,3}、)"
    r"(?=\s|(?<=[、．）]))\s*"
)
_MARKER_BEGUN: Final = re.compile(
    r"[-*+•‣·#>|\d.()（）、．一二三四五六七八九十`~\s]{0,8}|[(（]?[A-Za-z][)）]?"
)
_MARKS_ITEM: Final = re.compile(r"[-*+•‣·\d(（]")
# Characters: a line that long without a full stop was broken for its width.
_MIN_FULL_LINE: Final = 40
_FENCE: Final = re.compile(r"`{3,}|~{3,}")
MAX_SEGMENT_CHARS: Final = 2000  # a longer segment is cut into pieces
_BLOCK_CHARS: Final = 2048  # a long text is read in blocks, for time linear in its length


class Segment(NamedTuple):
    """A segment of the text.

    separator: the whitespace after it.
    scope: the list, or the level of a list, that an item belongs to; 0 for other kinds.
    marker: the form of an item's marker, whatever its number or letter.
    marker_chars: length of an item's or a quote's marker, at the beginning of `text`.
    whole: True if it has its line to itself.
    firm: True if it would begin here whatever came before it.
    wrapped: True if its sentence seems to go on over a line's end, before it or after it, as in
        verse and in text with hard line breaks.
    goes_on: True if it seems to go on over the line's end after it.
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
    goes_on: bool


class Mark(NamedTuple):
    """The state of the segmenter between two segments. It is small, so that it can be put back.

    line_start: whether a line begins here. firm: see `Segment`. fence: the mark of the open fence.
    blocks: lists begun so far. levels: indent, form of the markers and scope of each level of the
    open list. broken: whether the sentence of the line before goes on in this one.
    """

    line_start: bool = True
    firm: bool = True
    fence: str = ""
    blocks: int = 0
    levels: tuple[tuple[int, str, int], ...] = ()
    broken: Literal["", "maybe", "surely"] = ""


class Segmenter:
    """A segmenter of one stream.

    After each `feed`, and after `flush`, call `take` until it returns None.

    Args:
        max_segment_chars: the longest segment; a longer one is cut into pieces.
    """

    def __init__(self, max_segment_chars: int = MAX_SEGMENT_CHARS) -> None:
        self._max = max_segment_chars
        self._text = ""
        self._scan = 0
        self._state = self._before = Mark()
        self._flushed = False
        self._indent = 0
        self._certain = 0

    @property
    def certain_chars(self) -> int:
        """Characters of the pending text that belong to the next segment, whatever follows."""
        return self._certain

    @property
    def fence(self) -> str:
        """The mark of the code fence that is open; empty outside of code."""
        return self._state.fence

    def feed(self, text: str) -> None:
        """Append a delta to the pending text."""
        self._text += text

    def flush(self) -> None:
        """End the text: what is pending is the last segment."""
        self._flushed = True

    def peek(self) -> tuple[Kind | None, str]:
        """Return the kind of the pending segment, and its text so far without the marker.

        The kind is None if it is not known yet.
        """
        return self._classify(self._text[: self._certain])

    def take(self) -> Segment | None:
        """Return the next segment, once it and its separator have ended; None before that."""
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
        """Return the state before the last segment taken."""
        return self._before

    def rollback(self, separator: str, since: Mark | None = None) -> None:
        """Undo the last segment taken, or all since a mark.

        Args:
            separator: the whitespace that replaces them.
            since: the state before the first segment to undo.
        """
        before = since or self._before
        line_start = "\n" in separator or (before.line_start and not separator)
        if "\n" in separator:
            self._indent = _indent(separator)
        # Only a segment that begins firmly is removed, so the next one begins firmly too.
        broken = before.broken if separator.count("\n") == 1 else ""
        self._state = Mark(line_start, True, before.fence, before.blocks, before.levels, broken)

    def _find_end(self) -> tuple[int, Kind | None, bool] | None:
        """Return the end of the pending segment; None if it is not known yet.

        Returns:
            Its index, the kind of the segment if the end decides it, and whether the next segment
            begins firmly.
        """
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
            # At the end of the input the terminator may go on, and so may the word that tells
            # whether it is one. As long as the kind is not known, the line may turn out to be code.
            verdict: tuple[bool, bool] | None = None
            if kind and (end < len(text) or self._flushed):
                verdict = self._ends_sentence(start, end)
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
        if self._flushed:
            return len(text), None, True
        return None

    def _ends_sentence(self, start: int, end: int) -> tuple[bool, bool] | None:
        """Return whether the terminator at [start, end) ends a sentence, and whether for certain.

        None if the next word must be read first.
        """
        text = self._text
        if not _WIDE_STOP.isdisjoint(text[start:end]):
            goes_on = text[end : end + 1] in _GO_ON  # “去吗？”，他问
            return not goes_on, not goes_on
        if end < len(text) and not text[end].isspace():
            return False, False  # 3.14, example.org, ?x=1
        if text[start] in "!?" or text[start : start + 2] == ".." or "…" in text[start:end]:
            return True, True
        word = _word_before_stop(text[max(0, end - 40) : end])
        before = word.rsplit("(", 1)[-1].lstrip("\"'“‘[*_").lower()
        if not word or not _may_be_abbreviation(before):
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
        ends = True
        if following:
            ends = _punkt_breaks(f"{word}.", following[0][:_LONGEST_WORD])
        return ends, False

    def _classify(self, text: str) -> tuple[Kind | None, str]:
        """Return the kind of a segment, and its text without the marker. See `peek`."""
        state = self._state
        if state.fence:
            return "code", ""
        if not state.line_start:
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
        if self._indent >= 4 and not state.levels:
            return "code", ""
        return "line", text

    def _advance(
        self, text: str, ended: Kind | None, firm: bool, separator: str, following: str
    ) -> Segment:
        """Return the segment of `text`, and advance past it.

        Args:
            ended: the kind that its end decides, if it does.
            firm: whether the next segment begins firmly.
            following: the next character; empty if there is none.
        """
        state = self._before = self._state
        fence, blocks, levels = state.fence, state.blocks, state.levels
        kind, content = self._classify(text)
        if ended == "piece":
            kind = "piece"
        elif kind in (None, "line"):
            kind = "line"
            if ended == "sentence":
                kind = "sentence"
        marker_chars, scope, marker = 0, 0, ""
        if kind == "item":
            marker_chars = len(text) - len(content)
            marker = _marker_kind(text)
            levels, scope = self._scope(marker)
            blocks = max(blocks, scope)  # of all lists so far: a new list's scope is new
        elif kind == "quote":
            marker_chars = len(text) - len(content)
        elif kind == "code" and state.line_start and (mark := _FENCE.match(text)):
            if not fence:
                fence = mark.group()
            elif mark.group().startswith(fence) and mark.end() == len(text.rstrip()):
                fence = ""
        if kind != "item" and levels and state.line_start and self._indent <= levels[0][0]:
            levels = ()
        num_line_ends, indent = separator.count("\n"), self._indent
        line_start = num_line_ends > 0
        if line_start:
            self._indent = _indent(separator)
        last = text[-1:]
        unfinished = (num_line_ends == 1 or kind == "sentence") and not is_terminated(text)
        broken: Literal["", "maybe", "surely"] = ""
        if text and unfinished and num_line_ends == 1 and kind != "heading":
            no_title = kind == "sentence" or len(text) >= _MIN_FULL_LINE
            broken = "maybe"
            if no_title or last in _CLAUSE_ENDS:
                broken = "surely"
        goes_on = broken != "" and (following.islower() or last in _CLAUSE_ENDS)
        if (
            kind == "item"
            and broken
            and following
            and self._indent > indent
            and not _MARKS_ITEM.match(following)
        ):
            goes_on = True  # the next line hangs under the marker
        came_on = state.broken == "surely" or (state.broken == "maybe" and text[:1].islower())
        wrapped = came_on or goes_on or (unfinished and kind == "sentence")
        self._state = Mark(line_start, firm or line_start, fence, blocks, levels, broken)
        whole = state.line_start and (line_start or not following)
        return Segment(
            text,
            kind or "line",
            separator,
            scope,
            marker,
            marker_chars,
            whole,
            state.firm,
            wrapped,
            goes_on,
        )

    def _scope(self, marker: str) -> tuple[tuple[tuple[int, str, int], ...], int]:
        """Return the list's open levels, that of the pending item included, and the item's scope.

        Bullets that follow a number are one level below it, indented or not.
        """
        state = self._state
        levels = tuple(level for level in state.levels if level[0] <= self._indent)
        same = [
            number for number, level in enumerate(levels) if level[:2] == (self._indent, marker)
        ]
        if same:
            levels = levels[: same[-1] + 1]
        else:
            levels += ((self._indent, marker, state.blocks + 1),)
        return levels, levels[-1][2]


def _word_before_stop(text: str) -> str:
    """Return the last word, at most its last 32 characters, before the full stop that ends `text`.

    Empty if anything but closers follows the full stop, or if there is none.
    """
    stop = text.rfind(".")
    if stop < 0 or text[stop + 1 :].strip(_CLOSERS):
        return ""
    words = text[max(0, stop - _LONGEST_WORD) : stop].rsplit(maxsplit=1)
    if not words or text[stop - 1].isspace():
        return ""
    return words[-1]


def _may_be_abbreviation(word: str) -> bool:
    """Return whether a full stop after `word` need not end a sentence."""
    if word.isdigit():
        return len(word) < 3  # 1973 ends a sentence; 7 may be a marker
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha())


def is_terminated(text: str) -> bool:
    """Return whether a segment ends as a sentence or a lead-in does."""
    return text[-1:] in _TERMINATORS or text.rstrip(_CLOSERS)[-1:] in _TERMINATORS


def _marker_kind(text: str) -> str:
    """Return the form of an item's marker, with any number or letter as 1."""
    marker = _MARKER.match(text)
    if marker is None:
        return ""
    return re.sub(r"\w+", "1", marker.group().rstrip())


def _indent(separator: str) -> int:
    """Return the columns by which the line after `separator` is indented."""
    return len(separator.rsplit("\n", 1)[1].expandtabs(4))


@cache
def load_punkt() -> object:
    """Return nltk's Punkt tokenizer, with the abbreviations of this module.

    Loading takes a quarter of a second, once; a server loads it before its first request.
    """
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def _punkt_breaks(word: str, following: str) -> bool:
    """Return whether a sentence ends between two words, as Punkt decides."""
    punkt = load_punkt()
    return bool(punkt.text_contains_sentbreak(f"{word} {following}"))  # type: ignore[attr-defined]


def segments_of(text: str, max_segment_chars: int = MAX_SEGMENT_CHARS) -> list[Segment]:
    """Return the segments of a whole text, cut to at most `max_segment_chars` characters each."""
    segmenter = Segmenter(max_segment_chars)
    segments: list[Segment] = []
    for at in range(0, len(text) + 1, _BLOCK_CHARS):
        segmenter.feed(text[at : at + _BLOCK_CHARS])
        if at + _BLOCK_CHARS > len(text):
            segmenter.flush()
        while segment := segmenter.take():
            segments.append(segment)
    return segments
