"""All methods of a configuration over one row of logits, on the CPU."""

from dedup.config import DecodingConfig
from dedup.logits.history import TokenHistory
from dedup.logits.methods import METHODS
from dedup.logits.rows import Row
from dedup.logits.tokens import NO_TOKENS, TokenSets

# Looked up once: every row of every step passes through all of them.
_ROW_METHODS = tuple((method.is_on, method.apply) for method in METHODS)


def apply(
    config: DecodingConfig,
    history: TokenHistory,
    logits: Row,
    sets: TokenSets = NO_TOKENS,
    encoder: TokenHistory | None = None,
) -> None:
    """Apply every method that `config` switches on, in the order of `METHODS`.

    Bans that would leave no token are lifted for this step: a repeated n-gram is better than a
    token chosen by accident. Values that are -inf, +inf or NaN stay so: no method hides a broken
    model. Token ids outside the vocabulary are ignored.

    Args:
        config: Configuration of the methods.
        history: Tokens of the sequence, with n-grams of `no_repeat_ngram_size`.
        logits: Floats of shape (vocabulary,), changed in place. A torch tensor on the CPU gives
            them without a copy: `tensor.numpy()`.
        sets: Token sets of the configuration: `token_sets(config, tokenizer)`.
        encoder: Tokens that the encoder of an encoder-decoder model read, with n-grams of
            `encoder_no_repeat_ngram_size`. Kept as `history.encoder`.
    """
    if encoder is not None:
        history.encoder = encoder
    for is_on, apply_method in _ROW_METHODS:
        if is_on(config):
            apply_method(history, logits, config, sets)
