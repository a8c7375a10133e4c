"""Detects that a generation has nothing new to say: exact cycles, near-verbatim and drift loops, floods.

The detector is online: it answers as soon as a loop is certain. It reads the text token by token, so its answer does not depend on
the deltas it was fed. Two stages:

    idle      no passage is being copied: each pair of tokens is looked up. The third token that goes on as an earlier passage did
              leads to
    copying   each token is compared with the one that the passage leads to expect. A passage copied at one distance for long
              enough is a cycle (`cycle.py`); what the text says less than its letters should adds up (`evidence.py`). When
              nothing is missing any more, the detector is idle again.

Time is O(1) a token, whatever the period; memory is bounded by `LoopConfig.max_period`.
"""

import bisect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dedup.config import LoopConfig
from dedup.text.form import Form, form_of, form_of_cycle, is_enclosed, is_in_comment, num_fences
from dedup.text.loops.cycle import LEAST_WEIGHT, Cycle, least_begun, period_of
from dedup.text.loops.evidence import (
    ADVANCE_BITS,
    FRAME_BITS,
    LEAST_SURPRISE,
    SWITCH_BITS,
    Deficit,
    copied_bits,
    expected_bits,
    number_bits,
    surprise_bits,
)
from dedup.text.loops.flood import Flood
from dedup.text.loops.history import History
from dedup.text.loops.tokens import Token, token_of, tokenize
from dedup.text.words import UNSPACED

LoopKind = Literal["exact", "near", "flood"]

_LONGEST_TOKEN: Final = 16  # characters
_REACH: Final = 128  # characters back in which an echo is heard
_HELD_DISTANCE: Final = (
    4096  # characters: a copy from further back is not held, a stream must not stall for a page
)
_MAX_MISSED: Final = 3  # tokens after which a passage is lost
_LOOK_AGAIN: Final = 1.15  # growth of a cycle or a sum until its form is looked at again
_FORM_TOKENS: Final = 600  # looked at to tell a form
_CONTEXT_TOKENS: Final = 120
# Bits missing that are a loop, by form: what repeats legitimately and what a wrong cut breaks decide.
_LIMITS: Final[dict[Form, float]] = {
    "prose": 110.0,
    "verse": 200.0,
    "notation": 250.0,
    "code": 900.0,
    "data": 1200.0,
}
_LIMIT_IN_FENCE: Final = 350.0  # at least: output of programs repeats its lines
_LIMIT_OF_FENCED_CODE: Final = (
    400.0  # a snippet in an answer, where a wrong cut breaks less than in a file
)
_LIMIT: Final = 110.0  # the least of them
_STEP: Final = 32  # tokens between two looks for a flood or a short cycle
_LEAST_SHORT: Final = 4  # tokens
_MOST_SHORT: Final = 64
_MAX_SHORT_TOKENS: Final = 512  # looked back for the first copy
_SAME_TOKENS: Final = 3  # that a passage and an earlier copy of it begin with
_LEAST_REMEMBERED: Final = 16_384  # characters, whatever the longest period
_CLOCK: Final = re.compile(r"\d[:/]|[:/]$|[:/]\d")
_WORD_PART: Final = re.compile(rf"[^\W{UNSPACED}]+\W*")
_WORD: Final = re.compile(r"\w*")
_SPAN_OF_IDS: Final[tuple[int, ...]] = (60, 200)  # token ids in four copies and more; in three


@dataclass(frozen=True, slots=True)
class LoopEvent:
    """A loop. Offsets and the period are characters (or token ids) of what was fed.

    onset: where the first copy begins. detected_at: how much had been read when it was certain. copies: whole copies until then.
    """

    kind: LoopKind
    onset: int
    detected_at: int
    period: int
    copies: int


@dataclass(frozen=True, slots=True)
class LoopEnd:
    """The loop has ended: from the offset `at` on the text says something else."""

    at: int


