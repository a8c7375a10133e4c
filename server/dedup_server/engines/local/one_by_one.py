"""Sequences decoded by transformers' `generate`, each in a thread of its own: for every model that cannot be decoded in batches."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from dedup_server.engines.local.decoding import EngineFailedError, OnEnd, Step


class Sequence:
    """One that is being decoded. Made by `OneByOne.submit`."""

    def __init__(self, step: Step, on_end: OnEnd) -> None:
        self.step = step
        self.on_end = on_end
        self.cancelled = threading.Event()


class OneByOne:
    """A decoder (`decoding.Decoder`) that runs up to `max_concurrent` sequences of `model` side by side; more wait their turn."""

    def __init__(self, model: Any, max_concurrent: int, context: int) -> None:
        """context: the longest sequence the model takes."""
        self._model = model
        self._pool = ThreadPoolExecutor(max_concurrent, thread_name_prefix="decode")
        self._stopping = threading.Event()
        # Tokens are chosen by `step`, which also knows when to end.
        self._config = GenerationConfig(do_sample=False, max_length=context, eos_token_id=None)

    def submit(self, prompt: list[int], step: Step, on_end: OnEnd) -> Sequence:
        sequence = Sequence(step, on_end)
        if self._stopping.is_set():
            raise EngineFailedError("the engine is stopped")
        try:
            self._pool.submit(self._decode, sequence, prompt)
        except RuntimeError:  # it was stopped just now
            raise EngineFailedError("the engine is stopped") from None
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        sequence.cancelled.set()

    def stop(self) -> None:
        self._stopping.set()
        self._pool.shutdown()

    def _decode(self, sequence: Sequence, prompt: list[int]) -> None:
        error: BaseException | None = None
        chooses = _Chooses(sequence, self._stopping)
        try:
            if not chooses.is_over():
                rows = torch.tensor([prompt], device=self._model.device)
                self._model.generate(
                    rows,
                    attention_mask=torch.ones_like(rows),
                    generation_config=self._config,
                    logits_processor=[chooses],
                    stopping_criteria=[_Ends(chooses)],
                )
            if not chooses.ended and self._stopping.is_set():
                error = EngineFailedError("the engine is stopped")
        except Exception as failure:
            error = failure
        if not sequence.cancelled.is_set():
            sequence.on_end(error)


class _Chooses(LogitsProcessor):  # type: ignore[misc]
    """Leaves `generate` one token to choose."""

    def __init__(self, sequence: Sequence, stopping: threading.Event) -> None:
        self._sequence = sequence
        self._stopping = stopping
        self.ended = False

    def is_over(self) -> bool:
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


class _Ends(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, chooses: _Chooses) -> None:
        self._chooses = chooses

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        return torch.full((len(input_ids),), self._chooses.is_over(), device=input_ids.device)
