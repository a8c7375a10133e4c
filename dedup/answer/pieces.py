"""The texts of one answer, piece by piece: for hosts whose answers are made of parts."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup.answer.frame import ChannelName, Delta, Finish, Frame
from dedup.config import FilterConfig, Policy

_NOTHING: Final[list[Delta]] = []


class AnswerFilter:
    """Filter of one answer.

    Pieces come out as `Delta` with `given`, what the reader gets: of the part that was fed, and
    ahead of it or behind it what other parts have held.

    Args:
        policy: The policy; see `FilterConfig`.
        prompt: The user's last message, which is evidence of what may repeat.
        history: Earlier answers, for `strict`.
        wants_json: The answer must be JSON: its content is not edited.

    Raises:
        ValueError: There is no such policy.
    """

    def __init__(
        self,
        policy: Policy = "balanced",
        *,
        prompt: str = "",
        history: Sequence[str] = (),
        wants_json: bool = False,
    ) -> None:
        FilterConfig(policy=policy)
        # Reasoning may be signed, which is seen only at its end: it is cut, but not edited.
        editing = Editing(policy, prompt, history, wants_json, locks_reasoning=True)
        self._answer = Answer(editing)

    @property
    def is_over(self) -> bool:
        """Return whether the answer has ended at a loop: the model can stop."""
        return self._answer.is_over

    @property
    def finish_reason(self) -> str:
        """Return the finish reason of an answer that ended at a loop: `stop` or `length`.

        It is `length` where the cut left half a tool call, half of JSON or reasoning alone.
        """
        return "length" if self._answer.is_unusable(0) else "stop"

    def feed(
        self, channel: ChannelName, part: str, text: str, *, is_locked: bool = False
    ) -> list[Delta]:
        """Feed the next piece of a part; return what the reader gets now.

        Args:
            channel: The kind of text.
            part: A name that the part keeps.
            text: The piece.
            is_locked: The part is signed: nothing in it may change.
        """
        if not text or self.is_over:
            return _NOTHING
        delta = Delta(0, channel, part, text, is_locked=is_locked)
        decision = self._answer.feed(Frame([delta]))
        given = [*decision.before, *([] if 0 in decision.dropped else [delta]), *decision.after]
        return [one for one in given if isinstance(one, Delta) and one.given]

    def end(self, channel: ChannelName, part: str) -> list[Delta]:
        """End a part; return what it held."""
        if self.is_over:
            return _NOTHING
        decision = self._answer.feed(Frame([Delta(0, channel, part, "", ends=True)]))
        return [one for one in decision.before if one.given]

    def whole(self, parts: Iterable[tuple[ChannelName, str, str, bool]]) -> dict[str, str]:
        """Filter an answer that has come whole; return the texts of its parts, by part.

        Where one loops, that is cut, and not what follows in another: nothing is left to stop.

        Args:
            parts: Of each its channel, its name, its text, and whether it is locked; see `feed`.
        """
        deltas = [
            Delta(0, channel, part, text, is_locked=is_locked)
            for channel, part, text, is_locked in parts
        ]
        texts = {delta.part: "" for delta in deltas}
        decision = self._answer.feed(Frame(deltas, is_whole=True))
        for one in (*decision.before, *deltas, *decision.after, *self.flush()):
            if isinstance(one, Delta):
                texts[one.part] += one.given
        return texts

    def flush(self) -> list[Delta]:
        """End the answer; return what was held. A second call returns nothing."""
        return [one for one in self._answer.flush() if not isinstance(one, Finish) and one.given]

    def report(self) -> dict[str, Any] | None:
        """Return the `repetition` object; None if there is nothing to report."""
        return self._answer.summary() if self._answer.has_report() else None
