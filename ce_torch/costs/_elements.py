"""What the costs share that are sums over neurons: a mean over elements, and a mask of the elements that count."""

from typing import Any, Literal

import torch
from torch import Tensor

from ce_torch.costs._arguments import class_dim
from ce_torch.costs._function import CostFunction
from ce_torch.costs._precision import compute_dtype, result_dtype, to_dtype
from ce_torch.costs._reduction import quotient

Reduction = Literal["mean", "element_mean", "sum", "none"]


def reduced_cost(
    prepared: tuple[CostFunction, tuple[Any, ...]],
    z: Tensor,
    dim: int | None,
    reduction: Reduction,
    out_dtype: torch.dtype | None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return C of what `prepare` returned, where elements outside of the mask have weight 0; no mean counts them."""
    function, inputs = prepared
    dtype = result_dtype(z, out_dtype)
    if reduction in ("sum", "none") or (reduction == "mean" and mask is None):
        return function(dtype, reduction, *inputs)
    if mask is None:
        return to_dtype(function(compute_dtype(z), "mean", *inputs) / z.shape[class_dim(dim)], dtype)
    counts = mask.expand(z.shape)
    # An example counts if one of its elements does.
    count = (counts if reduction == "element_mean" else counts.any(class_dim(dim))).sum()
    return to_dtype(quotient(function(compute_dtype(z), "sum", *inputs), count), dtype)
