"""Attention of the tokens of one step over `key_values`.

A step has generated tokens, one of each sequence, and stretches of prompts. The generated tokens of
a pool are attended to in one call. A prompt is attended to in blocks that begin at multiples of
`BLOCK`. So the numbers of a sequence do not depend on the others, nor on where its prompt was
interrupted: in bfloat16 they are the same to the bit, in float32 to rounding.

`AttentionInterface.register` is the supported hook. For an attention without a registered mask,
transformers builds none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from dedup_server.engines.local.key_values import ALIGNMENT, Owner, Pool

NAME = "dedup_batch"
# Tokens of a prompt. Half as many cost half as much beside decoding; kept prompts end at multiples.
BLOCK = ALIGNMENT // 2


class Generated:
    """Rows of a step that are generated tokens, of the sequences of one pool.

    Args:
        start: the first row.
        owners: the sequence of each row.
    """

    def __init__(self, pool: Pool, start: int, owners: Sequence[Owner], device: Any) -> None:
        self.pool = pool
        self.rows = slice(start, start + len(owners))
        self._num_rows = len(owners)
        self._slots = torch.tensor([owner.slot for owner in owners], device=device)
        self._places = torch.tensor([owner.num_read for owner in owners], device=device)
        # Sequences that do not generate have a row too, whose result is dropped.
        self._is_whole = [owner.slot for owner in owners] == list(range(len(pool.owners)))
        lengths = [1] * len(pool.owners)
        for owner in owners:
            lengths[owner.slot] = owner.num_read + 1
        self._lengths = torch.tensor(lengths, device=device)
        self._width = min(pool.width, -(-max(lengths) // ALIGNMENT) * ALIGNMENT)
        self._indices: dict[int, torch.Tensor] = {}  # of `keys` as rows, by the number of heads
        self._masks: dict[int, torch.Tensor] = {}  # by window

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        softcap: float | None,
        window: int,
    ) -> torch.Tensor:
        """Return the attention of the rows, of shape (rows, heads, size)."""
        keys, values = self.pool.layer(layer, key, value)
        num_heads, num_key_heads = query.shape[1], key.shape[1]
        index = self._index(num_key_heads)
        for kept, new in ((keys, key), (values, value)):
            rows = new[0, :, self.rows].transpose(0, 1).reshape(-1, new.shape[3])
            kept.view(-1, kept.shape[3]).index_copy_(0, index, rows)
        # Goal: no copies of keys. A query sees all keys, so the heads that share a key take the
        # place of its queries.
        queries = query[0, :, self.rows].transpose(0, 1)
        queries = queries.reshape(
            self._num_rows, num_key_heads, num_heads // num_key_heads, query.shape[3]
        )
        num_slots = len(self.pool.owners)
        if not self._is_whole:
            of_all = queries.new_zeros((num_slots, *queries.shape[1:]))
            queries = of_all.index_copy_(0, self._slots, queries)
        found = _attend(
            queries,
            keys[:num_slots, :, : self._width],
            values[:num_slots, :, : self._width],
            self._mask(window, query.dtype),
            scaling,
            softcap,
        )
        if not self._is_whole:
            found = found[self._slots]
        return found.reshape(self._num_rows, num_heads, -1)

    def _index(self, num_heads: int) -> torch.Tensor:
        if num_heads not in self._indices:
            heads = torch.arange(num_heads, device=self._slots.device)
            index = (self._slots[:, None] * num_heads + heads) * self.pool.width
            self._indices[num_heads] = (index + self._places[:, None]).flatten()
        return self._indices[num_heads]

    def _mask(self, window: int, dtype: torch.dtype) -> torch.Tensor:
        if window not in self._masks:
            places = torch.arange(self._width, device=self._slots.device)
            ends = self._lengths[:, None]
            is_seen = places < ends
            if window:
                is_seen &= places >= ends - window
            self._masks[window] = _as_scores(is_seen, dtype)[:, None, None]
        return self._masks[window]


class Read:
    """Rows of a step that are a stretch of a sequence's prompt.

    Args:
        start: the first row.
    """

    def __init__(self, owner: Owner, start: int, num_tokens: int) -> None:
        self._owner = owner
        self._start = start
        self._num_tokens = num_tokens
        self._masks: dict[tuple[int, int, int], torch.Tensor] = {}  # by place, window and copies

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        softcap: float | None,
        window: int,
    ) -> torch.Tensor:
        """Return the attention of the rows, of shape (rows, heads, size)."""
        pool, slot = self._owner.pool, self._owner.slot
        assert pool is not None
        begin = self._owner.num_read
        end = begin + self._num_tokens
        rows = slice(self._start, self._start + self._num_tokens)
        one = slice(slot, slot + 1)
        keys, values = (each[one] for each in pool.layer(layer, key, value))
        keys[:, :, begin:end] = key[:, :, rows]
        values[:, :, begin:end] = value[:, :, rows]
        num_heads, num_key_heads, size = query.shape[1], key.shape[1], query.shape[3]
        # Goal: no copies of keys. The heads that share a key are rows of one query.
        num_shared = num_heads // num_key_heads
        queries = query[0, :, rows].view(num_key_heads, num_shared, self._num_tokens, size)
        parts = []
        # An accelerator is not worth the many calls; there, numbers are the same to rounding.
        num_rows = BLOCK if query.device.type == "cpu" else self._num_tokens
        for place in range(begin, end, num_rows):
            until = min(place + num_rows, end)
            block = queries[:, :, place - begin : until - begin]
            found = _attend(
                block.reshape(1, num_key_heads, -1, size),
                keys[:, :, :until],
                values[:, :, :until],
                self._mask(place, until, window, num_shared, query),
                scaling,
                softcap,
            )
            parts.append(found.view(num_heads, until - place, -1))
        return torch.cat(parts, 1).transpose(0, 1)

    def _mask(
        self, place: int, until: int, window: int, num_copies: int, query: torch.Tensor
    ) -> torch.Tensor:
        given = (place, window, num_copies)
        if given not in self._masks:
            is_seen = torch.ones(until - place, until, dtype=torch.bool, device=query.device)
            is_seen = is_seen.tril(place)
            if window:
                is_seen = is_seen.triu(place - window + 1)
            self._masks[given] = _as_scores(is_seen, query.dtype).repeat(num_copies, 1)
        return self._masks[given]


class Step:
    """The rows of a step: first those of `generated`, then those of `read`.

    Args:
        windows: of each layer, the number of keys that a query sees, its own included; 0 is all.
    """

    def __init__(
        self, generated: list[Generated], read: list[Read], windows: Sequence[int]
    ) -> None:
        self.parts: list[Generated | Read] = [*generated, *read]
        self.windows = windows


def batch_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    step: Any = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of the tokens of a step.

    Args:
        query: shape (1, heads, tokens, size).
        key, value: shape (1, key heads, tokens, size).
        step: the `Step`, which the model passes on.

    Returns:
        Shape (1, tokens, heads, size).

    Raises:
        ValueError: the model has an option that is not implemented, which must not be ignored.
    """
    for name in ("s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"batched attention does not support {name}")
    layer: int = module.layer_idx  # type: ignore[assignment]
    given = (layer, query, key, value, scaling, softcap, step.windows[layer])
    parts = [part.attend(*given) for part in step.parts]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """Return attention."""
    if not softcap:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    weights = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    weights = torch.tanh(weights / softcap) * softcap + mask
    return weights.softmax(-1, torch.float32).to(value.dtype) @ value


def _as_scores(is_seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to scores: 0 for keys that are seen, -inf for others."""
    scores = torch.zeros(is_seen.shape, dtype=dtype, device=is_seen.device)
    return scores.masked_fill_(~is_seen, -torch.inf)


AttentionInterface.register(NAME, batch_attention)
