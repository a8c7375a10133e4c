"""What the detector remembers of a text: its last tokens, where they end, and where each pair of them stood last."""

import bisect
from typing import Final

from dedup.text.form import num_fences
from dedup.text.loops.tokens import token_of

_HASH_BITS: Final = 30
_HASH_MASK: Final = (1 << _HASH_BITS) - 1
_FOLDED: Final = 1 << (2 * _HASH_BITS)  # marks a pair whose numbers are folded


class History:
    """The last tokens. Numbers count tokens from the text's beginning; index 0 of the lists is token number `base`.

    ends: the offset at which each token ends. copies: by number, how often what a token belongs to had been said before; 0 where it is
    missing. end: the length of the text. found: the number of the token that ended the same pair as the last token before, as it is written or
    with its numbers folded; -1 if the pair is new. is_passage: whether the last three tokens stood before, one after another.
    """

    def __init__(self) -> None:
        self.base = 0
        self.tokens: list[str] = []
        self.ends: list[int] = []
        self.copies: dict[int, int] = {}
        self.end = 0
        self.found = -1
        self.is_passage = False
        self._last_at: dict[int, int] = {}  # hash of a pair -> number of its second token
        self._last_hash = 0
        self._last_folded = 0  # hash of the last token with its numbers folded; 0 if it has none
        self._num_fences = 0  # in what was forgotten

    def append(self, token: str) -> None:
        """Add a token."""
        self.found = -2  # no pair that stood before comes after this
        self.read([token], 0, 1)

    def read(self, tokens: list[str], at: int, stop: int) -> int:
        """Add the tokens from index `at` on, up to the third of a passage that stood before; return the index after the last one added.

        Goal: as little as can be for a token that is new.
        """
        base, seen, ends, last_at, end = self.base, self.tokens, self.ends, self._last_at, self.end
        last = seen[-1] if seen else ""
        last_hash, found = self._last_hash, self.found
        number = base + len(seen)
        self.is_passage = False
        while at < stop:
            token = tokens[at]
            at += 1
            end += len(token)
            code = hash(token) & _HASH_MASK
            pair = (last_hash << _HASH_BITS) | code
            known = last_at.setdefault(pair, number)
            seen.append(token)
            ends.append(end)
            if known != number:
                last_at[pair] = number
                index = known - base
                if index < 1 or seen[index] != token or seen[index - 1] != last:
                    known = -1  # forgotten, or another pair of the same hash
            else:
                known = -1
            if self._last_folded or (token < ":" and token[0].isdigit()):
                folded = self._add_folded(token, last, last_hash, code)
                if known < 0:
                    known = folded
            last_hash, last = code, token
            if known >= 0 and known == found + 1:
                found = known
                self.is_passage = True
                break
            found = known
            number += 1
        self.end, self._last_hash, self.found = end, last_hash, found
        return at

    def _add_folded(self, token: str, last: str, last_hash: int, code: int) -> int:
        """Add the pair that ends with the last token, numbers folded; return the number of the token that ended it before, or -1."""
        folded_last, self._last_folded = self._last_folded, 0
        if token[0].isdigit():
            code = self._last_folded = (hash(token_of(token).folded) & _HASH_MASK) | 1
        pair = _FOLDED | ((folded_last or last_hash) << _HASH_BITS) | code
        known = self._last_at.get(pair, -1)
        self._last_at[pair] = self.base + len(self.tokens) - 1
        index = known - self.base
        if index < 1 or token_of(self.tokens[index]).folded != token_of(token).folded:
            return -1
        return known if token_of(self.tokens[index - 1]).folded == token_of(last).folded else -1

    @property
    def next_number(self) -> int:
        return self.base + len(self.tokens)

    def copies_at(self, index: int) -> int:
        """Return how often what the token at `index` belongs to had been said before."""
        return self.copies.get(self.base + index, 0)

    def start_of(self, index: int) -> int:
        """Return the offset at which the token at `index` begins."""
        return self.ends[index] - len(self.tokens[index])

    def text(self, start: int, end: int) -> str:
        """Return the text of the tokens from index `start` up to `end`."""
        return "".join(self.tokens[max(0, start) : end])

    def text_until(self, offset: int, num_tokens: int, num_chars: int = 0) -> str:
        """Return the text before `offset`: as many of the last tokens, or characters, as are remembered."""
        last = bisect.bisect_left(self.ends, offset)
        if last == len(self.ends):
            last -= 1
        excess = self.ends[last] - offset if self.ends else 0
        first = last + 1 - num_tokens if num_tokens else bisect.bisect_left(self.ends, offset - num_chars)
        text = self.text(first, last + 1)
        return text[: len(text) - excess] if excess > 0 else text

    def in_fence(self, index: int) -> bool:
        """Return whether the token at `index` stands in fenced code."""
        return (self._num_fences + num_fences(self.text(0, index))) % 2 == 1

    def start_over(self, rest: str) -> None:
        """Add `rest`, which was not read, and let the next token follow nothing."""
        if rest:
            self.append(rest)
        self._last_hash, self._last_folded, self.found = 0, 0, -1

    def forget(self, num_tokens: int) -> None:
        """Drop the oldest tokens. Costs O(what is remembered)."""
        self._num_fences += num_fences(self.text(0, num_tokens))
        self.base += num_tokens
        del self.tokens[:num_tokens], self.ends[:num_tokens]
        self.copies = {number: copies for number, copies in self.copies.items() if number >= self.base}
        self._last_at = {pair: number for pair, number in self._last_at.items() if number > self.base}
