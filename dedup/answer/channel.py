"""One text of an answer on its way to the reader: its filter, and how long that took."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, Protocol

from dedup.answer.attempt import Attempt
from dedup.answer.boundary import closing_of, stands_open
from dedup.answer.continuation import Continuation
from dedup.answer.frame import ChannelName
from dedup.config import FilterConfig, Policy
from dedup.lenient_json import read_json
from dedup.text.filter import RepetitionFilter
from dedup.text.loops.detector import LoopEvent
from dedup.text.prompt import asks_again

Clock = Callable[[], float]

_log: Final = logging.getLogger("dedup.answer")
_SENTENCES: Final = ("sentences_kept", "sentences_removed", "sentences_flagged")
_MAX_JSON_CHARS: Final = 4_000_000  # kept to see at a cut whether it is complete


def no_clock() -> float:
    """Return 0: the default where nobody asks for times."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Editing:
    """Settings of the filter for the texts of an answer.

    Args:
        policy: The policy; see `FilterConfig`.
        prompt: The user's last message, which is evidence of what may repeat.
        history: Earlier answers, for `strict`; ignored if the prompt asks for one of them again.
        wants_json: The answer must be JSON: its content is not edited.
        locks_reasoning: Reasoning is signed and checked when it comes back: it is cut at a loop,
            but not edited.
    """

    policy: Policy
    prompt: str = ""
    history: Sequence[str] = ()
    wants_json: bool = False
    locks_reasoning: bool = False

    def channel(self, name: ChannelName, clock: Clock, *, is_locked: bool = False) -> "Channel":
        """Return a new channel. `is_locked`: nothing in it may change, not even be cut."""
        policy = self.policy
        if policy not in ("off", "watch"):
            if is_locked:
                policy = "watch"
            elif name == "reasoning" and self.locks_reasoning:
                policy = "loops"
        is_json = name == "tool_arguments" or (name == "content" and self.wants_json)
        history: Sequence[str] = ()
        if policy == "strict" and self.history and not asks_again(self.prompt):
            history = self.history
        config = _config(policy, not is_json)
        make = partial(RepetitionFilter, config, history=history, prompt=self.prompt)
        return Channel(name, make, clock, is_json=is_json)


@lru_cache
def _config(policy: Policy, edit: bool) -> FilterConfig:
    return FilterConfig(policy=policy, edit=edit)


class MakeFilter(Protocol):
    """Makes the filter of a text."""

    def __call__(self, *, begun: str = "") -> RepetitionFilter:
        """Return a filter that goes on behind `begun`, which the reader has."""
        ...


