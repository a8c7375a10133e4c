"""A decoder of many sequences together, one step at a time."""

import logging
import threading
import time
from typing import Any

import torch

from dedup_server.engines.local.batch_engine import END, BatchEngine
from dedup_server.engines.local.decoding import EngineFailedError, OnEnd, Scores, Step

_RESTART_SECONDS = 1.0

log = logging.getLogger("dedup")


class Sequence:
    """A sequence that is being decoded. `Batcher.submit` returns it."""

    __slots__ = ("ended", "length", "on_end", "request_id", "step")

    def __init__(self, request_id: str, num_prompt: int, step: Step, on_end: OnEnd) -> None:
        self.request_id = request_id
        self.length = num_prompt
        self.step = step
        self.on_end = on_end
        self.ended = False


class Batcher:
    """A decoder (`decoding.Decoder`) with a thread of its own.

    An error of a sequence's `step` or `on_end` ends that sequence alone. An error of the model ends
    all sequences in progress; later ones are decoded by a restarted engine. While the decoder runs,
    nothing else may call the model.

    Args:
        max_concurrent: sequences in progress; more wait.
        context: the longest sequence of the model, in tokens.

    Raises:
        UnbatchableError: the model cannot be decoded in batches, or is decoded wrongly.
    """

    def __init__(self, model: Any, max_concurrent: int, context: int) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._sequences: dict[str, Sequence] = {}  # by request id, until they end
        self._last_id = 0
        self.engine = BatchEngine(model, max_concurrent, context, self._choose)
        self.context = self.engine.context
        log.info(
            "batching: %d sequences at once, up to %d tokens of keys and values in %.0f MB",
            max_concurrent,
            self.engine.num_tokens,
            self.engine.cache_bytes / 1e6,
        )
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @property
    def num_active(self) -> int:
        """Number of sequences that have not ended, whether decoded or waiting."""
        return len(self._sequences)

    def submit(self, prompt: list[int], step: Step, on_end: OnEnd) -> Sequence:
        """Decode from `prompt` on; see `decoding.Decoder.submit`.

        Raises:
            ValueError: the prompt is empty or fills the context.
            EngineFailedError: the decoder is stopped.
        """
        if not 0 < len(prompt) < self.context:
            raise ValueError(f"a prompt has 1 to {self.context - 1} tokens, got {len(prompt)}")
        with self._lock:
            if self._stopping:
                raise EngineFailedError("the engine is stopped")
            self._last_id += 1
            sequence = Sequence(str(self._last_id), len(prompt), step, on_end)
            self._sequences[sequence.request_id] = sequence
            self.engine.add(sequence.request_id, prompt)
        self._wake.set()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence before its next step; see `decoding.Decoder.cancel`."""
        with self._lock:
            if not self._remove(sequence):
                return
            self.engine.cancel(sequence.request_id)
        self._wake.set()

    def stop(self) -> None:
        """End all sequences with an `EngineFailedError` and restore the model."""
        with self._lock:
            self._stopping = True
        self._wake.set()
        self._thread.join()
        self.engine.restore()

    def _run(self) -> None:
        while not self._stopping:
            try:
                with torch.inference_mode():
                    while not self._stopping:
                        if not self.engine.advance():
                            self._wake.wait()
                        self._wake.clear()
            except Exception as error:
                log.exception("a decoding step failed; its sequences fail, the engine restarts")
                self._restart(error)
        self._fail_all("the engine is stopped")

    def _choose(self, request_id: str, row: Scores) -> int:
        """Return the next token of a request, or END. An error ends its sequence alone."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return END
        try:
            token = sequence.step(row)
            if token is None:
                self._end(sequence, None)
                return END
            sequence.length += 1
            if sequence.length < self.context:
                return int(token)
            self._end(sequence, ValueError(f"the sequence is longer than {self.context} tokens"))
        except Exception as error:
            self._end(sequence, error)
        return END

    def _end(self, sequence: Sequence, error: BaseException | None) -> None:
        with self._lock:
            if not self._remove(sequence):
                return
        try:
            sequence.on_end(error)
        except Exception:
            log.exception("the end of a sequence could not be reported")

    def _remove(self, sequence: Sequence) -> bool:
        """Mark a sequence as ended. Return False if it was. The caller holds the lock."""
        if sequence.ended:
            return False
        sequence.ended = True
        self._sequences.pop(sequence.request_id, None)
        return True

    def _fail_all(self, message: str, cause: BaseException | None = None) -> None:
        with self._lock:
            sequences = list(self._sequences.values())
        for sequence in sequences:
            # One error each: raised in several threads, a shared one would collect tracebacks.
            error = EngineFailedError(message)
            error.__cause__ = cause
            self._end(sequence, error)

    def _restart(self, error: Exception) -> None:
        """Fail all sequences and restart the engine, whose state may be inconsistent."""
        message = f"the model failed: {type(error).__name__}: {error}"
        # Its frames hold tensors of the old engine, and there may be no memory for two engines.
        error.__traceback__ = None
        self._fail_all(message, error)
        self.engine.discard()
        while not self._stopping:
            try:
                self.engine.start()
                return
            except Exception:
                log.exception(
                    "the engine could not be restarted; retrying in %g s", _RESTART_SECONDS
                )
                self._fail_all(message, error)
                time.sleep(_RESTART_SECONDS)
