"""The choices of a request to a model in this process, and the frames that they become."""

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol

from dedup.answer.frame import CONTENT, Delta, Finish, Frame, Start
from dedup.logits.history import TokenHistory
from dedup_server.engines.base import Frames
from dedup_server.engines.local.choice import Choice, Sampling
from dedup_server.engines.local.decoding import Scores, Step
from dedup_server.engines.local.loading import LoadedModel
from dedup_server.engines.local.long_input import new_part
from dedup_server.engines.local.prompts import Prompt
from dedup_server.engines.local.tool_calls import ToolCallReader
from dedup_server.requests.chat import (
    SampledChatRequest,
    SampledCompletionRequest,
    SampledRequest,
)

Send = Callable[[Frames], None]


class Generation(Protocol):
    """Frames of a request's sequences: `begin`, each of `sequences` to its end, `end`."""

    def sequences(self, send: Send) -> list[tuple[list[int], Step]]:
        """Return the prompt and the step of each sequence to decode.

        `send` is called in the decoder's thread.
        """
        ...

    def begin(self) -> Frames:
        """Return what comes before the first token."""
        ...

    def end(self) -> Frames:
        """Return what comes when all sequences have ended."""
        ...


class ChoicesGeneration:
    """All choices of a request, each of its own sequence."""

    def __init__(
        self,
        request: SampledRequest,
        name: str,
        loaded: LoadedModel,
        sampling: Sampling,
        prompts: list[Prompt],
    ) -> None:
        self.choices: list[tuple[Choice, list[int]]] = []
        self._calls: dict[int, ToolCallReader] = {}  # by choice, where tools are offered
        self._request = request
        self._name = name
        self._tokenizer = loaded.tokenizer
        self._input_tokens = sum([len(prompt.tokens) for prompt in prompts])
        self._num_truncated = sum([prompt.num_truncated for prompt in prompts])
        num_choices = request.n or 1
        for number, prompt in enumerate(prompts):
            for index in range(number * num_choices, (number + 1) * num_choices):
                tokens = prompt.tokens
                choice = _choice(request, index, index % num_choices, tokens, loaded, sampling)
                if isinstance(request, SampledChatRequest) and request.offered_tools:
                    self._calls[index] = ToolCallReader(index)
                self.choices.append((choice, tokens))

    def sequences(self, send: Send) -> list[tuple[list[int], Step]]:
        return [
            (prompt, functools.partial(self._step, choice, send)) for choice, prompt in self.choices
        ]

    def begin(self) -> Frames:
        extra: dict[str, Any] = {}
        if self._num_truncated:
            extra["truncated_prompt_tokens"] = self._num_truncated
        start = Start(self._name, len(self.choices), extra)
        frames = [Frame([], start=start, input_tokens=self._input_tokens)]
        if isinstance(self._request, SampledCompletionRequest) and self._request.echo:
            for choice, prompt in self.choices:
                text = self._tokenizer.decode(prompt, skip_special_tokens=True)
                if text:
                    frames.append(Frame([Delta(choice.index, CONTENT, CONTENT, text)]))
        return frames

    def end(self) -> Frames:
        return [Frame([], is_last=True)]

    def _step(self, choice: Choice, send: Send, scores: Scores) -> int | None:
        token = choice.choose(scores)
        text = choice.put(token)
        calls = self._calls.get(choice.index)
        if calls is not None:
            self._send_calls(choice, calls, text, send)
        elif text or choice.finish_reason:
            deltas: list[Delta] = []
            logprobs = choice.take_logprobs() if self._request.num_logprobs is not None else None
            if text or logprobs is not None:
                deltas.append(Delta(choice.index, CONTENT, CONTENT, text, logprobs=logprobs))
            finish = Finish(choice.index, choice.finish_reason) if choice.finish_reason else None
            send([self._frame(deltas, finish)])
        return None if choice.finish_reason else token

    def _send_calls(self, choice: Choice, calls: ToolCallReader, text: str, send: Send) -> None:
        """Send what a piece of text completes: what is said, and calls of tools."""
        deltas = calls.feed(text)
        if calls.num_calls and self._request.sent.get("parallel_tool_calls") is False:
            choice.finish_reason = choice.finish_reason or "stop"
        elif choice.finish_reason:
            deltas += calls.flush()
        if self._request.num_logprobs is not None and deltas:
            deltas[0].logprobs = choice.take_logprobs()
        frames: Frames = []
        for delta in deltas:
            if delta.tool is None:
                frames.append(self._frame([delta], None))
            else:  # what was said before it has ended
                said = Delta(choice.index, CONTENT, CONTENT, "", ends=True)
                frames.append(self._frame([said, delta], None))
        if choice.finish_reason:
            is_call = calls.num_calls and choice.finish_reason == "stop"
            reason = "tool_calls" if is_call else choice.finish_reason
            frames.append(self._frame([], Finish(choice.index, reason)))
        if frames:
            send(frames)

    def _frame(self, deltas: list[Delta], finish: Finish | None) -> Frame:
        output_tokens = sum([one.num_tokens for one, _ in self.choices])
        finishes = [finish] if finish is not None else None
        return Frame(deltas, finishes, input_tokens=self._input_tokens, output_tokens=output_tokens)


