"""Whole sentences: where a text can stop, and a gate that lets text pass only up to there."""

import re
import unicodedata
from itertools import pairwise
from typing import Final

from dedup.text.segmenter import Segment, Segmenter, is_terminated, segments_of
from dedup.text.words import sentence_key, units, utf8_size

# A line that these end goes on, or says what comes next.
_OPEN_ENDS: Final = (*",;:，；、：—–-", "(", "[", "{", "（", "【", "“", "‘", "《", "「")
_VERSE_ENDS: Final = (",", ";", "，", "；")  # of a line
_MARKS: Final = "*_\"'”’」』）)】》] "
_LABEL: Final = re.compile(r"\s*(?:[-*+•]\s+)?(?:\*\*[^*\n]+\*\*|__[^_\n]+__)[:：]?\s*")
_MARKER: Final = r"(?:[-*+•‣·]|[(（]?(?:\d{1,4}|[A-Za-z])[.)、．）])"
_BARE_MARKERS: Final = re.compile(rf"(?:{_MARKER}\s+)*{_MARKER}")
# A number behind something finished, or behind a full-width colon: no Chinese sentence ends in it.
_ENDS_IN_MARKER: Final = re.compile(r"(?:[^\w\s,，]\s+|：\s*)\d{1,3}[.)、．]\Z")
_RUN_IN_MARKER: Final = re.compile(r"\s(\d{1,3})[.)、．]\Z")
_IN_BRACKETS: Final = re.compile(r"\s*(?:[-*+•]\s+)?(?:\[[^\[\]\n]*\]|【[^【】\n]*】)\s*\Z")
_NUMBER: Final = re.compile(r"\d+")
# The cycles that are looked for: segments and characters of one, and its copies.
_LONGEST_CYCLE: Final = 4
_LEAST_CYCLE: Final = 3
_COPIES: Final = 3
_LEAST_CODE: Final = 15  # lines such as `</div>` and `},` come again
_CODE_COPIES: Final = 4
# Segments that stand in the text already, one behind another; a song has a chorus.
_MOST_OLD: Final = 6
_MOST_OLD_CODE: Final = 10
_BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}
_QUOTES: Final = "\"'`"
_CLOSING: Final = "`~}"  # code
_COMMENT: Final = re.compile(r"\s*#|(?<!:)//.*")
_BLOCK_COMMENT: Final = re.compile(r"(?<!\S)/\*(?:.*?\*/)?", re.DOTALL)
_RULE: Final = re.compile(r"[|:\-\s=]+")
BLOCK_BEGINS: Final = (":", "{")
_BARE_BULLET: Final = re.compile(r"\s*[-*+•]\s*")
_FENCE: Final = re.compile(r"\s*(?:```|~~~)")
_JSON_FENCE: Final = re.compile(r"\s*(?:```|~~~)\s*json\s*\Z", re.IGNORECASE)
_JSON_LINE: Final = re.compile(r"\s*(?:[\"{}\[\],]|-?\d|true|false|null|\Z)")
_CLOSED_STRINGS: Final = re.compile(r'(?:[^"\\]|"(?:[^"\\]|\\.)*+")*+')
# What `is_garbled` looks for. Made with heals of SmolLM2 in Chinese and English.
_PLAIN_MARKS: Final = (
    "*_#~`|\"'“”‘’「」『』()（）[]【】{}《》<>+-=/^%$"  # markdown, quotes, brackets, formulas
)
_SAME_MARKS: Final = re.compile(r"([.…—–\-~!！?？])\1+")  # dots, dashes, shouts: one mark
_IMPOSSIBLE: Final = re.compile(
    r"([；，、;,])\1|[，；、][，；、。]|([!！?？])\2{7}|[^\W\d_]{3,}\d{5,}|[a-zA-Z]{40,}|\ufffd"
    # A word's end that a ban has parted from it, or made another one ("What'a").
    r"|[a-z] ['’](?:s|t|re|ve|ll|m|d)(?=\s)|[a-z]{3}['’][abce-lo-rw-z](?=\s)"
)
_EMPTY_EMPHASIS: Final = re.compile(r"\*\*|__")  # and nothing else on the line
_CLAUSE_END: Final = re.compile(r"[,;，；]")
_IDEOGRAPH: Final = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_KANA: Final = re.compile("[\u3041-\u30ff]")
_FEW_IDEOGRAPHS: Final = 16  # of which one may tell; of more, two
# Categories. Beyond the first plane are pictures that are newer than Python's tables.
_UNASSIGNED: Final = ("Cn", "Co")
_MARKS_WINDOW: Final = 20  # characters
_MOST_MARKS: Final = 6  # of them that stand beside each other
_LEAST_MARKS_WINDOW: Final = 8  # characters of a shorter text
_MARKS_RUN: Final = 4  # beside each other, of
_LEAST_KINDS: Final = 3
_PICTURES_RUN: Final = 12  # pictures and marks beside each other
_WORDS_WINDOW: Final = 8
_LEAST_WORDS: Final = 4  # different ones among them
_TAIL_CHARS: Final = 80  # before a segment that are read with it


