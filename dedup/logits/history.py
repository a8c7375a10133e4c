"""The tokens of one sequence, and what the penalties and bans need to know of them. Integers only, no torch."""

from array import array
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
# Sequence breakers: the first token of each -> what may come after it, () for a breaker of one token.
Breakers = Mapping[int, tuple[tuple[int, ...], ...]]


class TokenCounts:
    """How often each token occurs. `ids` and `counts` run in parallel, in the order of first occurrence.

    Flat arrays, so that numpy can look at them without a copy. Tokens leave in the reverse order of their coming, so the token
    whose count falls to zero is always the last of `ids`.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.ids = array("q")
        self.counts = array("q")
        self._places: dict[int, int] = {}
        self._ordered: Ints = np.empty(0, np.int64)
        self._num_sorted = 0
        for token in tokens:
            self.push(token)

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
            if len(self.ids) < self._num_sorted:
                self._num_sorted = 0

    def ids_in_order(self) -> Ints:
        """The ids, all but the newest sorted: of a large row, memory is read in order twice as fast. Not to be kept."""
        size = len(self.ids)
        if size > len(self._ordered) or size - self._num_sorted > 32 + self._num_sorted // 8:
            self._ordered = np.empty(size + 32 + size // 8, np.int64)
            self._ordered[:size] = np.sort(np.frombuffer(self.ids, np.int64))
            self._num_sorted = size
        self._ordered[self._num_sorted : size] = self.ids[self._num_sorted :]
        return self._ordered[:size]


class Matches(NamedTuple):
    """Where the last token stood before, and how many tokens up to there equal as many at the end. Parallel, in order of position."""

    positions: Ints
    lengths: Ints


class TokenHistory:
    """Append-only but for `rollback`. What it keeps grows and shrinks token by token: a step costs O(1) in the length.

    num_prompt: how many of the tokens are the prompt. ngram_size: 0 keeps no n-grams. What only some methods ask for (counts, matches,
    breakers) is kept from the first time on that it is asked for.
    """

    def __init__(self, prompt: Iterable[int] = (), ngram_size: int = 0) -> None:
        if ngram_size < 0:
            raise ValueError(f"ngram_size must be ≥ 0, got {ngram_size}")
        self.tokens: list[int] = []
        self.num_prompt = 0
        self._counts: TokenCounts | None = None
        self._output_counts: TokenCounts | None = None
        self._ngram_size = ngram_size
        self._followers: dict[
            tuple[int, ...], dict[int, list[int]]
        ] = {}  # prefix of n - 1 tokens -> what followed it -> where
        self._array: Ints = np.empty(
            0, np.int64
        )  # the tokens, and room for more; current up to _num_in_array
        self._num_in_array = 0
        self._suffixes: _Suffixes | None = None
        self._heads: _Heads | None = None
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
        elif self._output_counts is not None:
            self._output_counts.push(token)
        if self._counts is not None:
            self._counts.push(token)
        self.tokens.append(token)
        if self._ngram_size and len(self.tokens) >= self._ngram_size:
            followers = self._followers.setdefault(self._prefix(1), {})
            if token in followers:
                followers[token].append(len(self.tokens) - 1)
            else:
                followers[token] = [len(self.tokens) - 1]

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
        length = len(self.tokens)
        self._num_in_array = min(self._num_in_array, length)
        if self._heads:
            self._heads.rollback(length)
        if self._suffixes and self._suffixes.length > length:
            self._suffixes = None

    @property
    def counts(self) -> TokenCounts:
        """Of all tokens."""
        if self._counts is None:
            self._counts = TokenCounts(self.tokens)
        return self._counts

    @property
    def output_counts(self) -> TokenCounts:
        """Of the output's tokens."""
        if self._output_counts is None:
            self._output_counts = TokenCounts(self.tokens[self.num_prompt :])
        return self._output_counts

    def array(self) -> Ints:
        """The tokens. A view: not to be changed, and not to be kept beyond the next call of any method."""
        length = len(self.tokens)
        if length > len(self._array):
            grown = np.empty(max(64, 2 * length), np.int64)
            grown[: self._num_in_array] = self._array[: self._num_in_array]
            self._array = grown
        if self._num_in_array < length:
            self._array[self._num_in_array : length] = self.tokens[self._num_in_array :]
            self._num_in_array = length
        return self._array[:length]

    def followers(self, window: int = -1) -> Collection[int]:
        """The tokens that would complete an n-gram for the second time, each once; none below n tokens. Only n-grams that begin
        among the last `window` tokens count (-1: all)."""
        if not self._ngram_size or len(self.tokens) < self._ngram_size:
            return ()
        followers = self._followers.get(self._prefix(0), {})
        if window < 0:
            return followers.keys()
        first = len(self.tokens) - window + self._ngram_size - 1
        return [token for token, places in followers.items() if places[-1] >= first]

    def followers_of(self, tokens: list[int]) -> Collection[int]:
        """The tokens that here followed the last n - 1 of another sequence."""
        size = self._ngram_size - 1
        if len(tokens) < size:
            return ()
        return self._followers.get(tuple(tokens[len(tokens) - size :]), {}).keys()

    def matches(self) -> Matches:
        """Where the end of the sequence stood before. A step costs O(occurrences of the last token), in numpy: a match is one of
        the step before, made longer, or begins now. The first call, and one after a rollback, is O(length)."""
        if self._suffixes is None:
            self._suffixes = _Suffixes(self.tokens)
        return self._suffixes.matches(self.tokens)

    def match_lengths(self, start: int) -> Ints:
        """For each position from `start` on, the last one left out, how many tokens up to there equal as many at the end."""
        self.matches()
        assert self._suffixes is not None
        return self._suffixes.lengths[start : len(self.tokens) - 1]

    def num_since_breaker(self, breakers: Breakers, start: int) -> int:
        """How many tokens stand after the last sequence breaker that begins at `start` or later; all from there, if none does."""
        if not breakers:
            return len(self.tokens) - start
        if self._heads is None or self._heads.breakers is not breakers:
            self._heads = _Heads(breakers)
        place, size = self._heads.last(self.tokens)
        return len(self.tokens) - (place + size if place >= start else start)

    def _take_back(self) -> None:
        token = self.tokens[-1]
        if self._ngram_size and len(self.tokens) >= self._ngram_size:
            prefix = self._prefix(1)
            followers = self._followers[prefix]
            followers[token].pop()
            if not followers[token]:
                del followers[token]
            if not followers:
                del self._followers[prefix]
        self.tokens.pop()
        if self._counts is not None:
            self._counts.pop(token)
        if len(self.tokens) < self.num_prompt:
            self.num_prompt -= 1
        elif self._output_counts is not None:
            self._output_counts.pop(token)

    def _prefix(self, before: int) -> tuple[int, ...]:
        """The n - 1 tokens that end `before` tokens before the end."""
        tokens = self.tokens
        end = len(tokens) - before
        return tuple(tokens[end - self._ngram_size + 1 : end])


