"""Linear layers on the CPU that are fast for few rows.

PyTorch multiplies float32 matrices with MKL, which is slow for the few rows of a decoding step: two
rows take twice as long as one. oneDNN is fast, once the weights are packed in its own order.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear

# One row is limited by memory either way; oneDNN caches a kernel for every number of rows.
_ROWS = range(2, 33)
_MEMORY_SHARE = 0.25  # of the free memory, for the second copy of the weights


def pack_linears(model: Any, free_bytes: int) -> Callable[[], None]:
    """Pack the weights of the model's float32 linear layers, if PyTorch and the memory allow it.

    Returns:
        A function that undoes it.
    """
    layers = [
        layer
        for layer in model.modules()
        if type(layer) is torch.nn.Linear
        and layer.weight.dtype == torch.float32
        and layer.weight.device.type == "cpu"
    ]
    size = sum(layer.weight.nbytes for layer in layers)
    reorder = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    if not layers or reorder is None or size > _MEMORY_SHARE * free_bytes:
        return lambda: None
    try:
        packed = [reorder(layer.weight.detach(), 16) for layer in layers]
    except RuntimeError:
        return lambda: None
    for layer, weight in zip(layers, packed, strict=True):
        layer.forward = functools.partial(_forward, layer, weight)  # type: ignore[method-assign]

    def undo() -> None:
        for layer in layers:
            layer.__dict__.pop("forward", None)

    return undo


def _forward(layer: torch.nn.Linear, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if rows.numel() // rows.shape[-1] not in _ROWS:
        return linear(rows, layer.weight, layer.bias)
    return torch.ops.mkldnn._linear_pointwise(rows, weight, layer.bias, "none", [], "")  # type: ignore[no-any-return]
