"""Attention over transformers' paged cache, one request at a time.

Without flash attention, transformers multiplies the queries of all requests by the keys of all
requests and masks most of it: the cost grows with the square of the requests. It also omits
`softcap` (Gemma 2). Here a request reads only its own pages, so that its numbers do not depend on
the other requests.

`AttentionInterface.register` is the supported hook. For an attention without a registered mask,
transformers builds none.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "dedup_paged"


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one request in a step, from `start` in the batch; `past` tokens came before."""

    request_id: str
    start: int
    num_tokens: int
    past: int


class Layout:
    """The requests of one step and their pages."""

    def __init__(self, spans: list[Span], cache: Any) -> None:
        self.spans = spans
        self.is_decoding = all(span.num_tokens == 1 for span in spans)
        # By allocator and span, the offsets of its pages; only of layers that keep all tokens.
        self.pages: dict[int, list[list[int]]] = {}
        for allocator in cache.cache_allocators.values():
            if allocator.layer_type == "full_attention":
                stride = allocator.block_physical_stride
                self.pages[allocator.index] = [
                    [block * stride for block in allocator.block_table[span.request_id]]
                    for span in spans
                ]


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    cache: Any = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of the tokens of `cache.layout`.

    Args:
        query: shape (1, heads, tokens, size).
        key, value: shape (1, key heads, tokens, size).

    Returns:
        Shape (1, tokens, heads, size).

    Raises:
        ValueError: the model has an option that is not implemented, which must not be ignored.
    """
    for name in ("s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ValueError(f"paged attention does not support {name}")
    layout: Layout = cache.layout
    allocator = cache.layer_to_allocator[module.layer_idx]
    if allocator.layer_type == "full_attention":
        keys, values = _all_tokens(allocator, layout, module, key, value, options)
        window = 0
    else:
        keys, values = _window(allocator, layout, module, key, value, options, cache)
        window = allocator.sliding_window
    num_heads, num_key_heads, size = query.shape[1], key.shape[1], query.shape[3]
    if layout.is_decoding:
        # Goal: no copies of keys. A query sees all keys, so the heads that share a key can take
        # the place of its queries.
        rows = (
            query[0]
            .transpose(0, 1)
            .reshape(-1, num_key_heads, num_heads // num_key_heads, size)
            .chunk(len(layout.spans))
        )
        attend = _capped if softcap else scaled_dot_product_attention
        more: dict[str, Any] = {"softcap": softcap} if softcap else {}
        parts = [
            attend(row, k, v, scale=scaling, **more)
            for row, k, v in zip(rows, keys, values, strict=True)
        ]
        return torch.cat(parts).view(1, len(parts), num_heads, -1), None
    parts = []
    for span, k, v in zip(layout.spans, keys, values, strict=True):
        rows_of = query[:, :, span.start : span.start + span.num_tokens]
        if num_heads != num_key_heads:
            k, v = (each.repeat_interleave(num_heads // num_key_heads, 1) for each in (k, v))
        parts.append(_causal(rows_of, k, v, scaling, softcap, window))
    return torch.cat(parts, 2).transpose(1, 2), None


def _all_tokens(
    allocator: Any,
    layout: Layout,
    module: Any,
    key: torch.Tensor,
    value: torch.Tensor,
    options: dict[str, Any],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Write the keys and values of the step, and return those of each request.

    A request of one page gets a view, a longer one a copy.

    Returns:
        Keys and values, each of shape (1, key heads, length, size).
    """
    write_index = options["write_index"][allocator.index]
    size = allocator.tokens_per_page
    found: list[list[torch.Tensor]] = []
    for pages_of_layer, new in zip(
        allocator.get_cache_for_block_table(module.layer_idx), (key, value), strict=True
    ):
        flat = pages_of_layer.flatten(0, 1)
        flat.index_copy_(0, write_index, new[0].transpose(0, 1))
        _, num_heads, head_size = flat.shape
        width, begin = flat.stride(0), flat.storage_offset()
        strides = (width, head_size, width, 1)
        rows = []
        for span, pages in zip(layout.spans, layout.pages[allocator.index], strict=True):
            length = span.past + span.num_tokens
            if length <= size:
                rows.append(
                    flat.as_strided(
                        (1, num_heads, length, head_size), strides, begin + pages[0] * width
                    )
                )
                continue
            parts = [
                flat[page : page + min(size, length - number * size)]
                for number, page in enumerate(pages)
            ]
            rows.append(torch.cat(parts[: -(-length // size)]).transpose(0, 1).unsqueeze(0))
        found.append(rows)
    return found[0], found[1]


def _window(
    allocator: Any,
    layout: Layout,
    module: Any,
    key: torch.Tensor,
    value: torch.Tensor,
    options: dict[str, Any],
    cache: Any,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Do what `_all_tokens` does, for layers that keep a window as a ring."""
    read_index = options["read_index"][allocator.index]
    write_index = options["write_index"][allocator.index]
    lengths = [allocator.get_seqlen_k(span.past, span.num_tokens) for span in layout.spans]
    unrolled = allocator.update(
        key[0].transpose(0, 1), value[0].transpose(0, 1), module.layer_idx, read_index, write_index
    )
    keys, values = (
        [row.transpose(0, 1).unsqueeze(0) for row in each.split(lengths)] for each in unrolled
    )
    return keys, values


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    window: int,
) -> torch.Tensor:
    """Return causal attention. The last key is that of the last query.

    Args:
        window: number of keys that a query sees, its own included; 0 is all.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    mask = None
    if num_queries > 1 and (softcap or window or num_queries < num_keys):
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device).tril(
            num_keys - num_queries
        )
        if window:
            mask = mask.triu(num_keys - num_queries - window + 1)
    if softcap:
        return _capped(query, key, value, scaling, softcap, mask)
    causal = mask is None and num_queries > 1
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scaling
    )


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    softcap: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    weights = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scale is None else scale)
    weights = torch.tanh(weights / softcap) * softcap
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return weights.softmax(-1, torch.float32).to(value.dtype) @ value


AttentionInterface.register(NAME, paged_attention)
