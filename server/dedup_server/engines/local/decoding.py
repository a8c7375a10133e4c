"""What it takes to decode: a sequence goes in as a prompt and a `step` that chooses each token, whoever runs the model."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]

# What a sequence makes of its scores for the next token, shape (vocabulary,), changed in place: the token, or None, and it ends.
Step = Callable[[Scores], int | None]
OnEnd = Callable[[BaseException | None], None]


class EngineFailedError(Exception):
    """The model failed in a step, and with it all sequences that were in it."""


class Decoder(Protocol):
    """Runs a model for several sequences at once. What a sequence's `step` or `on_end` raises ends that sequence alone."""

    def submit(self, prompt: list[int], step: Step, on_end: OnEnd) -> Any:
        """Decodes from `prompt` on. `step` and `on_end` are called in a thread of the decoder's and must not wait; `on_end` once, with
        what went wrong or None, unless the sequence is cancelled before. Raises EngineFailedError when it is stopped."""
        ...

    def cancel(self, sequence: Any) -> None:
        """Ends what `submit` gave, before its next step; `on_end` is not called. No harm where it has ended."""
        ...

    def stop(self) -> None:
        """Ends everything; what is being decoded ends with an `EngineFailedError`."""
        ...
