"""The cycle in which a text ends: the definition of a loop for texts that ran to their limit."""

import re


def onset_of(text: str) -> int | None:
    """Return where the cycle begins in which a text ends, to the letter or with its numbers folded; None without one."""
    folded, offsets = [], []
    for found in re.finditer(r"\d+|[\s\S]", text):
        folded.append("0" if found[0][0].isdigit() else found[0].lower())
        offsets.append(found.start())
    onsets = [tail_cycle(text)]
    if (start := tail_cycle("".join(folded))) is not None:
        onsets.append(offsets[start])
    return min((onset for onset in onsets if onset is not None), default=None)


def tail_cycle(text: str, copies: int = 3, span: int = 60) -> int | None:
    """Return the beginning of the shortest cycle in which a text ends, of at least so many copies and characters; None without one."""
    back = text.rstrip()[::-1]
    size = len(back)
    reach = [0] * size  # Z function: how far `back` repeats itself at each distance
    left = right = 0
    for at in range(1, size):
        if at < right:
            reach[at] = min(right - at, reach[at - left])
        while at + reach[at] < size and back[reach[at]] == back[at + reach[at]]:
            reach[at] += 1
        if at + reach[at] > right:
            left, right = at, at + reach[at]
    for period in range(1, size // copies + 1):
        cover = reach[period] + period
        if cover >= max(copies * period, span):
            return size - cover
    return None
