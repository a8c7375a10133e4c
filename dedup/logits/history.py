"""The tokens of one sequence, and what the penalties and bans need to know of them. Integers only, no torch."""

from array import array
from collections import Counter
from collections.abc import Iterable


class TokenCounts:
    """How often each token occurs. `ids` and `counts` run in parallel, in the order of first occurrence.

    Flat arrays, so that a tensor can be laid over them without a copy. Tokens leave in the reverse order of their coming, so
    the token whose count falls to zero is always the last of `ids`.
    """

    def __init__(self) -> None:
        self.ids = array("q")
        self.counts = array("q")
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, token: int) -> int:
        place = self._places.get(token)
        return 0 if place is None else self.counts[place]

    def push(self, token: int) -> None:
        place = self._places.setdefault(token, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token)
            self.counts.append(0)
        self.counts[place] += 1

    def pop(self, token: int) -> None:
        place = self._places[token]
        self.counts[place] -= 1
        if not self.counts[place]:
            self.ids.pop()
            self.counts.pop()
            del self._places[token]


class TokenHistory:
    """Append-only but for `rollback`. All it keeps grows and shrinks token by token: a step costs O(1) in the length.

    tokens: prompt and output. num_prompt: how many of them are the prompt. counts: of all tokens. output_counts: of the output's.
    ngram_size: 0 keeps no n-grams.
    """

    def __init__(self, prompt: Iterable[int] = (), ngram_size: int = 0) -> None:
        if ngram_size < 0:
            raise ValueError(f"ngram_size must be ≥ 0, got {ngram_size}")
        self.tokens: list[int] = []
        self.counts = TokenCounts()
        self.output_counts = TokenCounts()
        self.num_prompt = 0
        self._ngram_size = ngram_size
        self._followers: dict[tuple[int, ...], Counter[int]] = {}  # prefix of n - 1 tokens -> what followed it, how often
        self._positions: dict[int, list[int]] | None = None  # token -> where it stands; None until matches are asked for
        self._matches: dict[int, int] = {}
        self._matched_length = 0  # number of tokens for which _matches holds
        for token in prompt:
            self.append(token, is_prompt=True)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, token: int, *, is_prompt: bool = False) -> None:
        """Adds a token. Raises ValueError for a prompt token after the output has begun."""
        if is_prompt:
            if len(self.tokens) > self.num_prompt:
                raise ValueError("the prompt comes before the output")
            self.num_prompt += 1
        else:
            self.output_counts.push(token)
        self.counts.push(token)
        self.tokens.append(token)
        if self._ngram_size and len(self.tokens) >= self._ngram_size:
            self._followers.setdefault(self._prefix(1), Counter())[token] += 1
        if self._positions is not None:
            self._positions.setdefault(token, []).append(len(self.tokens) - 1)

    def extend(self, tokens: Iterable[int]) -> None:
        """Adds tokens of the output."""
        for token in tokens:
            self.append(token)

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last `num_tokens` tokens, as if they had never been. Raises ValueError if there are fewer."""
        if not 0 <= num_tokens <= len(self.tokens):
            raise ValueError(f"cannot roll back {num_tokens} of {len(self.tokens)} tokens")
        for _ in range(num_tokens):
            self._take_back()
        if self._matched_length > len(self.tokens):
            self._matches, self._matched_length = {}, 0

    def followers(self) -> Iterable[int]:
        """The tokens that would complete an n-gram for the second time, each once; none below n tokens."""
        if not self._ngram_size or len(self.tokens) < self._ngram_size:
            return ()
        return self._followers.get(self._prefix(0), Counter[int]()).keys()

    def matches(self) -> dict[int, int]:
        """Where the last token stood before -> how many tokens up to there equal as many at the end. Not to be changed.

        A step costs O(occurrences of the last token): a match is one of the step before, made longer, or begins now. The first
        call, and one after a rollback, is O(length). Until the first call nothing is kept.
        """
        length = len(self.tokens)
        if self._positions is None:
            self._positions = {}
            for position, token in enumerate(self.tokens):
                self._positions.setdefault(token, []).append(position)
        if length and self._matched_length == length - 1:
            before = self._matches
            earlier = self._positions[self.tokens[-1]][:-1]
            self._matches = {position: before.get(position - 1, 0) + 1 for position in earlier}
        elif self._matched_length != length:
            self._matches = _suffix_matches(self.tokens)
        self._matched_length = length
        return self._matches

    def _take_back(self) -> None:
        token = self.tokens[-1]
        if self._positions is not None:
            self._positions[token].pop()
        if self._ngram_size and len(self.tokens) >= self._ngram_size:
            prefix = self._prefix(1)
            followers = self._followers[prefix]
            followers[token] -= 1
            if not followers[token]:
                del followers[token]
            if not followers:
                del self._followers[prefix]
        self.tokens.pop()
        self.counts.pop(token)
        if len(self.tokens) < self.num_prompt:
            self.num_prompt -= 1
        else:
            self.output_counts.pop(token)

    def _prefix(self, before: int) -> tuple[int, ...]:
        """The n - 1 tokens that end `before` tokens before the end."""
        end = len(self.tokens) - before
        return tuple(self.tokens[end - self._ngram_size + 1 : end])


def _suffix_matches(tokens: list[int]) -> dict[int, int]:
    """`TokenHistory.matches` from nothing, O(n): the Z-function of the reversed tokens (Gusfield 1997, 1.4)."""
    window = tokens[::-1]
    size = len(window)
    lengths = [0] * size
    left = right = 0  # the stretch furthest to the right that is known to equal the beginning
    matches: dict[int, int] = {}
    for at in range(1, size):
        length = min(right - at, lengths[at - left]) if at < right else 0
        while at + length < size and window[length] == window[at + length]:
            length += 1
        lengths[at] = length
        if at + length > right:
            left, right = at, at + length
        if length:
            matches[size - 1 - at] = length
    return matches
