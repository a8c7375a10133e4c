"""For transformers' `generate`: the methods as one LogitsProcessor, the loop detector as a StoppingCriteria, the filter as a streamer.

model.generate(**inputs, logits_processor=logits_processors(DecodingConfig(no_repeat_ngram_size=4), tokenizer))
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from dedup.config import DecodingConfig, LoopConfig
from dedup.logits import device
from dedup.logits.bans import encoder_no_repeat_ngram, has_token
from dedup.logits.history import Ints, TokenHistory
from dedup.logits.processors import apply, penalize
from dedup.logits.scan import ban_ngrams
from dedup.logits.temperature import temperature
from dedup.logits.tokens import NO_TOKENS, TokenSets, token_sets
from dedup.text.filter import RepetitionFilter
from dedup.text.loops.detector import LoopDetector, LoopEvent

REPLACEMENT = "\ufffd"  # what a decoder gives for half a character
MAX_HALF_CHARACTER = 3  # a character of UTF-8 has at most four bytes: three may wait for the last
MAX_CONTEXT = 32


def logits_processors(
    config: DecodingConfig,
    tokenizer: Any = None,
    prompt_length: int | None = None,
    encoder_input_ids: torch.Tensor | None = None,
) -> LogitsProcessorList:
    """`config`'s methods for `generate(logits_processor=...)`, as one processor.

    tokenizer: DRY's sequence breakers and `exempt` need it (ValueError without), and left padding is told from text by its
    `pad_token_id`. prompt_length: tokens of the prompt; None takes the length of the first call. encoder_input_ids: (batch, length),
    for `encoder_no_repeat_ngram_size` (ValueError without).
    """
    return LogitsProcessorList(
        [RepetitionLogitsProcessor(config, tokenizer, prompt_length, encoder_input_ids)]
    )


def apply_to(
    config: DecodingConfig,
    history: TokenHistory,
    logits: torch.Tensor,
    sets: TokenSets = NO_TOKENS,
    encoder: TokenHistory | None = None,
) -> None:
    """`apply` for a row in a tensor, shape (vocabulary,), of any float type on any device; changed in place."""
    if _in_numpys_reach(logits):
        apply(config, history, logits.detach().numpy(), sets, encoder)
        return
    row = logits.detach().to("cpu", torch.float32).numpy()
    apply(config, history, row, sets, encoder)
    logits.copy_(torch.from_numpy(row))


class RepetitionLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """All of a `DecodingConfig`'s methods in one pass: greedy, sampling, beam search, assisted decoding.

    One instance may serve one `generate` after another. Where it is called with anything but a step on from, or a step back in,
    what it last saw, a new generation begins, and its tokens are the prompt. A generation that goes on exactly where the last
    one ended looks like a step on: give `prompt_length`, or a new instance, where the penalties on the output matter then.

    Padding on the left counts for nothing if the tokenizer is known, so that a row gets the same penalties alone and in a batch.
    (transformers leaves it alone in the repetition penalty, and counts it in the n-gram ban.) Without it, padding is prompt.

    On the CPU a history of each row is kept where a method needs one. On another device, under torch.compile, and for types that numpy
    does not have, all is worked out from the tokens by vectorised operations, with no synchronisation with the host; there a new
    generation is told from a step on by the length alone.
    """

    def __init__(
        self,
        config: DecodingConfig,
        tokenizer: Any = None,
        prompt_length: int | None = None,
        encoder_input_ids: torch.Tensor | None = None,
    ) -> None:
        if config.encoder_no_repeat_ngram_size and encoder_input_ids is None:
            raise ValueError(
                "encoder_no_repeat_ngram_size needs encoder_input_ids: logits_processors(config, encoder_input_ids=...)"
            )
        self.config = config
        self._sets = token_sets(config, tokenizer)
        self._pad = getattr(tokenizer, "pad_token_id", None)
        self._prompt_length = prompt_length
        self._encoder_ids = encoder_input_ids if config.encoder_no_repeat_ngram_size else None
        self._encoders: list[TokenHistory] = []
        if self._encoder_ids is not None:
            self._encoders = [
                TokenHistory(row, config.encoder_no_repeat_ngram_size)
                for row in self._encoder_ids.tolist()
            ]
        penalizes = (
            config.repetition_penalty != 1 or config.frequency_penalty or config.presence_penalty
        )
        self._penalizes = bool(penalizes or config.dry_multiplier or config.lz_penalty)
        self._follows = self._penalizes or bool(config.repetition_temperature or self._encoders)
        self._temperature_varies = bool(config.repetition_temperature or config.dynatemp_range)
        self._device = device.DeviceMethods(config, self._sets)
        self._num_prompt = 0
        self._seen: Ints = np.empty(
            (0, 0), np.int64
        )  # the tokens of the call before, and room for more
        self._length = -1  # tokens a row had then; -1: there was no call
        self._rows: list[_Row] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids: (batch, length), any integer type; scores: (batch, vocabulary), changed in place but for `generate` with
        `output_logits`, which gives them out as they came: then a copy is. Raises ValueError for a row in which no token has a score,
        where it can be told without waiting for a device."""
        if torch.compiler.is_compiling():
            return self._on_device(input_ids, scores.clone())
        if _gives_out_logits():
            scores = scores.clone()
        if not _in_numpys_reach(scores):
            return self._on_device(input_ids, scores)
        ids = input_ids.numpy() if input_ids.dtype == torch.int64 else input_ids.long().numpy()
        logits = scores.detach().numpy() if scores.requires_grad else scores.numpy()
        config, sets = self.config, self._sets
        if self._follows:
            self._follow(ids)
        size, window = config.no_repeat_ngram_size, config.no_repeat_ngram_window
        begin = 0 if window < 0 else max(0, ids.shape[1] - window)
        # Row by row, so that a row is in the processor's cache for all methods.
        for number, (tokens, row) in enumerate(zip(ids, logits, strict=True)):
            if not has_token(row):
                raise ValueError(
                    f"row {number}: the model gave no token a score (all are -inf or NaN): greedy decoding would say token 0"
                )
            history = self._rows[number].history if self._follows else _NO_HISTORY
            if self._penalizes:
                penalize(config, history, row, sets)
            if size:
                ban_ngrams(
                    tokens,
                    row,
                    size,
                    begin if self._pad is None else max(begin, self._num_padding(tokens)),
                    sets,
                )
            if self._encoders:
                encoder = self._encoders[number * len(self._encoders) // len(logits)]
                encoder_no_repeat_ngram(history, encoder, row, sets)
            if self._temperature_varies:
                temperature(history, row, config)
            elif config.temperature != 1:
                np.divide(row, config.temperature, out=row)
        return scores

    def _on_device(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = input_ids.shape[-1]
        if self._length < 0 or not self._num_prompt <= length <= self._length + 1:
            self._num_prompt = (
                length if self._prompt_length is None else min(self._prompt_length, length)
            )
        self._length = length
        self._device.apply(input_ids, scores, self._num_prompt, self._pad, self._encoder_ids)
        return scores

    def _follow(self, ids: Ints) -> None:
        """Brings the histories up to `ids`."""
        batch, length = ids.shape
        is_step = (
            length == self._length + 1
            and self._seen.shape[0] == batch
            and self._seen.shape[1] >= length
        )
        if is_step and (ids[:, :-1] == self._seen[:, : length - 1]).all():
            self._seen[:, length - 1] = ids[:, -1]
            self._length = length
            for row, token in zip(self._rows, ids[:, -1].tolist(), strict=True):
                row.history.append(token)
            return
        shared = self._num_shared(ids)
        known = min(shared or [0])
        if shared is None or known < self._num_prompt:
            known = 0
            self._num_prompt = (
                length if self._prompt_length is None else min(self._prompt_length, length)
            )
            self._rows = [self._start(row) for row in ids[:, : self._num_prompt]]
            shared = [self._num_prompt] * batch
        for row, tokens, num_shared in zip(self._rows, ids, shared, strict=True):
            extra = row.num_padding + len(row.history) - num_shared
            if extra:
                row.history.rollback(extra)
            row.history.extend(tokens[num_shared:].tolist())
        if self._seen.shape[0] != batch or self._seen.shape[1] < length:
            self._seen = np.empty((batch, max(64, 2 * length)), np.int64)
            known = 0
        self._seen[:, known:length] = ids[:, known:]
        self._length = length

    def _num_shared(self, ids: Ints) -> list[int] | None:
        """How many tokens of each row are those of the call before: beams change rows, assisted decoding steps back. None if
        this call cannot belong to the same generation."""
        batch, length = ids.shape
        if self._length < 0 or self._seen.shape[0] != batch or length > self._length + 1:
            return None
        length = min(length, self._length)
        equal = ids[:, :length] == self._seen[:, :length]
        if equal.all():
            return [length] * batch
        shared: list[int] = np.where(equal.all(axis=1), length, equal.argmin(axis=1)).tolist()
        return shared

    def _start(self, prompt: Ints) -> "_Row":
        num_padding = self._num_padding(prompt)
        return _Row(num_padding, TokenHistory(prompt[num_padding:].tolist()))

    def _num_padding(self, tokens: Ints) -> int:
        if self._pad is None or not len(tokens) or tokens[0] != self._pad:
            return 0
        text = tokens != self._pad
        return int(text.argmax()) if text.any() else len(tokens)


# transformers asks for the signature of every processor at every step. This answers from memory: 4 µs instead of 11.
RepetitionLogitsProcessor.__call__.__signature__ = signature(RepetitionLogitsProcessor.__call__)  # type: ignore[attr-defined]

_NO_HISTORY = TokenHistory()


def _in_numpys_reach(scores: torch.Tensor) -> bool:
    return scores.is_cpu and (scores.dtype is torch.float32 or scores.dtype is torch.float64)


def _gives_out_logits() -> bool:
    """Whether the `generate` that asks keeps what it hands over, to give it out (`output_logits`).

    It says so nowhere but in its own loop, and only the one without beams hands over the very tensor that it keeps. A copy at every
    step would cost more than all methods together.
    """
    frame = sys._getframe(2)
    for _ in range(3):
        if frame is None:
            return False
        if frame.f_code.co_name == "_sample":
            return frame.f_locals.get("raw_logits", ()) is not None
        frame = frame.f_back  # type: ignore[assignment]
    return False


@dataclass(frozen=True, slots=True)
class _Row:
    num_padding: int
    history: TokenHistory


class TextStream:
    """Decodes tokens one after another; never gives half a character, and joins words as the tokenizer means it.

    A step costs the decoding of at most `MAX_CONTEXT` tokens. Bytes that are no text come as U+FFFD, at most `MAX_HALF_CHARACTER`
    tokens late.
    """

    def __init__(self, tokenizer: Any, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._tokens: list[int] = []  # some that were given out, for context, and the held ones
        self._given = ""  # what the former decode to
        self._num_held = 0

    def put(self, token: int) -> str:
        """The text that `token` completes."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text == self._given and not self._num_held:
            self._tokens.pop()  # a special token, of no use as context
            return ""
        if not text.endswith(REPLACEMENT):
            return self._give(text)
        if self._num_held < MAX_HALF_CHARACTER:
            self._num_held += 1
            return ""
        return self._give_stray(text)

    def flush(self) -> str:
        """What is left, half a character as U+FFFD."""
        text = self._give(self._decode(self._tokens)) if self._num_held else ""
        self._tokens, self._given = [], ""
        return text

    def _give(self, text: str) -> str:
        if text.startswith(self._given):
            new = text[len(self._given) :]
        else:
            # Byte tokens decode as one: a wrong byte takes the good ones before it along. Those are out already.
            self._tokens = self._tokens[-self._num_held - 1 :]
            new = text = self._decode(self._tokens)
        self._given, self._num_held = text, 0
        if len(self._tokens) >= MAX_CONTEXT // 2:
            self._forget()
        return new

    def _give_stray(self, text: str) -> str:
        """More tokens wait than a character has bytes: all but those that may still begin one."""
        for size in range(MAX_HALF_CHARACTER, 0, -1):
            before = self._decode(self._tokens[:-size])
            if before + REPLACEMENT == text and before.startswith(self._given):
                new, self._given, self._num_held = before[len(self._given) :], before, size
                return new
        return self._give(text)

    def _forget(self) -> None:
        """Keeps a few tokens: the next word gets its space by them. They must not begin inside a character."""
        for size in range(MAX_HALF_CHARACTER + 1, 2 * MAX_HALF_CHARACTER + 2):
            text = self._decode(self._tokens[-size:])
            if self._given.endswith(text) or len(self._tokens) >= MAX_CONTEXT - MAX_HALF_CHARACTER:
                self._tokens, self._given = self._tokens[-size:], text
                return

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=self._skip_special_tokens))


class LoopStoppingCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops a sequence of the batch when its output loops. One instance serves one `generate`."""

    def __init__(self, tokenizer: Any, config: LoopConfig | None = None) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._num_prompt = -1
        self._outputs: list[_Output] = []

    @property
    def events(self) -> list[LoopEvent | None]:
        """Each row's loop, offsets in characters of the output."""
        return [output.detector.event for output in self._outputs]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """input_ids: (batch, length). Returns a bool tensor of shape (batch,). Raises ValueError if the batch changes its size."""
        if self._num_prompt < 0:
            self._num_prompt = max(
                0, input_ids.shape[-1] - 1
            )  # `generate` asks first when one token has been made
            self._outputs = [self._start() for _ in range(input_ids.shape[0])]
        if len(self._outputs) != input_ids.shape[0]:
            raise ValueError(
                f"a batch of {len(self._outputs)} became one of {input_ids.shape[0]}: use a new LoopStoppingCriteria"
            )
        for number, tokens in enumerate(input_ids[:, self._num_prompt :].tolist()):
            output = self._outputs[number]
            if output.tokens != tokens[: len(output.tokens)]:  # a beam that changed its row
                output = self._outputs[number] = self._start()
            output.read(tokens[len(output.tokens) :])
        return torch.tensor([event is not None for event in self.events], device=input_ids.device)

    def _start(self) -> "_Output":
        return _Output([], TextStream(self._tokenizer), LoopDetector(self._config))


@dataclass(frozen=True, slots=True)
class _Output:
    tokens: list[int]
    stream: TextStream
    detector: LoopDetector

    def read(self, new: list[int]) -> None:
        for token in new:
            self.tokens.append(token)
            if text := self.stream.put(token):
                self.detector.feed(text)


class FilterStreamer(BaseStreamer):  # type: ignore[misc]
    """Gives `generate(streamer=...)`'s text to `sink`, filtered. For one sequence and one `generate`.

    The prompt, if it is not skipped, goes to `sink` as it is.
    """

    def __init__(
        self,
        tokenizer: Any,
        repetition_filter: RepetitionFilter,
        sink: Callable[[str], None],
        skip_prompt: bool = True,
    ) -> None:
        self._stream = TextStream(tokenizer)
        self._filter = repetition_filter
        self._sink = sink
        self._skip_prompt = skip_prompt
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """value: the prompt, shape (1, length), then one token at a time, shape (1,). Raises ValueError for a batch."""
        if value.ndim > 1 and value.shape[0] > 1:
            raise ValueError("a streamer follows one sequence; got a batch")
        tokens = value.reshape(-1).tolist()
        if not self._prompt_seen:
            self._prompt_seen = True
            if not self._skip_prompt:
                self._send("".join(map(self._stream.put, tokens)))
            return
        for token in tokens:
            self._send(self._filter.feed(self._stream.put(token)))

    def end(self) -> None:
        """Gives what is still held."""
        self._send(self._filter.feed(self._stream.flush()) + self._filter.flush())

    def _send(self, text: str) -> None:
        if text:
            self._sink(text)
