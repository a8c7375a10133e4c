"""Keys and values of prompts that were read, for prompts that begin alike.

A conversation sends its earlier turns again with every new one: only what is new is read. What is
kept was read in blocks as any prompt is, so answers do not depend on it.
"""

from dataclasses import dataclass

import torch

from dedup_server.engines.local.key_values import ALIGNMENT, Owner

LEAST = 4 * ALIGNMENT  # tokens; fewer are read as fast as copied

Layers = dict[int, tuple[torch.Tensor, torch.Tensor]]  # each of shape (heads, tokens, size)


@dataclass(frozen=True, slots=True, eq=False)
class _Prompt:
    tokens: list[int]
    layers: Layers


class KeptPrompts:
    """Prompts of at most `most_tokens` together, the latest used last."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._prompts: list[_Prompt] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt.tokens) for prompt in self._prompts)

    def keep(self, owner: Owner, num_prompt: int) -> None:
        """Copy the first `num_prompt` tokens of a sequence, up to a multiple of a block."""
        size = min(num_prompt, owner.num_read) // ALIGNMENT * ALIGNMENT
        pool = owner.pool
        if pool is None or size < LEAST:
            return
        tokens = owner.tokens[:size]
        for known in self._prompts:
            if known.tokens[:size] == tokens:
                self._touch(known)
                return
        self._prompts = [each for each in self._prompts if not _begins(tokens, each.tokens)]
        layers = {
            number: (keys[:, :size].clone(), values[:, :size].clone())
            for number, (keys, values) in pool.kept(owner).items()
        }
        self._prompts.append(_Prompt(tokens, layers))
        while self.num_tokens > self._most_tokens:
            self.drop()

    def restore(self, owner: Owner) -> None:
        """Give a sequence that has a place the longest beginning that is kept of it."""
        assert owner.pool is not None
        best, best_size = None, 0
        for known in self._prompts:
            size = _num_common(known.tokens, owner.tokens[:-1])
            if size >= max(LEAST, best_size + 1):
                best, best_size = known, size
        if best is None:
            return
        self._touch(best)
        layers = {
            number: (keys[:, :best_size], values[:, :best_size])
            for number, (keys, values) in best.layers.items()
        }
        owner.pool.fill(owner.slot, layers)
        owner.num_read = best_size

    def drop(self) -> bool:
        """Drop the prompt that was used longest ago. Return False if there is none."""
        return bool(self._prompts) and bool(self._prompts.pop(0))

    def _touch(self, prompt: _Prompt) -> None:
        self._prompts.remove(prompt)
        self._prompts.append(prompt)


def _begins(tokens: list[int], beginning: list[int]) -> bool:
    return tokens[: len(beginning)] == beginning


def _num_common(one: list[int], other: list[int]) -> int:
    """Return how many tokens are the same at the beginning, in whole blocks."""
    size = 0
    while size + ALIGNMENT <= min(len(one), len(other)):
        until = size + ALIGNMENT
        if one[size:until] != other[size:until]:
            break
        size = until
    return size
