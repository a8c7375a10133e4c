"""Linear layers on the CPU with weights in oneDNN's own order.

PyTorch multiplies float32 matrices with MKL, which takes twice as long for the few rows of a
decoding step, and whose sums depend on the number of rows. oneDNN's do not.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

# oneDNN adds up a row that is alone in two parts if it has more numbers, with a sum of its own.
_SPLIT = 1024
DTYPES = (torch.float32, torch.bfloat16)
_MEMORY_SHARE = 0.25  # of the free memory, for the second copy of the weights


def linears(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """Return the linear layers whose weights can be packed."""
    return [
        layer
        for layer in model.modules()
        if type(layer) is torch.nn.Linear
        and layer.weight.dtype in DTYPES
        and layer.weight.device.type == "cpu"
    ]


def pack(weights: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return packed weights. Raises RuntimeError if PyTorch cannot pack them."""
    reorder = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    if reorder is None:
        raise RuntimeError("this build of PyTorch has no oneDNN")
    return [reorder(weight.detach(), 16) for weight in weights]


def multiply(
    rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what a linear layer with `packed` weights returns for `rows`.

    A row's numbers do not depend on the other rows.
    """
    if rows.shape[-1] > _SPLIT and rows.shape[-1] == rows.numel():
        pair = rows.expand(*rows.shape[:-2], 2, -1) if rows.ndim > 1 else rows.expand(2, -1)
        return multiply(pair, packed, bias)[..., :1, :].reshape(*rows.shape[:-1], -1)
    return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")  # type: ignore[no-any-return]


def pack_linears(model: Any, free_bytes: int) -> Callable[[], None]:
    """Pack the weights of the model's linear layers, if PyTorch and the memory allow it.

    Returns:
        A function that undoes it.
    """
    layers = linears(model)
    if not layers or sum(layer.weight.nbytes for layer in layers) > _MEMORY_SHARE * free_bytes:
        return lambda: None
    try:
        packed = pack(layer.weight for layer in layers)
    except RuntimeError:
        return lambda: None
    for layer, weight in zip(layers, packed, strict=True):
        layer.forward = functools.partial(_forward, layer, weight)  # type: ignore[method-assign]

    def undo() -> None:
        for layer in layers:
            layer.__dict__.pop("forward", None)

    return undo


def _forward(layer: torch.nn.Linear, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return multiply(rows, weight, layer.bias)
