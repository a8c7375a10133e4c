"""Healing: an answer that looped is continued from what the reader has, sampled ever more differently.

A ladder: each rung is one more attempt, and stays in force for the rest of the answer. The same
request climbs it in the same way.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_ATTEMPTS = 4

_PARAGRAPH = "\n\n"
_THINKING = ("<think>", "</think>")
# Tokens of an attempt: a model that is kept from its loop would rather end within a sentence.
_MIN_TOKENS = 12
_LIMITS = ("max_tokens", "max_completion_tokens")

# What each rung adds; a request that asks for more keeps it. DRY and n-gram bans leave alone what
# does not repeat. A frequency penalty, which drives a model away from its own words, is for servers
# that have neither.
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


@dataclass(frozen=True, slots=True)
class Support:
    """Abilities of an engine that can continue an answer.

    Args:
        has_all_methods: It obeys every parameter against repetition that this project has.
        can_avoid: It can be kept from a given beginning, and from ending at once.
    """

    has_all_methods: bool
    can_avoid: bool


@dataclass(frozen=True, slots=True)
class Continuation:
    """One attempt to continue an answer.

    Args:
        prefix: What has been generated; the engine continues behind it.
        avoided: What is not to come next: the beginning of one more copy of the loop.
        parameters: Sampling parameters in place of the request's own.
    """

    prefix: str
    avoided: str
    parameters: Mapping[str, Any]


class Healing:
    """The attempts to continue one answer.

    Args:
        parameters: The request's own parameters, under their names in chat.
        prompt: The user's last message, from which seeds are made.
        support: What the engine offers.

    Attributes:
        attempts: The number of attempts so far.
    """

    def __init__(self, parameters: Mapping[str, Any], prompt: str, support: Support) -> None:
        self.attempts = 0
        self._parameters = parameters
        self._prompt = prompt
        self._support = support

    def next(self, given: str, looped: str, num_tokens: int) -> Continuation | None:
        """Return the next attempt; None if the answer has to end.

        Args:
            given: The text that the reader has.
            looped: The loop that was cut behind it.
            num_tokens: Tokens generated so far, the loop's among them.
        """
        if self.attempts == MAX_ATTEMPTS:
            return None
        left: dict[str, int] = {}
        for name in _LIMITS:
            if self._parameters.get(name) is not None:
                left[name] = int(self._parameters[name]) - num_tokens
                if left[name] < 1:
                    return None
        rung = self.attempts
        self.attempts += 1
        parameters = {**left, "seed": self._seed(rung), **self._rung(rung, left)}
        return Continuation(self._prefix(given, rung), looped, parameters)

    def _prefix(self, given: str, rung: int) -> str:
        # A new paragraph owes least to the one before.
        if rung == MAX_ATTEMPTS - 1 or not self._support.can_avoid:
            given += _PARAGRAPH[len(given) - len(given.rstrip("\n")) :]
        if rung > 0 and given.rfind(_THINKING[0]) > given.rfind(_THINKING[1]):
            given = given.rstrip() + f"\n{_THINKING[1]}\n\n"  # enough reasoning: now the answer
        return given

    def _rung(self, rung: int, left: Mapping[str, int]) -> dict[str, float]:
        """Return the parameters of a rung, or the request's own where they are stronger."""
        if self._support.has_all_methods:
            wanted = _LADDER[rung]
        else:
            wanted = dict(_LADDER_ELSEWHERE[rung])
            if self._support.can_avoid:
                wanted["min_tokens"] = min([_MIN_TOKENS, *left.values()])
        return {name: self._stronger(name, wanted[name]) for name in wanted}

    def _stronger(self, name: str, wanted: float) -> float:
        given = self._parameters.get(name)
        if not isinstance(given, int | float):
            return wanted
        if name == "no_repeat_ngram_size":  # the shorter, the stronger
            return min(given, wanted) if given else wanted
        return max(given, wanted)

    def _seed(self, rung: int) -> int:
        text = f"{self._parameters.get('seed')}\0{rung}\0{self._prompt}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:4], "big") >> 1
