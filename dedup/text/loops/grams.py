"""How much of a sequence stood before: the share of its last items that lie in n-grams which are not new."""

from collections.abc import Iterable


class Grams:
    """Where the 3-grams of a sequence stood before, and how many of its last `window` items lie in one that is not new.

    Not new is a 3-gram at its fourth occurrence: a second version, a refrain, a parallel section are no loop yet.
    """

    TIMES = 3

    def __init__(self, window: int) -> None:
        self.window = window
        self._base = 0
        self._end = ("", "")  # the last two items
        self._last: dict[tuple[str, str, str], int] = {}  # number of the item that ended it last
        # An item: the number of the one that ended its 3-gram before (-1: none), how many there were, whether it is covered.
        self._before: list[int] = []
        self._times: list[int] = []
        self._covered: list[bool] = []
        self._num_covered = 0

    def covered(self, window: int) -> float:
        """The share of the last `window` items that are not new. O(1) for the window that is kept count of."""
        num_covered = self._num_covered if window == self.window else sum(self._covered[-window:])
        return num_covered / window

    def extend(self, items: Iterable[str]) -> None:
        """Adds items at the end."""
        last, before, times, covered, base = self._last, self._before, self._times, self._covered, self._base
        first, second = self._end
        index, num_covered, window = len(times), self._num_covered, self.window
        for item in items:
            gram = (first, second, item)
            first, second = second, item
            number = last.get(gram, -1)
            last[gram] = base + index
            before.append(number)
            covered.append(False)
            if number < 0:
                times.append(0)
            else:
                count = times[number - base] + 1
                times.append(count)
                if count >= self.TIMES:
                    for at in (index, index - 1, index - 2):
                        if not covered[at]:
                            covered[at] = True
                            num_covered += 1
            if index >= window and covered[index - window]:
                num_covered -= 1
            index += 1
        self._end = (first, second)
        self._num_covered = num_covered

    def start_over(self) -> None:
        """Takes what is in the window for new."""
        self._covered[-self.window :] = [False] * len(self._covered[-self.window :])
        self._num_covered = 0

    def num_new(self, num_last: int) -> int:
        """How many of the last items ended a 3-gram that was never there before."""
        return sum(before < 0 for before in self._before[-num_last:])

    def origin(self, window: int) -> tuple[int, int, int]:
        """Of the first 3-gram in the last `window` that is not new, the numbers of the items that end it: here, last time, first time."""
        index = max(0, len(self._times) - window)
        while self._times[index] < self.TIMES:
            index += 1
        last = first = self._before[index]
        while (before := self._before[first - self._base]) >= 0:
            first = before
        return self._base + index, last, first

    def forget(self, num_items: int) -> None:
        """Drops the oldest items. Costs O(what is kept)."""
        self._base += num_items
        del self._times[:num_items], self._covered[:num_items]
        self._before = [before if before >= self._base else -1 for before in self._before[num_items:]]
        self._last = {gram: number for gram, number in self._last.items() if number >= self._base}
