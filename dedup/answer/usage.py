"""Token counts of an answer: as an engine reports them, estimated where it reports none."""

import math
from dataclasses import dataclass
from typing import Final

from dedup.answer.frame import Frame

# About four bytes make a token: four characters of English, a little more than one of Chinese.
_TOKENS_A_BYTE: Final = 0.25
_MAX_PIECE_BYTES: Final = 8  # on average; longer pieces are several tokens each


def estimate_tokens(num_bytes: int) -> int:
    """Return the number of tokens that `num_bytes` of UTF-8 probably are."""
    return math.ceil(num_bytes * _TOKENS_A_BYTE)


@dataclass(frozen=True, slots=True)
class Size:
    """Size of text that an engine generated: bytes of UTF-8, and the pieces in which it came."""

    num_bytes: int = 0
    num_pieces: int = 0

    @property
    def num_tokens(self) -> int:
        """Return how many tokens it probably is: engines stream one in a piece, or a few."""
        if self.num_bytes > _MAX_PIECE_BYTES * self.num_pieces:
            return estimate_tokens(self.num_bytes)
        return self.num_pieces

    def plus(self, other: "Size") -> "Size":
        """Return the sum."""
        return Size(self.num_bytes + other.num_bytes, self.num_pieces + other.num_pieces)

    def less(self, other: "Size") -> "Size":
        """Return the difference."""
        return Size(self.num_bytes - other.num_bytes, self.num_pieces - other.num_pieces)


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of attempts that the reader gets nothing of. `is_estimated`: not all were reported."""

    input_tokens: int
    output_tokens: int
    is_estimated: bool

    def plus(self, other: "Spent") -> "Spent":
        """Return the sum."""
        return Spent(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.is_estimated or other.is_estimated,
        )


class TokenCounts:
    """Tokens of a prompt and its answer, all attempts to continue the answer together.

    Args:
        prompt_tokens: An estimate of the prompt's.
        limit: The request's, of output: no estimate exceeds it.

    Attributes:
        prompt_tokens: That estimate.
        input, output: As the engine reports them; `output` is None until it does for the attempt
            that runs.
    """

    def __init__(self, prompt_tokens: int = 0, limit: int | None = None) -> None:
        self.input: int | None = None
        self.output: int | None = None
        self.prompt_tokens = prompt_tokens
        self._spent_input = self._spent_output = 0  # on attempts that the reader gets nothing of
        self._is_spent_estimated = False
        self._before = 0  # output of the attempts before this one
        self._size_before = Size()
        self._prefix_share = 0.0  # of that, which this attempt's prompt ends with
        self._is_input_estimated = False
        self._measured = Size()  # of attempts that reported their tokens
        self._measured_tokens = 0
        self._limit = limit
        self._num_attempts = 1
        self._num_reported = 0  # attempts before this one whose output was reported

    @property
    def known_input(self) -> int:
        """Return the prompt's tokens, estimated where the engine does not report them."""
        if self.input is None:
            return self._spent_input + self.prompt_tokens
        return self.input

    @property
    def is_estimated(self) -> bool:
        """Return whether the output of any attempt is an estimate."""
        if self._is_spent_estimated or self.output is None:
            return True
        return self._num_reported < self._num_attempts - 1

    def note(self, frame: Frame) -> None:
        """Note the counts that a frame reports."""
        if frame.input_tokens is not None and self._num_attempts == 1:
            self.input = self._spent_input + frame.input_tokens
        if frame.output_tokens is not None:
            self.output = self._spent_output + self._before + frame.output_tokens

    def known_output(self, size: Size) -> int:
        """Return the answer's tokens, of which text of this size was generated."""
        if self.output is not None:
            return self.output
        made = self._before + self._estimate(size.less(self._size_before))
        return self._spent_output + self._within_limit(made)

    def spend(self, spent: Spent) -> None:
        """Count an attempt that the reader gets nothing of."""
        self._spent_input += spent.input_tokens
        self._spent_output += spent.output_tokens
        self._is_spent_estimated = self._is_spent_estimated or spent.is_estimated

    def begin_attempt(self, size: Size, prefix_share: float) -> None:
        """Begin another attempt.

        Args:
            size: Of the text that was generated so far.
            prefix_share: Of that text, the part that the attempt continues.
        """
        self._before = self.known_output(size) - self._spent_output
        self._size_before = size
        self._prefix_share = prefix_share
        self._num_reported += self.output is not None
        self._num_attempts += 1
        self._is_input_estimated = self._is_input_estimated or self.input is None
        self.input = self.known_input
        self.output = None

    def calibrate(self, frame: Frame, size: Size) -> None:
        """Estimate better, now that an attempt's own tokens are known.

        Its prompt is the client's and what it continues, of which each piece is as many tokens as of
        what it generated.

        Args:
            frame: It reports them.
            size: Of the text that was generated so far, all attempts together.
        """
        made = size.less(self._size_before)
        if frame.output_tokens is None or not (made.num_pieces and frame.output_tokens):
            return
        self._measured = self._measured.plus(made)
        self._measured_tokens += frame.output_tokens
        if not self._num_reported:
            self._before = self._within_limit(self._estimate(self._size_before))
            total = self._within_limit(self._before + frame.output_tokens)
            self.output = self._spent_output + total
        if self._is_input_estimated and frame.input_tokens is not None:
            prompt = frame.input_tokens - round(self._before * self._prefix_share)
            if prompt > 0:
                self.input = self._spent_input + prompt
            self._is_input_estimated = False  # later attempts tell less of the prompt

    def _within_limit(self, num_tokens: int) -> int:
        return num_tokens if self._limit is None else min(num_tokens, self._limit)

    def _estimate(self, size: Size) -> int:
        measured = self._measured
        if not measured.num_pieces:
            return size.num_tokens
        tokens = math.ceil(size.num_tokens * self._measured_tokens / measured.num_tokens)
        return min(tokens, size.num_bytes)  # no token is less than a byte
