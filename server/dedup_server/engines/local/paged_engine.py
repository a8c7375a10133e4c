"""transformers' continuous batching, with the choice of every token left to the caller.

transformers schedules requests, keeps keys and values in pages and runs the model. It has no hook
that gives a request its own processors, its own random generator or an error of its own: its
processors see only the last tokens of the batch, and what one of them raises ends all requests.
`ModelRunner._sample`, the one place where scores become tokens, is therefore replaced.

This module relies on private APIs of transformers; `TESTED` names the tested versions.
"""

import gc
import logging
from collections.abc import Callable
from queue import Queue
from typing import Any

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState
from transformers.generation.continuous_batching.utils import get_device_and_memory_breakdown

from dedup_server.engines.local import paged_attention
from dedup_server.engines.local.decoding import Scores
from dedup_server.engines.local.packed import pack_linears
from dedup_server.engines.local.paged_attention import Layout, Span

TESTED = ("5.23",)

PAGE = 256  # tokens; a sequence of one page is read in place, a longer one is copied at every step
STEP_TOKENS = 512  # per step; longer prompts are read in pieces while other sequences continue
MEMORY_SHARE = 0.4  # of the memory that is free once the model is loaded
END = 2**31 - 1  # a token outside of every vocabulary: the sequence ends

_PROBE_PROMPT_TOKENS = 24
_PROBE_TOKENS = 3

log = logging.getLogger("dedup")
# It would report on standard error what is logged here.
logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)

# Takes a request id and the scores of its next token, shape (vocabulary,); returns the token.
Choose = Callable[[str, Scores], int]


class UnbatchableError(Exception):
    """A model that cannot be decoded in batches, only by `generate`."""


