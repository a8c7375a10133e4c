"""Adapters for llama-cpp-python: a logits processor and a stopping criterion.

llm.create_completion(
    prompt, logits_processor=logits_processors(config, llm), stopping_criteria=loop_criteria(llm)
)

`dedup.filter_stream` filters the text of `create_completion(stream=True)` and stops it at a loop.
"""

from typing import Any

import numpy as np
from llama_cpp import Llama, LogitsProcessorList, StoppingCriteriaList
from numpy.typing import NDArray

from dedup.config import DecodingConfig, LoopConfig
from dedup.logits.rows import Row
from dedup.logits.sequence import SequenceProcessor
from dedup.text.loops.detector import LoopEvent
from dedup.token_loops import TokenLoopDetector


def logits_processors(
    config: DecodingConfig, llama: Llama, prompt_length: int | None = None
) -> LogitsProcessorList:
    """Return the methods of `config` for `logits_processor=...`, as one processor.

    It serves one completion after another, but not several at the same time.

    Args:
        config: Configuration of the methods.
        llama: The model. Its tokenizer converts `exempt` and DRY's sequence breakers.
        prompt_length: Number of tokens of the prompt; None takes the length of the first call.

    Raises:
        ValueError: A method needs an encoder.
    """
    sequence = SequenceProcessor(config, _Tokenizer(llama), prompt_length)

    def process(input_ids: NDArray[np.intc], scores: Row) -> Row:
        """Change the scores, shape (vocabulary,), in place."""
        sequence.apply(input_ids.astype(np.int64), scores)
        return scores

    return LogitsProcessorList([process])


def loop_criteria(llama: Llama, config: LoopConfig | None = None) -> StoppingCriteriaList:
    """Return a list of one `LoopStoppingCriterion`, for `stopping_criteria=...`."""
    return StoppingCriteriaList([LoopStoppingCriterion(llama, config)])


class LoopStoppingCriterion:
    """Stopping criterion that ends a completion when its text loops.

    It serves one completion after another, but not several at the same time.
    """

    def __init__(self, llama: Llama, config: LoopConfig | None = None) -> None:
        self._prompt: list[int] = []
        self._num_tokens = -1  # of the last call; -1 before the first
        self._output = TokenLoopDetector(_Tokenizer(llama), config)

    @property
    def event(self) -> LoopEvent | None:
        """The loop of the last completion, in characters of its text; None if there is none."""
        return self._output.event

    def __call__(self, input_ids: NDArray[np.intc], logits: Any) -> bool:
        """Return whether the text loops, for the token ids of prompt and output."""
        tokens = input_ids.tolist()
        num_prompt = len(self._prompt)
        continues = num_prompt <= len(tokens) <= self._num_tokens + 1
        if not continues or tokens[:num_prompt] != self._prompt:
            self._prompt, num_prompt = tokens, len(tokens)  # a new completion
        self._num_tokens = len(tokens)
        return self._output.follow(tokens[num_prompt:]) is not None


class _Tokenizer:
    """The tokenizer of a model of llama.cpp, with the methods of one of transformers."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama

    def __len__(self) -> int:
        return int(self._llama.n_vocab())

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        tokens = self._llama.tokenize(text.encode(), add_bos=add_special_tokens)
        return {"input_ids": tokens}

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        text: bytes = self._llama.detokenize(tokens, special=not skip_special_tokens)
        return text.decode(errors="replace")

    def batch_decode(self, sequences: list[list[int]]) -> list[str]:
        return [self.decode(tokens) for tokens in sequences]

    @property
    def all_special_ids(self) -> list[int]:
        every = range(len(self))
        return [token for token in every if not self._llama.detokenize([token], special=False)]

    @property
    def added_tokens_decoder(self) -> list[int]:
        return self.all_special_ids
