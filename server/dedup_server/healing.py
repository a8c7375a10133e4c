"""How an answer that looped goes on: with what the reader has, and sampled ever more differently.

A ladder: each rung is one more attempt, and stays in force for the rest of the answer. The same request climbs it in the same way.
"""

import hashlib
from typing import Any

from dedup_server.engines.base import Engine
from dedup_server.schema import ChatRequest, CompletionRequest, GenerationRequest

MAX_ATTEMPTS = 4
_BREAK = "\n\n"
_THINKING = ("<think>", "</think>")
_MIN_TOKENS = 12  # of an attempt: a model that was kept from its loop would rather end in the middle of a sentence
# What each rung adds; a request that asks for more keeps it. DRY and n-gram bans leave alone what does not repeat; a frequency penalty,
# which drives a model away from its own words, is for servers that have neither.
_LADDER: tuple[dict[str, float], ...] = (
    {"temperature": 0.2, "dry_multiplier": 0.8},
    {"temperature": 0.4, "dry_multiplier": 0.8, "no_repeat_ngram_size": 8},
    {"temperature": 0.7, "dry_multiplier": 1.2, "no_repeat_ngram_size": 6},
    {"temperature": 0.9, "dry_multiplier": 1.6, "no_repeat_ngram_size": 4},
)
_LADDER_ELSEWHERE: tuple[dict[str, float], ...] = (
    {"temperature": 0.2, "frequency_penalty": 0.2},
    {"temperature": 0.5, "frequency_penalty": 0.4},
    {"temperature": 0.8, "frequency_penalty": 0.8},
    {"temperature": 1.0, "frequency_penalty": 1.2},
)


class Healer:
    """The attempts for one request."""

    def __init__(self, request: GenerationRequest, engine: Engine) -> None:
        self.attempts = 0
        self._request = request
        self._engine = engine

    @staticmethod
    def heals(request: GenerationRequest, engine: Engine, by_default: bool) -> bool:
        """Whether answers to `request` can and should be healed."""
        asked = request.repetition.heal if request.repetition else None
        return (by_default if asked is None else asked) and engine.can_go_on(request)

    def next(self, said: str, looped: str, num_tokens: int) -> GenerationRequest | None:
        """The request for an answer that has said `said`, and then `looped` was thrown away, `num_tokens` long with that. None where it
        has to end."""
        request = self._request
        if self.attempts == MAX_ATTEMPTS or not isinstance(
            request, ChatRequest | CompletionRequest
        ):
            return None
        limits = {
            name: limit
            for name in ("max_tokens", "max_completion_tokens")
            if (limit := self._given(name)) is not None
        }
        left = {name: int(limit) - num_tokens for name, limit in limits.items()}
        if any(limit < 1 for limit in left.values()):
            return None
        rung = self.attempts
        self.attempts += 1
        can_avoid = self._engine.can_avoid(request)
        # What a model says in a new paragraph owes least to the one before.
        if rung == MAX_ATTEMPTS - 1 or not can_avoid:
            said += _BREAK[len(said) - len(said.rstrip("\n")) :]
        if rung > 0 and said.rfind(_THINKING[0]) > said.rfind(_THINKING[1]):
            said = (
                said.rstrip() + f"\n{_THINKING[1]}\n\n"
            )  # it has thought enough, and is to answer
        changes: dict[str, Any] = {**left, "seed": self._seed(rung)}
        if self._engine.has_all_methods:
            wanted = _LADDER[rung]
        else:
            wanted = _LADDER_ELSEWHERE[rung] | (
                {"min_tokens": min([_MIN_TOKENS, *left.values()])} if can_avoid else {}
            )
        for name, value in wanted.items():
            given = self._given(name)
            changes[name] = value if given is None else _stronger(name, given, value)
        return request.going_on(said, looped, **changes)

    def _given(self, name: str) -> Any:
        return (
            getattr(self._request, name, None)
            if name in type(self._request).model_fields
            else self._request.sent.get(name)
        )

    def _seed(self, rung: int) -> int:
        request = self._request
        assert isinstance(request, ChatRequest | CompletionRequest)
        text = f"{self._given('seed')}\0{rung}\0{request.prompt_text}"
        return (
            int.from_bytes(
                hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big"
            )
            >> 1
        )


def _stronger(name: str, given: float, wanted: float) -> float:
    if name == "no_repeat_ngram_size":  # the shorter, the stronger
        return min(given, wanted) if given else wanted
    return max(given, wanted)
