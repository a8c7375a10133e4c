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

    ends: the offset at which each token ends. copies: how often what a token belongs to had been copied when it was read.
    """

    def __init__(self) -> None:
        self.base = 0
        self.tokens: list[str] = []
        self.ends: list[int] = []
        self.copies: list[int] = []
        self.end = 0
        self._num_fences = 0  # in what was forgotten

    def append(self, token: str) -> None:
        self.end += len(token)
        self.tokens.append(token)
        self.ends.append(self.end)
        self.copies.append(0)

    @property
    def next_number(self) -> int:
        return self.base + len(self.tokens)

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

    def forget(self, num_tokens: int) -> None:
        """Drop the oldest tokens. Costs O(what is remembered)."""
        self._num_fences += num_fences(self.text(0, num_tokens))
        self.base += num_tokens
        del self.tokens[:num_tokens], self.ends[:num_tokens], self.copies[:num_tokens]


class PairIndex:
    """Where each pair of tokens stood last, as it is written and with its numbers folded. O(1) a token."""

    def __init__(self) -> None:
        self._last_at: dict[int, int] = {}  # hash of a pair -> number of its second token
        self._last = ""
        self._last_hash = 0
        self._last_folded = 0  # hash of the last token with its numbers folded; 0 if it has none

    def add(self, token: str, history: History) -> int:
        """Add the pair that `token`, the last of the history, ends; return the number of the token that ended it before, or -1."""
        number = history.base + len(history.tokens) - 1
        code = hash(token) & _HASH_MASK
        pair = (self._last_hash << _HASH_BITS) | code
        last, self._last, self._last_hash = self._last, token, code
        folded_last, self._last_folded = self._last_folded, 0
        known = self._last_at.setdefault(pair, number)
        if known != number:
            self._last_at[pair] = number
            index = known - history.base
            if index < 1 or history.tokens[index] != token or history.tokens[index - 1] != last:
                known = -1  # forgotten, or another pair of the same hash
        else:
            known = -1
        if folded_last or ("0" <= token[0] <= "9"):
            before = self._add_folded(token, last, code, pair >> _HASH_BITS, folded_last, number, history)
            if known < 0:
                known = before
        return known

    def _add_folded(
        self, token: str, last: str, code: int, last_code: int, folded_last: int, number: int, history: History
    ) -> int:
        if "0" <= token[0] <= "9":
            code = self._last_folded = (hash(token_of(token).folded) & _HASH_MASK) | 1
        pair = _FOLDED | ((folded_last or last_code) << _HASH_BITS) | code
        known = self._last_at.get(pair, -1)
        self._last_at[pair] = number
        index = known - history.base
        if index < 1:
            return -1
        same = token_of(history.tokens[index]).folded == token_of(token).folded
        return known if same and token_of(history.tokens[index - 1]).folded == token_of(last).folded else -1

    def start_over(self) -> None:
        """Let the next token follow nothing."""
        self._last, self._last_hash, self._last_folded = "", 0, 0

    def forget(self, base: int) -> None:
        """Drop the pairs before token number `base`."""
        self._last_at = {pair: number for pair, number in self._last_at.items() if number > base}
