"""Chat and text completions as objects: for hosts whose chunks and answers have attributes."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

from dedup.answer.answer import Answer
from dedup.answer.frame import ChannelName, Decision, Delta, Finish, Frame

Make = Callable[[Any, Delta | Finish, dict[str, Any]], Any]

_log: Final = logging.getLogger("dedup.answer")
_SLOTS: Final[tuple[tuple[str, ChannelName], ...]] = (
    ("reasoning_content", "reasoning"),
    ("content", "content"),
)


class ChunkFilter:
    """Filter of the chunks of a stream. What it cannot read, or fails at, passes as it came.

    Args:
        answer: The answer that the chunks are of.
        num_choices: Choices that it has. Of several, finish reasons are counted, and not trusted:
            LiteLLM gives them the index 0.
        copy: Returns a deep copy of a chunk. A chunk that stays as it is passes itself.
        make: Returns a chunk with the head of another one, for held text or for the end of a
            choice. Its last argument has fields of the choice.

    Attributes:
        chunks: The chunks that came, of those that it can read.
    """

    def __init__(
        self, answer: Answer, num_choices: int, copy: Callable[[Any], Any], make: Make
    ) -> None:
        self.answer = answer
        self.chunks: list[Any] = []
        self._num_choices = num_choices
        self._num_finished = 0
        self._copy = copy
        self._make = make
        self._has_failed = False

    @property
    def is_over(self) -> bool:
        """Return whether nothing more reaches the reader: the host can stop the model."""
        if self._num_choices == 1:
            return self.answer.is_over
        num_cut = sum([choice.is_stopped for choice in self.answer.choices.values()])
        return num_cut > 0 and num_cut + self._num_finished >= self._num_choices

    def feed(self, chunk: Any) -> list[Any]:
        """Return what the reader gets for a chunk."""
        if self._has_failed:
            return [chunk]
        try:
            frame = _frame(chunk)
            if frame is None:
                return [chunk]
            self.chunks.append(chunk)
            if self._num_choices > 1 and frame.finishes:
                self._count(frame)
            decision = self.answer.feed(frame)
            return self._given(chunk, frame, decision) if decision.is_changed else [chunk]
        except Exception:
            _log.exception("the filter failed; the rest of the stream passes unfiltered")
            self._has_failed = True
            return [*self.release(), chunk]

    def release(self) -> list[Any]:
        """End the stream; return chunks for the text that is still held."""
        held = self.answer.release()
        like = [chunk for chunk in self.chunks if chunk.choices][-1:]  # a chunk may be usage alone
        return [self._make(like[0], delta, {}) for delta in held]

    def _count(self, frame: Frame) -> None:
        """Count the choices that end, and keep the ends of those that were cut, to be dropped."""
        choices, finishes = self.answer.choices, frame.finishes or []
        stopped = []
        for finish in finishes:
            if finish.choice in choices and choices[finish.choice].is_stopped:
                stopped.append(finish)
        self._num_finished += len(finishes) - len(stopped)
        frame.finishes = stopped or None

    def _given(self, chunk: Any, frame: Frame, decision: Decision) -> list[Any]:
        edited = self._copy(chunk)
        _edit(self.answer, edited, frame, decision)
        given = [self._make(chunk, delta, {}) for delta in decision.before]
        if edited.choices:
            given.append(edited)
        for piece in decision.after:
            fields = {} if isinstance(piece, Delta) else cut_fields(self.answer, piece)
            given.append(self._make(chunk, piece, fields))
        return given


def filter_whole(answer: Answer, response: Any) -> None:
    """Filter a whole answer, in place; one of another API stays as it is."""
    frame = _frame(response, is_whole=True)
    if frame is not None:
        decision = answer.feed(frame)
        if decision.is_changed:
            _edit(answer, response, frame, decision)


def cut_fields(answer: Answer, finish: Finish) -> dict[str, Any]:
    """Return the fields of a choice that ends at a loop.

    The finish reason is `length` where what is left is unusable: no client may take it for whole.
    """
    reason = finish.reason
    if answer.is_unusable(finish.choice, reason):
        reason = "length"
    elif not reason or reason == "length":
        reason = "tool_calls" if answer.has_calls(finish.choice) else "stop"
    report = answer.summary(finish.choice)
    return {"finish_reason": reason, "stop_reason": "repetition_detected", "repetition": report}


def _frame(response: Any, *, is_whole: bool = False) -> Frame | None:
    """Return the frame of a chunk or a whole answer; None if it is of another API."""
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list):
        return None
    deltas: list[Delta] = []
    finishes: list[Finish] = []
    for choice in choices:
        deltas += [delta for delta, _, _ in _places(choice)]
        if is_whole or choice.finish_reason:
            finishes.append(Finish(choice.index, choice.finish_reason))
    return Frame(deltas, finishes or None, is_whole=is_whole)


def _places(choice: Any) -> Iterator[tuple[Delta, Any, str]]:
    """Yield the texts of a choice: the delta, and the object and attribute that hold it."""
    index = choice.index
    if text := getattr(choice, "text", None):
        yield Delta(index, "content", "text", text), choice, "text"
    body = getattr(choice, "delta", None) or getattr(choice, "message", None)
    is_signed = bool(getattr(body, "thinking_blocks", None))  # they hold the reasoning once more
    for slot, channel in _SLOTS:
        text = getattr(body, slot, None)
        if text and isinstance(text, str):
            is_locked = is_signed and channel == "reasoning"
            yield Delta(index, channel, slot, text, is_locked=is_locked), body, slot
    for position, call in enumerate(getattr(body, "tool_calls", None) or ()):
        function = getattr(call, "function", None)
        if text := getattr(function, "arguments", None):
            part = f"tool_calls.{getattr(call, 'index', position)}"
            yield Delta(index, "tool_arguments", part, text), function, "arguments"


def _edit(answer: Answer, response: Any, frame: Frame, decision: Decision) -> None:
    """Put what the reader gets into a chunk or answer; choices with nothing left are taken out."""
    given = iter(frame.deltas)
    finishes = {finish.choice: finish for finish in frame.finishes or ()}
    kept = []
    for choice in response.choices:
        is_edited, finish = False, finishes.get(choice.index)
        for _, holder, slot in list(_places(choice)):
            delta = next(given)
            setattr(holder, slot, delta.given)
            is_edited = is_edited or delta.given != delta.text
        if choice.index in decision.dropped:
            continue
        if is_edited and getattr(choice, "logprobs", None):
            choice.logprobs = None  # they belong to the text as it came
        if finish is not None and finish.is_cut:
            for name, value in cut_fields(answer, finish).items():
                setattr(choice, name, value)
        elif finish is not None and answer.has_report(choice.index):
            choice.repetition = answer.summary(choice.index)
        if finish is not None or not is_edited or _carries(choice):
            kept.append(choice)
    response.choices = kept


def _carries(choice: Any) -> bool:
    """Return whether an edited choice holds anything that a reader needs."""
    delta = getattr(choice, "delta", None)
    calls = getattr(delta, "tool_calls", None) or ()
    is_begun = getattr(delta, "role", None) or any(call.id for call in calls)
    return bool(is_begun) or next(_places(choice), None) is not None
