"""Finds the loops of a stream, and where each ends: exact cycles, near copies and drift, floods.

The scanner is online: a loop is found as soon as it is certain. It reads the text token by token,
so that the result does not depend on how the text was cut into deltas. Its stages:

    idle                no passage is copied: each pair of tokens is looked up
    copying             a passage is copied, or bits are missing: each token is compared with the
                        one that the passage leads to expect
    in_cycle            in an exact loop: each token equals the one a period earlier
    in_drift            in a loop of near copies, until no bits are missing any more
    in_flood            in a flood, until a character that is not one of its few

    idle -> copying     the third token that goes on as an earlier passage did
    copying -> idle     the passage is lost, and no bits are missing
    any -> in_*         a loop; a passage copied at one distance for long enough is a cycle
                        (`cycle.py`), too many missing bits are drift (`evidence.py`)
    in_* -> idle        the loop ends, or `resume`

Time is O(1) a token, whatever the period; memory is bounded by `LoopConfig.max_period`.
"""

import bisect
import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

from dedup.config import LoopConfig
from dedup.text.form import Form, form_of_cycle, is_series, num_fences
from dedup.text.loops.buffer import TokenBuffer
from dedup.text.loops.cycle import Cycle
from dedup.text.loops.events import LoopEnd, LoopEvent, LoopKind
from dedup.text.loops.evidence import (
    ADVANCE_BITS,
    FRAME_BITS,
    LEAST_LIMIT,
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
from dedup.text.loops.measure import deficit_limit, ending_cycle, first_copy
from dedup.text.loops.passage import Hold, Passage
from dedup.text.loops.tokens import Token, token_of

Stage = Literal["idle", "copying", "in_cycle", "in_drift", "in_flood"]

_MAX_MISSED: Final = 3  # mismatches after which a passage is lost
_JUDGE_AGAIN: Final = 1.05  # growth of a cycle until it is judged again
_CONTEXT_TOKENS: Final = 120  # read before a cycle to tell its form
_STEP: Final = 32  # tokens between two looks for a flood or a short cycle
_LEAST_SHORT: Final = 4  # tokens
_MOST_SHORT: Final = 64
_MAX_SHORT_TOKENS: Final = 512  # searched back for the first copy
_LEAST_REMEMBERED: Final = 16_384  # characters, whatever the longest period
_CLOCK: Final = re.compile(r"\d[:/]|[:/]$|[:/]\d")
_WORD: Final = re.compile(r"\w*")
_MIN_IDS: Final = 60  # token ids of four copies and more
_MIN_IDS_OF_THREE: Final = 200


class LoopScanner:
    """A scanner of one stream. `feed` deltas, then `next_change` until it returns None.

    Args:
        config: the longest period that is found.
        allowed_copies: a function that returns how many copies of a given period are legitimate; 0
            for no more than usual.
    """

    def __init__(
        self, config: LoopConfig, allowed_copies: Callable[[str], int] | None = None
    ) -> None:
        self.event: LoopEvent | None = None  # the loop that the text is in
        self._max_period = config.max_period
        self._allowed_copies = allowed_copies
        self._stage: Stage = "idle"
        self._is_text = True
        self._buffer = TokenBuffer()
        self._history = History()
        self._passage = Passage()
        self._hold = Hold(self._history)
        self._deficit = Deficit()
        self._flood = Flood()

    @property
    def held_from(self) -> int:
        """Offset from which input is held as a possible second copy of a loop.

        The input length if nothing is held.
        """
        return self._hold.start(self._passage, self._buffer.num_fed)

    @property
    def scanned_chars(self) -> int:
        """Characters of whole tokens, all scanned once `next_change` has returned None."""
        return self._history.end

    def cut_offset(self, event: LoopEvent) -> int:
        """Return the offset where a loop's second copy begins, or the part of it that is held."""
        return min(max(self.held_from, event.onset + event.period), event.detected_at)

    def feed(self, symbols: str | Sequence[int]) -> None:
        """Append a delta of text, or token ids, for `next_change` to read."""
        if isinstance(symbols, str):
            self._buffer.feed(symbols)
        else:
            self._is_text = False
            self._buffer.feed_ids(symbols)

    def flush(self) -> None:
        """End the text: its last token is complete."""
        self._buffer.flush()

    def resume(self) -> None:
        """Leave the loop, and drop what was not read.

        The text fed next replaces the loop: it is compared with the text before, but does not
        continue it.
        """
        self._history.start_over(self._buffer.clear())
        self._become_idle()

    def next_change(self) -> LoopEvent | LoopEnd | None:
        """Return the next loop, or end of a loop; None once everything fed was read."""
        buffer, history = self._buffer, self._history
        while not buffer.is_empty:
            event: LoopEvent | None = None
            if self._stage == "idle":
                self._skim()
            elif self._stage == "copying":
                event = self._compare(buffer.next_token())
            else:
                end = self._read_in_loop()
                if end is not None:
                    return end
                continue
            if event is None and history.next_number % _STEP == 0:
                event = self._find_flood()
                self._find_short_cycle()
                self._forget()
            self._change_stage(event)
            if event is not None:
                return event
        return None

    def _change_stage(self, event: LoopEvent | None) -> None:
        """Enter the stage that the last token leads to, outside a loop.

        Args:
            event: the loop that was found with it, if any.
        """
        if event is not None:
            self.event = event
            if self._flood.chars:
                self._stage = "in_flood"
            elif event.kind == "near":
                self._stage = "in_drift"
            else:
                self._stage = "in_cycle"
        elif self._passage.distance or self._deficit.total:
            self._stage = "copying"
        else:
            self._stage = "idle"

    def _become_idle(self) -> None:
        """Leave the loop, or whatever was being copied."""
        self.event = None
        self._stage = "idle"
        self._passage.lose()
        self._flood.end()
        self._history.found = -1
        self._deficit.clear(self._history.end)

    # ---- idle

    def _skim(self) -> None:
        """Read tokens up to the third of a passage that occurred before."""
        buffer, history = self._buffer, self._history
        stop = min(len(buffer.tokens), buffer.index + _STEP - history.next_number % _STEP)
        buffer.index = history.read(buffer.tokens, buffer.index, stop)
        if history.is_passage:
            self._follow(history.found)

    def _follow(self, source: int, reach: int = 0) -> None:
        """Follow a passage, from the last token on.

        Args:
            source: number of the token in the passage that the last token copies.
            reach: tokens to search back for the copy's beginning, if more than two distances.
        """
        history, passage = self._history, self._passage
        tokens = history.tokens
        index = len(tokens) - 1
        place = source - history.base
        if history.end - history.ends[place] > self._max_period:
            passage.lose()
            return
        # The passage may have been copied for longer, hidden by another one. The search is bounded
        # to stay O(1) amortised.
        distance = index - place
        was_idle = not passage.distance and not self._deficit.total
        floor = max(distance, index - max(reach, 2 * distance))
        first = index + 1
        while first > floor and tokens[first - 1] == tokens[first - 1 - distance]:
            first -= 1
        passage.distance = distance
        passage.num_copied, passage.num_missed, passage.judged_at = 1, 0, 0
        passage.num_exact = index + 1 - first
        passage.exact_from = history.ends[first - 1]
        if passage.num_exact:
            passage.num_same, passage.same_from = passage.num_exact, passage.exact_from
        else:
            passage.num_same, passage.same_from = 1, history.start_of(index)
        history.copies[history.base + index] = history.copies_at(place) + 1
        if was_idle:
            self._hold.begin(index - 1, distance)  # as while only the pair was known
        else:
            self._hold.begin(index, distance)

    # ---- copying

    def _compare(self, text: str) -> LoopEvent | None:
        """Read a token and compare it with the passage; return the loop that it makes certain."""
        history, passage = self._history, self._passage
        history.append(text)
        source = history.found
        index = len(history.tokens) - 1
        if not self._is_text:
            return self._compare_id(index, source)
        token = token_of(text)
        bits = self._match(token, index)
        weight = 0.0
        if bits >= 0:
            if bits == 0:
                weight = token.weight
            if passage.num_copied == 1:
                self._hold.begin(index, passage.distance)
            bits += copied_bits(max(0, passage.num_copied - 1))
            copies = history.copies_at(index - passage.distance) + 1
            history.copies[history.base + index] = copies
            self._hold.count(weight, passage)
        elif source >= 0:
            bits = SWITCH_BITS
            weight = token.weight
            self._follow(source)
        else:
            bits = self._surprise(token)
            passage.num_missed += 1
            passage.num_copied = 0
            passage.break_cycle(history.end)
            if passage.num_missed > _MAX_MISSED:
                passage.lose()
        return self._weigh(weight, bits, index)

    def _weigh(self, weight: float, bits: float, index: int) -> LoopEvent | None:
        """Add the last token to the evidence; return the loop that it makes certain.

        Args:
            weight: letters of the token that count as copied.
            bits: information that it carries.
            index: its index.
        """
        history, passage, deficit = self._history, self._passage, self._deficit
        end = history.end
        if weight:
            source = history.ends[max(0, index - passage.distance)]
            expected = expected_bits(weight, history.copies_at(index), end - source)
            size = len(history.tokens[index])
            deficit.add(expected - bits, end - size, end, source - size)
        else:
            deficit.add(-bits, end, end, end)
        if not deficit.total and not passage.num_copied:
            passage.lose()
        event: LoopEvent | None = None
        if passage.num_same >= passage.distance > 0:
            event = self._judge_cycle()
        if event is None and deficit.total > deficit.look_at:
            event = self._judge_deficit()
        return event

    def _match(self, token: Token, index: int) -> float:
        """Compare a token with the passage.

        Returns:
            The bits that it adds to the passage, 0 if it is the same; -1 if it does not match.
        """
        passage, history = self._passage, self._history
        place = index - passage.distance
        if not passage.distance or place < 0:
            return -1.0
        text = history.tokens[place]
        if text == token.text or (self._buffer.is_at_end and text.startswith(token.text)):
            passage.extend(True, history.end)
            return 0.0
        original = token_of(text)
        if original.key == token.key:
            passage.extend(False, history.end)
            return 0.0
        if token.number < 0 or original.folded != token.folded:
            return -1.0
        if self._advances(token, original, index):
            passage.extend(False, history.end)
            return ADVANCE_BITS
        if history.found >= 0 and history.tokens[history.found - history.base] == token.text:
            return -1.0  # another passage goes on with this very number
        passage.num_copied = passage.num_missed = 0
        passage.break_cycle(history.end)
        return number_bits(token.num_digits)

    def _advances(self, token: Token, original: Token, index: int) -> bool:
        """Return whether a number differs from its original as a counter, a time or a date does."""
        history, distance = self._history, self._passage.distance
        step = token.number - original.number
        if step in (1, -1):
            return True
        if _CLOCK.search(token.text) or _CLOCK.search(history.tokens[index - 1]):
            return True
        if index < 2 * distance:
            return False
        first = token_of(history.tokens[index - 2 * distance])
        return first.folded == token.folded and original.number - first.number == step

    def _surprise(self, token: Token) -> float:
        """Return the bits of a token that no earlier passage leads to."""
        history = self._history
        if history.fills_frame() and token.weight >= 1:
            return FRAME_BITS
        if self._deficit.total <= LEAST_SURPRISE and token.weight >= 1:
            return LEAST_SURPRISE  # enough to clear the deficit: the rest need not be computed
        is_new = history.is_new(len(history.tokens) - 1)
        return surprise_bits(token, not is_new, history.num_known)

    def _compare_id(self, index: int, source: int) -> LoopEvent | None:
        """Compare a token id with the passage; return the loop that it makes certain."""
        passage, history = self._passage, self._history
        place = index - passage.distance
        if passage.distance and place >= 0 and history.tokens[place] == history.tokens[index]:
            passage.extend(True, history.end)
            if passage.num_exact >= passage.distance:
                return self._judge_ids()
        elif source >= 0:
            self._follow(source)
        else:
            passage.lose()
        return None

    # ---- judging

    def _judge_ids(self) -> LoopEvent | None:
        """Return the loop that the token ids end in, if they do."""
        passage, end = self._passage, self._history.end
        start = passage.exact_from - passage.distance
        copies = (end - start) // passage.distance
        needed = _MIN_IDS if copies > 3 else _MIN_IDS_OF_THREE
        if copies < 3 or end - start < needed:
            return None
        return LoopEvent("exact", start, end, passage.distance, copies)

    def _judge_cycle(self) -> LoopEvent | None:
        """Return the loop that the passage is, if it covers a copy and is one."""
        passage, history = self._passage, self._history
        if passage.num_same < _JUDGE_AGAIN * passage.judged_at and not self._buffer.is_at_end:
            return None
        cycle = ending_cycle(history, passage)
        if cycle is None or not cycle.could_be_loop:
            return None
        is_fenced = history.in_fence(len(history.tokens) - 1) and not num_fences(cycle.unit)
        form = "code" if is_fenced else self._form_of(cycle)
        if form == "series":
            self._hold.release()
        if not cycle.is_loop(form, is_fenced):
            return None
        if self._is_allowed(cycle.unit, cycle.copies):
            self._hold.release()
            # Judge again at the next copy.
            passage.judged_at = int((passage.num_same + passage.distance) / _JUDGE_AGAIN)
            return None
        kind: LoopKind = "exact"
        if not cycle.is_exact:
            kind = "near"
        elif not cycle.has_letters:
            kind = "flood"
        return LoopEvent(kind, cycle.start, cycle.end, cycle.period, cycle.copies)

    def _form_of(self, cycle: Cycle) -> Form:
        """Return the form of the text in which a cycle stands, outside fences."""
        history = self._history
        before = history.text_until(cycle.start, _CONTEXT_TOKENS)
        form = form_of_cycle(before, cycle.unit)
        if form in ("code", "data") or cycle.is_exact:
            return form
        whole = history.text_until(cycle.end, 0, cycle.end - cycle.start)
        return "series" if is_series(whole) else form

    def _judge_deficit(self) -> LoopEvent | None:
        """Return the loop that the text is, if it lacks more bits than text of its form may."""
        history, passage, deficit = self._history, self._passage, self._deficit
        form, limit = deficit_limit(history, deficit)
        if form == "series":
            self._hold.release()
        if not deficit.judge(limit):
            return None
        index = len(history.tokens) - 1
        end, distance = history.end, passage.distance
        period = 1
        if distance:
            period = max(1, end - history.ends[max(0, index - distance)])
        if passage.num_exact > 0 and passage.exact_from <= deficit.since + period // 4:
            onset = max(0, passage.exact_from - period)  # all of it is one passage
        else:
            onset = first_copy(history, deficit)
        copies = max(2, (end - onset) // period)
        if self._is_allowed(history.text(index + 1 - distance, index + 1), copies):
            self._hold.release()
            return None
        return LoopEvent("near", onset, end, period, copies)

    def _find_flood(self) -> LoopEvent | None:
        """Return the flood that the text is in, if it is in one."""
        history, flood = self._history, self._flood
        if not self._is_text or not flood.begins(history):
            return None
        size = history.end - flood.start
        if self._is_allowed("".join(sorted(flood.chars)), size):
            flood.end()
            return None
        return LoopEvent("flood", flood.start, history.end, 1, size)

    def _find_short_cycle(self) -> None:
        """Follow a short cycle whose pairs of tokens occur more than once in each copy.

        The last occurrence of such a pair is not a whole copy back, so `_skim` misses the cycle.
        """
        history, passage = self._history, self._passage
        tokens = history.tokens
        if history.found < 0:  # the last pair is new
            return
        for size in range(_LEAST_SHORT, min(_MOST_SHORT, len(tokens) // 3)):
            if (
                tokens[-1] == tokens[-1 - size]
                and passage.num_same < size
                and tokens[-size:] == tokens[-2 * size : -size] == tokens[-3 * size : -2 * size]
            ):
                self._follow(history.next_number - 1 - size, _MAX_SHORT_TOKENS)
                self._hold.release()  # some of it may have been released
                return

    def _is_allowed(self, unit: str, copies: int) -> bool:
        """Return whether so many copies of `unit` were asked for."""
        return self._allowed_copies is not None and copies <= self._allowed_copies(unit)

    # ---- in a loop

    def _read_in_loop(self) -> LoopEnd | None:
        """Read a token in a loop; return the loop's end if the loop ends before or within it."""
        if self._stage == "in_drift":
            return self._read_in_drift()
        buffer, history = self._buffer, self._history
        text = buffer.tokens[buffer.index]
        num_looping = 0  # characters of the token that belong to the loop
        if self._stage == "in_flood":
            goes_on = self._flood.goes_on(text)
        else:
            place = len(history.tokens) - self._passage.distance
            original = ""
            if place >= 0:
                original = history.tokens[place]
            goes_on = original == text
            if not goes_on:
                num_looping = _num_copied_chars(text, original)
        if goes_on:
            history.append(buffer.next_token())
            self._forget()
            return None
        self._become_idle()
        return LoopEnd(history.end + num_looping)

    def _read_in_drift(self) -> LoopEnd | None:
        """Read a token in a loop of near copies; return the loop's end if no bits are missing."""
        deficit = self._deficit
        deficit.total = min(deficit.total, LEAST_LIMIT)
        end = self._history.end
        self._compare(self._buffer.next_token())
        if deficit.total:
            return None
        self._become_idle()
        return LoopEnd(end)

    def _forget(self) -> None:
        """Drop what is too old to be the beginning of a copy. Costs O(1) amortised."""
        history = self._history
        if history.end - history.start_of(0) < 2 * self._max_period + _LEAST_REMEMBERED:
            return
        keep_from = history.end - self._max_period - _LEAST_REMEMBERED // 2
        history.forget(bisect.bisect_left(history.ends, keep_from))


def _num_copied_chars(text: str, original: str) -> int:
    """Return how many characters of a token belong to the last copy, which breaks off in it.

    A copy may break off within a token, but not within a word: then none of them do.
    """
    same = 0
    while same < min(len(text), len(original)) and text[same] == original[same]:
        same += 1
    word = len(_WORD.match(text).group())  # type: ignore[union-attr]
    if word <= same:
        return word
    return 0
