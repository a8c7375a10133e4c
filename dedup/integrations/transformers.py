"""Adapters for transformers' `generate`: a stopping criterion and a streamer.

The sampling methods are in `dedup.logits.hf`.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from dedup.config import LoopConfig
from dedup.logits.detokenizer import Detokenizer
from dedup.text.filter import RepetitionFilter
from dedup.text.loops.detector import LoopEvent
from dedup.token_loops import TokenLoopDetector


class LoopStoppingCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stopping criterion that ends a row of the batch when its output loops.

    One instance serves one `generate`.
    """

    def __init__(self, tokenizer: Any, config: LoopConfig | None = None) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._num_prompt = -1
        self._outputs: list[TokenLoopDetector] = []

    @property
    def events(self) -> list[LoopEvent | None]:
        """Loop of each row, or None. Offsets count characters of the output."""
        return [output.event for output in self._outputs]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows loop, shape (batch,), for `input_ids` of shape (batch, length).

        Raises:
            ValueError: The batch changed its size.
        """
        if self._num_prompt < 0:
            # The first call comes after the first generated token.
            self._num_prompt = max(0, input_ids.shape[-1] - 1)
            self._outputs = [
                TokenLoopDetector(self._tokenizer, self._config) for _ in range(input_ids.shape[0])
            ]
        if len(self._outputs) != input_ids.shape[0]:
            raise ValueError(
                f"a batch of {len(self._outputs)} became one of {input_ids.shape[0]}: "
                "use a new LoopStoppingCriteria"
            )
        outputs = input_ids[:, self._num_prompt :].tolist()
        for detector, tokens in zip(self._outputs, outputs, strict=True):
            detector.follow(tokens)
        return torch.tensor([event is not None for event in self.events], device=input_ids.device)


class FilterStreamer(BaseStreamer):  # type: ignore[misc]
    """Streamer for `generate(streamer=...)` that filters the output. For one sequence."""

    def __init__(
        self,
        tokenizer: Any,
        repetition_filter: RepetitionFilter,
        sink: Callable[[str], None],
        skip_prompt: bool = True,
    ) -> None:
        """Stream one `generate`.

        Args:
            tokenizer: The model's tokenizer.
            repetition_filter: Filter of the output.
            sink: Called with each piece of text.
            skip_prompt: Whether the prompt is left out. It is never filtered.
        """
        self._detokenizer = Detokenizer(tokenizer)
        self._filter = repetition_filter
        self._sink = sink
        self._skip_prompt = skip_prompt
        self._prompt_seen = False

    @property
    def stop(self) -> StoppingCriteria:
        """Stopping criterion that ends `generate` where the filter has cut the text."""
        return _FilterStop(self._filter)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, shape (1, length), then one token at a time, shape (1,).

        Raises:
            ValueError: `value` is a batch.
        """
        if value.ndim > 1 and value.shape[0] > 1:
            raise ValueError("a streamer follows one sequence; got a batch")
        tokens = value.reshape(-1).tolist()
        if not self._prompt_seen:
            self._prompt_seen = True
            if not self._skip_prompt:
                self._send("".join(map(self._detokenizer.feed, tokens)))
            return
        for token in tokens:
            self._send(self._filter.feed(self._detokenizer.feed(token)))

    def end(self) -> None:
        """Send the text that is still held."""
        self._send(self._filter.feed(self._detokenizer.flush()) + self._filter.flush())

    def _send(self, text: str) -> None:
        if text:
            self._sink(text)


class _FilterStop(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, repetition_filter: RepetitionFilter) -> None:
        self._filter = repetition_filter

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        ended = self._filter.ended
        return torch.full((input_ids.shape[0],), ended, device=input_ids.device)