class PagedEngine:
    """Engine that decodes requests together, one step at a time.

    `add` and `cancel` may be called from any thread, everything else from one only. While the
    engine runs, nothing else may call the model.

    Args:
        max_concurrent: requests in a step; more wait.
        context: the longest sequence of the model, in tokens.
        choose: called for every request in a step; must not raise. `END` ends the request.

    Raises:
        UnbatchableError: transformers cannot decode the model in batches, or does it wrongly.
    """

    def __init__(self, model: Any, max_concurrent: int, context: int, choose: Choose) -> None:
        require_batchable(model)
        self._model = model
        self._max_concurrent = max_concurrent
        self._choose = choose
        self._added: Queue[RequestState] = Queue()
        self._cancelled: Queue[str] = Queue()
        self._attention = model.config._attn_implementation
        self._unpack: Callable[[], None] = lambda: None
        self.processor: Any = None  # transformers' `ContinuousBatchProcessor`
        try:
            self.context, self.num_pages = self._size(context)
            self._unpack = pack_linears(model, _free_bytes())
            self.start()
            self._probe()
        except UnbatchableError:
            self.restore()
            raise
        except Exception as error:  # transformers rejects a model with many kinds of errors
            self.restore()
            raise UnbatchableError(f"{type(error).__name__}: {error}") from error

    @property
    def cache_bytes(self) -> int:
        """Size of the cache of keys and values."""
        return int(self.processor.cache.cache_tensor.nbytes)

    def add(self, request_id: str, prompt: list[int]) -> None:
        """Queue a request for the next steps."""
        self._added.put(
            RequestState(
                request_id=request_id,
                initial_tokens=list(prompt),
                max_new_tokens=None,
                eos_token_id=END,
            )
        )

    def cancel(self, request_id: str) -> None:
        """End a request before its next step."""
        self._cancelled.put(request_id)

    def start(self) -> None:
        """Start without requests in progress. Queued requests are kept."""
        options = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=self.num_pages,
            max_batch_tokens=max(STEP_TOKENS, self._max_concurrent),
            max_requests_per_batch=self._max_concurrent,
            max_blocks_per_request=0,
            max_memory_percent=0.9,
            # Tokens are chosen on the host, one step after the other.
            use_async_batching=False,
            use_cuda_graph=False,
            auto_switch_to_flash=False,
        )
        # The manager accepts only attentions that it knows.
        self._model.set_attn_implementation("paged|eager")
        manager = self._model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1), options
        )
        manager.output_router = _NullRouter()
        self._model.set_attn_implementation(paged_attention.NAME)
        processor = manager._create_batch_processor()
        processor.input_queue, processor.cancel_queue = self._added, self._cancelled
        processor.model_runner._sample = self._sample
        self.processor = processor

    def discard(self) -> None:
        """Drop everything in progress and its memory; `start` comes next."""
        self.processor = None
        gc.collect()

    def advance(self) -> bool:
        """Decode one step. Return False if there is nothing to decode."""
        processor = self.processor
        if not processor.prepare_next_batch():
            scheduler = processor.scheduler
            if not scheduler.active_requests:
                # transformers sets this when pages run out and resets it when a request finishes;
                # the last request may have been cancelled instead.
                scheduler.block_new_requests = False
            return bool(scheduler.has_pending_requests())
        spans, start = [], 0
        for future in processor.inputs_and_outputs.requests_in_batch:
            state, num_tokens = future.state, future.query_length
            past = state.position_offset - num_tokens
            spans.append(Span(state.request_id, start, num_tokens, past))
            start += num_tokens
        processor.cache.layout = Layout(spans, processor.cache)
        processor._generation_step(self._model)
        processor.update_batch()
        return True

    def restore(self) -> None:
        """Restore the model as it was before."""
        self._unpack()
        self._model.set_attn_implementation(self._attention)

    def _size(self, context: int) -> tuple[int, int]:
        """Return the longest sequence and the number of pages: those that all sequences can fill,
        or those that the free memory allows.
        """
        config = self._model.config.get_text_config()
        num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        token_bytes = num_heads * head_size * self._model.dtype.itemsize
        page_bytes = 2 * config.num_hidden_layers * token_bytes * PAGE
        num_affordable = int(_free_bytes() * MEMORY_SHARE) // page_bytes
        num_wanted = self._max_concurrent * -(-context // PAGE)
        num_pages = min(num_affordable, num_wanted)
        if num_pages < 1:
            raise UnbatchableError(
                f"no memory for {PAGE} tokens of keys and values ({page_bytes / 1e6:.0f} MB)"
            )
        return min(context, num_pages * PAGE), num_pages

    def _sample(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        """Replace `ModelRunner._sample`.

        Args:
            scores: shape (1, rows, vocabulary). The first rows are those of the requests whose
                prompt is read to its end, in the order of the batch; the others have no meaning.
            output_ids: shape (1, at least the number of these requests), written to.
        """
        rows = scores[0].float().cpu().numpy()
        batch = self.processor.inputs_and_outputs.requests_in_batch
        ids = [future.state.request_id for future in batch if future.has_new_token]
        chosen = [self._choose(id_, row) for id_, row in zip(ids, rows, strict=False)]
        output_ids[0, : len(chosen)] = torch.tensor(chosen, dtype=output_ids.dtype)

    @torch.inference_mode()
    def _probe(self) -> None:
        """Compare the scores of a few tokens with those of the model itself.

        There are models whose attention ignores the engine's cache, and they do generate text.
        """
        vocabulary = self._model.config.get_text_config().vocab_size
        num_tokens = min(_PROBE_PROMPT_TOKENS, self.context - _PROBE_TOKENS - 1)
        prompt = [(7 * place + 3) % vocabulary for place in range(num_tokens)]
        seen: list[torch.Tensor] = []
        tokens: list[int] = []

        def choose(request_id: str, row: Scores) -> int:
            seen.append(torch.from_numpy(row.copy()))
            tokens.append(int(row.argmax()))
            return tokens[-1] if len(seen) < _PROBE_TOKENS else END

        self._choose, caller_choose = choose, self._choose
        self.add("probe", prompt)
        while len(seen) < _PROBE_TOKENS:
            if not self.advance():
                raise UnbatchableError("the engine does not decode")
        self.advance()
        self._choose = caller_choose
        self._model.set_attn_implementation(self._attention)
        try:
            rows = torch.tensor([prompt + tokens[:-1]], device=self._model.device)
            logits = self._model(input_ids=rows, use_cache=False).logits
        finally:
            self._model.set_attn_implementation(paged_attention.NAME)
        expected = logits[0, -_PROBE_TOKENS:].float().cpu()
        spread = float(expected.std()) or 1.0
        tolerance = 1e-3 if self._model.dtype == torch.float32 else 0.2
        off = float((torch.stack(seen) - expected).abs().max()) / spread
        if not off < tolerance:
            raise UnbatchableError(
                f"the engine's scores are not the model's: off by {off:.2g} standard deviations"
            )


def _free_bytes() -> int:
    """Return the free memory of the device that torch uses."""
    _, total, reserved, allocated = get_device_and_memory_breakdown()
    return int(total - max(reserved, allocated))


def require_batchable(model: Any) -> None:
    """Raise `UnbatchableError` for a model that is of the wrong kind, without trying it."""
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
        tested = ", ".join(TESTED)
        log.warning("batching was tested with transformers %s, not with %s", tested, version)


class _NullRouter:
    """Replacement of transformers' router of results, which would keep them all."""

    def deliver(self, output: Any) -> None: ...

    def deliver_batch(self, outputs: list[Any]) -> None: ...

    def fail_and_deliver(self, state: RequestState, error: Exception) -> None: ...
