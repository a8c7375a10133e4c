"""The scanner's memory of a text: its last tokens, and where each pair of them occurred last."""

import bisect
from array import array
from typing import Final

from dedup.text.form import num_fences
from dedup.text.loops.pairs import ID_BITS, FoldedPairs, PairTable, is_folded

_AFTER_DIGITS: Final = ":"


class History:
    """The last tokens of a text.

    Token numbers count from the text's beginning; index 0 of the lists is token number `base`.

    tokens, ends: the tokens, and the offset at which each ends.
    copies: by token number, how often its passage occurred before; 0 where it is missing.
    end: length of the text.
    tail: its last characters, at least `TAIL_CHARS`.
    found: number of the second token at the previous occurrence of the last pair, as written or
        with numbers folded; -1 if the pair is new.
    is_passage: True if the pair before it occurred there too, so three tokens did.
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
        self._ids: dict[str, int] = {}  # a token's id is its number at its first occurrence
        self._pairs = PairTable()
        self._folded = FoldedPairs()
        self._last_id = -1  # of the last token; -1 if the next one follows nothing
        self._frames: set[int] = set()  # ids of two tokens with one between them
        self._num_fences = 0  # in the tokens that were dropped

    def append(self, token: str) -> None:
        """Append a token."""
        self.found = -2  # no pair follows this number
        self.read([token], 0, 1)

    def read(self, tokens: list[str], at: int, stop: int) -> int:
        """Append the tokens from index `at` on, up to the third of a passage that occurred before.

        This is the hot loop of text that does not repeat: it does as little as possible.

        Returns:
            The index after the last token appended.
        """
        base, seen, ends, end = self.base, self.tokens, self.ends, self.end
        ids, pairs, folded, last = self._ids, self._pairs, self._folded, self._last_id
        last_folded = folded.last_id
        found, first, is_passage = self.found, at, False
        number = base + len(seen)
        while at < stop and not is_passage:
            token = tokens[at]
            at += 1
            end += len(token)
            this = ids.setdefault(token, number)
            seen.append(seen[this - base] if base <= this < number else token)  # one string for all
            ends.append(end)
            known = pairs.move(seen, base, last, this) if last >= 0 else -1
            if last_folded >= 0 or (token < _AFTER_DIGITS and token[0].isdigit()):
                before = folded.move(token, number, ids, last, this, base)
                last_folded = folded.last_id
                if known < 0:
                    known = before
            last = this
            is_passage = known >= 0 and known == found + 1
            found = known
            number += 1
        self.is_passage = is_passage
        if at > first + 1:
            self.tail += "".join(tokens[first:at])
        else:
            self.tail += tokens[first]
        if len(self.tail) > 4 * self.TAIL_CHARS:
            self.tail = self.tail[-self.TAIL_CHARS :]
        self.end, self._last_id, self.found = end, last, found
        return at

    @property
    def num_known(self) -> int:
        """The number of different tokens."""
        return len(self._ids)

    def is_new(self, index: int) -> bool:
        """Return whether the token at `index` occurs there first."""
        return self._ids.get(self.tokens[index], -1) == self.base + index

    def fills_frame(self) -> bool:
        """Return whether an earlier call saw the same last token two tokens after the same one."""
        if len(self.tokens) < 3:
            return False
        frame = self._ids.get(self.tokens[-3], 0) << ID_BITS | self._last_id
        is_known = frame in self._frames
        self._frames.add(frame)
        return is_known

    @property
    def next_number(self) -> int:
        return self.base + len(self.tokens)

    def copies_at(self, index: int) -> int:
        """Return how often the passage of the token at `index` occurred before."""
        return self.copies.get(self.base + index, 0)

    def start_of(self, index: int) -> int:
        """Return the offset at which the token at `index` begins."""
        return self.ends[index] - len(self.tokens[index])

    def text(self, start: int, end: int) -> str:
        """Return the text of the tokens from index `start` up to `end`."""
        return "".join(self.tokens[max(0, start) : end])

    def text_until(self, offset: int, num_tokens: int, num_chars: int = 0) -> str:
        """Return the remembered text that ends at `offset`.

        Args:
            num_tokens: its length in tokens; if 0, `num_chars` counts.
            num_chars: its least length in characters.
        """
        ends = self.ends
        last = bisect.bisect_left(ends, offset)
        if last == len(ends):
            last -= 1
        first = last + 1 - num_tokens
        if not num_tokens:
            first = bisect.bisect_left(ends, offset - num_chars)
        text = self.text(first, last + 1)
        if ends and ends[last] > offset:
            return text[: len(text) - (ends[last] - offset)]
        return text

    def in_fence(self, index: int) -> bool:
        """Return whether the token at `index` is in fenced code."""
        return (self._num_fences + num_fences(self.text(0, index))) % 2 == 1

    def start_over(self, rest: str) -> None:
        """Append `rest`, the text that was not read, and let the next token follow nothing."""
        if rest:
            self.append(rest)
        self._last_id = self._folded.last_id = -1
        self.found, self.tail = -1, ""

    def forget(self, num_tokens: int) -> None:
        """Drop the oldest tokens. Costs O(tokens remembered)."""
        self._num_fences += num_fences(self.text(0, num_tokens))
        self.base += num_tokens
        del self.tokens[:num_tokens], self.ends[:num_tokens]
        self.copies = {
            number: copies for number, copies in self.copies.items() if number >= self.base
        }
        kept = set(self.tokens)
        self._ids = {
            token: first for token, first in self._ids.items() if token in kept or is_folded(token)
        }
        self._folded.forget(self.base)
        self._pairs.forget(self.base)
        self._frames.clear()
