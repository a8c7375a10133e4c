"""Keys and values of the sequences that are decoded together.

Sequences of about the same length share a pool, one tensor of each layer, so that one call of
attention serves them all without a copy of what they have kept. A sequence that outgrows its pool
moves to the next one, which is twice as wide: a token is copied once on average.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

LEAST_WIDTH = 256  # tokens
ALIGNMENT = 16  # tokens; attention's sums do not depend on masked keys up to a multiple of this


class Owner:
    """A sequence with a place in a pool.

    Attributes:
        tokens: tokens of prompt and completion.
        num_read: tokens whose keys and values are kept; the first of `tokens`.
        pool, slot: its place; None and -1 without one.
    """

    __slots__ = ("num_read", "pool", "slot", "tokens")

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.num_read = 0
        self.pool: Pool | None = None
        self.slot = -1


class Pool:
    """Keys and values of sequences of at most `width` tokens.

    Attributes:
        owners: the sequences, by slot.
        capacity: number of slots.
        keys, values: by layer, of shape (slots, heads, width, size). What no sequence has written
            is zero: attention multiplies masked values by 0, and 0 times NaN is NaN.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.owners: list[Owner] = []
        self.capacity = 0
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    def layer(
        self, number: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of a layer, created like `key` and `value` at their first use."""
        if number not in self.keys:
            for tensors, new in ((self.keys, key), (self.values, value)):
                shape = (self.capacity, new.shape[1], self.width, new.shape[3])
                tensors[number] = new.new_zeros(shape)
        return self.keys[number], self.values[number]

    def resize(self, capacity: int) -> None:
        """Change the number of slots to one that suffices for the sequences."""
        self.capacity = capacity
        num = len(self.owners)
        for tensors in (self.keys, self.values):
            if not capacity:
                tensors.clear()
            for number, old in tensors.items():
                tensors[number] = old.new_zeros((capacity, *old.shape[1:]))
                tensors[number][:num] = old[:num]

    def add(self, owner: Owner) -> None:
        """Give a sequence the next slot, which must be free."""
        owner.pool, owner.slot = self, len(self.owners)
        self.owners.append(owner)

    def remove(self, owner: Owner) -> None:
        """Free a sequence's slot. The last sequence takes it."""
        last = self.owners.pop()
        for tensor in self._tensors():
            if last is not owner:
                tensor[owner.slot, :, : last.num_read] = tensor[last.slot, :, : last.num_read]
                tensor[owner.slot, :, last.num_read : owner.num_read] = 0
            tensor[last.slot, :, : last.num_read] = 0
        if last is not owner:
            self.owners[owner.slot] = last
            last.slot = owner.slot
        owner.pool, owner.slot = None, -1

    def fill(self, slot: int, layers: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Write keys and values, by layer and each of shape (heads, tokens, size), to a slot."""
        for number, given in layers.items():
            for tensors, new in zip((self.keys, self.values), given, strict=True):
                if number not in tensors:
                    shape = (self.capacity, new.shape[0], self.width, new.shape[2])
                    tensors[number] = new.new_zeros(shape)
                tensors[number][slot, :, : new.shape[1]] = new

    def kept(self, owner: Owner) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Return the keys and values of a sequence, as views."""
        place = owner.slot, slice(None), slice(owner.num_read)
        return {
            number: (self.keys[number][place], self.values[number][place]) for number in self.keys
        }

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self.keys.values()
        yield from self.values.values()


class KeyValues:
    """Pools of all widths, which together have at most `num_tokens` tokens.

    Args:
        num_tokens: at least `context`.
        context: the longest sequence.
        max_owners: sequences at once.
        num_others: returns how many tokens are kept elsewhere in the same memory.
        drop_other: drops some of these; returns False if there are none.
    """

    def __init__(
        self,
        num_tokens: int,
        context: int,
        max_owners: int,
        num_others: Callable[[], int],
        drop_other: Callable[[], bool],
    ) -> None:
        self._num_tokens = num_tokens
        self._max_owners = max_owners
        self._num_others = num_others
        self._drop_other = drop_other
        widths = [LEAST_WIDTH]
        while widths[-1] < context:
            widths.append(2 * widths[-1])
        widths[-1] = -(-context // ALIGNMENT) * ALIGNMENT
        self.pools = [Pool(width) for width in widths]

    @property
    def num_allocated(self) -> int:
        """Tokens for which there is memory."""
        return sum(pool.capacity * pool.width for pool in self.pools)

    def place(self, owner: Owner, num_tokens: int) -> bool:
        """Give a sequence a place for `num_tokens` tokens and what it keeps; False if none is free.

        It keeps its place if it has one and the return value is False.
        """
        old = owner.pool
        if old is not None and num_tokens <= old.width:
            return True
        new = next(pool for pool in self.pools if num_tokens <= pool.width)
        if not self._reserve(new):
            return False
        if old is not None:
            new.fill(len(new.owners), old.kept(owner))
            self.free(owner)
        new.add(owner)
        return True

    def free(self, owner: Owner) -> None:
        """Free the place of a sequence, if it has one. The memory of an empty pool is freed."""
        pool: Any = owner.pool
        if pool is None:
            return
        pool.remove(owner)
        if not pool.owners:
            pool.resize(0)

    def _reserve(self, pool: Pool) -> bool:
        """Make sure that `pool` has a free slot, if there is memory for one."""
        num = len(pool.owners)
        if num < pool.capacity:
            return True
        if self._num_free() < pool.width:
            for other in self.pools:
                if other.capacity > len(other.owners):
                    other.resize(len(other.owners))
        while self._num_free() < pool.width and self._drop_other():
            pass
        num_affordable = self._num_free() // pool.width
        if num_affordable < 1:
            return False
        # Doubled, for a sequence's slot to be copied once on average while others come.
        pool.resize(num + min(max(1, num), num_affordable, self._max_owners - num))
        return True

    def _num_free(self) -> int:
        return self._num_tokens - self.num_allocated - self._num_others()