def is_whole(segment: Segment, before: Segment | None = None) -> bool:
    """Return whether a text can stop behind a segment.

    It cannot behind a heading, a label, a line that announces the next one, or half a sentence.

    Args:
        segment: The segment.
        before: The one before it, if that is known: in a list of bold names, none announces anything.
    """
    text = segment.text.rstrip()
    bare = text.rstrip(_MARKS)
    if not text or segment.kind in ("heading", "piece") or bare.endswith(_OPEN_ENDS):
        return False
    if segment.kind == "code":
        return not text.startswith(("```", "~~~")) or not text.strip("`~")
    if segment.kind == "table":
        return _RULE.fullmatch(text) is None
    if is_bare_item(text):
        return False
    if before is not None and _is_bold_item(before) and _is_bold_item(segment):
        return True
    # A marker begins a text of its own: an item does not go on the line before it.
    is_half = segment.goes_on if segment.kind == "item" else segment.wrapped
    return is_terminated(text) or not (is_half or _LABEL.fullmatch(text))


def _is_bold_item(segment: Segment) -> bool:
    return segment.kind == "item" and _LABEL.fullmatch(segment.text) is not None


def stands_open(text: str, following: str = "") -> bool:
    """Return whether a text ends within a sentence.

    Args:
        text: The text.
        following: What its author put behind it: a line's end there ends the sentence.
    """
    if not text.strip() or text.endswith("\n"):
        return False
    if is_bare_item(text):
        return True
    if re.match(r"[^\S\n]*\n", following) or _IN_BRACKETS.match(text, text.rfind("\n") + 1):
        return False
    return not is_terminated(text.rstrip())


def is_bare_item(text: str) -> bool:
    """Return whether a text ends in an item that has nothing but its markers."""
    line = text.rpartition("\n")[2].strip()
    if _BARE_MARKERS.fullmatch(line) or _ENDS_IN_MARKER.search(line):
        return True
    marker = _RUN_IN_MARKER.search(line)  # of a list on one line: 1. tea 2. rum 3.
    if marker is None:
        return False
    number = int(marker[1])
    earlier = rf"\A{number - 1}[.)、．]\s|(?:\A|\s){number - 2}[.)、．]\s.*\s{number - 1}[.)、．]\s"
    return re.search(earlier, line) is not None


def can_stop(text: str, following: str = "") -> bool:
    """Return whether a text can stop at its end; see `stands_open`."""
    if stands_open(text, following):
        return False
    segments = segments_of(text.rstrip() + "\n")
    return bool(segments) and is_whole(segments[-1], *segments[-2:-1])


def rest_of_segment(text: str, following: str) -> str:
    """Return what of `following` ends the sentence or line that a text breaks off in.

    Empty if that has no end there.
    """
    end = 0
    segments = segments_of(text + following)
    for segment in segments[:-1]:
        end += len(segment.text)
        if end > len(text):
            return following[: end - len(text)]
        end += len(segment.separator)
    return ""


