"""The cost of a layer whose z takes no more than half a megabyte: that of the layer, and then of all z.

Blocks and tiles would take longer than their arithmetic. The derivatives are those of `F.linear` and of the cost of z.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from ce_torch.costs._arguments import values_can_be_read
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.kernels import is_plain
from ce_torch.costs.kernels.cpp import is_readable
from ce_torch.costs.log_likelihood import LOG_LIKELIHOOD

MOST_ELEMENTS = 1 << 17


def supports(x: Tensor, weight: Tensor, y: Tensor, bias: Tensor | None, ignore_index: int) -> bool:
    """Return True if a layer and its classes y are computed in this way; False for what is not valid, too."""
    if torch.compiler.is_compiling():
        return False
    if not (is_in_memory(x) and is_in_memory(weight) and is_in_memory(y) and (bias is None or is_in_memory(bias))):
        return False
    if weight.ndim != 2 or y.dtype != torch.int64 or y.shape != x.shape[:-1]:
        return False
    (K, D), N = weight.shape, y.numel()
    if N * K > MOST_ELEMENTS or 0 in (N, K, D) or x.shape[-1] != D or (bias is not None and bias.shape != (K,)):
        return False
    # In half precision x and weight are copied.
    if x.dtype not in (torch.float32, torch.float64) and max(N, K) * D > MOST_ELEMENTS:
        return False
    if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        return False
    if not values_can_be_read(y) or torch.is_autocast_enabled("cpu"):
        return False
    # In δᵀ x 0 times nan is nan: an example that does not count must be finite.
    may_be_ignored = ignore_index >= 0 or y.min().item() < 0
    return not may_be_ignored or bool(x.isfinite().all())


def is_in_memory(tensor: Tensor) -> bool:
    """Return True for a plain tensor on the CPU."""
    return is_readable(tensor) or (isinstance(tensor, Tensor) and tensor.is_cpu and is_plain(tensor))


def cost(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    bias: Tensor | None,
    options: tuple[float, int, float],
    reduction: str,
    dtype: torch.dtype,
) -> Tensor:
    """Return the reduced cost in this dtype. The options are c, ignore_index and label_smoothing."""
    wide = compute_dtype(x)
    if wide != x.dtype:
        x, weight, bias = x.to(wide), weight.to(wide), None if bias is None else bias.to(wide)
    return LOG_LIKELIHOOD(dtype, reduction, linear(x, weight, bias), y, None, *options)
