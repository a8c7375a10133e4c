"""An answer: the one place that decides what a reader gets of what an engine generates."""

from enum import Enum
from typing import Any, Final

from dedup.answer import report
from dedup.answer.attempt import Attempt
from dedup.answer.channel import Channel, Clock, Editing, no_clock
from dedup.answer.continuation import Continuation
from dedup.answer.frame import (
    CONTENT,
    UNCHANGED,
    ChannelName,
    Decision,
    Delta,
    Finish,
    Frame,
)
from dedup.answer.usage import Size, TokenCounts

_MAX_TEXTS: Final = 4096  # of an answer: each has a filter of its own
_EDITED: Final = Decision([], [], [], is_changed=True)


class TooManyTextsError(ValueError):
    """An answer has more texts (choices, tool calls, reasoning between them) than are filtered."""


class Stage(Enum):
    """Stage of a choice.

    RUNNING -> ENDED: the engine finished it.
    RUNNING -> CUT: it ended at a loop.
    RUNNING -> WAITING -> RUNNING: it stopped at a loop and was continued.
    RUNNING -> WAITING -> CUT: it could not be continued.
    RUNNING -> OPENED -> RUNNING: a continuation has begun, and goes on without bans.
    """

    RUNNING = 0
    WAITING = 1
    OPENED = 2
    CUT = 3
    ENDED = 4


