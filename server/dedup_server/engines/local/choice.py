"""One answer in the making: scores to a token, tokens to text, up to a stop string, an end token or the limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedup.answer.continuation import OPENING_TOKENS
from dedup.config import DecodingConfig
from dedup.logits.detokenizer import Detokenizer
from dedup.logits.history import TokenHistory
from dedup.logits.methods import Method
from dedup.logits.temperature import current_temperature
from dedup.logits.tokens import TokenSets
from dedup.text.segmenter import is_terminated
from dedup_server.engines.local.decoding import Scores
from dedup_server.engines.local.sampling import choose
from dedup_server.engines.local.token_text import TokenTexts

_MAX_SENTENCE = 128  # tokens for which an opening must not end within a sentence
_TAIL = 24  # characters that tell whether a sentence has ended


@dataclass(frozen=True, slots=True)
class OpeningTokens:
    """The tokens of an `Opening`: what may not come at the beginning of a continued text.

    Args:
        banned: Tokens with which the loop's next word begins.
        line_ends: Tokens with a line's end, where a sentence stands open; else none.
        can_stop: The text may end at once.
    """

    banned: Sequence[int]
    line_ends: Sequence[int]
    can_stop: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings by which one request chooses tokens.

    Args:
        temperature, top_p, top_k, min_p: 0, 1, 0 and 0 are off; at temperature 0 the best token
            is chosen.
        penalties: The configuration of the methods, without those of the temperature.
        methods: The methods that it switches on.
        token_sets: Token sets of `penalties`.
        varying: The configuration of methods that vary the temperature; None if none is on.
        bias: Tokens, and what is added to their scores.
        stop_strings, end_tokens: What ends the text.
        min_tokens: Tokens before which nothing ends it.
        num_logprobs: Alternatives that each token comes with; None: no log-probabilities.
        seed: Of the random generator.
        opening: What may not come at the beginning of a text that is continued.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    penalties: DecodingConfig
    methods: tuple[Method, ...]
    token_sets: TokenSets
    varying: DecodingConfig | None
    bias: tuple[np.ndarray[Any, np.dtype[np.int64]], Scores] | None
    stop_strings: Sequence[str]
    end_tokens: Sequence[int]
    min_tokens: int
    num_logprobs: int | None
    seed: int | None
    opening: OpeningTokens | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The model's own log-probability of a token, before anything that the request asks for.

    Args:
        text: The token's text; of half a character, as OpenAI writes it.
        data: The token's bytes.
        logprob: Natural logarithm.
        top: The likeliest tokens at that place, best first.
    """

    text: str
    data: bytes
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()

    def as_chat(self) -> dict[str, Any]:
        """Return it as a chat completion has it."""
        top = [one._in_list() for one in self.top]
        return {**self._in_list(), "top_logprobs": top}

    def top_by_text(self) -> dict[str, float]:
        """Return the likeliest tokens as a text completion has them."""
        return {one.text: one.logprob for one in self.top}

    def _in_list(self) -> dict[str, Any]:
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.data)}