class Channel:
    """A filtered text.

    Text that may turn out to be a repeat is held, and comes with later text. None is lost: where
    the filter fails, the text passes unfiltered. A text that is continued behind a loop comes in
    whole sentences; what is left of one when the attempt ends is withdrawn.

    Args:
        name: The kind of text.
        make_filter: Makes its filter; another one for each attempt to continue it.
        clock: Returns seconds; read twice a piece.
        is_json: The text has to be JSON: `is_whole_json` may be asked.

    Attributes:
        filter: The filter of the attempt that runs, or ran last.
        overhead_seconds: Time spent in the filter.
        longest_hold_seconds: The longest time that a piece was held, or that the reader got
            nothing while pieces came, were removed, or the text was healed.
        bytes_in, pieces_in: What came, in bytes of UTF-8, and in pieces as the engine made them.
        chars_out: What the reader got, in characters.
        is_flushed: The text has ended.
        has_failed: The filter raised: text passes unfiltered from there on.
        given: The pieces that the reader got, where somebody keeps them; else None.
        fed: The pieces that came in this attempt, behind what it continues; kept likewise.
        healed: Loops behind which the text was continued.
        discarded_chars: Characters generated in those loops, or withdrawn.
        attempt: The attempt to continue the text; None before the first.
        ending: What the text ends with if it cannot be continued: the rest of a sentence or line, in
            the loop's own words.
    """

    def __init__(
        self,
        name: ChannelName,
        make_filter: MakeFilter,
        clock: Clock = no_clock,
        *,
        is_json: bool = False,
    ) -> None:
        self.name: ChannelName = name
        self.filter = make_filter()
        self.overhead_seconds = 0.0
        self.longest_hold_seconds = 0.0
        self.bytes_in = self.pieces_in = 0
        self.chars_out = 0
        self.is_flushed = False
        self.has_failed = False
        self.given: list[str] | None = None
        self.fed: list[str] = []
        self.healed: list[LoopEvent] = []
        self.discarded_chars = 0
        self.attempt: Attempt | None = None
        self.ending = ""
        self._make_filter = make_filter
        self._past: list[RepetitionFilter] = []  # of earlier attempts
        self._unhealed: LoopEvent | None = None  # the loop at which the text ends after all
        self._goes_on = False  # the text goes on behind the last loop that was healed
        self._withdrawn_chars = 0  # of sentences that an attempt did not end
        self._clock = clock
        # Of what is held: characters fed until then, when it came, the text.
        self._held: list[tuple[int, float, str]] = []  # not a deque, which takes 0.7 KB at once
        self._num_released = 0  # characters fed that were given out or removed
        self._silent_since: float | None = None  # the reader gets nothing, though pieces come
        self._json: list[str] | None = [] if is_json else None
        self._fed_pieces: list[int] = []  # in how many each of `fed` came

    def feed(self, text: str, num_pieces: int = 1) -> str:
        """Return what the reader gets now."""
        self.pieces_in += num_pieces
        self.bytes_in += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if self.has_failed:
            self.chars_out += len(text)
            return text
        text_filter = self.filter
        attempt = self.attempt
        if attempt is not None:
            text = attempt.join(text)
        began = self._clock()
        try:
            given = text_filter.feed(text)
            if attempt is not None:
                given = attempt.feed(given)
            held = text_filter.held_chars if self._held or given != text else 0
        except Exception:
            return self._give_up(text)
        if attempt is not None:
            held += len(attempt.gate.held)
        ended = self._clock()
        self.overhead_seconds += ended - began
        if held or self._held:
            self._held.append((text_filter.chars_in, began, text))
            self._release(text_filter.chars_in - held, ended)
        else:
            self._num_released = text_filter.chars_in
        if given:
            self._end_silence(ended)
        if self._silent_since is None and (not given or text_filter.ended):
            self._silent_since = ended if given else began
        self.chars_out += len(given)
        if self.given is not None:
            self.given.append(given)
            self.fed.append(text)
            self._fed_pieces.append(num_pieces)
        if self._json is not None:
            self._keep_json(given)
        return given

    def flush(self, *, is_whole: bool = True) -> str:
        """Return the rest, at the text's end; nothing the second time.

        Args:
            is_whole: Its author ended it. If not, half a sentence at the end of a continued text
                is withdrawn.
        """
        if self.is_flushed or self.has_failed:
            self.is_flushed = True
            return ""
        self.is_flushed = True
        began = self._clock()
        try:
            given = self.filter.flush()
            if self.attempt is not None:
                given = self._end_attempt(self.attempt, given, is_whole=is_whole)
            else:
                given += self._take_ending()
        except Exception:
            return self._give_up("")
        ended = self._clock()
        self.overhead_seconds += ended - began
        self._release(self.filter.chars_in, ended)
        self._end_silence(ended)
        self.chars_out += len(given)
        if self.given is not None:
            self.given.append(given)
        if self._json is not None:
            self._keep_json(given)
        return given

    @property
    def is_cut(self) -> bool:
        """Return whether the text has ended at a loop."""
        return self.filter.ended or self._unhealed is not None

    @property
    def loop(self) -> LoopEvent | None:
        """Return the loop at which the text ended, or would have if loops ended it."""
        return self._unhealed or self.filter.loop

    @property
    def looped(self) -> str:
        """Return what the reader does not get of the loop, of a text whose pieces are kept.

        Empty if the text is in none.
        """
        last = self.filter.removed[-1] if self.filter.removed else None
        cut = ""
        if last is not None and last.kind == "loop":
            cut = "".join(self.fed)[last.start : last.end]
        attempt = self.attempt
        if attempt is not None and (cut or (attempt.is_broken and attempt.has_passed)):
            return attempt.gate.held + cut
        return cut

    def num_pieces_of(self, num_chars: int) -> int:
        """Return in how many pieces so many characters came, at the beginning of this attempt."""
        total = 0.0
        for text, num_pieces in zip(self.fed, self._fed_pieces, strict=True):
            total += num_pieces * min(1.0, num_chars / max(1, len(text)))
            num_chars -= len(text)
            if num_chars <= 0:
                break
        return round(total)

    @property
    def has_removals(self) -> bool:
        """Return whether something was removed."""
        return self.first_removed is not None

    @property
    def is_allowed(self) -> bool:
        """Return whether the prompt allows it to repeat something."""
        return self.filter.requested.copies > 0

    @property
    def first_removed(self) -> int | None:
        """Return the offset of the first removal; None if nothing was removed."""
        for one in (*self._past, self.filter):
            if one.removed:
                return one.removed[0].start
        return None

    @property
    def removed_chars(self) -> int:
        """Return the number of characters that the reader does not get, loops among them."""
        filters = (*self._past, self.filter)
        return sum([one.chars_in - one.chars_out for one in filters]) + self._withdrawn_chars

    def metrics(self) -> dict[str, float]:
        """Return the filters' metrics, all attempts together; `rep_4` is that of the first."""
        numbers = self.filter.metrics()
        numbers["removed_chars"] = self.removed_chars
        for one in reversed(self._past):
            earlier = one.metrics()
            for name in _SENTENCES:
                numbers[name] += earlier[name]
            numbers["rep_4"] = earlier["rep_4"]
        return numbers

    def end_at_loop(self, *, is_cut: bool = False) -> bool:
        """End the text at its last loop, if nothing has come behind that; return whether it does.

        Args:
            is_cut: It ends there also if something came that led nowhere.
        """
        goes_on = self._goes_on or (self.attempt is not None and self.attempt.has_passed)
        if not self.healed or self.filter.ended or (goes_on and not is_cut):
            return False
        self._unhealed = self.healed.pop()
        return True

    def resume(self, continuation: Continuation) -> None:
        """Go on behind what the reader has, and what the attempt's opening keeps.

        What else was generated is withdrawn.
        """
        passed, kept = "".join(self.given or ()), ""
        opened: Attempt | None = None
        if self.attempt is not None and self.attempt.has_passed:
            self._goes_on = True
        if self.filter.ended and self.filter.loop:
            if self.healed and not self._goes_on:
                self.healed.pop()  # nothing came behind it: it is the same place
            self.healed.append(self.filter.loop)
            self._goes_on = False
            self.discarded_chars += self.filter.removed[-1].end - self.filter.removed[-1].start
            self.filter.flush()  # for its metrics: behind a cut nothing comes
        if self.attempt is not None:
            if continuation.opening is None:
                opened, kept = self.attempt, self.attempt.kept
            held = len(self.attempt.gate.held)
            self._withdrawn_chars += held - len(kept)
            self.discarded_chars += max(0, held + self.filter.held_chars - len(kept))
        if continuation.ending is not None:
            self.ending = continuation.ending
        elif self.attempt is not None and self.attempt.gate.has_passed:
            self.ending = ""  # the opening has ended the sentence
        self._past.append(self.filter)
        self.filter = self._make_filter(begun=passed)
        num_passed = self.num_pieces_of(len(passed))
        num_kept = self.num_pieces_of(len(passed) + len(kept)) - num_passed
        self.fed, self._fed_pieces = [passed, kept], [num_passed, num_kept]
        self.attempt = Attempt(continuation, passed, opened)
        self.attempt.gate.feed(self.filter.feed(kept))  # it did not pass, and does not now
        self.is_flushed = False
        self._held.clear()
        self._num_released = len(passed)

    @property
    def is_whole_json(self) -> bool:
        """Return whether the reader got a complete JSON object, array or string.

        A number may be half of one, so it does not count.
        """
        text = "".join(self._json or ()).lstrip()
        if not text.startswith(("{", "[", '"')):
            return False
        try:
            read_json(text.encode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return False
        return True

    def _end_attempt(self, attempt: Attempt, rest: str, *, is_whole: bool) -> str:
        """Return what the reader gets of the rest of a continued text, and what closes it."""
        gate = attempt.gate
        given = gate.feed(rest)
        if is_whole or not stands_open(gate.held):
            given += gate.finish()
        elif not (attempt.has_passed or attempt.is_broken or self.filter.ended):
            given += gate.finish_verse()
        self._withdraw(len(gate.held))
        gate.held = ""
        if not (given or is_whole or gate.has_passed):
            given = self._take_ending()
        if gate.fence and (attempt.ends_well or not is_whole):
            given += closing_of("".join(self.given or ()) + given, gate.fence)
        return given

    def _take_ending(self) -> str:
        ending, self.ending = self.ending, ""
        self._withdraw(-len(ending))  # it was counted with the loop
        return ending

    def _withdraw(self, num_chars: int) -> None:
        self._withdrawn_chars += num_chars
        self.discarded_chars += num_chars

    def _give_up(self, text: str) -> str:
        """Return what was held, and `text`: a fault of ours must not cost the reader a word."""
        _log.exception("the filter failed; the text passes unfiltered")
        self.has_failed = True
        rest = "".join(held for _, _, held in self._held)
        start = self._held[0][0] - len(self._held[0][2]) if self._held else self._num_released
        self._held.clear()
        given = rest[self._num_released - start :] + text
        self.chars_out += len(given)
        return given

    def _keep_json(self, given: str) -> None:
        if self._json is not None and self.chars_out <= _MAX_JSON_CHARS:
            self._json.append(given)
        else:
            self._json = None

    def _end_silence(self, now: float) -> None:
        if self._silent_since is not None:
            silent_seconds = now - self._silent_since
            self.longest_hold_seconds = max(self.longest_hold_seconds, silent_seconds)
            self._silent_since = None

    def _release(self, num_chars: int, now: float) -> None:
        self._num_released = num_chars
        while self._held and self._held[0][0] <= num_chars:
            held_seconds = now - self._held.pop(0)[1]
            self.longest_hold_seconds = max(self.longest_hold_seconds, held_seconds)
