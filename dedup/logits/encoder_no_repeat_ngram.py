"""No-repeat n-gram against the encoder's input: bans its n-grams in the output."""

from typing import TYPE_CHECKING

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.rows import Row, ban
from dedup.logits.tokens import NO_TOKENS, TokenSets

if TYPE_CHECKING:
    from dedup.logits.batch import Batch


def encoder_no_repeat_ngram(
    history: TokenHistory, logits: Row, config: DecodingConfig, sets: TokenSets = NO_TOKENS
) -> None:
    """Ban the tokens that would complete an n-gram of the encoder's input.

    Equal to the bit to transformers' EncoderNoRepeatNGramLogitsProcessor. n is the `ngram_size` of
    `history.encoder`. Does nothing for a decoder-only model.
    """
    if history.encoder is not None:
        ban(history.encoder.followers_of(history.tokens), logits, sets)


def encoder_no_repeat_ngram_batch(batch: "Batch", config: DecodingConfig) -> None:
    """Apply the ban to a batch like `encoder_no_repeat_ngram`."""
    if batch.encoder_ids is None:
        return
    inputs = batch.encoder_ids.to(batch.ids)
    rows = inputs.repeat_interleave(len(batch.ids) // len(inputs), 0)
    batch.ban_followers(rows, config.encoder_no_repeat_ngram_size)
