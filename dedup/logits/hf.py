"""For transformers' `generate`: the methods as one LogitsProcessor, the loop detector as a StoppingCriteria, the filter as a streamer.

model.generate(**inputs, logits_processor=logits_processors(DecodingConfig(no_repeat_ngram_size=4), tokenizer))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from dedup.config import DecodingConfig, LoopConfig
from dedup.filter import RepetitionFilter
from dedup.logits.history import TokenHistory
from dedup.logits.processors import Breakers, apply
from dedup.loops import LoopDetector, LoopEvent

REPLACEMENT = "\ufffd"  # what a decoder gives for half a character
MAX_HALF_CHARACTER = 3  # a character of UTF-8 has at most four bytes: three may wait for the last
MAX_CONTEXT = 32

_token_texts: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()


def logits_processors(config: DecodingConfig, tokenizer: Any = None, prompt_length: int | None = None) -> LogitsProcessorList:
    """`config`'s methods for `generate(logits_processor=...)`, as one processor.

    tokenizer: DRY's sequence breakers need it (ValueError without), and left padding is told from text by its `pad_token_id`.
    prompt_length: tokens of the prompt, for the presence and frequency penalties; None takes the length of the first call.
    """
    return LogitsProcessorList([RepetitionLogitsProcessor(config, tokenizer, prompt_length)])


def breaker_ids(tokenizer: Any, breakers: tuple[str, ...]) -> Breakers:
    """The tokens whose text contains a sequence breaker, special tokens too.

    llama.cpp also knows breakers that are spread over several tokens; here such a breaker breaks nothing.
    """
    texts = _token_texts.get(tokenizer)
    if texts is None:  # Decoding a vocabulary takes up to a second; the texts serve every set of breakers.
        texts = _token_texts[tokenizer] = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return frozenset(token for token, text in enumerate(texts) if any(breaker in text for breaker in breakers))


class RepetitionLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """All of a `DecodingConfig`'s methods in one pass: greedy, sampling, beam search, assisted decoding.

    One instance may serve one `generate` after another. Where it is called with anything but a step on from, or a step back in,
    what it last saw, a new generation begins, and its tokens are the prompt. A generation that goes on exactly where the last
    one ended looks like a step on: give `prompt_length`, or a new instance, where the penalties on the output matter then.

    Padding on the left counts for nothing if the tokenizer is known, so that a row gets the same penalties alone and in a batch.
    (transformers leaves it alone in the repetition penalty, and counts it in the n-gram ban.) Without it, padding is prompt.
    """

    def __init__(self, config: DecodingConfig, tokenizer: Any = None, prompt_length: int | None = None) -> None:
        needs_tokenizer = bool(config.dry_multiplier) and bool(config.dry_sequence_breakers)
        if needs_tokenizer and tokenizer is None:
            raise ValueError("dry_sequence_breakers needs a tokenizer: logits_processors(config, tokenizer), or () for none")
        self.config = config
        self._breakers: Breakers = breaker_ids(tokenizer, config.dry_sequence_breakers) if needs_tokenizer else frozenset()
        self._pad = getattr(tokenizer, "pad_token_id", None)
        self._prompt_length = prompt_length
        self._num_prompt = 0
        self._seen: torch.Tensor | None = None
        self._rows: list[_Row] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids: (batch, length), any integer type; scores: (batch, vocabulary). Returns new scores, never the same tensor:
        `generate` may still give out the old ones (`output_logits`)."""
        scores = scores.clone()
        self._follow(input_ids)
        for number, row in enumerate(self._rows):
            apply(self.config, row.history, scores[number], self._breakers)
        return scores

    def _follow(self, input_ids: torch.Tensor) -> None:
        """Brings the histories up to `input_ids`. Goal: the tokens that a step adds are all that leaves the device."""
        shared = self._num_shared(input_ids)
        if shared is None or min(shared) < self._num_prompt:
            length = input_ids.shape[-1]
            self._num_prompt = length if self._prompt_length is None else min(self._prompt_length, length)
            self._rows = [self._start(row) for row in input_ids[:, : self._num_prompt].tolist()]
            shared = [self._num_prompt] * len(self._rows)
        fewest = min(shared, default=0)
        news = input_ids[:, fewest:].tolist()
        for row, num_shared, new in zip(self._rows, shared, news, strict=True):
            row.history.rollback(row.num_padding + len(row.history) - num_shared)
            row.history.extend(new[num_shared - fewest :])
        # A copy: beam search writes into the tensor that it hands over.
        self._seen = input_ids.clone()

    def _num_shared(self, input_ids: torch.Tensor) -> list[int] | None:
        """How many tokens of each row are those of the call before: beams change rows, assisted decoding steps back. None if
        this call cannot belong to the same generation."""
        seen = self._seen
        if seen is None or seen.shape[0] != input_ids.shape[0] or seen.device != input_ids.device:
            return None
        length = min(seen.shape[-1], input_ids.shape[-1])
        if input_ids.shape[-1] > seen.shape[-1] + 1:
            return None
        before, now = seen[:, :length], input_ids[:, :length]
        if torch.equal(before, now):
            return [length] * len(self._rows)
        shared: list[int] = (before == now).cumprod(dim=-1).sum(dim=-1).tolist()
        return shared

    def _start(self, prompt: list[int]) -> "_Row":
        num_padding = 0
        while num_padding < len(prompt) and prompt[num_padding] == self._pad:
            num_padding += 1
        return _Row(num_padding, TokenHistory(prompt[num_padding:], self.config.no_repeat_ngram_size))


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
        if text.endswith(REPLACEMENT) and self._num_held < MAX_HALF_CHARACTER:
            self._num_held += 1
            return ""
        return self._give(text)

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
            self._num_prompt = max(0, input_ids.shape[-1] - 1)  # `generate` asks first when one token has been made
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
        self, tokenizer: Any, repetition_filter: RepetitionFilter, sink: Callable[[str], None], skip_prompt: bool = True
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