def closing_of(text: str, fence: str) -> str:
    """Return what closes the code that a text ends in: a string of JSON, its open brackets, and the
    fence.

    Args:
        text: The text.
        fence: The mark of the fence that is open.
    """
    begin, _, code = text[text.rfind(f"\n{fence}") + 1 :].partition("\n")
    last = code.rpartition("\n")[2]
    quote = '"' if _JSON_FENCE.match(begin) and not _CLOSED_STRINGS.fullmatch(last) else ""
    lines = [*_closing_lines(code + quote), fence]
    return quote + ("" if text.endswith("\n") else "\n") + "\n".join(lines)


def _closing_lines(code: str) -> list[str]:
    """Return the lines that close the brackets of code; none if it has no block open, or is odd.

    Each line of the code that opens some has one, with its indentation.
    """
    for comment in _BLOCK_COMMENT.finditer(code):
        if not comment.group().endswith("*/"):
            return []  # it ends within one
    code = _BLOCK_COMMENT.sub(lambda comment: "\n" * comment.group().count("\n"), code)
    still_open: list[tuple[int, str]] = []  # line, and what closes a bracket
    lines = code.split("\n")
    for number, line in enumerate(lines):
        if _COMMENT.match(line):
            continue
        line, quote = _COMMENT.sub("", line), ""
        for at, char in enumerate(line):
            if quote:
                quote = "" if char == quote else quote
            elif char in _QUOTES:
                quote = char if char in line[at + 1 :] else ""
            elif char in _BRACKETS:
                still_open.append((number, _BRACKETS[char]))
            elif char in _BRACKETS.values() and (not still_open or still_open.pop()[1] != char):
                return []
    if not any(closing == "}" for _, closing in still_open):
        return []
    closing_lines: dict[int, str] = {}
    for number, closing in reversed(still_open):
        indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
        closing_lines[number] = closing_lines.get(number, indent) + closing
    return list(closing_lines.values())


def is_structured(text: str) -> bool:
    """Return whether a text ends in code or in a table."""
    segments = segments_of(text)
    return bool(segments) and segments[-1].kind in ("code", "table")


def circles(text: str) -> bool:
    """Return whether a text ends in a copy too many of some segments, but for their numbers."""
    copies, is_third = _Copies(), False
    segmenter = Segmenter()
    segmenter.feed(text.rstrip() + "\n")
    segmenter.flush()
    while segment := segmenter.take():
        is_third = copies.add(segment, bool(segmenter.fence))
    return is_third


def is_garbled(text: str) -> bool:
    """Return whether a model has lost its language in some part of a text.

    Such a part is mostly marks that stand beside each other, says a few words over and over, or
    writes Chinese in simplified characters and in those that no simplified text has.
    """
    if _IMPOSSIBLE.search(text) or any(map(_is_unassigned, text)) or _mixes_scripts(text):
        return True
    words = units(text)
    for start in range(len(words) - _WORDS_WINDOW + 1):
        if len(set(words[start : start + _WORDS_WINDOW])) < _LEAST_WORDS:
            return True
    chars = "".join(_SAME_MARKS.sub(r"\1", text).split())
    marks, num_pictures = "", 0
    for char in chars:
        marks = (marks + char)[-_MARKS_RUN:] if _is_mark(char) else ""
        num_pictures = 0 if char.isalnum() or char in _PLAIN_MARKS else num_pictures + 1
        if num_pictures == _PICTURES_RUN:
            return True
        if len(marks) == _MARKS_RUN and len(set(marks)) >= _LEAST_KINDS:
            return True
    are_marks = [_is_mark(before) and _is_mark(char) for before, char in pairwise(" " + chars)]
    size = min(len(chars), _MARKS_WINDOW)
    if size < _LEAST_MARKS_WINDOW:
        return False
    most = size * _MOST_MARKS // _MARKS_WINDOW
    return any(sum(are_marks[at : at + size]) > most for at in range(len(chars) - size + 1))