class _Suffixes:
    """How far back each earlier place of the last token equals the end of a sequence that grows."""

    def __init__(self, tokens: list[int]) -> None:
        self.length = len(tokens)
        self._positions: dict[int, array[int]] = {}
        for position, token in enumerate(tokens):
            self._positions.setdefault(token, array("q")).append(position)
        # By position: 0 but for the places of the last token.
        self.lengths = np.zeros(max(64, 2 * len(tokens)), np.int64)
        self._current = np.empty(0, np.int64)  # those places
        if tokens:
            self._current = self._earlier(tokens[-1])
            self.lengths[: len(tokens)] = _z_function(tokens[::-1])[::-1]
            self.lengths[len(tokens) - 1] = 0

    def matches(self, tokens: list[int]) -> Matches:
        while self.length < len(tokens):
            self._step(tokens[self.length])
        return Matches(self._current, self.lengths[self._current])

    def _step(self, token: int) -> None:
        if self.length == len(self.lengths):
            self.lengths = np.concatenate([self.lengths, np.zeros(self.length, np.int64)])
        self._positions.setdefault(token, array("q")).append(self.length)
        self.length += 1
        current = self._earlier(token)
        lengths = self.lengths
        grown = lengths[current - 1] + 1
        if len(current) and current[0] == 0:
            grown[0] = 1
        lengths[self._current] = 0
        lengths[current] = grown
        self._current = current

    def _earlier(self, token: int) -> Ints:
        return np.array(self._positions[token][:-1], np.int64)


class _Heads:
    """Where sequence breakers begin in a sequence that grows."""

    def __init__(self, breakers: Breakers) -> None:
        self.breakers = breakers
        self._longest = max((len(tail) for tails in breakers.values() for tail in tails), default=0)
        self._read = 0
        self._found: list[
            tuple[int, int, int]
        ] = []  # (tokens read when it was whole, where it begins, its size): ever later ones

    def last(self, tokens: list[int]) -> tuple[int, int]:
        """Where the last breaker begins, and its size; of those that begin there the longest. (-1, 0) if there is none."""
        breakers = self.breakers
        for end in range(self._read + 1, len(tokens) + 1):
            for place in range(end - 1, max(-1, end - self._longest - 2), -1):
                tail = tuple(tokens[place + 1 : end])
                if tail in breakers.get(tokens[place], ()):
                    if not self._found or self._found[-1][1] <= place:
                        self._found.append((end, place, end - place))
                    break
        self._read = len(tokens)
        return self._found[-1][1:] if self._found else (-1, 0)

    def rollback(self, length: int) -> None:
        self._read = min(self._read, length)
        while self._found and self._found[-1][0] > length:
            self._found.pop()


def _z_function(items: list[int]) -> list[int]:
    """For each place, how many items from there on equal as many at the beginning (Gusfield 1997, 1.4); O(n)."""
    size = len(items)
    lengths = [0] * size
    left = right = 0  # the stretch furthest to the right that is known to equal the beginning
    for at in range(1, size):
        length = min(right - at, lengths[at - left]) if at < right else 0
        while at + length < size and items[length] == items[at + length]:
            length += 1
        lengths[at] = length
        if at + length > right:
            left, right = at, at + length
    return lengths
