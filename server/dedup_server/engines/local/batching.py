"""Many sequences decoded together, a step at a time: transformers' continuous batching, with the choice of every token in our hands.

transformers schedules (who is in the next step), keeps keys and values in pages, and runs the model. It has no hook that gives a
request its own processors, its own random generator or an error of its own: its processors see the batch's last tokens only, and what one
raises ends all. So `ModelRunner._sample`, the one place where scores become tokens, is replaced; it gives each sequence its scores.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Any

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState
from transformers.generation.continuous_batching.utils import get_device_and_memory_breakdown

from dedup_server.engines.local import paged_attention
from dedup_server.engines.local.decoding import EngineFailedError, OnEnd, Scores, Step
from dedup_server.engines.local.packed import pack_linears
from dedup_server.engines.local.paged_attention import Layout, Span

TESTED = ("5.23",)  # transformers' versions: what is used here is nobody's promise

PAGE = 256  # tokens. A sequence that fits a page is read where it lies; a longer one is put together at every step.
STEP_TOKENS = 512  # of prompts and answers in one step: a long prompt is read in pieces, so that the others need not wait for it
MEMORY_SHARE = 0.4  # of what is free when the model is loaded
END = 2**31 - 1  # the token, in no vocabulary, by which the engine is told that a sequence ends

log = logging.getLogger("dedup")
logging.getLogger("ContinuousBatchingLogger").setLevel(
    logging.WARNING
)  # it tells on standard error what `log` tells here


class UnbatchableError(Exception):
    """The model cannot be decoded in batches; `generate` has to do."""


class Sequence:
    """One that is being decoded. Made by `Batcher.submit`."""

    __slots__ = ("ended", "length", "on_end", "request_id", "step")

    def __init__(self, request_id: str, num_prompt: int, step: Step, on_end: OnEnd) -> None:
        self.request_id = request_id
        self.length = num_prompt
        self.step = step
        self.on_end = on_end
        self.ended = False


class Batcher:
    """Decodes up to `max_concurrent` sequences of `model` at once, in a thread of its own; more wait their turn.

    What a sequence's `step` or `on_end` raises ends that sequence alone. What the model raises ends all that are being decoded; those to
    come find a new engine. While it runs nothing else may call the model.
    """

    def __init__(self, model: Any, max_concurrent: int, context: int) -> None:
        """context: the longest sequence the model takes. Raises UnbatchableError where transformers cannot do it, or does it wrong."""
        self._model = model
        self._max_concurrent = max_concurrent
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._sequences: dict[str, Sequence] = {}  # all that have not ended, by their id
        self._number = 0
        self._asked: Queue[RequestState] = Queue()
        self._cancelled: Queue[str] = Queue()
        require_batchable(model)
        self._attention = model.config._attn_implementation
        self._unpack: Callable[[], None] = lambda: None
        try:
            self.context, self._num_pages = self._size(context)
            self._unpack = pack_linears(model, _free_bytes())
            self._processor: Any = self._start()
            self.cache_bytes = int(self._processor.cache.cache_tensor.nbytes)
            self._probe()
        except UnbatchableError:
            self._restore()
            raise
        except Exception as error:  # transformers says no to a model in many ways
            self._restore()
            raise UnbatchableError(f"{type(error).__name__}: {error}") from error
        tokens, megabytes = self._num_pages * PAGE, self.cache_bytes / 1e6
        log.info(
            "batching: %d sequences at once, %d tokens of keys and values in %.0f MB",
            max_concurrent,
            tokens,
            megabytes,
        )
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @property
    def num_active(self) -> int:
        """How many sequences have not ended: decoded or waiting."""
        return len(self._sequences)

    def submit(self, prompt: list[int], step: Step, on_end: OnEnd) -> Sequence:
        """Decodes from `prompt` on. `step` and `on_end` are called in the batcher's thread and must not wait; `on_end` once, with
        what went wrong or None, unless it is cancelled before. Raises ValueError for a prompt that is empty or fills the context."""
        if not 0 < len(prompt) < self.context:
            raise ValueError(f"a prompt has 1 to {self.context - 1} tokens, got {len(prompt)}")
        with self._lock:
            if self._stopping:
                raise EngineFailedError("the engine is stopped")
            self._number += 1
            sequence = Sequence(str(self._number), len(prompt), step, on_end)
            self._sequences[sequence.request_id] = sequence
            self._asked.put(_state(sequence.request_id, prompt))
        self._wake.set()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Ends it before the next step; `on_end` is not called. No harm where it has ended."""
        with self._lock:
            if sequence.ended:
                return
            sequence.ended = True
            self._sequences.pop(sequence.request_id, None)
            self._cancelled.put(sequence.request_id)
        self._wake.set()

    def stop(self) -> None:
        """Ends everything; what is being decoded ends with an `EngineFailedError`. The model is as it was before."""
        with self._lock:
            self._stopping = True
        self._wake.set()
        self._thread.join()
        self._restore()

    def _restore(self) -> None:
        """The model is as it was before."""
        self._unpack()
        self._model.set_attn_implementation(self._attention)

    def _size(self, context: int) -> tuple[int, int]:
        """The longest sequence, and how many pages: as many as all sequences can fill, if there is the memory."""
        config = self._model.config.get_text_config()
        num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        page_bytes = (
            2 * config.num_hidden_layers * num_heads * head_size * self._model.dtype.itemsize * PAGE
        )
        affordable = int(_free_bytes() * MEMORY_SHARE) // page_bytes
        wanted = self._max_concurrent * -(-context // PAGE)
        num_pages = min(affordable, wanted)
        if num_pages < 1:
            raise UnbatchableError(
                f"no memory for {PAGE} tokens of keys and values ({page_bytes / 1e6:.0f} MB)"
            )
        return min(context, num_pages * PAGE), num_pages

    def _start(self) -> Any:
        """transformers' engine: scheduler, cache, inputs, runner; its thread, its router of results and its sampling are not used."""
        options = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=self._num_pages,
            max_batch_tokens=max(STEP_TOKENS, self._max_concurrent),
            max_requests_per_batch=self._max_concurrent,
            max_blocks_per_request=0,
            max_memory_percent=0.9,
            # Tokens are chosen on the host, one step after the other.
            use_async_batching=False,
            use_cuda_graph=False,
            auto_switch_to_flash=False,
        )
        self._model.set_attn_implementation(
            "paged|eager"
        )  # the manager takes no attention but those that it knows
        manager = self._model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1), options
        )
        manager.output_router = _Nowhere()
        self._model.set_attn_implementation(paged_attention.NAME)
        processor = manager._create_batch_processor()
        processor.input_queue, processor.cancel_queue = self._asked, self._cancelled
        processor.model_runner._sample = self._choose
        return processor

    def _run(self) -> None:
        while not self._stopping:
            try:
                with torch.inference_mode():
                    while not self._stopping:
                        if not self._advance():
                            self._wake.wait()
                        self._wake.clear()
            except Exception as error:
                log.exception(
                    "a decoding step failed; all sequences in it fail, and the engine starts anew"
                )
                self._restart(error)
        self._fail_all("the engine is stopped")

    def _advance(self) -> bool:
        """One step. False if there is nothing to do."""
        processor = self._processor
        if not processor.prepare_next_batch():
            scheduler = processor.scheduler
            if not scheduler.active_requests:
                # Set when pages ran out, and taken back only when a request finishes: the last one may have been cancelled.
                scheduler.block_new_requests = False
            return bool(scheduler.has_pending_requests())
        spans, start = [], 0
        for future in processor.inputs_and_outputs.requests_in_batch:
            state, num_tokens = future.state, future.query_length
            spans.append(
                Span(state.request_id, start, num_tokens, state.position_offset - num_tokens)
            )
            start += num_tokens
        processor.cache.layout = Layout(spans, processor.cache)
        processor._generation_step(self._model)
        processor.update_batch()
        return True

    def _choose(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        """In the place of `ModelRunner._sample`. scores: (1, at least sequences, vocabulary): first, in the batch's order, those whose
        prompt is read to its end, and behind them rows without meaning."""
        rows = scores[0].float().cpu().numpy()
        chosen = []
        batch = self._processor.inputs_and_outputs.requests_in_batch
        for future, row in zip((each for each in batch if each.has_new_token), rows, strict=False):
            sequence = self._sequences.get(future.state.request_id)
            chosen.append(END if sequence is None else self._next(sequence, row))
        output_ids[0, : len(chosen)] = torch.tensor(chosen, dtype=output_ids.dtype)

    def _next(self, sequence: Sequence, row: Scores) -> int:
        """The token with which `sequence` goes on, or END. Whatever goes wrong here is its own fault alone."""
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
            if sequence.ended:
                return
            sequence.ended = True
            self._sequences.pop(sequence.request_id, None)
        try:
            sequence.on_end(error)
        except Exception:
            log.exception("a sequence's end could not be told")

    def _fail_all(self, message: str, cause: BaseException | None = None) -> None:
        with self._lock:
            sequences = list(self._sequences.values())
        for sequence in sequences:
            error = EngineFailedError(
                message
            )  # each its own: raised in several threads, one would gather their tracebacks
            error.__cause__ = cause
            self._end(sequence, error)

    def _restart(self, error: Exception) -> None:
        """A fresh engine: what the old one holds may be half done. Sequences that come meanwhile are the new one's first."""
        message = f"the model failed: {type(error).__name__}: {error}"
        error.__traceback__ = (
            None  # its frames hold the old engine's tensors, and there may be no memory for two
        )
        self._fail_all(message, error)
        self._processor = None
        gc.collect()
        while not self._stopping:
            try:
                self._processor = self._start()
                return
            except Exception:
                log.exception("the engine could not be started anew; it is tried again in a second")
                self._fail_all(message, error)
                time.sleep(1)

    @torch.inference_mode()
    def _probe(self) -> None:
        """Decodes a few tokens as the engine does and as the model does by itself. There are models whose attention does not know of the
        engine's cache, and they answer all the same."""
        vocabulary = self._model.config.get_text_config().vocab_size
        tokens = [(7 * place + 3) % vocabulary for place in range(min(24, self.context - 4))]
        seen: list[torch.Tensor] = []
        said: list[int] = []
        failed: list[BaseException | None] = []

        def step(row: Scores) -> int | None:
            seen.append(torch.from_numpy(row.copy()))
            said.append(int(row.argmax()))
            return said[-1] if len(seen) < 3 else None

        sequence = Sequence("probe", len(tokens), step, failed.append)
        self._sequences["probe"] = sequence
        self._asked.put(_state("probe", tokens))
        while not sequence.ended:
            if not self._advance():
                raise UnbatchableError("the engine does not decode")
        if failed[0] is not None:
            raise failed[0]
        self._advance()
        self._model.set_attn_implementation(self._attention)
        try:
            rows = torch.tensor([tokens + said[:-1]], device=self._model.device)
            expected = self._model(input_ids=rows, use_cache=False).logits[0, -3:].float().cpu()
        finally:
            self._model.set_attn_implementation(paged_attention.NAME)
        spread = float(expected.std()) or 1.0
        tolerance = 1e-3 if self._model.dtype == torch.float32 else 0.2
        off = float((torch.stack(seen) - expected).abs().max()) / spread
        if not off < tolerance:
            raise UnbatchableError(
                f"the engine's scores are not the model's: off by {off:.2g} standard deviations"
            )


def _free_bytes() -> int:
    """On the device that torch works on."""
    _, total, reserved, allocated = get_device_and_memory_breakdown()
    return int(total - max(reserved, allocated))


def require_batchable(model: Any) -> None:
    """Raises UnbatchableError for what can be told from the model without trying."""
    config = model.config
    kind = (config.architectures or [config.model_type])[0]
    if config.is_encoder_decoder:
        raise UnbatchableError(f"{kind} is an encoder-decoder")
    if getattr(model, "_is_stateful", False):
        raise UnbatchableError(f"{kind} keeps a state, not keys and values")
    if not hasattr(model, "init_continuous_batching") or not model._can_set_attn_implementation():
        raise UnbatchableError(f"{kind} has an attention of its own")
    version = transformers.__version__
    if not version.startswith(tuple(f"{tested}." for tested in TESTED)):
        log.warning(
            "batching was tested with transformers %s, not with %s", ", ".join(TESTED), version
        )


def _state(request_id: str, prompt: list[int]) -> RequestState:
    return RequestState(
        request_id=request_id, initial_tokens=list(prompt), max_new_tokens=None, eos_token_id=END
    )


class _Nowhere:
    """In the place of transformers' router of results, which would keep them all: ours leave by `step` and `on_end`."""

    def deliver(self, output: Any) -> None: ...

    def deliver_batch(self, outputs: list[Any]) -> None: ...

    def fail_and_deliver(self, state: RequestState, error: Exception) -> None: ...