def _mixes_scripts(text: str) -> bool:
    """Return whether simplified characters stand beside traditional or rare ones.

    Of 6,600 sentences in modern Chinese none is so; classical verse is. Japanese has forms of its own.
    """
    ideographs = _IDEOGRAPH.findall(text)
    if not ideographs or _KANA.search(text):
        return False
    num_foreign = sum(not _is_in(char, "gb2312") for char in ideographs)
    if not num_foreign:
        return False
    num_simplified = sum(_is_in(char, "gb2312") and not _is_in(char, "big5") for char in ideographs)
    least = 1 if len(ideographs) <= _FEW_IDEOGRAPHS else 2
    return min(num_foreign, num_simplified) >= least


def _is_in(char: str, encoding: str) -> bool:
    return bool(char.encode(encoding, "ignore"))


def _is_unassigned(char: str) -> bool:
    return "\x7f" < char < "\U00010000" and unicodedata.category(char) in _UNASSIGNED


def _is_mark(char: str) -> bool:
    """Return whether a character is a mark; pictures are none."""
    if char.isalnum() or char in _PLAIN_MARKS:
        return False
    category = unicodedata.category(char)
    return category[0] == "P" or category in ("Sm", "Sc", "Sk")


class _Copies:
    """The segments of a text, compared with those before them.

    Lines of code and tables count as written, and may come a few times more.

    Attributes:
        is_old: All clauses of the last segment stand in the text already.
        num_old: So many of the last segments do. Those that say too little to tell count for neither.
    """

    def __init__(self) -> None:
        self.is_old = False
        self.num_old = 0
        self._keys: list[str] = []  # of the last segments, without their numbers
        self._known: set[str] = set()
        self._is_code = False  # the last one is

    def add(self, segment: Segment, is_fenced: bool) -> bool:
        """Add a segment; return whether it ends the third copy of some."""
        is_code = is_fenced or segment.kind == "table"
        copies, least = (_CODE_COPIES, _LEAST_CODE) if is_code else (_COPIES, _LEAST_CYCLE)
        self._is_code = is_code
        self._keys.append(segment.text if is_code else _NUMBER.sub("0", segment.text.lower()))
        del self._keys[: -_CODE_COPIES * _LONGEST_CYCLE]
        self._look_up(segment, least)
        return any(self._repeats(one, copies, least) for one in range(1, _LONGEST_CYCLE + 1))

    @property
    def lead_nowhere(self) -> bool:
        """Return whether nothing new has come for long."""
        return self.num_old > (_MOST_OLD_CODE if self._is_code else _MOST_OLD)

    def begin(self) -> None:
        """Count old segments from here on."""
        self.num_old = 0

    def _look_up(self, segment: Segment, least: int) -> None:
        keys = [segment.text.strip()]
        if not self._is_code:
            clauses = _CLAUSE_END.split(segment.text[segment.marker_chars :])
            keys = list(map(sentence_key, clauses))
        keys = [key for key in keys if utf8_size(key) > least]
        self.is_old = bool(keys) and self._known.issuperset(keys)
        if self.is_old:
            self.num_old += 1
        elif keys:
            self.num_old = 0
            self._known.update(keys)

    def _repeats(self, period: int, copies: int, least: int) -> bool:
        """Return whether the text ends in so many copies of its last `period` segments."""
        last = self._keys[-period:]
        is_long = len("".join(last)) > least
        return is_long and self._keys[-copies * period :] == last * copies


