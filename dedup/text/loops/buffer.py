"""The buffer of tokens between the deltas of a stream and the loop scanner."""

from collections.abc import Sequence

from dedup.text.loops.tokens import tokenize


class TokenBuffer:
    """The tokens that were fed but not read. The last token of a text is held back: it may go on.

    num_fed: characters (or token ids) fed so far.
    """

    def __init__(self) -> None:
        self.num_fed = 0
        self.tokens: list[str] = []
        self.index = 0  # of the next token to read
        self._unfinished = ""
        self._is_flushed = False

    @property
    def is_empty(self) -> bool:
        return self.index == len(self.tokens)

    @property
    def is_at_end(self) -> bool:
        """True once the last token of a text was read. That token may be truncated."""
        return self._is_flushed and self.index == len(self.tokens)

    def feed(self, text: str) -> None:
        """Append a delta of text."""
        self.num_fed += len(text)
        tokens = tokenize(self._unfinished + text)
        self._unfinished = tokens.pop() if tokens else ""
        self._append(tokens)

    def feed_ids(self, ids: Sequence[int]) -> None:
        """Append token ids, each as one character."""
        self.num_fed += len(ids)
        self._append(list(map(chr, ids)))

    def flush(self) -> None:
        """Release the last token: no more text will come."""
        self._is_flushed = True
        if self._unfinished:
            self._append([self._unfinished])
            self._unfinished = ""

    def next_token(self) -> str:
        """Return the next token and advance past it."""
        self.index += 1
        return self.tokens[self.index - 1]

    def clear(self) -> str:
        """Drop everything that was not read, and return it."""
        rest = "".join(self.tokens[self.index :]) + self._unfinished
        self.tokens, self.index, self._unfinished = [], 0, ""
        return rest

    def _append(self, tokens: list[str]) -> None:
        """Append tokens, and drop those that were read."""
        if self.index < len(self.tokens):
            tokens = [*self.tokens[self.index :], *tokens]
        self.tokens = tokens
        self.index = 0
