"""The rungs with which an agent is led out of a loop, each of which an operator or a request allows."""

from typing import Final, Literal

Rung = Literal["nudge", "answer", "stop"]

RUNGS: Final[tuple[Rung, ...]] = ("nudge", "answer", "stop")
_WANTED: Final = "must be a list of nudge, answer or stop"


def read_ladder(value: object) -> object:
    """Return a list of rungs without "measure", which is what is done without any.

    Raises:
        ValueError: It names anything else.
    """
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(_WANTED)
    for name in value:
        if name != "measure" and name not in RUNGS:
            raise ValueError(_WANTED)
    return [rung for rung in RUNGS if rung in value]  # in the order in which they are climbed
