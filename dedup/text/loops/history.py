"""The detector's memory of a text: its last tokens, where they end, and where each pair of them stood last."""

import bisect
from array import array
from typing import Final

from dedup.text.form import num_fences
from dedup.text.loops.pairs import PairTable
from dedup.text.loops.tokens import token_of

_ID_BITS: Final = 30  # a text has fewer tokens
_AFTER_DIGITS: Final = ":"
_FOLDED: Final = "\0"  # before a token whose numbers are folded


class History:
    """The last tokens. Numbers count tokens from the text's beginning; index 0 of the lists is token number `base`.

    ends: the offset at which each token ends. copies: by number, how often what a token belongs to had been said before; 0 where it
    is missing. end: the length of the text. tail: its last characters, at least `TAIL_CHARS`. found: the number of the token that
    ended the same pair as the last token before, as it is written or with its numbers folded; -1 if the pair is new. is_passage:
    whether the pair before that one stood there too: three tokens stood before.
    """

    TAIL_CHARS = 256

    def __init__(self) -> None:
        self.base = 0
        self.tokens: list[str] = []
        self.ends: array[int] = array("Q")
        self.copies: dict[int, int] = {}
        self.end = 0
        self.found = -1
        self.is_passage = False
        self.tail = ""
        self._ids: dict[str, int] = {}  # token -> its number when it stood first
        self._pairs = PairTable()
        self._folded_at: dict[
            int, int
        ] = {}  # ids of a pair with numbers folded -> number of its second token
        self._last_id = -1  # of the last token; -1 if the next one follows nothing
        self._last_folded = 0  # id of the last token with its numbers folded; 0 if it has none
        self._frames: set[int] = set()  # ids of two tokens with one between them
        self._num_fences = 0  # in what was forgotten

    def append(self, token: str) -> None:
        """Add a token."""
        self.found = -2  # no pair that stood before comes after this
        self.read([token], 0, 1)

    def read(self, tokens: list[str], at: int, stop: int) -> int:
        """Add the tokens from index `at` on, up to the third of a passage that stood before.

        Returns:
            The index after the last token added.

        Goal: as little as can be for a token that is new.
        """
        base, seen, ends, end = self.base, self.tokens, self.ends, self.end
        ids, pairs, last, folded = self._ids, self._pairs, self._last_id, self._last_folded
        found, first, is_passage = self.found, at, False
        number = base + len(seen)
        while at < stop and not is_passage:
            token = tokens[at]
            at += 1
            end += len(token)
            this = ids.setdefault(token, number)
            seen.append(seen[this - base] if base <= this < number else token)  # one string for all
            ends.append(end)
            known = pairs.move(seen, base, ids, last, this) if last >= 0 else -1
            if folded or (token < _AFTER_DIGITS and token[0].isdigit()):
                before = self._add_folded(token, last, this, number)
                folded = self._last_folded
                if known < 0:
                    known = before
            last = this
            is_passage = known >= 0 and known == found + 1
            found = known
            number += 1
        self.is_passage = is_passage
        self.tail += "".join(tokens[first:at]) if at > first + 1 else tokens[first]
        if len(self.tail) > 4 * self.TAIL_CHARS:
            self.tail = self.tail[-self.TAIL_CHARS :]
        self.end, self._last_id, self.found = end, last, found
        return at

    def _add_folded(self, token: str, last: int, this: int, number: int) -> int:
        """Add the pair that ends with a token, numbers folded; return the number of the token that ended it before, or -1."""
        last = self._last_folded or last
        self._last_folded = 0
        if token[0].isdigit():
            this = self._last_folded = self._ids.setdefault(
                _FOLDED + token_of(token).folded, number
            )
        if last < 0:
            return -1
        pair = last << _ID_BITS | this
        known = self._folded_at.get(pair, -1)
        self._folded_at[pair] = number
        return known if known > self.base else -1

    @property
    def num_known(self) -> int:
        """The number of different tokens."""
        return len(self._ids)

    def is_new(self, index: int) -> bool:
        """Return whether the token at `index` stands nowhere before."""
        return self._ids.get(self.tokens[index], -1) == self.base + index

    def fills_frame(self) -> bool:
        """Return whether the last token was asked about before with the same one two places before it; remember that it was."""
        if len(self.tokens) < 3:
            return False
        frame = self._ids.get(self.tokens[-3], 0) << _ID_BITS | self._last_id
        is_known = frame in self._frames
        self._frames.add(frame)
        return is_known

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
        first = (
            last + 1 - num_tokens
            if num_tokens
            else bisect.bisect_left(self.ends, offset - num_chars)
        )
        text = self.text(first, last + 1)
        return text[: len(text) - excess] if excess > 0 else text

    def in_fence(self, index: int) -> bool:
        """Return whether the token at `index` stands in fenced code."""
        return (self._num_fences + num_fences(self.text(0, index))) % 2 == 1

    def start_over(self, rest: str) -> None:
        """Add `rest`, which was not read, and let the next token follow nothing."""
        if rest:
            self.append(rest)
        self._last_id, self._last_folded = -1, 0
        self.found, self.tail = -1, ""

    def forget(self, num_tokens: int) -> None:
        """Drop the oldest tokens. Costs O(what is remembered)."""
        self._num_fences += num_fences(self.text(0, num_tokens))
        self.base += num_tokens
        del self.tokens[:num_tokens], self.ends[:num_tokens]
        self.copies = {
            number: copies for number, copies in self.copies.items() if number >= self.base
        }
        kept = set(self.tokens)
        self._ids = {
            token: first
            for token, first in self._ids.items()
            if token in kept or token[0] == _FOLDED
        }
        self._folded_at = {
            pair: number for pair, number in self._folded_at.items() if number > self.base
        }
        self._pairs.forget(self.tokens, self.base, self._ids)
        self._frames.clear()
