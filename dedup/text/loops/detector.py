"""Detects that a generation has nothing new to say: exact cycles, near-verbatim and drift loops, floods.

The detector is online: it answers as soon as a loop is certain. It reads the sequence token by token (a word with what follows it,
two characters of a script written without spaces, a stretch of symbols), so its answer does not depend on the pieces it was fed.

Two tables do the work. Where each pair of tokens stood last: a cycle is a run of tokens that equal those one period earlier, and where
its first pair stood before is the only period worth looking at. And how often each 3-gram stood before, numbers and case folded: a
counter, a name or a shuffled set of sentences leaves few new ones, a text that says something many. Worst case O(1) a token, whatever
the period. Each threshold's evidence stands in docs/filter.md.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dedup.config import LoopConfig
from dedup.text.form import Form, form_of
from dedup.text.loops.grams import Grams
from dedup.text.words import UNSPACED, fold

_TOKEN: Final = re.compile(
    rf"(?:[{UNSPACED}]{{1,2}}|[A-Z]?[^\W_{UNSPACED}A-Z]{{1,12}}|[A-Z]{{1,12}})[\W_]{{0,3}}"
    r"|\n{1,8}(?:[^\w\n]|_){0,8}|(?:[^\w\n]|_){1,8}"
)
# The same in ASCII, where every symbol is of one of these kinds.
_LOWER: Final = 0  # and digits
_UPPER: Final = 1
_NEWLINE: Final = 2
_OTHER: Final = 3
_KINDS: Final = bytes(
    [
        _LOWER if symbol.islower() or symbol.isdigit() else _UPPER if symbol.isupper() else _NEWLINE if symbol == "\n" else _OTHER
        for symbol in map(chr, range(256))
    ]
)
_FIRST_UNSPACED: Final = "\u3040"  # kana, then the ideographs: no letters of spaced scripts but Hangul lie beyond
_FIRST_IDEOGRAPH: Final = "\u4e00"  # from here on there is no case, and hardly any width
_TABLE_ROW: Final = re.compile(r"^[^\S\n]*\|.*\w.*\|[^\S\n]*(?=\n)", re.MULTILINE)
_DIGIT: Final = re.compile(r"\d")
_WORD: Final = re.compile(r"\w*")
_FENCE: Final = "```"

# Symbols.
_LEAST_SPAN: Final = 30  # no loop is shorter
_DRAWING: Final = 1200  # fenced lines without letters are a drawing up to here
_REACH: Final = 128  # how far back an echo is heard
_SHORT_RUN: Final = 64  # two tokens, and what may equal of those around them, are no longer

# Tokens, and shares of them.
_STEP: Final = 32  # between two looks for a near loop
_PROSE_COVERED: Final = 0.8
_REPEATED_PAIRS: Final = 0.4  # fewer cannot be a near loop
_CODE_WINDOW: Final = 256
_CODE_COVERED: Final = 0.85
_CODE_WORDS: Final = 44  # different ones
_TABLE_STEP: Final = 32  # between two looks at a table's rows
_TABLE_COVERED: Final = 0.5
_TABLE_ROWS: Final = 12  # not one of them new: a loop
_FRESH: Final = 16  # half of them new end a near loop

LoopKind = Literal["exact", "near", "flood"]


@dataclass(frozen=True, slots=True)
class LoopEvent:
    """A loop. Offsets and the period are symbols of what was fed.

    onset: where the first copy begins. detected_at: how much had been read when it was certain. copies: whole copies until then.
    """

    kind: LoopKind
    onset: int
    detected_at: int
    period: int
    copies: int


@dataclass(frozen=True, slots=True)
class LoopEnd:
    """The loop has ended: from the symbol `at` on the sequence says something else."""

    at: int


@dataclass(slots=True)
class _Run:
    """From the symbol `start` on the sequence equals what stands `distance` tokens earlier."""

    start: int
    distance: int
    begun: int  # number of the token that gave it away
    known_at: int = -1  # found when it is asked for
    period: int = 0  # symbols; known once the run has covered it
    unit: str = ""


class LoopDetector:
    """Feeds on a sequence of characters or tokens; reports its first loop.

        detector = LoopDetector()
        for delta in deltas:
            if event := detector.feed(delta): ...

    Token ids are symbols too: `feed([17, 4, 9])`; near loops are looked for in text only. Memory: at most `3 * max_period` tokens.
    """

    def __init__(self, config: LoopConfig | None = None) -> None:
        self.config = config or LoopConfig()
        self.event: LoopEvent | None = None  # the loop that the sequence is in
        self._is_text = True
        self._unfinished = ""
        self._tokens: list[str] = []  # whole, but not looked at yet, from _at on
        self._at = 0
        self._fed = 0
        self._flushed = False
        # What was looked at. Index 0 of the lists is token number _base.
        self._base = 0
        self._seen: list[str] = []
        self._ends: list[int] = []  # where each token ends
        self._end = 0
        self._tail = ""  # the end of it, as text
        self._pairs: dict[str, int] = {}  # two tokens, with \0 between -> number of the second, where they stood last
        self._num_counted = 0  # tokens in the tables of 3-grams
        self._grams: Grams | None = None  # as they stand; counted while enough of what is said is not new
        self._said: Grams | None = None  # folded; counted while enough pairs stood before
        self._hits: deque[int] = deque()  # numbers of the last tokens whose pair stood before
        self._remembered = max(self.config.max_period, self.config.window, _CODE_WINDOW)
        self._num_fences = 0  # in what was forgotten
        self._run: _Run | None = None

    @property
    def held_from(self) -> int:
        """From this symbol on, what was fed may be a loop's second copy; what was fed, if nothing may."""
        if self._run is not None:
            return self._known_at(self._run)
        if not self._seen:
            return self._fed
        tail, size = self._tail, len(self._seen[-1])
        if size > _REACH or tail.find(self._seen[-1], max(0, len(tail) - size - _REACH), len(tail) - 1) < 0:
            return self._fed  # the commonest case, without a call: the last token does not stand near before
        return self._echo(len(self._seen) - 1)

    @property
    def looked_at(self) -> int:
        """Symbols in whole tokens, all of which were looked at when `next_change` has given None."""
        return self._end

    def feed(self, symbols: str | Sequence[int]) -> LoopEvent | None:
        """The first loop, as soon as it is certain; None until then. What is fed after a loop is not looked at.

        Token ids must be below 1,114,112, the number of symbols that a string can hold.
        """
        if self.event is None:
            self.push(symbols)
            while (change := self.next_change()) and not isinstance(change, LoopEvent):
                pass
        return self.event

    def push(self, symbols: str | Sequence[int]) -> None:
        """Takes symbols in; `next_change` looks at them."""
        self._fed += len(symbols)
        if isinstance(symbols, str):
            text = self._unfinished + symbols
            tokens = _ascii_tokens(text) if text.isascii() else _TOKEN.findall(text)
            self._unfinished = tokens.pop() if tokens else ""
            self._tokens = [*self._tokens[self._at :], *tokens] if self._at < len(self._tokens) else tokens
            self._at = 0
        else:
            self._is_text = False
            self._tokens = [*self._tokens[self._at :], *map(chr, symbols)]
            self._at = 0

    def start_over(self) -> None:
        """What is fed from here on does not go on with what was fed before: it is only compared with it. The loop has ended."""
        rest = "".join(self._tokens[self._at :]) + self._unfinished
        if rest:
            self._seen.append(rest)
            self._end += len(rest)
            self._ends.append(self._end)
        self._tokens, self._at, self._unfinished = [], 0, ""
        self._tail = ""
        self._run = self.event = None
        self._hits.clear()
        self._grams = self._said = None

    def flush(self) -> None:
        """No more symbols will come: the last token is whole."""
        self._flushed = True
        if self._unfinished:
            self._tokens.append(self._unfinished)
            self._unfinished = ""

    def next_change(self) -> LoopEvent | LoopEnd | None:
        """The next thing that happens in what was pushed; None when all of it was looked at."""
        while self._at < len(self._tokens):
            index, before = self._skim()
            if self._run is None and before < 0 and not self._flushed and (self._base + index) % _STEP:
                continue  # a token that changes nothing
            if change := self._consider(index, before):
                return change
        return None

    def _skim(self) -> tuple[int, int]:
        """Reads up to a token that may matter: its index, and the number of the one that ended the same pair before (-1: none).

        Goal: as little as can be for a token that is new, or whose pair stood before too long ago, or far away and between other
        tokens: what would be a run of two tokens is no loop.
        """
        seen, ends, pairs, end, hits = self._seen, self._ends, self._pairs, self._end, self._hits
        base, max_period, tokens = self._base, self.config.max_period, self._tokens
        alone = self.event is None
        number = base + len(seen)
        stop = min(len(tokens), self._at + (1 if self._run else 1 + -number % _STEP))
        last, before = seen[-1] if seen else "", -1
        for at in range(self._at, stop):
            token = tokens[at]
            end += len(token)
            seen.append(token)
            ends.append(end)
            pair = f"{last}\0{token}"  # unlike a tuple, nothing for the garbage collector to look through
            last = token
            if (known := pairs.setdefault(pair, number)) != number:
                pairs[pair] = number
                hits.append(number)
                place = known - base
                distance = end - ends[place]
                if distance <= max_period and not (
                    alone
                    and distance > _SHORT_RUN
                    and place > 1
                    and at + 1 < len(tokens)
                    and tokens[at + 1] != seen[place + 1]
                    and seen[-3] != seen[place - 2]
                ):
                    before = known
                    break
            number += 1
        self._tail = (self._tail + "".join(tokens[self._at : at + 1]))[-2 * _REACH :]
        self._at, self._end = at + 1, end
        return len(seen) - 1, before

    def _consider(self, index: int, before: int) -> LoopEvent | LoopEnd | None:
        """What the token at `index` changes."""
        change: LoopEvent | LoopEnd | None = None
        if self._run and self._seen[index - self._run.distance] != self._seen[index]:
            change = self._end_run(index)
        if self._run is None and before >= 0:
            self._begin_run(index, self._base + index - before)
        if self._run and self.event is None and change is None:
            change = self.event = self._judge(self._run, index, self._end)
        at_end = self._flushed and self._at == len(self._tokens)
        if at_end or (self._base + index) % _STEP == 0:
            self._count(at_end)
            change = change or self._look_for_near(index, at_end)
            if index >= 3 * self._remembered:
                self._forget()
        return change

    def _count(self, at_end: bool) -> None:
        """Brings the tables of 3-grams up to date, if enough pairs stood before that it matters."""
        number = self._base + len(self._seen)
        window = self.config.window // 4 if at_end else self.config.window
        while self._hits and self._hits[0] < number - self.config.window:
            self._hits.popleft()
        if self._said is None:
            num_hits = sum(hit >= number - window for hit in self._hits) if at_end else len(self._hits)
            if num_hits < _REPEATED_PAIRS * window:
                return
            self._said = Grams(self.config.window)
            self._num_counted = self._base
        new = self._seen[self._num_counted - self._base :]
        self._num_counted = number
        self._said.extend([_UNITS.get(token) or _unit(token) for token in new])
        if self._grams:
            self._grams.extend(new)
        elif self._said.covered(self.config.window) >= _TABLE_COVERED / 2:
            self._grams = Grams(_CODE_WINDOW)
            self._grams.extend(self._seen)

    def _echo(self, index: int) -> int:
        """Where the first token of the longest echo that ends with the token at `index` ends; -1 if there is none.

        An echo stands in the `_REACH` symbols before it too, wherever a token begins there: two characters of Chinese are a token,
        and a loop's copies need not begin at one.
        """
        seen = self._seen
        text = self._tail
        if index < len(seen) - 1:
            text = "".join(seen[max(0, index + 1 - 2 * _REACH) : index + 1])[-2 * _REACH :]
        length = len(text)
        size, since = 0, -1
        while index >= 0:
            size += len(seen[index])
            if size > _REACH or text.find(text[-size:], max(0, length - size - _REACH), length - 1) < 0:
                break
            since = self._ends[index]
            index -= 1
        return since

    def _known_at(self, run: _Run) -> int:
        """The symbol up to which the run could not be told from new text."""
        if run.known_at < 0:
            index = run.begun - self._base
            since = self._echo(index)
            run.known_at = since if since >= 0 else self._ends[index]
        return run.known_at

    def _begin_run(self, index: int, distance: int) -> None:
        """A run: the last two tokens stand `distance` tokens earlier too."""
        seen, ends = self._seen, self._ends
        first = index - 1
        if first < distance:
            return
        # The run may have begun earlier, hidden by one of another period. Goal, O(1) amortised: no further back than that.
        floor = max(distance, first - 2 * distance)
        while first > floor and seen[first - 1] == seen[first - 1 - distance]:
            first -= 1
        start = ends[first - 1]
        for one, other in zip(
            reversed(seen[first - 1]), reversed(seen[first - 1 - distance] if first > distance else ""), strict=False
        ):
            if one != other:
                break
            start -= 1
        self._run = _Run(start, distance, self._base + index)

    def _end_run(self, index: int) -> LoopEvent | LoopEnd | None:
        """What the end of the run before the token at `index` means."""
        run, self._run = self._run, None
        assert run is not None
        end = self._ends[index - 1]
        if self.event:
            if self.event.kind == "near":
                return None
            # The last copy may break off within the token, but not within a word.
            word = len(_WORD.match(self._seen[index]).group())  # type: ignore[union-attr]
            same = _common_prefix(self._seen[index], self._seen[index - run.distance])
            return self._leave_loop(index, word if word <= same else 0)
        # The last copy may break off within the token.
        end += _common_prefix(self._seen[index], self._seen[index - run.distance])
        if event := self._judge(run, index - 1, end):
            self._run = run
            self.event = event
            return event
        return None

    def _leave_loop(self, index: int, num_symbols: int = 0) -> LoopEnd:
        """The loop has ended before the token at `index`, or this many symbols into it."""
        self.event = None
        if self._grams:
            self._grams.start_over()
        if self._said:
            self._said.start_over()
        return LoopEnd(self._ends[index - 1] + num_symbols)

    def _look_for_near(self, index: int, at_end: bool) -> LoopEvent | LoopEnd | None:
        """Whether the tokens up to that at `index` are a near loop, or end one."""
        if self.event is None and self._is_text:
            self.event = self._near(at_end)
            return self.event
        if self.event and self.event.kind == "near" and self._said and 2 * self._said.num_new(_FRESH) >= _FRESH:
            return self._leave_loop(index)
        return None

    def _judge(self, run: _Run, index: int, end: int) -> LoopEvent | None:
        """The loop that the run, whose last token is that at `index`, is, if up to `end` it is long enough."""
        if not run.period:
            period = self._ends[index] - self._ends[index - run.distance]
            if end - run.start < period:
                return None
            # Tokens may be cut so that several copies make one period of tokens.
            unit = "".join(self._seen[index - run.distance + 1 : index + 1])
            run.period = (unit + unit).find(unit, 1)
            run.unit = unit[: run.period]
            run.start = self._start_of(run, index) - (len(unit) - run.period)
        span = end - run.start + run.period
        copies = span // run.period
        if copies < 3 or span < _LEAST_SPAN:
            return None
        kind, needed = _needed_span(run.unit, copies) if self._is_text else ("exact", _span_of(copies))
        is_drawing = kind == "flood" and span < _DRAWING and "\n" in run.unit and _FENCE not in run.unit and self._in_fence(index)
        if span < needed or is_drawing:
            return None
        return LoopEvent(kind, run.start - run.period, end, run.period, copies)

    def _start_of(self, run: _Run, index: int) -> int:
        """Where the run begins, up to a period before the first token that showed it: the first copy's tokens may be cut elsewhere."""
        text = "".join(self._seen[max(0, index + 1 - 3 * run.distance) : index + 1])
        begun = self._ends[index] - len(text)
        period = self._ends[index] - self._ends[index - run.distance]
        start = run.start - begun
        floor = max(period, start - period)
        while start > floor and text[start - 1] == text[start - 1 - period]:
            start -= 1
        return begun + start

    def _near(self, at_end: bool) -> LoopEvent | None:
        """The near loop that the last tokens are: prose that says nothing new, or code whose very tokens are not new.

        What is cut of a near loop may be new in a word, so it must have gone on for long; a text that ends in one is only reported.
        """
        window = self.config.window // 4 if at_end else self.config.window
        if self._said is None:
            return None
        if self._said.covered(window) >= _PROSE_COVERED and self._last_form(window) == "prose":
            grams = self._said
        elif self._grams is None:
            return None
        elif self._grams.covered(_CODE_WINDOW) >= _CODE_COVERED and self._few_words() and self._last_form(_CODE_WINDOW) == "code":
            grams, window = self._grams, _CODE_WINDOW
        else:
            return self._near_table()
        here, last, first = grams.origin(window)
        onset = self._end_of(first - 3)
        period = max(1, self._end_of(here) - self._end_of(last))
        return LoopEvent("near", onset, self._end, period, max(2, (self._end - onset) // period))

    def _near_table(self) -> LoopEvent | None:
        """The near loop that a table is when none of its last rows is new."""
        if (
            not self._grams
            or self._grams.covered(_CODE_WINDOW) < _TABLE_COVERED
            or (self._base + len(self._seen)) % _TABLE_STEP >= _STEP
        ):
            return None
        text = "".join(self._seen)
        rows = [(row.start(), " ".join(row.group().split())) for row in _TABLE_ROW.finditer(text)]
        first_at: dict[str, int] = {}
        for number, (_, row) in enumerate(rows):
            first_at.setdefault(row, number)
        recent = range(len(rows) - _TABLE_ROWS, len(rows))
        if recent.start < 0 or any(first_at[rows[number][1]] == number for number in recent):
            return None
        first = recent.start
        begun = self._end - len(text)
        onset = begun + rows[first_at[rows[first][1]]][0]
        period = max(1, begun + rows[first][0] - onset)
        return LoopEvent("near", onset, self._end, period, max(2, (self._end - onset) // period))

    def _few_words(self) -> bool:
        """Whether the last tokens are a handful of words over and over: code that repeats itself for a reason has more."""
        return len({_UNITS.get(token) or _unit(token) for token in self._seen[-_CODE_WINDOW:]}) <= _CODE_WORDS

    def _last_form(self, num_tokens: int) -> Form:
        form = form_of("".join(self._seen[-num_tokens:]))
        return "code" if form == "prose" and self._in_fence(len(self._seen) - 1) else form

    def _in_fence(self, index: int) -> bool:
        """Whether the token at `index` stands in fenced code."""
        return (self._num_fences + _num_fences(self._seen[: index + 1])) % 2 == 1

    def _end_of(self, number: int) -> int:
        """Where a token ends; of one that is forgotten or was never there, the nearest."""
        return self._ends[max(0, number - self._base)] if number >= 0 else 0

    def _forget(self) -> None:
        """Drops the older two thirds of what is remembered. O(1) amortised."""
        cut = 2 * self._remembered
        if self._run:
            self._known_at(self._run)
        self._base += cut
        self._num_fences += _num_fences(self._seen[:cut])
        del self._seen[:cut], self._ends[:cut]
        self._pairs = {pair: number for pair, number in self._pairs.items() if number >= self._base}
        self._grams = None
        self._said = None


def _ascii_tokens(text: str) -> list[str]:
    """`_TOKEN.findall` of ASCII text, at a quarter of its cost: this is done for every piece of a stream."""
    kinds = text.encode().translate(_KINDS)
    end = len(kinds)
    tokens: list[str] = []
    at = 0
    while at < end:
        start = at
        kind = kinds[at]
        if kind <= _UPPER:
            if kind == _UPPER and at + 1 < end and kinds[at + 1] == _LOWER:  # a word with a capital
                at += 1
                kind = _LOWER
            at = _run_end(kinds, at, min(end, at + 12), kind)
            at = _symbols_end(kinds, at, min(end, at + 3), _NEWLINE)
        else:
            if kind == _NEWLINE:
                at = _run_end(kinds, at, min(end, at + 8), _NEWLINE)
            at = _symbols_end(kinds, at, min(end, at + 8), _OTHER)
        tokens.append(text[start:at])
    return tokens


def _run_end(kinds: bytes, at: int, stop: int, kind: int) -> int:
    """Where the symbols of `kind` at `at` end."""
    while at < stop and kinds[at] == kind:
        at += 1
    return at


def _symbols_end(kinds: bytes, at: int, stop: int, least: int) -> int:
    """Where the symbols of kinds from `least` on at `at` end."""
    while at < stop and kinds[at] >= least:
        at += 1
    return at


def _span_of(copies: int) -> int:
    return 60 if copies >= 4 else 200


def _needed_span(unit: str, copies: int) -> tuple[LoopKind, int]:
    """How many symbols a cycle of `unit` must cover to be a loop.

    Words said over are a loop soon. Digits and symbols stand in rows legitimately: table rules, dot leaders, padding, zeros.
    """
    letters = sum(map(str.isalpha, unit))
    if not letters:
        if any(map(str.isdigit, unit)):
            return "flood", (96 if unit.isdigit() and copies >= 16 else 256) if len(set(unit)) > 1 else 128
        if _FENCE in unit:
            return "flood", 120
        return "flood", max(400 if unit.isascii() else 200, 8 * len(unit))  # a form has some empty rows
    if "\n    " in unit:  # lines of code
        return "exact", max(320, 6 * len(unit))
    if 4 * letters < len(unit):
        return "exact", 320
    if len(unit) > 3 and copies >= 5 and min(filter(str.isalpha, unit)) >= _FIRST_UNSPACED:
        return "exact", _LEAST_SPAN
    return ("exact" if len(set(unit)) > 1 else "flood"), _span_of(copies)


def _num_fences(tokens: list[str]) -> int:
    return "".join(tokens).count(_FENCE)


def _common_prefix(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


_UNITS: Final[dict[str, str]] = {}  # folded forms of tokens, shared by all detectors; bounded
_MAX_UNITS: Final = 1 << 15


def _unit(token: str) -> str:
    """What a token says: case, width and numbers folded, symbols around it dropped."""
    if token[0] >= _FIRST_IDEOGRAPH and token.isalpha():
        return token
    word = "".join(filter(str.isalnum, token))
    if len(_UNITS) >= _MAX_UNITS:
        _UNITS.clear()
    unit = _UNITS[token] = "0" if _DIGIT.search(word) else fold(word) or token
    return unit
