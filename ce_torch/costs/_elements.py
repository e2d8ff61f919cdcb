"""What the costs share that are sums over neurons: a mean over elements, and a mask of the elements that count.

A mask is a weight of 1 and 0 to the formulas and kernels. What is not a number has no say where the weight is 0.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ce_torch.costs._arguments import class_dim, classes_last, values_can_be_read
from ce_torch.costs._desired import desired_outputs
from ce_torch.costs._function import CostFunction
from ce_torch.costs._precision import compute_dtype, result_dtype, to_dtype
from ce_torch.costs._reduction import quotient

Reduction = Literal["mean", "element_mean", "sum", "none"]


def countable(z: Tensor, y: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return z and the desired outputs, 0 for what is not a number where w is 0."""
    y = desired_outputs(y, z)
    if w is None:
        return z, y
    return z.masked_fill((w == 0) & z.isnan(), 0), y.masked_fill((w == 0) & ~y.isfinite(), 0)


def reduced_cost(
    prepared: tuple[CostFunction, tuple[Any, ...]],
    z: Tensor,
    dim: int | None,
    reduction: Reduction,
    out_dtype: torch.dtype | None,
    mask: Tensor | None,
) -> Tensor:
    """Return C of what `prepare` returned, where elements outside of the mask have weight 0; no mean counts them."""
    function, inputs = prepared
    dtype = result_dtype(z, out_dtype)
    if reduction in ("sum", "none") or (reduction == "mean" and mask is None):
        return function(dtype, reduction, *inputs)
    if mask is None:
        return to_dtype(function(compute_dtype(z), "mean", *inputs) / z.shape[class_dim(dim)], dtype)
    C = function(compute_dtype(z), "sum", *inputs)
    z, _, is_counted = classes_last(dim, z, z, mask)
    count = masked_count(z, is_counted, reduction)
    if isinstance(count, int) and count > 0:
        return to_dtype(C / count, dtype)
    return to_dtype(quotient(C, C.new_tensor(count) if isinstance(count, int) else count), dtype)


def masked_count(z: Tensor, mask: Tensor, reduction: Reduction) -> int | Tensor:
    """Return how many elements of z (..., K) the mask lets count, or, for "mean", how many examples with one.

    It is a number where that can be read: in a small batch each operation on a tensor takes a tenth of the cost's time.
    """
    shape, is_readable = z.shape[:-1] if reduction == "mean" else z.shape, values_can_be_read(mask)
    if reduction == "mean" and mask.ndim == 1 and is_readable:
        # One row lets all examples count, or none.
        return math.prod(shape) if mask.any() else 0
    if reduction == "mean" and mask.ndim:
        # Unlike `any`, these work on many elements at once.
        mask = mask.count_nonzero(-1) if is_readable else mask.sum(-1) != 0
    repeated = math.prod(shape) // max(mask.numel(), 1)
    # `count_nonzero` can't be batched by each version of PyTorch.
    return (int(mask.count_nonzero()) if is_readable else mask.sum()) * repeated
