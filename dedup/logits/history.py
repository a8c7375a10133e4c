"""Token history of one sequence: its tokens, counts, n-grams, matches and sequence breakers.

Integers only, no torch.
"""

from array import array
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
# Sequence breakers: first token -> the tokens that may follow it, () for a breaker of one token.
Breakers = Mapping[int, tuple[tuple[int, ...], ...]]


class TokenCounts:
    """Counts of tokens, as parallel arrays `ids` and `counts` in the order of first occurrence.

    numpy views the arrays without a copy. Tokens are popped in reverse order of their pushing, so a
    token whose count falls to zero is always the last of `ids`.
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
        """Return the ids, all but the newest sorted. The next call overwrites them.

        Reading a large row in order of memory is twice as fast.
        """
        size = len(self.ids)
        if size > len(self._ordered) or size - self._num_sorted > 32 + self._num_sorted // 8:
            self._ordered = np.empty(size + 32 + size // 8, np.int64)
            self._ordered[:size] = np.sort(np.frombuffer(self.ids, np.int64))
            self._num_sorted = size
        self._ordered[self._num_sorted : size] = self.ids[self._num_sorted :]
        return self._ordered[:size]


class Matches(NamedTuple):
    """Earlier positions of the last token, in order, and the lengths of the matches that end there.

    A match is a run of tokens that equals as many tokens at the end of the sequence.
    """

    positions: Ints
    lengths: Ints


class TokenHistory:
    """Tokens of one sequence, with their counts, n-grams, matches and sequence breakers.

    Append-only but for `rollback`. A step costs O(1) in the length. Counts, matches and breakers
    are kept up to date from their first use on.

    Attributes:
        tokens: Token ids of prompt and output.
        num_prompt: Number of tokens that are the prompt.
        encoder: History of the encoder's input, for an encoder-decoder model.
    """

    def __init__(self, prompt: Iterable[int] = (), ngram_size: int = 0) -> None:
        """Begin with the prompt.

        Args:
            prompt: Token ids.
            ngram_size: Size of the n-grams to keep; 0 keeps none.

        Raises:
            ValueError: `ngram_size` is negative.
        """
        if ngram_size < 0:
            raise ValueError(f"ngram_size must be ≥ 0, got {ngram_size}")
        self.tokens: list[int] = []
        self.num_prompt = 0
        self.encoder: TokenHistory | None = None
        self._counts: TokenCounts | None = None
        self._output_counts: TokenCounts | None = None
        self._ngram_size = ngram_size
        # Prefix of n - 1 tokens -> the tokens that followed it -> their positions.
        self._followers: dict[tuple[int, ...], dict[int, list[int]]] = {}
        # The tokens up to _num_in_array, and room for more.
        self._array: Ints = np.empty(0, np.int64)
        self._num_in_array = 0
        self._match_lengths: _MatchLengths | None = None
        self._breaker_positions: _BreakerPositions | None = None
        for token in prompt:
            self.append(token, is_prompt=True)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, token: int, *, is_prompt: bool = False) -> None:
        """Append a token.

        Raises:
            ValueError: A token of the prompt follows one of the output.
        """
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
        """Append tokens of the output."""
        for token in tokens:
            self.append(token)

    def rollback(self, num_tokens: int) -> None:
        """Remove the last `num_tokens` tokens, of the prompt too.

        Raises:
            ValueError: There are fewer tokens.
        """
        if not 0 <= num_tokens <= len(self.tokens):
            raise ValueError(f"cannot roll back {num_tokens} of {len(self.tokens)} tokens")
        for _ in range(num_tokens):
            self._pop()
        length = len(self.tokens)
        self._num_in_array = min(self._num_in_array, length)
        if self._breaker_positions:
            self._breaker_positions.rollback(length)
        if self._match_lengths and self._match_lengths.length > length:
            self._match_lengths = None

    @property
    def counts(self) -> TokenCounts:
        """Counts of all tokens."""
        if self._counts is None:
            self._counts = TokenCounts(self.tokens)
        return self._counts

    @property
    def output_counts(self) -> TokenCounts:
        """Counts of the output's tokens."""
        if self._output_counts is None:
            self._output_counts = TokenCounts(self.tokens[self.num_prompt :])
        return self._output_counts

    def array(self) -> Ints:
        """Return the tokens as a read-only view that is valid until the next call of a method."""
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
        """Return the tokens that would complete an n-gram a second time, each once.

        Args:
            window: Number of tokens, from the end, among which the n-gram must begin; -1 is all.
        """
        if not self._ngram_size or len(self.tokens) < self._ngram_size:
            return ()
        followers = self._followers.get(self._prefix(0), {})
        if window < 0:
            return followers.keys()
        first = len(self.tokens) - window + self._ngram_size - 1
        return [token for token, places in followers.items() if places[-1] >= first]

    def followers_of(self, tokens: list[int]) -> Collection[int]:
        """Return the tokens that followed here the last n - 1 tokens of another sequence."""
        size = self._ngram_size - 1
        if len(tokens) < size:
            return ()
        return self._followers.get(tuple(tokens[len(tokens) - size :]), {}).keys()

    def matches(self) -> Matches:
        """Return the earlier matches of the end of the sequence.

        A step costs O(occurrences of the last token), in numpy: a match extends one of the last
        step or begins now. The first call, and one after a rollback, costs O(length).
        """
        if self._match_lengths is None:
            self._match_lengths = _MatchLengths(self.tokens)
        return self._match_lengths.matches(self.tokens)

    def match_lengths(self, start: int) -> Ints:
        """Return the lengths of the matches that end at `start` to the last position but one."""
        self.matches()
        assert self._match_lengths is not None
        return self._match_lengths.lengths[start : len(self.tokens) - 1]

    def num_since_breaker(self, breakers: Breakers, start: int) -> int:
        """Return the number of tokens after the last breaker that begins at `start` or later.

        Counts from `start` if there is none.
        """
        if not breakers:
            return len(self.tokens) - start
        if self._breaker_positions is None or self._breaker_positions.breakers is not breakers:
            self._breaker_positions = _BreakerPositions(breakers)
        place, size = self._breaker_positions.last(self.tokens)
        return len(self.tokens) - (place + size if place >= start else start)

    def _pop(self) -> None:
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
        """Return the n - 1 tokens before the last `before` tokens."""
        tokens = self.tokens
        end = len(tokens) - before
        return tuple(tokens[end - self._ngram_size + 1 : end])


