"""The kernels for the numbers of a softmax layer: `softmax_statistics.h`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.kernels.cpp import CHANGED, REDUCTIONS, cpu_refusal, kernel

# Of each example, in the kernels: p, ℓ and H, then what δ takes: m, r and H, and three gradients.
KNOWN = slice(3, 6)
NONE = -(2**63)  # no class, nor an ignore_index that somebody asks for


class StatisticsImplementation(NamedTuple):
    """A way to compute the numbers of a softmax layer, and δ.

    `refusal(z, y, ...)` says why these inputs are not supported, and is None if they are. Then
    (p, ℓ, H, ĵ), statistics = numbers(z, y, c, softcap, ignore_index, entropy), and
    δ = delta(g_p, g_ℓ, g_H, statistics, z, y, c, softcap, ignore_index). Statistics, shape (3, ...), are what δ can use
    of the pass over z, or None.
    """

    name: str
    refusal: Callable[..., str | None]
    numbers: Callable[..., tuple[Any, Tensor | None]]
    delta: Callable[..., Tensor]


def statistics_kernels() -> StatisticsImplementation:
    """Return the kernels for the CPU as an implementation."""

    def refusal(z: Tensor, y: Tensor | None, *_: Any) -> str | None:
        return cpu_refusal("softmax_statistics_refusal", z, classes(z, y))

    def numbers(
        z: Tensor, y: Tensor | None, c: float, softcap: float | None, ignore_index: int, entropy: bool
    ) -> tuple[Any, Tensor]:
        rows = z.new_empty((6, *z.shape[:-1]), dtype=compute_dtype(z))
        prediction = z.new_empty(z.shape[:-1], dtype=torch.int64)
        constants = c, ignore_index if y is not None else NONE, 0.0, softcap or 0.0, float(entropy)
        last = REDUCTIONS["none"], torch.get_num_threads(), None, rows, prediction
        if not kernel("softmax_statistics")(z, classes(z, y), *constants, *last):
            raise IndexError(f"y must hold class indices from 0 to {z.shape[-1] - 1}")
        # None of them keeps the memory of the others.
        p, logsumexp, H = (row.clone() if row is not None else None for row in asked_for(rows, y, entropy))
        return (p, logsumexp, H, prediction), rows[KNOWN].clone()

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
        if statistics is None or not statistics.numel():
            _, statistics = numbers(z, y, c, softcap, ignore_index, g_H is not None)
        rows = z.new_zeros((9, *z.shape[:-1]), dtype=compute_dtype(z))
        if statistics.shape[1:] != z.shape[:-1] or statistics.dtype != rows.dtype:
            raise RuntimeError(CHANGED)
        rows[KNOWN] = statistics
        for row, grad in zip(rows[6:], (None if y is None else g_p, g_l, g_H), strict=True):
            if grad is not None:
                row.copy_(grad)
        delta = torch.empty_like(z)
        constants = c, ignore_index if y is not None else NONE, 0.0, softcap or 0.0, float(g_H is not None)
        last = REDUCTIONS["none"], torch.get_num_threads(), None, rows, delta
        if not kernel("softmax_statistics_delta")(z, classes(z, y), *constants, *last):
            raise RuntimeError(CHANGED)
        return delta

    return StatisticsImplementation("cpp", refusal, numbers, delta)


def classes(z: Tensor, y: Tensor | None) -> Tensor:
    """Return y, or for None a class 0 of each example, which is one number in memory."""
    return z.new_zeros((), dtype=torch.int64).expand(z.shape[:-1]) if y is None else y


def asked_for(rows: Tensor, y: Tensor | None, entropy: bool) -> tuple[Tensor | None, ...]:
    return None if y is None else rows[0], rows[1], rows[2] if entropy else None