class LongInputGeneration:
    """One text of the answers to the pieces of a long input.

    They are generated at the same time. Each is given out whole, in its turn, less what the overlap
    made the model generate twice.
    """

    def __init__(
        self,
        request: SampledRequest,
        name: str,
        loaded: LoadedModel,
        sampling: Sampling,
        prompts: list[Prompt],
    ) -> None:
        self._name = name
        self._prompts = [prompt.tokens for prompt in prompts]
        self._choices = [
            _choice(request, number, number, tokens, loaded, sampling)
            for number, tokens in enumerate(self._prompts)
        ]
        self._texts = [""] * len(prompts)
        self._given = ""
        self._num_given = 0
        self._giving = threading.Lock()  # pieces may end in several threads

    def sequences(self, send: Send) -> list[tuple[list[int], Step]]:
        return [
            (tokens, functools.partial(self._step, choice, number, send))
            for number, (tokens, choice) in enumerate(
                zip(self._prompts, self._choices, strict=True)
            )
        ]

    def begin(self) -> Frames:
        start = Start(self._name, 1)
        return [Frame([], start=start, input_tokens=sum(map(len, self._prompts)))]

    def end(self) -> Frames:
        reasons = {choice.finish_reason for choice in self._choices}
        reason = "length" if "length" in reasons else "stop"
        return [self._frame([], [Finish(0, reason)]), Frame([], is_last=True)]

    def _step(self, choice: Choice, number: int, send: Send, scores: Scores) -> int | None:
        token = choice.choose(scores)
        self._texts[number] += choice.put(token)
        if choice.finish_reason is None:
            return token
        with self._giving:
            while self._num_given < len(self._choices):
                if not self._choices[self._num_given].finish_reason:
                    break
                part = new_part(self._given, self._texts[self._num_given])
                self._given += part
                self._num_given += 1
                if part:
                    send([self._frame([Delta(0, CONTENT, CONTENT, part)], None)])
        return None

    def _frame(self, deltas: list[Delta], finishes: list[Finish] | None) -> Frame:
        return Frame(
            deltas,
            finishes,
            input_tokens=sum(map(len, self._prompts)),
            output_tokens=sum([choice.num_tokens for choice in self._choices]),
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
    history = TokenHistory(prompt, size)
    room = loaded.context - len(prompt)
    if loaded.start_token is not None:
        history, room = TokenHistory([loaded.start_token], size), loaded.context - 1
        encoder_size = sampling.penalties.encoder_no_repeat_ngram_size
        if encoder_size:
            history.encoder = TokenHistory(prompt, encoder_size)
    limit = min(request.max_output_tokens or room, room)
    return Choice(index, number, loaded.tokenizer, loaded.texts, sampling, history, limit)