class SentenceGate:
    """A gate that text passes in whole sentences, lines and items.

    What it holds can still be withdrawn. Segments are those of the filter.

    Args:
        passed: The text that has passed already.

    Attributes:
        held: The text that waits for the end of its sentence.
        num_passed: Characters that have passed, `passed` among them.
        said_until: Those up to the last letter or digit that has passed, or what closes code; 0 if
            none has.
        fence: The mark of the code fence that is open in the text that has passed, if one is.
        is_lost: The last segment was the third copy of some, but for their numbers, or the last of
            many that were said before, or it is garbled. It does not pass.
    """

    def __init__(self, passed: str) -> None:
        self.held = ""
        self.num_passed = len(passed)
        self.said_until = 0
        self.fence = _open_fence(passed)
        self.is_lost = False
        self._segmenter = Segmenter()
        self._num_taken = 0
        self._num_begun = len(passed)
        self._copies = _Copies()
        self._tail = ""  # of the segments behind `passed`
        self._before: Segment | None = None
        self._is_json = False  # nothing else has come in the fence that is open
        self._segmenter.feed(passed)
        self._take()
        self._copies.begin()
        # What stands right before the seam, of prose; None behind the first segment.
        self._last_begun: str | None = None
        if not self.fence:
            self._last_begun = passed[-_TAIL_CHARS:].rpartition("\n")[2]

    @property
    def has_passed(self) -> bool:
        """Return whether anything has, behind the text that had passed already."""
        return self.num_passed > self._num_begun

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
        if self.is_lost or not lines.endswith(_VERSE_ENDS):
            return ""
        return self._pass(self.num_passed + len(lines))

    def _take(self) -> int:
        """Return up to which offset the text is whole."""
        until = 0
        while segment := self._segmenter.take():
            end = self._num_taken + len(segment.text)
            self._num_taken = end + len(segment.separator)
            is_third = self._copies.add(segment, bool(self._segmenter.fence))
            is_lost = self._leaves_json(segment) or is_third
            if end > self._num_begun:
                is_lost = is_lost or self._repeats_at_seam(segment, end - self._num_begun)
                is_lost = is_lost or self._copies.lead_nowhere or self._is_garbled(segment)
                is_lost = is_lost or self._lacks_body(segment)
                self.is_lost = self.is_lost or is_lost
            # A segment said again passes with what follows it: the text does not end with it.
            before, self._before = self._before, segment
            if is_whole(segment, before) and not (self.is_lost or self._copies.is_old):
                until = end
                if end > self.num_passed:
                    self.fence = self._segmenter.fence
        return until

    def _lacks_body(self, segment: Segment) -> bool:
        """Return whether an item has no word, or code is closed that has just begun a block."""
        if segment.kind != "code":  # a comment has such lines, and a diff
            return _BARE_BULLET.fullmatch(segment.text) is not None
        last, is_closed = self._before, _FENCE.match(segment.text) and not self._segmenter.fence
        if last is None or not is_closed or last.kind != "code" or _FENCE.match(last.text):
            return False
        return last.text.endswith(BLOCK_BEGINS) and not _COMMENT.match(last.text)

    def _leaves_json(self, segment: Segment) -> bool:
        """Return whether a line of other text, or one that ends within a string, comes in a fence that
        had nothing but JSON.
        """
        was_json = self._is_json
        if _FENCE.match(segment.text):
            self._is_json = _JSON_FENCE.match(segment.text) is not None
            return False
        is_json = _JSON_LINE.match(segment.text) and _CLOSED_STRINGS.fullmatch(segment.text)
        self._is_json = was_json and is_json is not None
        return was_json and not self._is_json

    def _repeats_at_seam(self, segment: Segment, num_chars: int) -> bool:
        """Return whether the first segment says, behind the seam, only what ends the text before it."""
        if self._last_begun is None:
            return False
        before, self._last_begun = self._last_begun, None
        key = sentence_key(segment.text[-num_chars:])
        return utf8_size(key) > _LEAST_CYCLE and sentence_key(before).endswith(key)

    def _is_garbled(self, segment: Segment) -> bool:
        """Return whether a segment that was generated is garbled, read behind those before it."""
        if segment.kind == "table" or self._segmenter.fence or _FENCE.match(segment.text):
            self._tail = ""
            return False
        if _EMPTY_EMPHASIS.fullmatch(segment.text.strip()):
            return True
        text = self._tail + segment.text
        self._tail = text[-_TAIL_CHARS:] + "\n"
        return is_garbled(text)

    def _pass(self, until: int) -> str:
        size = until - self.num_passed
        if size <= 0:
            return ""
        passed, self.held = self.held[:size], self.held[size:]
        self.num_passed = until
        for at in range(size - 1, -1, -1):
            if passed[at].isalnum() or passed[at] in _CLOSING:
                self.said_until = max(self.said_until, until - size + at + 1)
                break
        return passed


def _open_fence(text: str) -> str:
    segmenter = Segmenter()
    segmenter.feed(text)
    segmenter.flush()
    while segmenter.take():
        pass
    return segmenter.fence
