"""The numbers of a softmax layer on a GPU, by the kernels of `gpu_statistics_kernels.py`."""

from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.kernels import gpu
from ce_torch.costs.kernels.gpu_layout import lay_out
from ce_torch.costs.kernels.statistics import StatisticsImplementation


def statistics_on_gpu() -> StatisticsImplementation:
    """Return the kernels for a GPU as an implementation."""
    return StatisticsImplementation("triton", refusal, numbers, delta)


def refusal(z: Tensor, y: Tensor | None, *_: Any) -> str | None:
    if y is not None and y.is_floating_point():
        return "y holds desired outputs"
    return gpu.refusal(z, y)


def numbers(
    z: Tensor, y: Tensor | None, c: float, softcap: float | None, ignore_index: int, entropy: bool
) -> tuple[Any, Tensor]:
    """Return p, ℓ, H and ĵ, and as statistics m, r and H of each example."""
    new = z.new_empty
    examples, real = z.shape[:-1], compute_dtype(z)
    p, logsumexp, H = (
        new(examples, dtype=real) if is_asked_for else None for is_asked_for in (y is not None, True, entropy)
    )
    statistics, prediction = new((3, *examples), dtype=real), new(examples, dtype=torch.int64)
    layout = lay_out(z, per_example(y), per_example(statistics[0]))
    z_rows, classes, rows = layout.tensors
    inputs = z_rows, classes, gpu.normal(c, real), softcap or 1.0, ignore_index, gpu.count_examples(z)
    constants = {"caps": softcap is not None, "entropy": entropy, "lane_columns": layout.lane_columns}
    outputs = p, logsumexp, H, prediction, rows
    gpu.launch("softmax_statistics", layout, layout.sizes[0], *outputs, *inputs, **constants)
    return (p, logsumexp, H, prediction), statistics


def delta(
    g_p: Tensor | None,
    g_l: Tensor | None,
    g_H: Tensor | None,
    statistics: Tensor | None,
    z: Tensor,
    y: Tensor | None,
    c: float,
    softcap: float | None,
    ignore_index: int,
) -> Tensor:
    """Return δ, shaped like z and of its dtype."""
    if statistics is None or not statistics.numel():
        _, statistics = numbers(z, y, c, softcap, ignore_index, g_H is not None)
    delta = torch.empty_like(z)
    grads = (None if g is None else gpu.row_grads(g) for g in (None if y is None else g_p, g_l, g_H))
    layout = lay_out(z, per_example(y), per_example(statistics[0]), *grads, delta)
    z_rows, classes, rows, *of_numbers, delta_rows = layout.tensors
    inputs = z_rows, classes, gpu.normal(c, statistics.dtype), softcap or 1.0, ignore_index, gpu.count_examples(z)
    constants = {"caps": softcap is not None}
    arguments = delta_rows, rows, *of_numbers, *inputs
    gpu.launch("softmax_statistics_delta", layout, layout.tile_columns, *arguments, **constants)
    return delta


def per_example(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else gpu.per_example(tensor)
