"""Token counts of an answer: as an engine reports them, estimated where it reports none."""

from dedup.answer.frame import Frame


def estimate_tokens(num_bytes: int) -> int:
    """Return the number of tokens that `num_bytes` of UTF-8 probably are.

    About four bytes make a token: four characters of English, a little more than one of Chinese.
    """
    return -(-num_bytes // 4)


class TokenCounts:
    """Tokens of a prompt and its answer, all attempts to continue the answer together.

    Args:
        prompt_tokens: An estimate of the prompt's.

    Attributes:
        prompt_tokens: That estimate.
        input, output: As the engine reports them; `output` is None until it does for the attempt
            that runs.
    """

    def __init__(self, prompt_tokens: int = 0) -> None:
        self.input: int | None = None
        self.output: int | None = None
        self.prompt_tokens = prompt_tokens
        self._spent_input = self._spent_output = 0  # on attempts that the reader gets nothing of
        self._is_spent_estimated = False
        self._before = 0  # output of the attempts before this one
        self._bytes_before = 0
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

    def known_output(self, num_bytes: int) -> int:
        """Return the answer's tokens, of which `num_bytes` of text were generated."""
        if self.output is not None:
            return self.output
        if self._num_reported == 0:
            return self._spent_output + estimate_tokens(num_bytes)
        before = self._spent_output + self._before
        return before + estimate_tokens(num_bytes - self._bytes_before)

    def spend(self, input_tokens: int, output_tokens: int, *, is_estimated: bool) -> None:
        """Count an attempt that the reader gets nothing of."""
        self._spent_input += input_tokens
        self._spent_output += output_tokens
        self._is_spent_estimated = self._is_spent_estimated or is_estimated

    def begin_attempt(self, num_bytes: int) -> None:
        """Begin another attempt, after `num_bytes` of text."""
        self._before = self.known_output(num_bytes) - self._spent_output
        self._bytes_before = num_bytes
        self._num_reported += self.output is not None
        self._num_attempts += 1
        self.input = self.known_input
        self.output = None