class Choice:
    """One choice of an answer: its texts, and how it ends."""

    def __init__(
        self, index: int, editing: Editing, clock: Clock, *, heals: bool, keeps: bool
    ) -> None:
        self.index = index
        self.stage = Stage.RUNNING
        self.channels: list[Channel] = []
        self.parts: dict[str, Channel] = {}  # the last channel of each text
        self.last_part = ""
        self.last_channel: Channel | None = None
        self._editing = editing
        self._clock = clock
        self._heals = heals
        self._keeps = keeps
        self._done: set[str] = set()  # parts that the engine ended
        self._loops = False  # a loop was found while the engine went on
        self._continued: str | None = None  # the part that was cut and goes on

    @property
    def is_cut(self) -> bool:
        """Return whether one of the texts stopped at a loop."""
        return self.stage in (Stage.CUT, Stage.WAITING)

    @property
    def is_stopped(self) -> bool:
        """Return whether nothing more that the engine sends reaches the reader."""
        return self.stage in (Stage.CUT, Stage.WAITING, Stage.OPENED)

    @property
    def has_removals(self) -> bool:
        """Return whether something was removed from its texts."""
        return any(channel.has_removals for channel in self.channels)

    @property
    def has_report(self) -> bool:
        """Return whether something was removed, or the prompt allowed to repeat something."""
        return any(channel.has_removals or channel.is_allowed for channel in self.channels)

    @property
    def kept(self) -> str:
        """Return what an opening made behind `given`, for the next call to go on from."""
        return self._attempt.kept if self._attempt else ""

    @property
    def given(self) -> str:
        """Return the content that the reader got, where the pieces are kept."""
        contents = [channel for channel in self.channels if channel.name == CONTENT]
        return "".join([piece for channel in contents for piece in channel.given or ()])

    @property
    def tried(self) -> str:
        """Return the beginning of what the last attempt generated, if nothing of it passed."""
        attempt = self._attempt
        return attempt.tried if attempt and not attempt.has_passed else ""

    def is_unusable(self, reason: str | None) -> bool:
        """Return whether the cut left something that no client may take for complete."""
        open_calls: list[Channel] = []
        if reason is None or reason == "length":
            for part, channel in self.parts.items():
                if channel.name == "tool_arguments" and part not in self._done:
                    open_calls.append(channel)
        return report.is_unusable(self.channels, self._editing, open_calls)

    def feed(
        self, frame: Frame, before: list[Delta], after: list[Delta | Finish], dropped: list[int]
    ) -> bool:
        """Filter this choice's part of a frame; see `Answer.feed`.

        Returns:
            Whether the reader gets anything else than the frame as it came.
        """
        if self.stage is not Stage.RUNNING:
            if not self.is_stopped:
                return False  # what comes behind an ordinary end passes
            dropped.append(self.index)
            return True
        finish: Finish | None = None
        for one in frame.finishes or ():
            if one.choice == self.index:
                finish = one
        attempt = self._attempt
        if attempt is not None and _calls_tool(frame, self.index):
            if attempt.is_opening:  # too short for the call: it is made again
                self.stage = Stage.OPENED
                dropped.append(self.index)
                return True
            before += self.release(CONTENT)
        is_edited = False
        num_before = len(before)
        for delta in frame.deltas:
            if delta.choice == self.index:
                is_edited = self._feed(delta, finish, before) or is_edited
        if attempt is not None:
            self._judge(attempt, frame, finish, before)
            if self.is_stopped and not (finish is not None and finish.is_cut):
                dropped.append(self.index)
            return True
        if finish is not None and not (self._heals and self._loops):
            before += self.release()
        is_cut = any(channel.is_cut for channel in self.channels)
        if not is_cut:
            if finish is not None:
                self.stage = Stage.ENDED
                if self.has_report:
                    is_edited = True
            return is_edited or len(before) > num_before
        # An engine that ended the text itself has nothing to continue.
        ended = [part for part in self._done if self.parts[part].is_cut]
        is_open = frame.is_whole or (finish is None and not ended)
        if is_open and self._loops and self._heals and self.can_continue():
            self.stage = Stage.WAITING
        elif finish is None:
            after += self.cut()
        else:
            finish.is_cut = True
            self.stage = Stage.CUT
        return True

    def release(self, name: ChannelName | None = None, *, is_whole: bool = True) -> list[Delta]:
        """Flush the texts (of one channel), and return what they held; see `Channel.flush`."""
        held: list[Delta] = []
        for part, channel in self.parts.items():
            if not channel.is_flushed and (name is None or channel.name == name):
                text = channel.flush(is_whole=is_whole)
                if text:
                    held.append(Delta(self.index, channel.name, part, text))
        return held

    def cut(self) -> list[Delta | Finish]:
        """End where the engine was stopped, and return what the reader gets of that."""
        ends_at_loop = self._ends_at_loop()
        is_opened = self.stage is Stage.OPENED and not ends_at_loop  # and no token is left to go on
        self.stage = Stage.ENDED if is_opened else Stage.CUT
        if self._continued is not None and not is_opened:
            self.parts[self._continued].end_at_loop(is_cut=True)
        ending: list[Delta | Finish] = []
        ending += self.release(is_whole=False)
        ending.append(Finish(self.index, "length" if is_opened else None, is_cut=not is_opened))
        return ending

    def end_with(self, text: str) -> None:
        """End the content that was cut with the rest of its sentence or line."""
        for part, channel in self.parts.items():
            if channel.name == CONTENT and (channel.is_cut or part == self._continued):
                channel.ending = text

    def num_pieces_of(self, prefix: str) -> int:
        """Return in how many pieces about as much of the text came as `prefix` is."""
        contents = [channel for channel in self.channels if channel.name == CONTENT]
        return sum([channel.num_pieces_of(len(prefix)) for channel in contents])

    def resume(self, continuation: Continuation) -> None:
        """Continue the text that was stopped."""
        for part, channel in self.parts.items():
            if channel.is_cut and channel.name == "reasoning":
                channel.resume(continuation)
                channel.flush()  # what follows is the answer
            elif channel.is_cut:
                self._continued = part
        if self._continued is not None:
            self.parts[self._continued].resume(continuation)
            self._done.discard(self._continued)
        self.stage = Stage.RUNNING
        self._loops = False

    @property
    def _attempt(self) -> Attempt | None:
        """Return the attempt to continue a text that runs, if one does."""
        return self.parts[self._continued].attempt if self._continued is not None else None

    def _judge(
        self, attempt: Attempt, frame: Frame, finish: Finish | None, before: list[Delta]
    ) -> None:
        """Decide, behind the texts of a frame, how a continuation stands; see `feed`."""
        reason = finish.reason if finish is not None else None
        if attempt.is_broken or any(channel.is_cut for channel in self.channels):
            self.stage = Stage.WAITING
        elif attempt.has_opened or (reason == "length" and attempt.is_opening):
            self.stage = Stage.OPENED
        if self.is_stopped or finish is not None:
            before += _moved(frame, self.index)
        if finish is not None and not self.is_stopped:
            before += self.release(is_whole=reason != "length")
            if reason == "stop" and not attempt.ends_well:  # within a sentence: it is asked again
                self.stage = Stage.WAITING
                for channel in self.channels:
                    channel.is_flushed = False  # if it was the last attempt, the end is to come
            elif self._ends_at_loop():
                self.stage, finish.is_cut = Stage.CUT, True
            else:
                self.stage = Stage.ENDED

    def _ends_at_loop(self) -> bool:
        """End at the loop behind which nothing came; return whether that is so."""
        if self._continued is None or report.has_calls(self.channels):
            return False
        return self.parts[self._continued].end_at_loop()

    def _feed(self, delta: Delta, finish: Finish | None, before: list[Delta]) -> bool:
        """Filter one piece. Return whether the reader gets anything else in its place."""
        text = delta.text
        if delta.channel == CONTENT and self._continued and delta.part not in self.parts:
            delta.part = self._continued
        if not text:
            if delta.ends:
                self._end(delta.part, before)
            return False
        if delta.channel != "reasoning":
            before += self.release("reasoning")  # an answer follows: the reasoning has ended
        channel = self._channel(delta)
        given = channel.feed(text, delta.num_pieces)
        self._loops = self._loops or channel.is_cut
        is_end = finish is not None or delta.ends
        if is_end and channel.attempt is None and not (self._heals and channel.is_cut):
            given += channel.flush()  # behind a cut, which may be continued, nothing is held
        if delta.ends:
            self._done.add(delta.part)
        delta.given = given
        return given != delta.text

    def _end(self, part: str, before: list[Delta]) -> None:
        """Release what a text held that the engine has ended."""
        channel = self.parts.get(part)
        if channel is not None:
            self.last_channel, self.last_part = channel, part
            text = channel.flush() if channel.attempt is None else ""
            if text:
                before.append(Delta(self.index, channel.name, part, text))
            if not channel.is_cut:
                self._done.add(part)

    def _channel(self, delta: Delta) -> Channel:
        channel = self.parts.get(delta.part)
        if channel is None or channel.is_flushed:
            channel = self._editing.channel(delta.channel, self._clock, is_locked=delta.is_locked)
            if self._keeps:
                channel.given = []
            self.parts[delta.part] = channel
            self.channels.append(channel)
        self.last_part, self.last_channel = delta.part, channel
        return channel

    @property
    def open_reasoning(self) -> str:
        """Return the reasoning that looped before there was any content; empty if none did."""
        last = self.channels[-1] if self.channels else None
        if last is None or last.name != "reasoning" or not last.is_cut:
            return ""
        return "".join(last.given or ())

    def can_continue(self) -> bool:
        """Return whether an engine can continue: content, or reasoning ahead of any."""
        names = {channel.name for channel in self.channels}
        last = self.channels[-1]
        if not last.is_cut or not names <= {CONTENT, "reasoning"}:
            return False
        if last.name == "reasoning":
            return CONTENT not in names and not self._editing.locks_reasoning
        if not self._editing.wants_json:
            return True
        return not all(channel.is_whole_json for channel in self.channels)


