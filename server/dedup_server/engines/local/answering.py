"""All choices of a request to a model of our own, and the events that tell of them."""

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol

from dedup.lenient_json import write_json
from dedup.logits.history import TokenHistory
from dedup_server.engines.base import USED, Events
from dedup_server.engines.local.choice import Choice, Sampling, TokenLogprob
from dedup_server.engines.local.decoding import Scores, Step
from dedup_server.engines.local.loading import LoadedModel
from dedup_server.engines.local.long_input import new_part
from dedup_server.engines.local.prompts import Prompt
from dedup_server.schema import ChatRequest, ChunkMaker, SampledRequest, usage
from dedup_server.wire.sse import Event

Send = Callable[[Events], None]


class Answer(Protocol):
    """What a request's sequences become. `begin`, each of `sequences` to its end, `end`."""

    def sequences(self, send: Send) -> list[tuple[list[int], Step]]:
        """The prompt and the step of each sequence to decode. `send` is called in the decoder's thread."""
        ...

    def begin(self) -> Events:
        """What there is to say before the first token."""
        ...

    def end(self) -> Events:
        """What is left to say when all sequences have ended."""
        ...


class SampledAnswer:
    """All choices of a request, and the events that tell of them."""

    def __init__(
        self,
        request: SampledRequest,
        name: str,
        loaded: LoadedModel,
        sampling: Sampling,
        prompts: list[Prompt],
    ) -> None:
        self.choices: list[tuple[Choice, list[int]]] = []
        self._request = request
        self._make = ChunkMaker(request.endpoint, name)
        self._tokenizer = loaded.tokenizer
        self._texts = loaded.texts
        self._num_prompt_tokens = sum(len(prompt.tokens) for prompt in prompts)
        self._num_truncated = sum(prompt.num_truncated for prompt in prompts)
        self._offsets: dict[
            int, int
        ] = {}  # characters of each choice that log-probabilities were given for
        num_choices = request.n or 1
        for number, prompt in enumerate(prompts):
            for index in range(number * num_choices, (number + 1) * num_choices):
                number_in_prompt = index % num_choices
                choice = _choice(request, index, number_in_prompt, prompt.tokens, loaded, sampling)
                self.choices.append((choice, prompt.tokens))

    def sequences(self, send: Send) -> list[tuple[list[int], Step]]:
        return [
            (prompt, functools.partial(self._step, choice, send)) for choice, prompt in self.choices
        ]

    def begin(self) -> Events:
        if isinstance(self._request, ChatRequest):
            return [self._event(self._make.role(choice.index)) for choice, _ in self.choices]
        if self._request.echo:
            texts = (
                (choice, self._tokenizer.decode(prompt, skip_special_tokens=True))
                for choice, prompt in self.choices
            )
            return [self._event(self._make.text(choice.index, text)) for choice, text in texts]
        return []

    def _step(self, choice: Choice, send: Send, scores: Scores) -> int | None:
        token = choice.choose(scores)
        text = choice.put(token)
        if text or choice.finish_reason:
            chunk = self._make.text(choice.index, text, choice.finish_reason)
            if self._request.num_logprobs is not None:
                chunk["choices"][0]["logprobs"] = self._logprobs(choice)
            send([Event(write_json(self._usage()), USED), self._event(chunk)])
        return None if choice.finish_reason else token

    def end(self) -> Events:
        if not (self._request.wants_usage or not self._request.stream):
            return []
        return [self._event({**self._make.text(0, ""), "choices": [], "usage": self._usage()})]

    def _usage(self) -> dict[str, int]:
        return usage(self._num_prompt_tokens, sum(choice.num_tokens for choice, _ in self.choices))

    def _event(self, chunk: dict[str, Any]) -> Event:
        if self._num_truncated:
            chunk["truncated_prompt_tokens"] = self._num_truncated
        return Event(write_json(chunk))

    def _logprobs(self, choice: Choice) -> dict[str, Any]:
        taken = choice.take_logprobs()
        if self._request.endpoint == "chat":
            return {"content": [self._chat_logprob(one) for one in taken], "refusal": None}
        offsets = []
        for one in taken:
            offsets.append(self._offsets.get(choice.index, 0))
            self._offsets[choice.index] = offsets[-1] + len(one.text)
        return {
            "tokens": [one.text for one in taken],
            "token_logprobs": [one.logprob for one in taken],
            "top_logprobs": [self._told(one.top) for one in taken]
            if self._request.num_logprobs
            else None,
            "text_offset": offsets,
        }

    def _told(self, top: list[tuple[int, float]]) -> dict[str, float]:
        return {self._texts.text_of(token): logprob for token, logprob in top}

    def _chat_logprob(self, one: TokenLogprob) -> dict[str, Any]:
        def told(token: int, logprob: float) -> dict[str, Any]:
            return {
                "token": self._texts.text_of(token),
                "logprob": logprob,
                "bytes": list(self._texts.bytes_of(token)),
            }

        return {**told(one.token, one.logprob), "top_logprobs": [told(*each) for each in one.top]}