class _MatchLengths:
    """Lengths of a growing sequence's matches, at each earlier position of its last token."""

    def __init__(self, tokens: list[int]) -> None:
        self.length = len(tokens)
        self._positions: dict[int, array[int]] = {}
        for position, token in enumerate(tokens):
            self._positions.setdefault(token, array("q")).append(position)
        # By position; 0 where the token is not the last one.
        self.lengths = np.zeros(max(64, 2 * len(tokens)), np.int64)
        self._current = np.empty(0, np.int64)  # earlier positions of the last token
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


class _BreakerPositions:
    """Positions of sequence breakers in a growing sequence."""

    def __init__(self, breakers: Breakers) -> None:
        self.breakers = breakers
        self._longest = max((len(tail) for tails in breakers.values() for tail in tails), default=0)
        self._read = 0
        # (end, begin, size) of breakers, each beginning later than the one before.
        self._found: list[tuple[int, int, int]] = []

    def last(self, tokens: list[int]) -> tuple[int, int]:
        """Return begin and size of the last breaker, the longest there; (-1, 0) if none."""
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
    """Return for each position how many items from there on equal as many at the beginning.

    The Z algorithm (Gusfield 1997, section 1.4), in O(n).
    """
    size = len(items)
    lengths = [0] * size
    left = right = 0  # bounds of the match that reaches furthest to the right
    for at in range(1, size):
        length = min(right - at, lengths[at - left]) if at < right else 0
        while at + length < size and items[length] == items[at + length]:
            length += 1
        lengths[at] = length
        if at + length > right:
            left, right = at, at + length
    return lengths
