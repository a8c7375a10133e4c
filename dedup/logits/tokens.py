"""Token sets: options that a configuration states in text, converted to tokens."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dedup.config import DecodingConfig, Exempt
from dedup.logits.history import Breakers, Ints

MAX_BREAKER_CHARS = 40
MAX_BREAKER_TOKENS = 20  # after the first

_JSON = frozenset('{}[]:,"')
_token_texts: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class TokenSets:
    """Token sets of a configuration.

    Attributes:
        breakers: Sequence breakers of DRY.
        exempt: Mask over token ids, or None; ids beyond its end are not exempt.
    """

    breakers: Breakers = field(default_factory=dict)
    exempt: NDArray[np.bool_] | None = None

    def exempt_mask(self, tokens: Ints) -> NDArray[np.bool_]:
        """Return which of `tokens` are exempt."""
        if self.exempt is None:
            return np.zeros(len(tokens), bool)
        inside = (tokens >= 0) & (tokens < len(self.exempt))
        return inside & self.exempt[np.where(inside, tokens, 0)]

    def is_exempt(self, token: int) -> bool:
        """Return whether `token`, ≥ 0, is exempt."""
        exempt = self.exempt
        return exempt is not None and token < len(exempt) and bool(exempt[token])


NO_TOKENS = TokenSets()


def token_sets(config: DecodingConfig, tokenizer: Any = None) -> TokenSets:
    """Return the token sets of `config`.

    Args:
        config: Configuration of the methods.
        tokenizer: A tokenizer of transformers, or what decodes and encodes like one.

    Raises:
        ValueError: An option needs a tokenizer, and there is none.
    """
    if config.needs_tokenizer and tokenizer is None:
        name = "exempt" if config.exempt else "dry_sequence_breakers"
        raise ValueError(
            f"{name} needs a tokenizer: logits_processors(config, tokenizer), or () for none"
        )
    breakers: Breakers = {}
    if config.uses_dry:
        breakers = breaker_tokens(tokenizer, config.dry_sequence_breakers)
    ids = set(config.exempt_token_ids)
    for kind in config.exempt:
        ids |= _tokens_of_kind(tokenizer, kind)
    exempt = None
    if ids:
        exempt = np.zeros(max(ids) + 1, bool)
        exempt[list(ids)] = True
    return TokenSets(breakers, exempt)


def shared_token_sets(config: DecodingConfig, tokenizer: Any = None) -> TokenSets:
    """Return the token sets of `config`: the same object for all that need the same sets.

    For engines, where many requests ask for the same. Arguments and errors are those of
    `token_sets`; the tokenizer must be hashable.
    """
    # Other options must not cause another entry in the cache.
    relevant = DecodingConfig(
        dry_multiplier=float(config.uses_dry),
        dry_sequence_breakers=config.dry_sequence_breakers,
        exempt=config.exempt,
        exempt_token_ids=config.exempt_token_ids,
    )
    return _cached_sets(relevant, tokenizer if relevant.needs_tokenizer else None)


@lru_cache(maxsize=64)
def _cached_sets(config: DecodingConfig, tokenizer: Any) -> TokenSets:
    return token_sets(config, tokenizer)


def breaker_tokens(tokenizer: Any, breakers: tuple[str, ...]) -> Breakers:
    """Return every way in which sequence breakers may be tokenized, as llama.cpp finds them.

    That is a token that contains the breaker, or one that ends in its beginning, followed by the
    rest as the tokenizer encodes it.
    """
    found: dict[int, set[tuple[int, ...]]] = {}
    for breaker in (breaker[:MAX_BREAKER_CHARS] for breaker in breakers):
        rests: dict[str, tuple[int, ...]] = {}
        for token, text in enumerate(_vocabulary(tokenizer)):
            if breaker in text:
                found.setdefault(token, set()).add(())
                continue
            for size in range(min(len(breaker) - 1, len(text)), 0, -1):
                if text.endswith(breaker[:size]):
                    rest = breaker[size:]
                    if rest not in rests:
                        ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
                        rests[rest] = tuple(ids[:MAX_BREAKER_TOKENS])
                    found.setdefault(token, set()).add(rests[rest])
    return {token: tuple(sorted(tails)) for token, tails in found.items()}


def _tokens_of_kind(tokenizer: Any, kind: Exempt) -> set[int]:
    if kind == "special":
        return set(tokenizer.all_special_ids)
    if kind == "template":
        return set(tokenizer.added_tokens_decoder)
    texts = enumerate(_vocabulary(tokenizer))
    if kind == "newlines":
        return {token for token, text in texts if "\n" in text and not text.strip()}
    if kind == "digits":
        return {token for token, text in texts if text.strip().isdigit()}
    return {token for token, text in texts if text.strip() and _JSON.issuperset(text.strip())}


def _vocabulary(tokenizer: Any) -> list[str]:
    """Return the text of every token, cached: decoding a vocabulary takes up to a second."""
    texts = _token_texts.get(tokenizer)
    if texts is None:
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        _token_texts[tokenizer] = texts
    return texts
