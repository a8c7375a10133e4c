"""The earlier passage that a text is copying, and the part of the copy that is held."""

from typing import Final

from dedup.text.loops.history import History

ECHO_CHARS: Final = 128  # distance at which an echo still counts
# So much text is held at most if numbers advance in it and fewer than a tenth of it are letters that
# are said again: that is an enumeration, no loop, and news to its reader.
_MAX_HELD_NUMBERS: Final = 256
_LEAST_REPEATED: Final = 0.1
_MAX_HELD_DISTANCE: Final = 4096  # characters; a stream must not stall for a page copied from afar


class Passage:
    """The passage being copied: each token is compared with the one `distance` tokens before it.

    distance: in tokens; 0 if no passage is copied.
    num_copied: matching tokens since the last mismatch.
    num_missed: mismatches since the last matching token.

    While every token matches, the text may be a cycle of `distance` tokens:

    num_same: tokens that match without a break; numbers may stay or advance.
    num_exact: tokens that match to the letter without a break.
    same_from, exact_from: offsets where these two runs begin.
    judged_at: `num_same` when the cycle was judged last.
    """

    def __init__(self) -> None:
        self.distance = 0
        self.num_copied = 0
        self.num_missed = 0
        self.num_same = 0
        self.num_exact = 0
        self.same_from = 0
        self.exact_from = 0
        self.judged_at = 0

    def lose(self) -> None:
        """Stop following the passage."""
        self.distance = self.num_copied = self.num_missed = 0
        self.break_cycle(0)

    def break_cycle(self, at: int) -> None:
        """End both runs of matching tokens at the offset `at`."""
        self.num_same = self.num_exact = self.judged_at = 0
        self.same_from = self.exact_from = at

    def extend(self, is_exact: bool, end: int) -> None:
        """Count a matching token that ends at the offset `end`."""
        self.num_copied += 1
        self.num_missed = 0
        self.num_same += 1
        if is_exact:
            self.num_exact += 1
        else:
            self.num_exact = 0
            self.exact_from = end


class Hold:
    """The input that is held back because it may be the second copy of a loop."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._after = -1  # number of the token after which input is held; -1 if none is held
        self._begun_at = -1  # number of the last token when the hold began
        self._repeated = 0.0  # letters that what is held says again

    def begin(self, after: int, distance: int) -> None:
        """Hold what follows the token at index `after`, unless its original is far away.

        Args:
            after: index of the last token that is not held.
            distance: tokens between the copy and its original.
        """
        history = self._history
        self._begun_at = history.next_number - 1
        self._repeated = 0.0
        if self._is_near(self._begun_at - distance):
            self._after = history.base + after
        else:
            self._after = -1

    def count(self, letters: float, passage: Passage) -> None:
        """Count a token that goes on with the passage, and end the hold of an enumeration.

        Args:
            letters: those that the token says again.
            passage: what is being copied.
        """
        self._repeated += letters
        if self._after < 0 or passage.num_exact >= passage.distance:
            return
        history = self._history
        size = history.end - history.ends[max(0, self._after - history.base)]
        if size > _MAX_HELD_NUMBERS and self._repeated < _LEAST_REPEATED * size:
            self._after = -1

    def release(self) -> None:
        """Hold nothing of the passage being copied."""
        self._after = -1

    def start(self, passage: Passage, num_fed: int) -> int:
        """Return the offset from which input is held; `num_fed`, the input length, if none is."""
        history = self._history
        index = len(history.tokens) - 1
        if index < 0:
            return num_fed
        if passage.num_copied:
            if self._after < 0:
                return num_fed
            start = history.ends[max(0, self._after - history.base)]
            return min(start, self._echo_start(max(0, self._begun_at - history.base), num_fed))
        start = num_fed
        token = history.tokens[index]
        size = len(token)
        if size <= ECHO_CHARS:
            tail = history.tail
            if tail.find(token, max(0, len(tail) - size - ECHO_CHARS), len(tail) - 1) >= 0:
                start = self._echo_start(index, num_fed)
        if not passage.distance and self._is_near(history.found):
            start = min(start, history.end)
        return start

    def _is_near(self, number: int) -> bool:
        """Return whether a copy of the token with that number is close enough to be held."""
        history = self._history
        index = number - history.base
        return index >= 0 and history.end - history.ends[index] <= _MAX_HELD_DISTANCE

    def _echo_start(self, last: int, num_fed: int) -> int:
        """Return the offset after the first token of the echo that ends at index `last`.

        An echo is text that also occurs at most `ECHO_CHARS` before. It may begin within a token:
        two characters of Chinese are one token, and a loop's copies need not begin at one. Its
        first token is not held, as nothing told it from other text when it was read.

        Returns:
            The offset; `num_fed` if there is no echo.
        """
        history = self._history
        tokens, ends = history.tokens, history.ends
        size, start = 0, num_fed
        text = ""
        index = last
        while index >= 0:
            size += len(tokens[index])
            if size > ECHO_CHARS:
                break
            if not text:
                text = history.tail
                if last < len(ends) - 1:
                    text = history.text_until(ends[last], 0, 2 * ECHO_CHARS)
            if text.find(text[-size:], max(0, len(text) - size - ECHO_CHARS), len(text) - 1) < 0:
                break
            start = ends[index]
            index -= 1
        return start
