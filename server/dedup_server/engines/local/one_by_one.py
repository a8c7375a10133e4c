"""A decoder that runs transformers' `generate`, for models that cannot be decoded in batches."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from dedup_server.engines.local.decoding import EngineFailedError, OnEnd, Step


class Sequence:
    """A sequence that is being decoded. `OneByOne.submit` returns it."""

    def __init__(self, step: Step, on_end: OnEnd) -> None:
        self.step = step
        self.on_end = on_end
        self.cancelled = threading.Event()


class OneByOne:
    """A decoder (`decoding.Decoder`) with a thread per sequence.

    Args:
        max_concurrent: sequences in progress; more wait.
        context: the longest sequence of the model, in tokens.
    """

    def __init__(self, model: Any, max_concurrent: int, context: int) -> None:
        self._model = model
        self._pool = ThreadPoolExecutor(max_concurrent, thread_name_prefix="decode")
        self._stopping = threading.Event()
        # `step` chooses the tokens, and ends the sequence.
        self._config = GenerationConfig(do_sample=False, max_length=context, eos_token_id=None)

    def submit(self, prompt: list[int], step: Step, on_end: OnEnd) -> Sequence:
        sequence = Sequence(step, on_end)
        if self._stopping.is_set():
            raise EngineFailedError("the engine is stopped")
        try:
            self._pool.submit(self._decode, sequence, prompt)
        except RuntimeError:  # stopped meanwhile
            raise EngineFailedError("the engine is stopped") from None
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        sequence.cancelled.set()

    def stop(self) -> None:
        self._stopping.set()
        self._pool.shutdown()

    def _decode(self, sequence: Sequence, prompt: list[int]) -> None:
        error: BaseException | None = None
        chooser = _Chooser(sequence, self._stopping)
        try:
            if not chooser.is_over():
                rows = torch.tensor([prompt], device=self._model.device)
                self._model.generate(
                    rows,
                    attention_mask=torch.ones_like(rows),
                    generation_config=self._config,
                    logits_processor=[chooser],
                    stopping_criteria=[_EndCriterion(chooser)],
                )
            if not chooser.ended and self._stopping.is_set():
                error = EngineFailedError("the engine is stopped")
        except Exception as failure:
            error = failure
        if not sequence.cancelled.is_set():
            sequence.on_end(error)


class _Chooser(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that leaves `generate` the one token that `step` chose."""

    def __init__(self, sequence: Sequence, stopping: threading.Event) -> None:
        self._sequence = sequence
        self._stopping = stopping
        self.ended = False

    def is_over(self) -> bool:
        """Return whether no token is to follow."""
        return self.ended or self._sequence.cancelled.is_set() or self._stopping.is_set()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.is_over():
            return scores
        token = self._sequence.step(scores[0].float().cpu().numpy())
        if token is None:
            self.ended = True
            return scores
        return torch.full_like(scores, -torch.inf).index_fill_(
            1, torch.tensor([token], device=scores.device), 0.0
        )


class _EndCriterion(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, chooser: _Chooser) -> None:
        self._chooser = chooser

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        return torch.full((len(input_ids),), self._chooser.is_over(), device=input_ids.device)
