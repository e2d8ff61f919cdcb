"""The precision to compute in: float64 where z has it, else float32, whatever the precision of y and the weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def compute_dtype(z: Tensor) -> torch.dtype:
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def to_compute_dtype(inputs: Sequence[Any]) -> Sequence[Any]:
    """Return `inputs`, z first, with the floating tensors in the dtype to compute in."""
    dtype = compute_dtype(inputs[0])
    return tuple(
        input.to(dtype) if isinstance(input, Tensor) and input.is_floating_point() else input for input in inputs
    )


def is_autocast(device: torch.device) -> bool:
    """Return True if autocast chooses the precision on the device; "meta" has none, and can't be asked."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def result_dtype(z: Tensor, out_dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype of C: `out_dtype`; for None z's, or float32 under autocast, as PyTorch's own losses."""
    if out_dtype is not None:
        return out_dtype
    if z.dtype == torch.float32 or not is_autocast(z.device):
        return z.dtype
    return compute_dtype(z)


def to_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
