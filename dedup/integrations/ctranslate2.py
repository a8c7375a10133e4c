"""Adapter for CTranslate2's `generate_batch(callback=...)`: it stops a generation at a loop.

CTranslate2 calls nothing before it samples, so that the sampling methods have no place there.
`dedup.filter_stream` filters the text of `generate_tokens` and stops it at a loop.
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
        self._outputs: dict[int, TokenLoopDetector] = {}  # by number in the batch
        self._ended: set[int] = set()

    @property
    def events(self) -> dict[int, LoopEvent]:
        """Loops of the last call, by the item's number. Offsets count characters of the output."""
        outputs = sorted(self._outputs.items())
        return {number: output.event for number, output in outputs if output.event}

    def __call__(self, result: Any) -> bool:
        """Return whether the output loops, after a step of type `GenerationStepResult`."""
        number = result.batch_id
        if number in self._ended:  # the next call: each item of the last one has ended
            self._outputs.clear()
            self._ended.clear()
        if number not in self._outputs:
            self._outputs[number] = TokenLoopDetector(self._tokenizer, self._config)
        loops = self._outputs[number].feed(result.token_id) is not None
        if loops or result.is_last:
            self._ended.add(number)
        return loops
