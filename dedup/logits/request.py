"""Sampling methods of one request, for engines that keep a request's prompt and output."""

from collections.abc import Sequence

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.methods import methods_on
from dedup.logits.rows import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets


class Request:
    """Methods of one request, with the history of its tokens.

    A step costs O(1) in the length of the output.
    """

    def __init__(
        self,
        config: DecodingConfig,
        prompt: Sequence[int] = (),
        sets: TokenSets = NO_TOKENS,
    ) -> None:
        """Begin with the prompt.

        Args:
            config: Configuration of the methods.
            prompt: Token ids.
            sets: Token sets of the configuration: `token_sets(config, tokenizer)`.
        """
        self._config = config
        self._methods = methods_on(config)
        self._sets = sets
        self._history = TokenHistory(prompt, config.no_repeat_ngram_size)

    def apply(self, output: Sequence[int], logits: Row) -> None:
        """Apply the methods to logits of shape (vocabulary,), in place.

        Args:
            output: All tokens of the output so far. If the engine took some back, so does this.
            logits: Logits of the next token.
        """
        self._follow(output)
        for method in self._methods:
            method.apply(self._history, logits, self._config, self._sets)

    def _follow(self, output: Sequence[int]) -> None:
        history = self._history
        known = len(history) - history.num_prompt
        if len(output) == known + 1 and (not known or output[-2] == history.tokens[-1]):
            history.append(output[-1])  # one token more: O(1)
            return
        before = history.tokens[history.num_prompt :]
        pairs = zip(before, output, strict=False)
        shared = next(
            (place for place, (old, new) in enumerate(pairs) if old != new), min(known, len(output))
        )
        history.rollback(known - shared)
        history.extend(output[shared:])
