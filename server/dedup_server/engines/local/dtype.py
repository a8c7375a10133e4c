"""The data type in which a model is fastest on this CPU, by measurement."""

import time
from typing import Any

import torch
from torch.nn.functional import linear

from dedup_server.engines.local.packed import multiply, pack

CANDIDATES = (torch.float32, torch.bfloat16)
_ROWS = (1, 16)  # one request, and many at once
_SAMPLE_BYTES = 128 << 20  # in float32: more than caches hold, and less than a second to measure
_LEAST_GAIN = 1.15  # below it, float32 stays: a repeated start must not decide otherwise
_NUM_RUNS = 4


def fastest(model: torch.nn.Module) -> tuple[torch.dtype, str]:
    """Return the data type to serve a model in on the CPU, and the measurement in one line.

    A step reads every weight once, which is most of its time, so some layers' matrices stand for
    the model. One that caches hold gains nothing: it is not measured, and the line is empty.
    """
    weights: list[torch.Tensor] = []
    total = sampled = 0
    for layer in model.modules():
        if type(layer) is torch.nn.Linear and layer.weight.is_floating_point():
            size = layer.weight.numel() * torch.float32.itemsize
            total += size
            if sampled < _SAMPLE_BYTES:
                weights.append(layer.weight.detach())
                sampled += size
    if sampled < _SAMPLE_BYTES:
        return torch.float32, ""
    times = {dtype: _seconds([each.to(dtype) for each in weights]) for dtype in CANDIDATES}
    best = min(times, key=lambda dtype: sum(times[dtype]))
    if sum(times[torch.float32]) < _LEAST_GAIN * sum(times[best]):
        best = torch.float32
    told = [
        f"{_name(dtype)} " + " and ".join(f"{1e3 * each * total / sampled:.0f}" for each in seconds)
        for dtype, seconds in times.items()
    ]
    rows = " and ".join(map(str, _ROWS))
    return best, f"{_name(best)} (ms a step for {rows} sequences: {', '.join(told)})"


@torch.inference_mode()
def _seconds(weights: list[torch.Tensor]) -> list[float]:
    """Return how long all multiplications take, for each number of rows."""
    times = []
    function: Any = multiply
    try:
        weights = pack(weights)
    except RuntimeError:
        function = linear
    dtype = weights[0].dtype
    for num_rows in _ROWS:
        rows = {each.shape[1]: torch.ones(num_rows, each.shape[1], dtype=dtype) for each in weights}
        best = float("inf")
        for _ in range(_NUM_RUNS):
            begun = time.perf_counter()
            for weight in weights:
                function(rows[weight.shape[1]], weight)
            best = min(best, time.perf_counter() - begun)
        times.append(best)
    return times


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
