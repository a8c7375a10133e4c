"""All methods over one row: plain functions over (history, logits), in one order.

    repetition penalty -> frequency, presence -> DRY -> LZ -> n-gram bans -> temperature

`logits` is a numpy array of floats, shape (vocabulary,), changed in place; a torch tensor on the CPU gives one without a copy
(`tensor.numpy()`). Token ids outside the vocabulary are ignored. A method switched off costs nothing. What goes in as -inf, +inf
or NaN comes out so: no method hides a broken model.
"""

from dedup.config import DecodingConfig
from dedup.logits.bans import encoder_no_repeat_ngram, no_repeat_ngram
from dedup.logits.dry import dry
from dedup.logits.history import TokenHistory
from dedup.logits.lz import lz_penalty
from dedup.logits.penalties import Row, openai_penalties, repetition_penalty
from dedup.logits.temperature import temperature
from dedup.logits.tokens import NO_TOKENS, TokenSets


def apply(
    config: DecodingConfig,
    history: TokenHistory,
    logits: Row,
    sets: TokenSets = NO_TOKENS,
    encoder: TokenHistory | None = None,
) -> None:
    """Every method that `config` switches on, in place. encoder: what an encoder-decoder read, with its n-grams.

    If the bans leave no token, they are lifted for this step: an n-gram said twice is better than a token chosen by accident.
    """
    penalize(config, history, logits, sets)
    if config.no_repeat_ngram_size:
        no_repeat_ngram(history, logits, config, sets)
    if encoder is not None:
        encoder_no_repeat_ngram(history, encoder, logits, sets)
    if config.temperature != 1 or config.repetition_temperature or config.dynatemp_range:
        temperature(history, logits, config)


def penalize(
    config: DecodingConfig, history: TokenHistory, logits: Row, sets: TokenSets = NO_TOKENS
) -> None:
    """The penalties alone."""
    if config.repetition_penalty != 1:
        repetition_penalty(history, logits, config, sets)
    if config.frequency_penalty or config.presence_penalty:
        openai_penalties(history, logits, config, sets)
    if config.dry_multiplier:
        dry(history, logits, config, sets)
    if config.lz_penalty:
        lz_penalty(history, logits, config, sets)
