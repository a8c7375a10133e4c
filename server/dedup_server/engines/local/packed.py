"""Linear layers on the CPU with weights in oneDNN's own order.

PyTorch multiplies float32 matrices with MKL, which takes twice as long for the few rows of a
decoding step, and whose sums depend on the number of rows. oneDNN's do not.

Layers that read the same rows, such as those of queries, keys and values, are one product: a small
one costs as much in waking threads as in reading its weights.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

# oneDNN adds up a row that is alone in two parts if it has more numbers, with a sum of its own.
_SPLIT = 1024
DTYPES = (torch.float32, torch.bfloat16)
_MEMORY_SHARE = 0.25  # of the free memory, for the second copy of the weights
# Layers of one module that read the same rows, as transformers names them in most models.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


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
        products = [_Product(group) for group in _groups(model, layers)]
    except RuntimeError:
        return lambda: None
    for product in products:
        for number, layer in enumerate(product.layers):
            layer.forward = functools.partial(product.part, number)  # type: ignore[method-assign]

    def undo() -> None:
        for layer in layers:
            layer.__dict__.pop("forward", None)

    return undo


def _groups(
    model: torch.nn.Module, layers: Sequence[torch.nn.Linear]
) -> Iterator[list[torch.nn.Linear]]:
    """Divide layers into groups, each to be multiplied as one."""
    left = dict.fromkeys(layers)
    for module in model.modules():
        for names in _SIBLINGS:
            found = [getattr(module, name, None) for name in names]
            group = [layer for layer in found if layer in left]
            kinds = {(layer.in_features, layer.weight.dtype, layer.bias is None) for layer in group}
            if len(group) == len(names) and len(kinds) == 1:
                for layer in group:
                    del left[layer]
                yield group
    for layer in left:
        yield [layer]


class _Product:
    """The product of the same rows with the weights of some layers, of which each takes its part.

    It is worked out for the first layer that asks, and kept until all have asked.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        self.layers = layers
        self._sizes = [layer.out_features for layer in layers]
        (self._weight,) = pack([_joined([layer.weight for layer in layers])])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self._bias = _joined(biases) if biases else None
        self._rows: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}  # of `_rows`, by layer, until taken

    def part(self, number: int, rows: torch.Tensor) -> torch.Tensor:
        """Return what layer `number` returns for `rows`."""
        if rows is not self._rows or number not in self._parts:
            self._rows = rows
            product = multiply(rows, self._weight, self._bias)
            self._parts = dict(enumerate(torch.split(product, self._sizes, -1)))
        part = self._parts.pop(number)
        if not self._parts:
            self._rows = None
        return part


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([each.detach() for each in tensors]) if len(tensors) > 1 else tensors[0]