class LongAnswer:
    """One text of the answers to the pieces of a long input. They are generated at the same time; each is given out whole, in its turn,
    less what the overlap made the model say twice."""

    def __init__(
        self,
        request: SampledRequest,
        name: str,
        loaded: LoadedModel,
        sampling: Sampling,
        prompts: list[Prompt],
    ) -> None:
        self._request = request
        self._make = ChunkMaker(request.endpoint, name)
        self._prompts = [prompt.tokens for prompt in prompts]
        self._choices = [
            _choice(request, number, number, tokens, loaded, sampling)
            for number, tokens in enumerate(self._prompts)
        ]
        self._texts = [""] * len(prompts)
        self._said = ""
        self._num_given = 0
        self._giving = threading.Lock()  # pieces may end in several threads

    def sequences(self, send: Send) -> list[tuple[list[int], Step]]:
        return [
            (tokens, functools.partial(self._step, choice, number, send))
            for number, (tokens, choice) in enumerate(
                zip(self._prompts, self._choices, strict=True)
            )
        ]

    def begin(self) -> Events:
        return []

    def _step(self, choice: Choice, number: int, send: Send, scores: Scores) -> int | None:
        token = choice.choose(scores)
        self._texts[number] += choice.put(token)
        if choice.finish_reason is None:
            return token
        with self._giving:
            while (
                self._num_given < len(self._choices)
                and self._choices[self._num_given].finish_reason
            ):
                part = new_part(self._said, self._texts[self._num_given])
                self._said += part
                self._num_given += 1
                if part:
                    send(
                        [
                            Event(write_json(self._usage()), USED),
                            Event(write_json(self._make.text(0, part))),
                        ]
                    )
        return None

    def end(self) -> Events:
        reasons = {choice.finish_reason for choice in self._choices}
        events = [
            Event(write_json(self._make.text(0, "", "length" if "length" in reasons else "stop")))
        ]
        if self._request.wants_usage or not self._request.stream:
            events.append(
                Event(write_json({**self._make.text(0, ""), "choices": [], "usage": self._usage()}))
            )
        return events

    def _usage(self) -> dict[str, int]:
        return usage(
            sum(map(len, self._prompts)), sum(choice.num_tokens for choice in self._choices)
        )


def _choice(
    request: SampledRequest,
    index: int,
    number: int,
    prompt: list[int],
    loaded: LoadedModel,
    sampling: Sampling,
) -> Choice:
    size = sampling.penalties.no_repeat_ngram_size
    history, encoder = TokenHistory(prompt, size), None
    room = loaded.context - len(prompt)
    if loaded.start_token is not None:
        history, room = TokenHistory([loaded.start_token], size), loaded.context - 1
        if sampling.penalties.encoder_no_repeat_ngram_size:
            encoder = TokenHistory(prompt, sampling.penalties.encoder_no_repeat_ngram_size)
    limit = min(request.max_output_tokens or room, room)
    return Choice(index, number, loaded.tokenizer, loaded.texts, sampling, history, limit, encoder)
