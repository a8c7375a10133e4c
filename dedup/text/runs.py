"""Finds runs: copies of a unit in a row, whatever the spacing and the counters between them.

The text is probed every few characters for text that recurs shortly after, so that a text without
runs costs next to nothing.
"""

import re
from typing import Final

from dedup.text.words import fold

_PROBE_CHARS: Final = 6
_PROBE_STEP: Final = 24
_LONG_CHARS: Final = 2000  # length from which a text is probed with _LONG_PROBE_CHARS
_LONG_PROBE_CHARS: Final = 12
_MAX_RUN_PERIOD: Final = 400
_MIN_RUN_COPIES: Final = 4  # one less of a unit of _MIN_RUN_CHARS
_MIN_RUN_CHARS: Final = 20
_MAX_RUNS: Final = 4
_SPACING: Final = re.compile(
    r"[\s\d!-/:-@\[-`{-~\u00a0-\u00bf\u2010-\u2027\u2030-\u205e\u3000-\u3004\u3008-\u301f]+"
)


def runs(text: str) -> list[tuple[str, int]]:
    """Return the runs in `text`, at most `_MAX_RUNS`.

    Returns:
        The unit of each, without case, spacing, punctuation and numbers, and its copies.
    """
    plain = " ".join(text.split())
    if not _may_repeat(plain):
        return []
    squeezed = form(text)
    found: dict[str, int] = {}
    at = 0
    while at < len(squeezed) - _PROBE_CHARS and len(found) < _MAX_RUNS:
        period = _period(squeezed, at, 2)
        if not period:
            at += _PROBE_STEP // 3
            continue
        unit = squeezed[at : at + period]
        end = at + period
        while squeezed.startswith(unit, end):
            end += period
        start = at
        while start >= period and squeezed.startswith(unit, start - period):
            start -= period
        copies = (end - start) // period
        if copies >= _MIN_RUN_COPIES - (period >= _MIN_RUN_CHARS) and end - start >= _MIN_RUN_CHARS:
            found[unit] = max(found.get(unit, 0), copies)
        at = end
    return list(found.items())


def _may_repeat(plain: str) -> bool:
    """Return whether anything in a text recurs right after itself."""
    size = _PROBE_CHARS
    if len(plain) >= _LONG_CHARS:
        size = _LONG_PROBE_CHARS
    for at in range(0, len(plain) - size, _PROBE_STEP):
        found = plain.find(plain[at : at + size], at + 1, at + _MAX_RUN_PERIOD + size)
        if found >= 0 and _period(plain, at, 1):
            return True
    return False


def _period(text: str, at: int, repeats: int) -> int:
    """Return the period of a cycle at the offset `at`, with `repeats` more copies; 0 if none is."""
    probe = text[at : at + _PROBE_CHARS]
    found = at
    for _ in range(4):  # the probe may recur within the period
        found = text.find(probe, found + 1, at + _MAX_RUN_PERIOD + _PROBE_CHARS)
        if found < 0:
            return 0
        period = found - at
        size = repeats * period
        if text[at : at + size] == text[found : found + size] and len(text) >= found + size:
            return period
    return 0


def form(text: str) -> str:
    """Return `text` without case, spacing, punctuation and numbers.

    A text that has nothing else is returned without case and spacing.
    """
    text = fold(text)
    return _SPACING.sub("", text) or "".join(text.split())


def root(squeezed: str) -> tuple[str, int]:
    """Return the shortest string that `squeezed` consists of copies of, and their number."""
    if not squeezed:
        return "", 1
    size = (squeezed + squeezed).find(squeezed, 1)
    return squeezed[:size], len(squeezed) // size
