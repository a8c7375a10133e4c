"""An answer that is healed, by an engine that generates what a test has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup.answer.continuation import Continuation, Healing, Support
from dedup.answer.frame import Delta, Finish, Frame

ELSEWHERE = Support()


@dataclass(frozen=True)
class Said:
    """Text that one call generates. reason: how it ends; None breaks it off."""

    text: str
    reason: str | None = "stop"


class Healed:
    """An answer, from the first call to its end.

    Args:
        calls: What the engine generates; nothing more when they have been used up.
        support: What the engine can do.
        seed: Of the pieces in which it generates.
        parameters: The request's.

    Attributes:
        text: What the reader got.
        before: What the reader had when the first loop was cut.
        asked: The continuations.
        finish: The last finish.
        ending: How the line or sentence ends in the loop's own words, if nothing comes of it.
    """

    def __init__(
        self,
        calls: Sequence[Said],
        *,
        support: Support = ELSEWHERE,
        seed: int = 0,
        **parameters: Any,
    ) -> None:
        self.answer = Answer(Editing("balanced"), heals=True)
        self.text = ""
        self.before: str | None = None
        self.asked: list[Continuation] = []
        self.finish: Finish | None = None
        self.ending = ""
        self._healing = Healing(parameters, "Hello", support)
        self._random = Random(seed)
        self._calls = iter(calls)
        self._play()

    def _play(self) -> None:
        answer = self.answer
        coming: Continuation | None = None
        while True:
            said = next(self._calls, Said(""))
            if coming is not None:
                self.asked.append(coming)
                answer.resume(coming)
                self.ending = self.ending if coming.ending is None else coming.ending
            for frame in self._frames(said):
                decision = answer.feed(frame)
                self._take(decision.before)
                if 0 not in decision.dropped:
                    self.text += "".join([delta.given for delta in frame.deltas])
                    self._take(frame.finishes or ())
                self._take(decision.after)
                if answer.is_over:
                    break
            if said.reason is None and not answer.is_over:
                answer.give_up()
                break
            coming = self._next()
            if coming is None:
                ending = self._healing.ending(answer.given, answer.looped)
                answer.end_with(ending)
                self.ending = ending or self.ending
                break
        self._take(answer.flush())

    def _frames(self, said: Said) -> Iterator[Frame]:
        at = 0
        while at < len(said.text):
            size = self._random.randrange(1, 12)
            yield Frame([Delta(0, "content", "c", said.text[at : at + size])])
            at += size
        if said.reason is not None:
            yield Frame([], [Finish(0, said.reason)], is_last=True)

    def _next(self) -> Continuation | None:
        answer, healing = self.answer, self._healing
        if answer.has_opened:
            return healing.freed(answer.given + answer.kept, answer.num_tokens)
        if not answer.is_waiting:
            return None
        if self.before is None:
            self.before = answer.given
        return healing.next(answer.given, answer.looped, answer.tried, answer.num_tokens)

    def _take(self, pieces: "Sequence[Delta | Finish]") -> None:
        for piece in pieces:
            if isinstance(piece, Delta):
                self.text += piece.text
            else:
                self.finish = piece
