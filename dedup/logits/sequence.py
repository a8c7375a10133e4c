"""Sampling methods of one sequence, for libraries that hand over all its tokens at every step."""

from typing import Any

from dedup.config import DecodingConfig
from dedup.logits.generation import Generation
from dedup.logits.history import Ints
from dedup.logits.methods import methods_on
from dedup.logits.rows import Row
from dedup.logits.tokens import token_sets


class SequenceProcessor:
    """All methods of a configuration over one sequence at a time.

    One instance may serve one generation after another: tokens that neither continue those of the
    last step nor step back in them begin a new generation, and are its prompt.
    """

    def __init__(
        self, config: DecodingConfig, tokenizer: Any = None, prompt_length: int | None = None
    ) -> None:
        """Prepare the methods.

        Args:
            config: Configuration of the methods.
            tokenizer: Needed by `exempt` and DRY's sequence breakers.
            prompt_length: Number of tokens of the prompt; None takes the length of the first step.

        Raises:
            ValueError: The tokenizer is needed and missing, or a method needs an encoder.
        """
        self._config = config
        self._methods = methods_on(config)
        if any(method.reads_encoder for method in self._methods):
            raise ValueError(
                "encoder_no_repeat_ngram_size must be 0: the model has no encoder's input"
            )
        self._sets = token_sets(config, tokenizer)
        self._generation = Generation(prompt_length, None, [])

    def apply(self, tokens: Ints, logits: Row) -> None:
        """Apply the methods in place.

        Args:
            tokens: Token ids of prompt and output, shape (length,).
            logits: Logits of the next token, shape (vocabulary,).
        """
        (history,) = self._generation.histories(tokens[None])
        for method in self._methods:
            if method.scan is None:
                method.apply(history, logits, self._config, self._sets)
            else:
                method.scan(tokens, logits, self._config, self._sets)
