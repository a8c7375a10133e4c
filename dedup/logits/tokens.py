"""What a configuration says in words, as a tokenizer's tokens: sequence breakers, and kinds of tokens to spare."""

from dataclasses import dataclass, field
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
    """breakers: DRY's. exempt: whether a token is spared, by id; ids beyond its end are not."""

    breakers: Breakers = field(default_factory=dict)
    exempt: NDArray[np.bool_] | None = None

    def spare(self, tokens: Ints) -> NDArray[np.bool_]:
        """Which of `tokens` no method may touch."""
        if self.exempt is None:
            return np.zeros(len(tokens), bool)
        inside = (tokens >= 0) & (tokens < len(self.exempt))
        return inside & self.exempt[np.where(inside, tokens, 0)]

    def spares(self, token: int) -> bool:
        """Whether no method may touch `token`, ≥ 0."""
        exempt = self.exempt
        return exempt is not None and token < len(exempt) and bool(exempt[token])


NO_TOKENS = TokenSets()


def token_sets(config: DecodingConfig, tokenizer: Any = None) -> TokenSets:
    """What `config` says in words, in tokens. Raises ValueError if that takes a tokenizer and there is none."""
    if config.needs_tokenizer and tokenizer is None:
        names = "exempt" if config.exempt else "dry_sequence_breakers"
        raise ValueError(
            f"{names} needs a tokenizer: logits_processors(config, tokenizer), or () for none"
        )
    breakers = (
        breaker_tokens(tokenizer, config.dry_sequence_breakers) if config.dry_multiplier else {}
    )
    ids = set(config.exempt_token_ids)
    for kind in config.exempt:
        ids |= _of_kind(tokenizer, kind)
    exempt = None
    if ids:
        exempt = np.zeros(max(ids) + 1, bool)
        exempt[list(ids)] = True
    return TokenSets(breakers, exempt)


def breaker_tokens(tokenizer: Any, breakers: tuple[str, ...]) -> Breakers:
    """Each way in which a sequence breaker may come in tokens, as llama.cpp finds them: a token that contains it, or one that ends in
    its beginning, followed by the rest as the tokenizer writes it."""
    found: dict[int, set[tuple[int, ...]]] = {}
    for breaker in (breaker[:MAX_BREAKER_CHARS] for breaker in breakers):
        rests: dict[str, tuple[int, ...]] = {}
        for token, text in enumerate(_texts(tokenizer)):
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


def _of_kind(tokenizer: Any, kind: Exempt) -> set[int]:
    if kind == "special":
        return set(tokenizer.all_special_ids)
    if kind == "template":
        return set(tokenizer.added_tokens_decoder)
    texts = enumerate(_texts(tokenizer))
    if kind == "newlines":
        return {token for token, text in texts if "\n" in text and not text.strip()}
    if kind == "digits":
        return {token for token, text in texts if text.strip().isdigit()}
    return {token for token, text in texts if text.strip() and _JSON.issuperset(text.strip())}


def _texts(tokenizer: Any) -> list[str]:
    """Every token's text. Decoding a vocabulary takes up to a second; once serves every set."""
    texts = _token_texts.get(tokenizer)
    if texts is None:
        texts = _token_texts[tokenizer] = tokenizer.batch_decode(
            [[token] for token in range(len(tokenizer))]
        )
    return texts