class Choice:
    """A sequence in the making: scores to a token, tokens to text.

    Args:
        index: Of the choice in its answer.
        number: Of the choice among those of its prompt.
        tokenizer, texts: The model's.
        sampling: How tokens are chosen.
        history: The tokens so far.
        limit: Tokens that it may have.
    """

    def __init__(
        self,
        index: int,
        number: int,
        tokenizer: Any,
        texts: TokenTexts,
        sampling: Sampling,
        history: TokenHistory,
        limit: int,
    ) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.logprobs: list[TokenLogprob] = []  # of the tokens whose text is not given out yet
        self.num_tokens = 0
        self._texts = texts
        self._sampling = sampling
        self._history = history
        self._limit = limit
        self._stream = Detokenizer(tokenizer)
        self._opening = sampling.opening  # until its sentence has ended
        self._tail = ""  # of the text
        self._held = ""  # may be the beginning of a stop string
        # Of several prompts each has its text by the seed and its own choice alone.
        self._random = Random() if sampling.seed is None else Random(f"{sampling.seed} {number}")  # noqa: S311 - it samples words

    def choose(self, scores: Scores) -> int:
        """The next token, from its scores, shape (vocabulary,), which are changed. Raises `NoTokenError`."""
        sampling = self._sampling
        raw = scores.copy() if sampling.num_logprobs is not None else None
        if sampling.bias is not None:
            scores[sampling.bias[0]] += sampling.bias[1]
        for method in sampling.methods:
            method.apply(self._history, scores, sampling.penalties, sampling.token_sets)
        if self._opening is not None:
            self._ban(self._opening, scores)
        if sampling.end_tokens and self.num_tokens < sampling.min_tokens:
            scores[list(sampling.end_tokens)] = -np.inf
        temperature = sampling.temperature
        if sampling.varying is not None and np.isfinite(scores.max()):
            temperature = current_temperature(self._history, scores, sampling.varying)
        token = choose(
            scores, temperature, sampling.top_k, sampling.top_p, sampling.min_p, self._random
        )
        if raw is not None:
            self.logprobs.append(self._logprob(token, raw, sampling.num_logprobs or 0))
        return token

    def put(self, token: int) -> str:
        """The text to give out after `token`; sets `finish_reason` when it was the last."""
        self._history.append(token)
        self.num_tokens += 1
        ends = token in self._sampling.end_tokens
        if ends:
            self.finish_reason = "stop"
            self.logprobs = self.logprobs[:-1]  # it is no part of the text
        elif self.num_tokens >= self._limit:
            self.finish_reason = "length"
        text = "" if ends else self._stream.feed(token)
        self._tail = (self._tail + text)[-_TAIL:]
        if self._opening is not None and (
            self.num_tokens >= _MAX_SENTENCE or _ends_segment(self._tail)
        ):
            self._opening = None
        if self.finish_reason:
            rest = self._stream.flush()
            # At its limit a text may end within a character.
            text += rest.rstrip("\ufffd") if self.finish_reason == "length" else rest
        return self._until_stop(text)

    def _ban(self, opening: OpeningTokens, scores: Scores) -> None:
        if self.num_tokens < OPENING_TOKENS and opening.banned:
            scores[list(opening.banned)] = -np.inf
        if opening.line_ends and not self._tail.strip():
            scores[list(opening.line_ends)] = -np.inf
        if not opening.can_stop and self._sampling.end_tokens:
            scores[list(self._sampling.end_tokens)] = -np.inf

    def take_logprobs(self) -> list[TokenLogprob]:
        """Those of the text given out now."""
        taken, self.logprobs = self.logprobs, []
        return taken

    def _until_stop(self, text: str) -> str:
        stop = self._sampling.stop_strings
        if not stop or self.num_tokens <= self._sampling.min_tokens:
            return text
        text = self._held + text
        found = [at for at in (text.find(string) for string in stop) if at >= 0]
        if found:
            self.finish_reason, self._held = "stop", ""
            self._forget_logprobs(len(text) - min(found))
            return text[: min(found)]
        held = 0 if self.finish_reason else max(overlap(text, string) for string in stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _forget_logprobs(self, num_chars: int) -> None:
        """Of the tokens that begin in the last `num_chars` characters, which are cut off."""
        while self.logprobs and (num_chars := num_chars - len(self.logprobs[-1].text)) >= 0:
            self.logprobs.pop()

    def _logprob(self, token: int, raw: Scores, num_top: int) -> TokenLogprob:
        logprobs = raw.astype(np.float64) - raw.max()
        logprobs -= np.log(np.exp(logprobs).sum())
        best = np.argsort(-logprobs, kind="stable")[:num_top] if num_top else ()
        top = tuple([self._one(int(each), logprobs) for each in best])
        return replace(self._one(token, logprobs), top=top)

    def _one(self, token: int, logprobs: NDArray[np.float64]) -> TokenLogprob:
        texts = self._texts
        return TokenLogprob(texts.text_of(token), texts.bytes_of(token), float(logprobs[token]))


def bias_of(
    given: Mapping[str, float] | None, size: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Scores] | None:
    """A request's `logit_bias` for a vocabulary of `size`. Raises ValueError."""
    if not given:
        return None
    tokens = [int(token[:9]) for token in given]
    if max(tokens) >= size:
        raise ValueError(f"logit_bias has token {max(tokens)}; the last is {size - 1}")
    return np.array(tokens), np.array(list(given.values()), np.float32)


def _ends_segment(text: str) -> bool:
    """Return whether a sentence or a line has ended."""
    text = text.lstrip()
    return "\n" in text or is_terminated(text.rstrip())


def overlap(text: str, string: str) -> int:
    """Return how many characters at the end of `text` begin `string`."""
    return next(
        (
            size
            for size in range(min(len(text), len(string) - 1), 0, -1)
            if text.endswith(string[:size])
        ),
        0,
    )