class _Inbox:
    """The tokens that were fed and not read yet. The last token of a text may go on, so it waits."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.at = 0  # index of the next token
        self.unfinished = ""
        self.fed = 0
        self.is_flushed = False

    def push(self, text: str) -> None:
        self.fed += len(text)
        text = self.unfinished + text
        tokens = tokenize(text)
        self.unfinished = tokens.pop() if tokens else ""
        self._add(tokens)

    def push_ids(self, ids: Sequence[int]) -> None:
        self.fed += len(ids)
        self._add(list(map(chr, ids)))

    def flush(self) -> None:
        self.is_flushed = True
        if self.unfinished:
            self._add([self.unfinished])
            self.unfinished = ""

    @property
    def is_at_end(self) -> bool:
        """True if the last token of the text was taken: it may have been cut off."""
        return self.is_flushed and self.at == len(self.tokens)

    def take(self) -> str:
        """Return the next token."""
        self.at += 1
        return self.tokens[self.at - 1]

    def take_rest(self) -> str:
        """Return what was not read, and forget it."""
        rest = "".join(self.tokens[self.at :]) + self.unfinished
        self.tokens, self.at, self.unfinished = [], 0, ""
        return rest

    def _add(self, tokens: list[str]) -> None:
        self.tokens = [*self.tokens[self.at :], *tokens] if self.at < len(self.tokens) else tokens
        self.at = 0


class _Copy:
    """The passage being copied: each token is expected to equal the one `distance` tokens before it; 0 if no passage is copied.

    num_copied: tokens that did, since the last that did not. num_missed: tokens that did not, since the last that did.
    num_same, num_exact: tokens on end that equal those a distance earlier, with numbers that stay or advance, and to the letter.
    same_from, exact_from: the offsets where they begin. looked_at: num_same at the last look at the cycle that they are.
    held_from, noticed_at: numbers of the tokens from which on what is copied is held, and with which that was noticed; -1 if it is
    not held.
    """

    def __init__(self) -> None:
        self.distance = 0
        self.num_copied = 0
        self.num_missed = 0
        self.num_same = 0
        self.num_exact = 0
        self.same_from = 0
        self.exact_from = 0
        self.looked_at = 0
        self.held_from = -1
        self.noticed_at = -1

    def lose(self) -> None:
        """Follow no passage."""
        self.distance = self.num_copied = self.num_missed = 0
        self.end_cycle(0)

    def end_cycle(self, at: int) -> None:
        """The text up to the offset `at` does not repeat what stands a distance earlier."""
        self.num_same = self.num_exact = self.looked_at = 0
        self.same_from = self.exact_from = at

    def extend(self, is_exact: bool, end: int) -> None:
        """Take in a token that ends at the offset `end` and equals the one a distance earlier."""
        self.num_copied += 1
        self.num_missed = 0
        self.num_same += 1
        if is_exact:
            self.num_exact += 1
        else:
            self.num_exact = 0
            self.exact_from = end


class LoopDetector:
    """Feeds on a text, in deltas, or on token ids; reports its first loop.

        detector = LoopDetector()
        for delta in deltas:
            if event := detector.feed(delta): ...

    Of token ids only exact cycles are found.

    Args:
        config: the longest period looked for.
        allowed_copies: given one copy of a cycle, return how many are legitimate, 0 for no more than usual.
    """

    def __init__(
        self, config: LoopConfig | None = None, allowed_copies: Callable[[str], int] | None = None
    ) -> None:
        self.config = config or LoopConfig()
        self.event: LoopEvent | None = None  # the loop that the text is in
        self._allowed_copies = allowed_copies
        self._is_text = True
        self._inbox = _Inbox()
        self._history = History()
        self._copy = _Copy()
        self._deficit = Deficit()
        self._flood = Flood()

    @property
    def held_from(self) -> int:
        """Offset from which input is held as a possible second copy of a loop; the input length if nothing is held."""
        history = self._history
        index = len(history.tokens) - 1
        fed = self._inbox.fed
        if index < 0:
            return fed
        copy = self._copy
        if copy.num_copied:
            if copy.held_from < 0:
                return fed
            first = history.ends[max(0, copy.held_from - history.base)]
            return min(first, self._echo(max(0, copy.noticed_at - history.base)))
        token = history.tokens[index]
        size = len(token)
        held = fed
        if (
            size <= _REACH
            and history.tail.find(
                token, max(0, len(history.tail) - size - _REACH), len(history.tail) - 1
            )
            >= 0
        ):
            held = self._echo(index)
        if not copy.distance and self._is_near(history.found):
            held = min(held, history.end)
        return held

    def cut_at(self, event: LoopEvent) -> int:
        """Return the offset where a loop's second copy begins, or what is held of it."""
        return min(max(self.held_from, event.onset + event.period), event.detected_at)

    @property
    def looked_at(self) -> int:
        """Characters in whole tokens, all of which were looked at when `next_change` has given None."""
        return self._history.end

    def feed(self, symbols: str | Sequence[int]) -> LoopEvent | None:
        """Take in a delta and return the first loop, once it is certain. What is fed after a loop is not looked at.

        Token ids must be below 1,114,112, the number of characters that a string can hold.
        """
        if self.event is None:
            self.push(symbols)
            while (change := self.next_change()) and not isinstance(change, LoopEvent):
                pass
        return self.event

    def push(self, symbols: str | Sequence[int]) -> None:
        """Take in a delta; `next_change` looks at it."""
        if isinstance(symbols, str):
            self._inbox.push(symbols)
        else:
            self._is_text = False
            self._inbox.push_ids(symbols)

    def flush(self) -> None:
        """No more text will come: the last token is whole."""
        self._inbox.flush()

    def start_over(self) -> None:
        """Leave the loop: what is fed from here on does not go on with what was fed before, it is only compared with it."""
        self._history.start_over(self._inbox.take_rest())
        self._be_idle()

    def next_change(self) -> LoopEvent | LoopEnd | None:
        """Return the next thing that happens in what was pushed; None when all of it was looked at."""
        inbox = self._inbox
        while inbox.at < len(inbox.tokens):
            if self.event:
                if (end := self._read_in_loop(self.event)) is not None:
                    return end
                continue
            if self._copy.distance or self._deficit.total:
                self._compare(inbox.take(), self._history, self._copy)
            else:
                self._skim(inbox, self._history)
            if self.event is None and self._history.next_number % _STEP == 0:
                self._look_for_flood()
                self._look_for_short_cycle()
                self._forget()
            if self.event:
                return self.event
        return None

    def _skim(self, inbox: _Inbox, history: History) -> None:
        """Read tokens up to the third of a passage that stood before."""
        stop = min(len(inbox.tokens), inbox.at + _STEP - history.next_number % _STEP)
        inbox.at = history.read(inbox.tokens, inbox.at, stop)
        if history.is_passage:
            self._follow(history.found)

    def _follow(self, known: int, reach: int = 0) -> None:
        """Follow the passage that the token with number `known` belongs to, as the last token does."""
        history, copy = self._history, self._copy
        tokens = history.tokens
        index = len(tokens) - 1
        place = known - history.base
        if history.end - history.ends[place] > self.config.max_period:
            copy.lose()
            return
        # The passage may have been copied for longer, hidden by another one. Goal, O(1) amortised: no further back than that.
        distance = index - place
        was_idle = not copy.distance and not self._deficit.total
        floor = max(distance, index - max(reach, 2 * distance))
        first = index + 1
        while first > floor and tokens[first - 1] == tokens[first - 1 - distance]:
            first -= 1
        copy.distance, copy.num_copied, copy.num_missed, copy.looked_at = distance, 1, 0, 0
        copy.num_exact = index + 1 - first
        copy.exact_from = history.ends[first - 1]
        if copy.num_exact:
            copy.num_same, copy.same_from = copy.num_exact, copy.exact_from
        else:
            copy.num_same, copy.same_from = 1, history.start_of(index)
        history.copies[history.base + index] = history.copies_at(place) + 1
        # While only a pair was known, what ends with it was held.
        self._hold(index - 1 if was_idle else index)

    def _look_for_short_cycle(self) -> None:
        """Follow a cycle that the last places of its pairs lead away from, as each of them stands in one copy more than once."""
        tokens, copy = self._history.tokens, self._copy
        if self._history.found < 0:  # the last pair is new
            return
        for size in range(_LEAST_SHORT, min(_MOST_SHORT, len(tokens) // 3)):
            if (
                tokens[-1] == tokens[-1 - size]
                and copy.num_same < size
                and tokens[-size:] == tokens[-2 * size : -size] == tokens[-3 * size : -2 * size]
            ):
                self._follow(self._history.next_number - 1 - size, _MAX_SHORT_TOKENS)
                copy.held_from = -1  # some of it may have been given out
                return

    def _hold(self, first: int) -> None:
        """Hold what is copied from the token at index `first` on, or from where it echoes what stands near."""
        copy, base = self._copy, self._history.base
        copy.noticed_at = base + len(self._history.tokens) - 1
        copy.held_from = base + first if self._is_near(copy.noticed_at - copy.distance) else -1

    def _is_near(self, number: int) -> bool:
        """Return whether a copy of the token with that number is held: a stream must not stall for a page."""
        place = number - self._history.base
        return place >= 0 and self._history.end - self._history.ends[place] <= _HELD_DISTANCE

    def _compare(self, text: str, history: History, copy: _Copy) -> None:
        """Read a token while a passage is copied, or something is still missing."""
        history.append(text)
        known = history.found
        index = len(history.tokens) - 1
        if not self._is_text:
            self._compare_id(index, known)
            return
        token = token_of(text)
        bits = self._match(token, index)
        weight = token.weight if bits == 0 else 0.0
        if bits >= 0:
            if copy.num_copied == 1:
                self._hold(index)
            bits += copied_bits(max(0, copy.num_copied - 1))
            history.copies[history.base + index] = history.copies_at(index - copy.distance) + 1
        elif known >= 0:
            bits = SWITCH_BITS
            weight = token.weight
            self._follow(known)
        else:
            bits = self._surprise(token)
            copy.num_missed += 1
            copy.num_copied = 0
            copy.end_cycle(history.end)
            if copy.num_missed > _MAX_MISSED:
                copy.lose()
        self._take_in(weight, bits, index)

    def _take_in(self, weight: float, bits: float, index: int) -> None:
        """Add the last token, of so many letters and bits, to the evidence, and judge it."""
        history, copy, deficit = self._history, self._copy, self._deficit
        end = history.end
        source = history.ends[max(0, index - copy.distance)]
        expected = expected_bits(weight, history.copies_at(index), end - source)
        size = len(history.tokens[index])
        deficit.add(expected - bits, end - size, end, source - size)
        if not deficit.total and not copy.num_copied:
            copy.lose()
        if copy.num_same >= copy.distance > 0:
            self._judge_cycle(index)
        if self.event is None and deficit.total > max(_LIMIT, _LOOK_AGAIN * deficit.judged):
            self._judge_deficit(index)

    def _match(self, token: Token, index: int) -> float:
        """Return the bits that the token at `index` says beyond the passage it is compared with; -1 if it does not go on with it."""
        copy, history = self._copy, self._history
        place = index - copy.distance
        if not copy.distance or place < 0:
            return -1.0
        text = history.tokens[place]
        if text == token.text or (self._inbox.is_at_end and text.startswith(token.text)):
            copy.extend(True, history.end)
            return 0.0
        earlier = token_of(text)
        if earlier.key == token.key:
            copy.extend(False, history.end)
            return 0.0
        if token.number < 0 or earlier.folded != token.folded:
            return -1.0
        if self._advances(token, earlier, index):
            copy.extend(False, history.end)
            return ADVANCE_BITS
        if history.found >= 0 and history.tokens[history.found - history.base] == token.text:
            return -1.0  # another passage goes on with this very number
        copy.num_copied = copy.num_missed = 0
        copy.end_cycle(history.end)
        return number_bits(token.num_digits)

    def _advances(self, token: Token, earlier: Token, index: int) -> bool:
        """Return whether a number differs from the one a distance earlier as a counter, a time or a date does."""
        history, distance = self._history, self._copy.distance
        step = token.number - earlier.number
        if step in (1, -1):
            return True
        if _CLOCK.search(token.text) or _CLOCK.search(history.tokens[index - 1]):
            return True
        if index < 2 * distance:
            return False
        first = token_of(history.tokens[index - 2 * distance])
        return first.folded == token.folded and earlier.number - first.number == step

    def _surprise(self, token: Token) -> float:
        """Return the bits of a token that no earlier passage leads to."""
        history = self._history
        if history.fills_frame() and token.weight >= 1:
            return FRAME_BITS
        if self._deficit.total <= LEAST_SURPRISE and token.weight >= 1:
            return LEAST_SURPRISE  # nothing is missing any more, whatever it says
        is_new = history.is_new(len(history.tokens) - 1)
        return surprise_bits(token, not is_new, history.num_known)

    def _compare_id(self, index: int, known: int) -> None:
        """Read a token id: it continues the passage that is copied, or ends it."""
        copy, history = self._copy, self._history
        place = index - copy.distance
        if copy.distance and place >= 0 and history.tokens[place] == history.tokens[index]:
            copy.extend(True, history.end)
            if copy.num_exact >= copy.distance:
                self._judge_ids(index)
        elif known >= 0:
            self._follow(known)
        else:
            copy.lose()

    def _judge_ids(self, index: int) -> None:
        copy, end = self._copy, self._history.end
        start = copy.exact_from - copy.distance
        copies = (end - start) // copy.distance
        if copies >= 3 and end - start >= (_SPAN_OF_IDS[0] if copies > 3 else _SPAN_OF_IDS[1]):
            self.event = LoopEvent("exact", start, end, copy.distance, copies)

    def _judge_cycle(self, index: int) -> None:
        """Take what is copied at one distance, if it covers a copy, for a loop if it is one."""
        copy, history = self._copy, self._history
        if copy.num_same < _LOOK_AGAIN * copy.looked_at and not self._inbox.is_at_end:
            return
        is_exact = copy.num_exact >= copy.distance
        num_tokens = copy.num_exact if is_exact else copy.num_same
        start = copy.exact_from if is_exact else copy.same_from
        size = history.end - history.ends[index - copy.distance]
        if history.end - start < size + least_begun(size):
            return
        weight = self._weight_of(
            index + 1 - num_tokens, index + 1, 0 if is_exact else copy.distance
        )
        if weight < LEAST_WEIGHT:
            return
        copy.looked_at = copy.num_same
        last = index
        if is_exact and history.tokens[index] != history.tokens[index - copy.distance]:
            last -= 1  # the text was cut off in its last token
        first = last + 1 - copy.distance
        unit = history.text(first, last + 1)
        period = period_of(unit) if is_exact else len(unit)
        weight += (1 - period / len(unit)) * self._weight_of(first, last + 1)
        if is_exact:
            start -= self._same_before(start, period, len(unit) + _LONGEST_TOKEN)
        start -= period
        phase = (history.ends[last] - start) % period
        unit = (
            unit[-phase:] + unit[: len(unit) - phase] if phase else unit
        )  # one copy as the first was
        cycle = Cycle(start, history.end, period, unit[:period], weight, is_exact)
        if not cycle.could_be_loop:
            return
        before = history.text_until(start, _CONTEXT_TOKENS)
        is_fenced = history.in_fence(index) and not num_fences(unit)
        form: Form = "code" if is_fenced else form_of_cycle(before, cycle.unit)
        if not cycle.is_loop(form, is_fenced):
            return
        if self._is_allowed(cycle.unit, cycle.copies):
            copy.held_from = -1
            copy.looked_at = int((copy.num_same + copy.distance) / _LOOK_AGAIN)  # at the next copy
            return
        kind: LoopKind = "near" if not is_exact else "exact" if cycle.has_letters else "flood"
        self.event = LoopEvent(kind, start, history.end, period, cycle.copies)

    def _judge_deficit(self, index: int) -> None:
        """Take a text that has said too little for too long for a loop, if text of its form says more."""
        history, copy, deficit = self._history, self._copy, self._deficit
        text = history.text_until(history.end, _FORM_TOKENS)
        form = form_of(text[-(history.end - deficit.since) :])
        if form == "prose" and form_of(text) == "verse":
            form = "verse"
        if form in ("prose", "verse"):
            if is_enclosed(history.text_until(deficit.since, 0, _REACH)):
                form = "data"
            elif is_in_comment(text):
                form = "code"
        deficit.judged = deficit.total
        limit = _LIMITS[form]
        if history.in_fence(index) and not num_fences(text[-(history.end - deficit.since) :]):
            limit = _LIMIT_OF_FENCED_CODE if form == "code" else max(limit, _LIMIT_IN_FENCE)
        if deficit.total <= limit:
            return
        period = history.end - history.ends[max(0, index - copy.distance)] if copy.distance else 0
        period = max(1, period)
        is_one_copy = copy.num_exact > 0 and copy.exact_from <= deficit.since + period // 4
        onset = max(0, copy.exact_from - period) if is_one_copy else self._first_copy(deficit)
        copies = max(2, (history.end - onset) // period)
        if self._is_allowed(history.text(index + 1 - copy.distance, index + 1), copies):
            copy.held_from = -1
            return
        self.event = LoopEvent("near", onset, history.end, period, copies)

    def _first_copy(self, deficit: Deficit) -> int:
        """Return the offset of the first copy of what the text says again: where the passage that `deficit` began with was said first."""
        tokens, ends = self._history.tokens, self._history.ends
        index = bisect.bisect_left(ends, deficit.origin + 1)
        step = max(
            _REACH, 2 * (deficit.since - deficit.origin)
        )  # offsets between two copies, at most
        earlier = index - 1
        while earlier >= 0 and ends[index] - ends[earlier] <= step:
            if tokens[earlier : earlier + _SAME_TOKENS] == tokens[index : index + _SAME_TOKENS]:
                index = earlier
            earlier -= 1
        return self._history.start_of(index)

    def _look_for_flood(self) -> None:
        history, flood = self._history, self._flood
        if self._is_text and flood.begins(history):
            unit = "".join(sorted(flood.chars))
            size = history.end - flood.start
            if not self._is_allowed(unit, size):
                self.event = LoopEvent("flood", flood.start, history.end, 1, size)
            else:
                flood.chars = frozenset()

    def _is_allowed(self, unit: str, copies: int) -> bool:
        """Return whether so many copies of `unit` were asked for."""
        return self._allowed_copies is not None and copies <= self._allowed_copies(unit)

    def _read_in_loop(self, event: LoopEvent) -> LoopEnd | None:
        """Read a token while the text is in a loop; return the loop's end if it ends it."""
        history, copy = self._history, self._copy
        text = self._inbox.tokens[self._inbox.at]
        if self._flood.chars:
            if self._flood.goes_on(text):
                self._take()
                return None
            return self._leave(0)
        if event.kind == "near":
            return self._read_in_near_loop()
        place = len(history.tokens) - copy.distance
        other = history.tokens[place] if place >= 0 else ""
        if other == text:
            self._take()
            return None
        # The last copy may break off within the token, but not within a word.
        same = _common_prefix(text, other)
        word = len(_WORD.match(text).group())  # type: ignore[union-attr]
        return self._leave(word if word <= same else 0)

    def _read_in_near_loop(self) -> LoopEnd | None:
        deficit = self._deficit
        deficit.total = min(deficit.total, _LIMIT)
        end = self._history.end
        event, self.event = self.event, None
        self._compare(self._inbox.take(), self._history, self._copy)
        self.event = event
        if deficit.total:
            return None
        self._be_idle()
        return LoopEnd(end)

    def _take(self) -> None:
        self._history.append(self._inbox.take())
        self._forget()

    def _leave(self, num_chars: int) -> LoopEnd:
        """Leave the loop before the token that comes next, or so many characters into it."""
        self._be_idle()
        return LoopEnd(self._history.end + num_chars)

    def _be_idle(self) -> None:
        self.event = None
        self._copy.lose()
        self._history.found = -1
        self._deficit.clear(self._history.end)

    def _weight_of(self, start: int, end: int, distance: int = 0) -> float:
        """Return the letters in the tokens from index `start` up to `end`; of those only that say what stands `distance` tokens earlier."""
        if not self._is_text:
            return float(end - start)
        tokens = self._history.tokens
        weight = 0.0
        for index in range(max(0, start), end):
            token = token_of(tokens[index])
            if (
                not distance
                or index < distance
                or token.key == token_of(tokens[index - distance]).key
            ):
                weight += token.weight
        return weight

    def _same_before(self, start: int, period: int, most: int) -> int:
        """Return how many characters before the offset `start` equal those a period earlier: tokens may be cut elsewhere there."""
        text = self._history.text_until(start, 0, most + period)
        num_same = 0
        while num_same < len(text) - period and text[-1 - num_same] == text[-1 - num_same - period]:
            num_same += 1
        # No copy begins within a word.
        first, second = len(text) - num_same - period, len(text) - num_same
        within = text[max(0, first - 1) : first].isalpha() and text[second - 1 : second].isalpha()
        if num_same and within and (part := _WORD_PART.match(text, second)):
            num_same = len(text) - part.end()
        return num_same

    def _echo(self, index: int) -> int:
        """Return the offset from which the tokens up to that at `index` stand shortly before, too; the input length if none does.

        An echo may begin anywhere in a token: two characters of Chinese are a token, and a loop's copies need not begin at one.
        """
        tokens, ends = self._history.tokens, self._history.ends
        size, since = 0, self._inbox.fed
        text = ""
        last = index
        while index >= 0:
            size += len(tokens[index])
            if size > _REACH:
                break
            if not text:
                text = (
                    self._history.tail
                    if last == len(ends) - 1
                    else self._history.text_until(ends[last], 0, 2 * _REACH)
                )
            if text.find(text[-size:], max(0, len(text) - size - _REACH), len(text) - 1) < 0:
                break
            since = ends[index]
            index -= 1
        return since

    def _forget(self) -> None:
        """Drop what is too old to be a copy's beginning. O(1) amortised."""
        history = self._history
        if history.end - history.start_of(0) < 2 * self.config.max_period + _LEAST_REMEMBERED:
            return
        keep_from = history.end - self.config.max_period - _LEAST_REMEMBERED // 2
        num_tokens = bisect.bisect_left(history.ends, keep_from)
        history.forget(num_tokens)


def _common_prefix(one: str, other: str) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
