"""For transformers' `generate`: the methods as one LogitsProcessor, the loop detector as a StoppingCriteria, the filter as a streamer.

model.generate(**inputs, logits_processor=logits_processors(DecodingConfig(no_repeat_ngram_size=4), tokenizer))
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from dedup.config import DecodingConfig, LoopConfig
from dedup.filter import RepetitionFilter
from dedup.logits.history import TokenHistory
from dedup.logits.processors import Breakers, apply
from dedup.loops import LoopDetector

REPLACEMENT = "\ufffd"  # what a decoder gives for half a character


def logits_processors(config: DecodingConfig, tokenizer: Any = None) -> LogitsProcessorList:
    """`config`'s methods for `generate(logits_processor=...)`. DRY's sequence breakers need the tokenizer."""
    return LogitsProcessorList([RepetitionLogitsProcessor(config, tokenizer)])


def breaker_ids(tokenizer: Any, breakers: tuple[str, ...]) -> Breakers:
    """The tokens whose text contains a sequence breaker. A breaker that no single token contains breaks nothing."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return frozenset(token for token, text in enumerate(texts) if any(breaker in text for breaker in breakers))


class RepetitionLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """All of a `DecodingConfig`'s methods in one pass. One instance may serve one `generate` after another.

    The tokens of the first call are the prompt; padding on the left counts as part of it, as in transformers' own n-gram ban.
    """

    def __init__(self, config: DecodingConfig, tokenizer: Any = None) -> None:
        needs_tokenizer = bool(config.dry_multiplier) and bool(config.dry_sequence_breakers)
        if needs_tokenizer and tokenizer is None:
            raise ValueError("dry_sequence_breakers needs a tokenizer: logits_processors(config, tokenizer), or () for none")
        self.config = config
        self._breakers: Breakers = breaker_ids(tokenizer, config.dry_sequence_breakers) if needs_tokenizer else frozenset()
        self._histories: dict[int, TokenHistory] = {}
        self._num_prompt = 0
        self._last_length = -1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids: (batch, length), any integer type; scores: (batch, vocabulary). Returns new scores, never the same tensor:
        `generate` may still give out the old ones (`output_logits`)."""
        scores = scores.clone()
        rows = input_ids.tolist()
        length = input_ids.shape[-1]
        if length < self._last_length or length == self._num_prompt or self._last_length < 0 or len(rows) != len(self._histories):
            self._num_prompt = length
            self._histories = {}
        self._last_length = length
        for number, row in enumerate(rows):
            history = self._histories[number] = self._follow(self._histories.get(number), row)
            apply(self.config, history, scores[number], self._breakers)
        return scores

    def _follow(self, history: TokenHistory | None, row: list[int]) -> TokenHistory:
        """The history of `row`: beams change rows and assisted decoding steps back, so what does not fit is taken back."""
        if history is None or len(history) < self._num_prompt or history.tokens[: self._num_prompt] != row[: self._num_prompt]:
            history = TokenHistory(row[: self._num_prompt], self.config.no_repeat_ngram_size)
        if len(history) > len(row):
            history.rollback(len(history) - len(row))
        if history.tokens != row[: len(history)]:
            shared = next(at for at, token in enumerate(history.tokens) if token != row[at])
            history.rollback(len(history) - shared)
        for token in row[len(history) :]:
            history.append(token)
        return history


class TextStream:
    """Decodes tokens one after another; never gives half a character, and joins words as the tokenizer means it."""

    def __init__(self, tokenizer: Any, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._tokens: list[int] = []
        self._given = ""

    def put(self, token: int) -> str:
        """The text that `token` completes."""
        self._tokens.append(token)
        text = self._decode()
        if text.endswith(REPLACEMENT):
            return ""
        new = text[len(self._given) :]
        if len(self._tokens) >= 16:
            self._tokens = self._tokens[-4:]  # context only, so that the next word gets its space
            self._given = self._decode()
        else:
            self._given = text
        return new

    def flush(self) -> str:
        """What is left, half a character as U+FFFD."""
        text = self._decode()[len(self._given) :]
        self._tokens, self._given = [], ""
        return text

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._tokens, skip_special_tokens=self._skip_special_tokens))


class LoopStoppingCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops a sequence of the batch when it loops. One instance serves one `generate`; `events` has each row's loop."""

    def __init__(self, tokenizer: Any, config: LoopConfig | None = None) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._rows: list[tuple[TextStream, LoopDetector]] = []
        self._length = -1

    @property
    def events(self) -> list[Any]:
        return [detector.event for _, detector in self._rows]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """input_ids: (batch, length). Returns a bool tensor of shape (batch,)."""
        batch, length = input_ids.shape
        if not self._rows:
            self._rows = [(TextStream(self._tokenizer), LoopDetector(self._config)) for _ in range(batch)]
            self._length = length - 1  # `generate` asks first when one token has been made
        for (stream, detector), row in zip(self._rows, input_ids[:, self._length :].tolist(), strict=True):
            for token in row:
                if text := stream.put(token):
                    detector.feed(text)
        self._length = length
        return torch.tensor([detector.event is not None for _, detector in self._rows], device=input_ids.device)


class FilterStreamer(BaseStreamer):  # type: ignore[misc]
    """Gives `generate(streamer=...)`'s text to `sink`, filtered. For one sequence."""

    def __init__(self, tokenizer: Any, repetition_filter: RepetitionFilter, sink: Callable[[str], None]) -> None:
        self._stream = TextStream(tokenizer)
        self._filter = repetition_filter
        self._sink = sink
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """value: the prompt, shape (1, length), then one token at a time, shape (1,). Raises ValueError for a batch."""
        if not self._prompt_seen:
            if value.ndim > 1 and value.shape[0] > 1:
                raise ValueError("a streamer follows one sequence; got a batch")
            self._prompt_seen = True
            return
        for token in value.reshape(-1).tolist():
            self._send(self._filter.feed(self._stream.put(token)))

    def end(self) -> None:
        self._send(self._filter.feed(self._stream.flush()) + self._filter.flush())

    def _send(self, text: str) -> None:
        if text:
            self._sink(text)
