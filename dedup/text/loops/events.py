"""Events of the loop detector."""

from dataclasses import dataclass
from typing import Literal

LoopKind = Literal["exact", "near", "flood"]


@dataclass(frozen=True, slots=True)
class LoopEvent:
    """A detected loop. Offsets and the period count characters of the input (or token ids).

    kind: `exact` copies, `near` copies or drift, or a `flood` of symbols.
    onset: offset of the first copy.
    detected_at: length of the input read when the loop became certain.
    period: length of one copy.
    copies: whole copies up to `detected_at`.
    """

    kind: LoopKind
    onset: int
    detected_at: int
    period: int
    copies: int


@dataclass(frozen=True, slots=True)
class LoopEnd:
    """The end of a loop. at: offset of the first character after it."""

    at: int