class Answer:
    """Everything that an engine generates for one request.

    Feed it the frames in order; at the end `flush` it, or `release` it where something failed.

    Args:
        editing: How the texts are filtered.
        num_choices: Number of choices that the request asks for.
        heals: A choice that loops in its content waits to be continued, instead of being cut.
        keeps: `given` and `looped` will be asked for.
        prompt_tokens: An estimate, for engines that report none.
        max_tokens: The request's limit.
        clock: Returns seconds, for the channels' times.

    Attributes:
        tokens: Token counts of the prompt and the answer.
        has_failed: The engine reported, in its API's own form, that it failed.
        agent_loop: The loop that the agent is in and what was done, for the report; None if the
            answer has nothing to do with one.
    """

    def __init__(
        self,
        editing: Editing,
        *,
        num_choices: int = 1,
        heals: bool = False,
        keeps: bool = False,
        prompt_tokens: int = 0,
        max_tokens: int | None = None,
        clock: Clock = no_clock,
    ) -> None:
        self.editing = editing
        self.heals = heals and num_choices == 1
        self._keeps = keeps or self.heals
        self._clock = clock
        self.tokens = TokenCounts(prompt_tokens, max_tokens)
        self.has_failed = False
        self.agent_loop: dict[str, Any] | None = None
        self.choices: dict[int, Choice] = {}
        self._num_choices = num_choices
        self._num_texts = 0
        self._max_texts = max(_MAX_TEXTS, 8 * num_choices)
        self._last: Choice | None = None  # that a frame was of, while it runs
        self._has_last_frame = False
        self._is_continued = False

    @property
    def channels(self) -> list[Channel]:
        """Return every text so far."""
        return [channel for choice in self.choices.values() for channel in choice.channels]

    @property
    def is_cut(self) -> bool:
        """Return whether a choice stopped at a loop."""
        return any(choice.is_cut for choice in self.choices.values())

    @property
    def is_waiting(self) -> bool:
        """Return whether a choice stopped at a loop and can be continued."""
        return any(choice.stage is Stage.WAITING for choice in self.choices.values())

    @property
    def has_opened(self) -> bool:
        """Return whether a continuation has begun, and needs another call to go on."""
        return any(choice.stage is Stage.OPENED for choice in self.choices.values())

    @property
    def is_over(self) -> bool:
        """Return whether nothing that may still come reaches the reader: the engine can stop."""
        if len(self.choices) < self._num_choices:
            return False
        is_cut = False
        for choice in self.choices.values():
            if choice.stage is Stage.RUNNING:
                return False
            is_cut = is_cut or choice.is_stopped
        return is_cut

    @property
    def is_complete(self) -> bool:
        """Return whether the answer is at its end. A stream that ends before has failed."""
        return self._has_last_frame or self.is_over

    @property
    def given(self) -> str:
        """Return the content that the reader got, of an answer that keeps it."""
        return "".join([choice.given for choice in self.choices.values()])

    @property
    def open_reasoning(self) -> str:
        """Return the reasoning that looped before there was any content; empty if none did."""
        return "".join([choice.open_reasoning for choice in self.choices.values()])

    @property
    def reasoning(self) -> str:
        """Return the reasoning that the reader got, of an answer that keeps it."""
        texts = [channel.given or () for channel in self.channels if channel.name == "reasoning"]
        return "".join([piece for text in texts for piece in text])

    @property
    def kept(self) -> str:
        """Return what an opening made behind `given`."""
        return "".join([choice.kept for choice in self.choices.values()])

    @property
    def tried(self) -> str:
        """Return the beginning of what a continuation generated in vain."""
        return "".join([choice.tried for choice in self.choices.values()])

    @property
    def looped(self) -> str:
        """Return the loop that was cut, of an answer that keeps it."""
        return "".join([channel.looped for channel in self.channels])

    @property
    def first_loop(self) -> str:
        """Return the text and the kind of the first loop: `content/exact`; empty if none was found."""
        for channel in self.channels:
            loop = channel.healed[0] if channel.healed else channel.loop
            if loop is not None:
                return f"{channel.name}/{loop.kind}"
        return ""

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens generated, estimated where the engine does not report it."""
        return self.tokens.known_output(self._size)

    @property
    def _size(self) -> Size:
        channels = self.channels
        num_bytes = sum([channel.bytes_in for channel in channels])
        return Size(num_bytes, sum([channel.pieces_in for channel in channels]))

    def feed(self, frame: Frame) -> Decision:
        """Filter a frame: set `given` of its deltas, and say what else the reader gets.

        A finish of a choice that is cut is marked (`Finish.is_cut`).

        Raises:
            TooManyTextsError: The answer has more texts than any model generates.
        """
        deltas = frame.deltas
        last = self._last
        if last is not None and len(deltas) == 1 and frame.finishes is None:
            # The commonest frame: another piece of the text that the last piece was of.
            delta = deltas[0]
            channel = last.last_channel
            if (
                channel is not None
                and delta.part == last.last_part
                and delta.choice == last.index
                and not (delta.ends or channel.is_flushed or self._is_continued)
                and delta.text
            ):
                self.tokens.note(frame)
                given = channel.feed(delta.text, delta.num_pieces)
                if channel.is_cut:
                    delta.given = given
                    return self._stop(last)
                if given == delta.text:
                    return UNCHANGED
                delta.given = given
                return _EDITED
        self.note_usage(frame)
        if frame.is_last:
            self._has_last_frame = True
        if frame.has_failed:
            self.has_failed = True
            held = self.release()
            return Decision(held, [], [], is_changed=bool(held))
        if not deltas and not frame.finishes:
            return UNCHANGED
        is_changed = bool(frame.finishes) and self.agent_loop is not None
        indices = [delta.choice for delta in deltas]
        indices += [finish.choice for finish in frame.finishes or ()]
        if max(self._num_texts, len(self.choices), len(indices)) > self._max_texts:
            raise TooManyTextsError(f"more than {self._max_texts} texts in one answer")
        before: list[Delta] = []
        after: list[Delta | Finish] = []
        dropped: list[int] = []
        for index in dict.fromkeys(indices):
            choice = self._choice(index)
            num_texts = len(choice.channels)
            is_changed = choice.feed(frame, before, after, dropped) or is_changed
            self._num_texts += len(choice.channels) - num_texts
            self._last = choice if choice.stage is Stage.RUNNING else None
        return Decision(before, after, dropped, is_changed=is_changed)

    def note_usage(self, frame: Frame) -> None:
        """Note the counts that a frame reports, also one that comes behind the end of a choice."""
        self.tokens.note(frame)
        if frame.output_tokens is not None and self._is_continued:
            self.tokens.calibrate(frame, self._size)

    def flush(self) -> list[Delta | Finish]:
        """End the answer: choices that wait are cut, and held text is released."""
        ending: list[Delta | Finish] = []
        for choice in self.choices.values():
            if choice.stage in (Stage.WAITING, Stage.OPENED):
                ending += choice.cut()
        ending += self.release()
        return ending

    def end_with(self, text: str) -> None:
        """End what cannot be continued with the rest of its sentence or line."""
        for choice in self.choices.values():
            if choice.stage is Stage.WAITING:
                choice.end_with(text)

    def give_up(self) -> None:
        """Stop where a continuation failed: the answer ends at the cut."""
        for choice in self.choices.values():
            if choice.stage in (Stage.RUNNING, Stage.OPENED):
                choice.stage = Stage.WAITING

    def release(self) -> list[Delta]:
        """Flush all texts, and return what they held."""
        return [delta for choice in self.choices.values() for delta in choice.release()]

    def resume(self, continuation: Continuation) -> None:
        """Continue the choices that were stopped: the frames that follow are another stream's."""
        size, num_pieces = self._size, 0
        for choice in self.choices.values():
            if choice.stage in (Stage.WAITING, Stage.OPENED):
                num_pieces += choice.num_pieces_of(continuation.prefix)
                choice.resume(continuation)
        self.tokens.begin_attempt(size, min(1.0, num_pieces / max(1, size.num_pieces)))
        self._has_last_frame = False
        self._is_continued = True

    def summary(self, choice: int | None = None) -> dict[str, Any]:
        """Return the `repetition` object of a choice, or of all of them."""
        channels = self.channels
        if choice is not None:
            channels = self._choice(choice).channels
        summary = report.summary(self.editing.policy, channels)
        if self.agent_loop is not None:
            summary["agent_loop"] = self.agent_loop
        return summary

    def is_unusable(self, choice: int, reason: str | None = None) -> bool:
        """Return whether the cut left something that no client may take for complete."""
        return self._choice(choice).is_unusable(reason)

    def has_calls(self, choice: int) -> bool:
        """Return whether the choice calls a tool."""
        return report.has_calls(self._choice(choice).channels)

    def has_removals(self, choice: int) -> bool:
        """Return whether something was removed from the choice's texts."""
        return self._choice(choice).has_removals

    def has_report(self, choice: int | None = None) -> bool:
        """Return whether a choice, or any of them, ends with a `repetition` object."""
        if self.agent_loop is not None:
            return True
        if choice is not None:
            return self._choice(choice).has_report
        return any(one.has_report for one in self.choices.values())

    @property
    def is_stopped(self) -> bool:
        """Return whether the turn of an agent in a loop was ended in the model's place."""
        return self.agent_loop is not None and self.agent_loop.get("action") == "stopped"

    def _stop(self, choice: Choice) -> Decision:
        """Stop at a loop in the last text."""
        self._last = None
        after: list[Delta | Finish] = []
        if self.heals and choice.can_continue():
            choice.stage = Stage.WAITING
        else:
            after = choice.cut()
        return Decision([], after, [], is_changed=True)

    def _choice(self, index: int) -> Choice:
        choice = self.choices.get(index)
        if choice is None:
            choice = self.choices[index] = Choice(
                index, self.editing, self._clock, heals=self.heals, keeps=self._keeps
            )
        return choice


def _calls_tool(frame: Frame, choice: int) -> bool:
    return any(
        delta.choice == choice and delta.channel == "tool_arguments" for delta in frame.deltas
    )


def _moved(frame: Frame, choice: int) -> list[Delta]:
    """Return what the reader gets of a frame's texts, and take it out of the frame."""
    moved: list[Delta] = []
    for delta in frame.deltas:
        if delta.choice == choice and delta.given:
            moved.append(Delta(choice, delta.channel, delta.part, delta.given))
            delta.given = ""
    return moved
