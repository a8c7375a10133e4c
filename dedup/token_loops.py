"""Loop detection in an output that arrives as tokens."""

from collections.abc import Sequence
from typing import Any

from dedup.config import LoopConfig
from dedup.logits.detokenizer import Detokenizer
from dedup.text.loops.detector import LoopDetector, LoopEvent


class TokenLoopDetector:
    """Loop detector of one output in tokens: it reads the text that they decode to.

    Attributes:
        tokens: Tokens that were fed.
    """

    def __init__(self, tokenizer: Any, config: LoopConfig | None = None) -> None:
        """Begin an output.

        Args:
            tokenizer: A tokenizer of transformers, or what decodes like one.
            config: Reach of the detector.
        """
        self.tokens: list[int] = []
        self._tokenizer = tokenizer
        self._config = config
        self._begin()

    @property
    def event(self) -> LoopEvent | None:
        """The loop, in characters of the output; None if there is none."""
        return self._detector.event

    def feed(self, token: int) -> LoopEvent | None:
        """Append a token; return the loop, if there is one."""
        self.tokens.append(token)
        if text := self._detokenizer.feed(token):
            self._detector.feed(text)
        return self.event

    def follow(self, tokens: Sequence[int]) -> LoopEvent | None:
        """Read an output that is given whole at every step; return the loop, if there is one.

        An output that does not continue the last one, such as a beam that changed its row, is read
        from its beginning.
        """
        known = len(self.tokens)
        if self.tokens != list(tokens[:known]):
            self._begin()
            known = 0
        for token in tokens[known:]:
            self.feed(token)
        return self.event

    def _begin(self) -> None:
        self.tokens = []
        self._detokenizer = Detokenizer(self._tokenizer)
        self._detector = LoopDetector(self._config)
