"""An engine that runs the model on many sequences at once, a step at a time.

A step decodes one token of every sequence whose prompt is read, and reads a piece of the prompts
that are not: as much as makes the step take less than twice as long, so that a long prompt does not
stall the others. The caller chooses every token.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from queue import SimpleQueue
from typing import Any

import torch

from dedup_server.engines.local import batch_attention
from dedup_server.engines.local.batch_attention import BLOCK, Generated, Read, Step
from dedup_server.engines.local.decoding import Scores
from dedup_server.engines.local.kept_prompts import KeptPrompts
from dedup_server.engines.local.key_values import ALIGNMENT, KeyValues, Owner
from dedup_server.engines.local.memory import free_bytes
from dedup_server.engines.local.packed import pack_linears

READ_TOKENS = 256  # of prompts per step, while nothing is decoded
MEMORY_SHARE = 0.4  # of the memory that is free once the model is loaded
KEPT_SHARE = 0.25  # of that, for prompts of requests that have ended
END = -1  # no token: the sequence ends

_SLOWER = 0.6  # by how much of its time a step may take longer for reading prompts
_NUM_PATIENT = 4  # sequences that may wait once, a long step, for each short prompt that it ends
_PROBE_PROMPT_TOKENS = 24
_PROBE_TOKENS = 3

log = logging.getLogger("dedup")

# Takes a request id and the scores of its next token, shape (vocabulary,); returns the token.
Choose = Callable[[str, Scores], int]


class UnbatchableError(Exception):
    """A model that cannot be decoded in batches, only by `generate`."""


class Request(Owner):
    """A request in the engine.

    Attributes:
        num_prompt: tokens that are read as a prompt: those that are known when it begins.
        is_short: what is to be read when it begins fits into one step.
    """

    __slots__ = ("id", "is_short", "num_prompt")

    def __init__(self, request_id: str, prompt: list[int]) -> None:
        super().__init__(list(prompt))
        self.id = request_id
        self.num_prompt = len(prompt)
        self.is_short = False

    @property
    def num_unread(self) -> int:
        """Number of tokens of the prompt that are not read."""
        return max(0, self.num_prompt - self.num_read)


class BatchEngine:
    """Engine that decodes requests together, one step at a time.

    `add` and `cancel` may be called from any thread, everything else from one only. While the
    engine runs, nothing else may call the model.

    Args:
        max_concurrent: requests in a step; more wait.
        context: the longest sequence of the model, in tokens.
        choose: called for every request in a step; must not raise. `END` ends the request.

    Raises:
        UnbatchableError: the model cannot be decoded in batches, or is decoded wrongly.
    """

    def __init__(self, model: Any, max_concurrent: int, context: int, choose: Choose) -> None:
        require_batchable(model)
        self._model = model
        self._max_concurrent = max_concurrent
        self._choose = choose
        # A request to add, or the id of one to cancel.
        self._commands: SimpleQueue[Request | str] = SimpleQueue()
        self._attention = model.config._attn_implementation
        config = model.config.get_text_config()
        self._windows = _windows(config)
        self._token_bytes: int = _num_values(config) * model.dtype.itemsize
        self._pace = _Pace()
        self._unpack: Callable[[], None] = lambda: None
        self._keeps_logits = model._supports_logits_to_keep()
        try:
            self.context, self.num_tokens = self._size(context)
            self._unpack = pack_linears(model, free_bytes(model.device))
            model.set_attn_implementation(batch_attention.NAME)
            self.start()
            self._probe()
            self._pace = _Pace()  # the first steps are slow
        except UnbatchableError:
            self.restore()
            raise
        except Exception as error:  # a model may fail in many ways
            self.restore()
            raise UnbatchableError(f"{type(error).__name__}: {error}") from error

    @property
    def num_active(self) -> int:
        """Requests in progress or waiting."""
        return len(self._running) + len(self._waiting) + self._commands.qsize()

    def add(self, request_id: str, prompt: list[int]) -> None:
        """Queue a request for the next steps."""
        self._commands.put(Request(request_id, prompt))

    def cancel(self, request_id: str) -> None:
        """End a request before its next step."""
        self._commands.put(request_id)

    def start(self) -> None:
        """Start without requests in progress. Queued requests are kept."""
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # in the order of their beginning
        self._prompts = KeptPrompts(int(KEPT_SHARE * self.num_tokens))
        self.key_values = KeyValues(
            self.num_tokens,
            self.context,
            self._max_concurrent,
            lambda: self._prompts.num_tokens,
            lambda: self._prompts.drop(),
        )

    def discard(self) -> None:
        """Drop everything in progress and its memory; `start` comes next."""
        self._waiting, self._running = deque(), []
        self._prompts = KeptPrompts(int(KEPT_SHARE * self.num_tokens))
        del self.key_values

    def advance(self) -> bool:
        """Decode one step. Return False if there is nothing to decode."""
        begun = time.perf_counter()
        self._take_commands()
        self._make_room()
        self._admit()
        if not self._running:
            return False
        generating = [request for request in self._running if not request.num_unread]
        generating.sort(key=lambda request: (request.pool.width, request.slot))  # type: ignore[union-attr]
        shares = self._share(len(generating))
        scores = self._forward(generating, shares)
        ready = [request for request, _ in shares if not request.num_unread]
        for request, row in zip([*generating, *ready], scores, strict=True):
            token = self._choose(request.id, row)
            if token == END:
                self._end(request)
            else:
                request.tokens.append(token)
        num_read = sum(num_tokens for _, num_tokens in shares)
        self._pace.note(time.perf_counter() - begun, len(generating), num_read)
        return True

    def restore(self) -> None:
        """Restore the model as it was before."""
        self._unpack()
        self._model.set_attn_implementation(self._attention)

    def _take_commands(self) -> None:
        while not self._commands.empty():
            command = self._commands.get()
            if isinstance(command, Request):
                self._waiting.append(command)
                continue
            for request in (*self._running, *self._waiting):
                if request.id == command:
                    self._end(request)

    def _end(self, request: Request) -> None:
        room = self.num_tokens - self.key_values.num_allocated - self._prompts.num_tokens
        if request.num_prompt <= room:
            self._prompts.keep(request, request.num_prompt)
        self.key_values.free(request)
        if request in self._running:
            self._running.remove(request)
        else:
            self._waiting.remove(request)

    def _admit(self) -> None:
        """Begin waiting requests for which there is room."""
        while self._waiting and len(self._running) < self._max_concurrent:
            request = self._waiting[0]
            if not self.key_values.place(request, len(request.tokens)):
                return
            self._prompts.restore(request)
            request.is_short = request.num_unread <= READ_TOKENS
            self._running.append(self._waiting.popleft())

    def _make_room(self) -> None:
        """Make room for the next token of every request.

        If the memory is used up, the latest requests wait and are read again later.
        """
        for request in list(self._running):
            while request.pool and not self.key_values.place(request, len(request.tokens)):
                latest = self._running.pop()
                self.key_values.free(latest)
                latest.num_read, latest.num_prompt = 0, len(latest.tokens)
                self._waiting.appendleft(latest)

    def _share(self, num_generating: int) -> list[tuple[Request, int]]:
        """Return the requests whose prompts are read in this step, and how many tokens of each.

        The shortest come first, so that they do not wait for a long one. The oldest reads on in
        any case.

        Beside decoding, a long prompt is read in small pieces. Short ones are read at once: a piece
        costs more than its share, and those that begin together decode together.
        """
        reading = [request for request in self._running if request.num_unread]
        if not reading:
            return []
        oldest = reading[0]
        reading.sort(key=lambda request: request.num_unread)
        room = READ_TOKENS
        short = accumulate(request.num_unread for request in reading if request.is_short)
        num_ends = sum(num_tokens <= READ_TOKENS for num_tokens in short)
        if num_generating > _NUM_PATIENT * num_ends:
            # Those that wait for their first token count as well as those that wait for their next.
            room = min(room, self._pace.room(num_generating) * len(reading))
        shares: list[tuple[Request, int]] = []
        for request in reading:
            num_tokens = room
            if request is oldest:
                num_tokens = max(num_tokens, BLOCK)
            num_tokens = min(request.num_unread, num_tokens)
            if num_tokens < request.num_unread:
                num_tokens -= num_tokens % BLOCK
            room = max(0, room - num_tokens)
            if num_tokens:
                shares.append((request, num_tokens))
        return shares

    def _forward(self, generating: list[Request], shares: list[tuple[Request, int]]) -> Scores:
        """Run the model.

        Returns:
            Scores of the next token, shape (requests, vocabulary): of `generating`, then of those
            of `shares` whose prompt is now read to its end.
        """
        device = self._model.device
        tokens = [request.tokens[-1] for request in generating]
        places = [request.num_read for request in generating]
        ends = list(range(len(generating)))
        of_pools: dict[Any, list[Owner]] = {}
        for request in generating:
            of_pools.setdefault(request.pool, []).append(request)
        groups, start = [], 0
        for pool, owners in of_pools.items():
            groups.append(Generated(pool, start, owners, device))
            start += len(owners)
        read = []
        for request, num_tokens in shares:
            read.append(Read(request, len(tokens), num_tokens))
            until = request.num_read + num_tokens
            tokens += request.tokens[request.num_read : until]
            places += range(request.num_read, until)
            if until == request.num_prompt:
                ends.append(len(tokens) - 1)
        rows = torch.tensor(ends, dtype=torch.long, device=device)
        options = {"logits_to_keep": rows} if self._keeps_logits else {}
        output = self._model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([places], device=device),
            use_cache=False,
            step=Step(groups, read, self._windows),
            **options,
        )
        logits = output.logits[0] if self._keeps_logits else output.logits[0, rows]
        for request in generating:
            request.num_read += 1
        for request, num_tokens in shares:
            request.num_read += num_tokens
        scores: Scores = logits.float().cpu().numpy()
        return scores

    def _size(self, context: int) -> tuple[int, int]:
        """Return the longest sequence and the number of tokens of all: those that all sequences can
        have, or those that the free memory allows.
        """
        num_affordable = int(free_bytes(self._model.device) * MEMORY_SHARE) // self._token_bytes
        # The widths of places are powers of two: up to twice as much is set aside as is used.
        num_tokens = min(num_affordable, 2 * self._max_concurrent * context)
        if num_tokens < 2 * ALIGNMENT:
            raise UnbatchableError(
                f"no memory for {2 * ALIGNMENT} tokens of keys and values"
                f" ({2 * ALIGNMENT * self._token_bytes / 1e6:.0f} MB)"
            )
        return min(context, num_tokens // ALIGNMENT * ALIGNMENT), num_tokens

    @property
    def cache_bytes(self) -> int:
        """Most memory that keys and values may take."""
        return self.num_tokens * self._token_bytes

    @torch.inference_mode()
    def _probe(self) -> None:
        """Compare the scores of a few tokens with those of the model itself.

        There are models whose attention ignores the engine's, and they do generate text.
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
            self.advance()
        self._choose = caller_choose
        self._model.set_attn_implementation(self._attention)
        try:
            rows = torch.tensor([prompt + tokens[:-1]], device=self._model.device)
            logits = self._model(input_ids=rows, use_cache=False).logits
        finally:
            self._model.set_attn_implementation(batch_attention.NAME)
        expected = logits[0, -_PROBE_TOKENS:].float().cpu()
        spread = float(expected.std()) or 1.0
        tolerance = 1e-3 if self._model.dtype == torch.float32 else 0.2
        off = float((torch.stack(seen) - expected).abs().max()) / spread
        if not off < tolerance:
            raise UnbatchableError(
                f"the engine's scores are not the model's: off by {off:.2g} standard deviations"
            )


