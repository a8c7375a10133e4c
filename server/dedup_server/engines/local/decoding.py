"""The interface of decoders, which run the model while the caller chooses every token."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]

# Takes the scores of a sequence's next token, shape (vocabulary,), which it may change in place.
# Returns the token, or None to end the sequence.
Step = Callable[[Scores], int | None]
# Takes the error that ended a sequence, None if `step` did.
OnEnd = Callable[[BaseException | None], None]


class EngineFailedError(Exception):
    """The model failed in a step, or the decoder was stopped; all its sequences fail."""


class Decoder(Protocol):
    """Decoder of several sequences at once. An error of a sequence's `step` or `on_end` ends that
    sequence alone.
    """

    def submit(self, prompt: list[int], step: Step, on_end: OnEnd) -> Any:
        """Decode from `prompt` on.

        Args:
            step: called in a thread of the decoder for every token; must not block.
            on_end: called once in such a thread, unless the sequence is cancelled; must not block.

        Returns:
            The sequence, for `cancel`.

        Raises:
            EngineFailedError: the decoder is stopped.
        """
        ...

    def cancel(self, sequence: Any) -> None:
        """End a sequence before its next step, without a call of `on_end`. Do nothing if it has
        ended.
        """
        ...

    def stop(self) -> None:
        """End all sequences with an `EngineFailedError`."""
        ...
