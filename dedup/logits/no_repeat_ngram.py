"""The n-gram ban from nothing but the tokens: what `generate` hands over is new at every step, and to check that it is the old with one
more costs as much as to look through it.

Goal: one pass over the tokens a step; all else on the few places where it finds something. Row by row, so that a row stays in the
processor's cache.
"""

from dedup.logits.bans import ban, ban_ids
from dedup.logits.history import Ints
from dedup.logits.penalties import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets

_MANY = 512


def ban_ngrams(
    row: Ints, logits: Row, size: int, first: int = 0, sets: TokenSets = NO_TOKENS
) -> None:
    """As `no_repeat_ngram`, for the n-grams that begin at `first` or later."""
    last = len(row) - 1
    if last - first + 1 < size:
        return
    if size == 1:
        ban_ids(row[first:], logits, sets)
        return
    begin = first + size - 2  # where an n-gram's last but one token may stand
    ends = (row[begin:last] == row[last]).nonzero()[0]
    if begin:
        ends += begin
    for back in range(1, size - 1):
        ends = ends[row[ends - back] == row[last - back]]
    if len(ends) > _MANY:
        ban_ids(row[ends + 1], logits, sets)
    elif len(ends):
        ban(set(row[ends + 1].tolist()), logits, sets)  # in a loop they are one and the same