class _Pace:
    """Measured times of steps, which decide how much of prompts is read beside decoding."""

    def __init__(self) -> None:
        # Of a step that only decodes, by the bits of the number of sequences.
        self._decode_seconds: dict[int, float] = {}
        self._token_seconds = 0.0  # of a prompt
        self._num_read = 0  # in the step before

    def room(self, num_generating: int) -> int:
        """Return how many tokens of prompts to read in a step that decodes.

        It begins with one block and at most doubles, so that a wrong estimate does little harm.
        """
        decode_seconds = self._decoding(num_generating)
        if not (decode_seconds and self._token_seconds):
            return BLOCK
        num_tokens = int(_SLOWER * decode_seconds / self._token_seconds)
        num_tokens = min(READ_TOKENS, num_tokens, 2 * self._num_read)
        return max(1, num_tokens // BLOCK) * BLOCK

    def note(self, seconds: float, num_generating: int, num_read: int) -> None:
        """Note the time of a step."""
        if not num_read:
            size = num_generating.bit_length()
            before = self._decode_seconds.get(size, 0.0)
            # A slow step says more about the machine than about the model.
            share = 0.3 if seconds < before else 0.1
            self._decode_seconds[size] = _average(before, seconds, share)
        elif num_generating:
            decode_seconds = self._decoding(num_generating)
            if decode_seconds and seconds > decode_seconds:
                token_seconds = (seconds - decode_seconds) / num_read
                self._token_seconds = _average(self._token_seconds, token_seconds, 0.2)
        elif num_read >= BLOCK:
            self._token_seconds = _average(self._token_seconds, seconds / num_read, 0.2)
        self._num_read = num_read if num_generating else 0

    def _decoding(self, num_generating: int) -> float:
        """Return the time of a step that only decodes; 0 if there was none.

        It is that of the nearest number of sequences.
        """
        size = num_generating.bit_length()
        nearest = min(self._decode_seconds, key=lambda known: abs(known - size), default=0)
        return self._decode_seconds.get(nearest, 0.0)


def _average(before: float, new: float, share: float) -> float:
    return (1 - share) * before + share * new if before else new


def _num_values(config: Any) -> int:
    """Return how many numbers are kept of a token."""
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * num_heads * size)


def _windows(config: Any) -> list[int]:
    """Return for each layer how many keys a query sees; 0 is all."""
    num_layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or 0
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window] * num_layers
    others = set(kinds) - {"full_attention", "sliding_attention"}
    if others:
        raise UnbatchableError(f"it has layers of {min(others)}")
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def require_batchable(model: Any) -> None:
    """Raise `UnbatchableError` for a model that is of the wrong kind, without trying it."""
    config = model.config
    kind = (config.architectures or [config.model_type])[0]
    if config.is_encoder_decoder:
        raise UnbatchableError(f"{kind} is an encoder-decoder")
    if getattr(model, "_is_stateful", False):
        raise UnbatchableError(f"{kind} keeps a state, not keys and values")
    if not model._can_set_attn_implementation():
        raise UnbatchableError(f"{kind} has an attention of its own")
