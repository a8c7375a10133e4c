"""Adapter for CTranslate2's `generate_batch(callback=...)`: it stops a generation at a loop.

CTranslate2 calls nothing before it samples, so that the sampling methods have no place there.
"""

from typing import Any

from dedup.config import LoopConfig
from dedup.text.loops.detector import LoopEvent
from dedup.token_loops import TokenLoopDetector


class LoopStop:
    """Callback that ends an item of the batch when its output loops.

    It serves one call after another, but not several at the same time.
    """

    def __init__(self, tokenizer: Any, config: LoopConfig | None = None) -> None:
        """Stop outputs that loop.

        Args:
            tokenizer: The model's tokenizer, one of transformers or what decodes like one.
            config: Reach of the loop detector.
        """
        self._tokenizer = tokenizer
        self._config = config
        self._outputs: dict[tuple[int, int], TokenLoopDetector] = {}

    @property
    def events(self) -> list[LoopEvent | None]:
        """Loop of each item of the last call, or None. Offsets count characters of the output."""
        return [self._outputs[key].event for key in sorted(self._outputs)]

    def __call__(self, result: Any) -> bool:
        """Return whether the output loops, after a step of type `GenerationStepResult`."""
        key = (result.batch_id, result.hypothesis_id)
        if result.step == 0:
            if key in self._outputs:  # the next call
                self._outputs.clear()
            self._outputs[key] = TokenLoopDetector(self._tokenizer, self._config)
        return self._outputs[key].feed(result.token_id) is not None
