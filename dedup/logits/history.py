"""The tokens of one sequence, and what the penalties and bans need to know of them. Integers only, no torch."""

from collections import Counter
from collections.abc import Iterable


class TokenHistory:
    """Append-only but for `rollback`. All it keeps grows and shrinks token by token: a step costs O(1) in the length.

    tokens: prompt and output. num_prompt: how many of them are the prompt. counts: of all tokens. output_counts: of the output's.
    """

    def __init__(self, prompt: Iterable[int] = (), ngram_size: int = 0) -> None:
        self.tokens: list[int] = []
        self.counts: Counter[int] = Counter()
        self.output_counts: Counter[int] = Counter()
        self.num_prompt = 0
        self._ngram_size = ngram_size
        # prefix of n-1 tokens -> the tokens that followed it, in order, so that the last can be taken back
        self._followers: dict[tuple[int, ...], list[int]] = {}
        for token in prompt:
            self.append(token, is_prompt=True)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, token: int, *, is_prompt: bool = False) -> None:
        """Adds a token. The prompt comes first."""
        self.tokens.append(token)
        self.counts[token] += 1
        if is_prompt:
            self.num_prompt += 1
        else:
            self.output_counts[token] += 1
        n = self._ngram_size
        if n and len(self.tokens) >= n:
            self._followers.setdefault(self._prefix(1), []).append(token)

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last `num_tokens` tokens, as if they had never been. Raises ValueError if there are fewer."""
        if not 0 <= num_tokens <= len(self.tokens):
            raise ValueError(f"cannot roll back {num_tokens} of {len(self.tokens)} tokens")
        for _ in range(num_tokens):
            n = self._ngram_size
            if n and len(self.tokens) >= n:
                followers = self._followers[self._prefix(1)]
                followers.pop()
                if not followers:
                    del self._followers[self._prefix(1)]
            token = self.tokens.pop()
            _decrement(self.counts, token)
            if len(self.tokens) < self.num_prompt:
                self.num_prompt -= 1
            else:
                _decrement(self.output_counts, token)

    def followers(self) -> list[int]:
        """The tokens that would complete an n-gram for the second time; empty below n - 1 tokens."""
        n = self._ngram_size
        if not n or len(self.tokens) < n - 1:
            return []
        return self._followers.get(self._prefix(0), [])

    def _prefix(self, before: int) -> tuple[int, ...]:
        """The n - 1 tokens that end `before` tokens before the end."""
        end = len(self.tokens) - before
        return tuple(self.tokens[end - self._ngram_size + 1 : end])


def _decrement(counts: Counter[int], token: int) -> None:
    counts[token] -= 1
    if not counts[token]:
        del counts[token]
