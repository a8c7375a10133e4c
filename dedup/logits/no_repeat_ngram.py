"""No-repeat n-gram: bans tokens that would complete an n-gram a second time.

Paulus et al. 2017 (arXiv 1705.04304), equal to the bit to transformers'
NoRepeatNGramLogitsProcessor: prompt and output count. With a window and exempt tokens it is
DeepSeek-OCR's processor.
"""

from typing import TYPE_CHECKING

from dedup.config import DecodingConfig
from dedup.logits.history import Ints, TokenHistory
from dedup.logits.rows import Row, ban, ban_ids
from dedup.logits.tokens import NO_TOKENS, TokenSets

if TYPE_CHECKING:
    from dedup.logits.batch import Batch

_MANY = 512  # followers; building a set of more is slower than an array with repetitions


def no_repeat_ngram(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Ban the tokens that would complete an n-gram of the history, n being its `ngram_size`."""
    ban(history.followers(config.no_repeat_ngram_window), logits, sets)


def no_repeat_ngram_scan(
    tokens: Ints, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Ban like `no_repeat_ngram`, from token ids of shape (length,) without a history.

    `generate` hands over all tokens at every step. Comparing them with a history costs as much as
    this one pass over them; what follows the pass only looks at the places that it found.
    """
    size, window = config.no_repeat_ngram_size, config.no_repeat_ngram_window
    first = 0 if window < 0 else max(0, len(tokens) - window)
    last = len(tokens) - 1
    if last - first + 1 < size:
        return
    if size == 1:
        ban_ids(tokens[first:], logits, sets)
        return
    begin = first + size - 2  # the last token but one of the first n-gram
    ends = (tokens[begin:last] == tokens[last]).nonzero()[0]
    if begin:
        ends += begin
    for back in range(1, size - 1):
        ends = ends[tokens[ends - back] == tokens[last - back]]
    if len(ends) > _MANY:
        ban_ids(tokens[ends + 1], logits, sets)
    elif len(ends):
        ban(set(tokens[ends + 1].tolist()), logits, sets)  # in a loop they are all the same


def no_repeat_ngram_batch(batch: "Batch", config: DecodingConfig) -> None:
    """Apply the ban to a batch like `no_repeat_ngram`."""
    size, window = config.no_repeat_ngram_size, config.no_repeat_ngram_window
    first = 0 if window < 0 else max(0, batch.length - window)
    batch.ban_followers(batch.ids[:, first:], size, batch.is_text[:, first:])
