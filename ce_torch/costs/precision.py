"""The precision to work in: at least float32; float64 where a tensor has it."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def widen(inputs: Sequence[Any]) -> Sequence[Any]:
    """Return `inputs` with the floating tensors in float32 if z, the first, has half precision."""
    if inputs[0].dtype not in (torch.float16, torch.bfloat16):
        return inputs
    return tuple(
        input.float() if isinstance(input, Tensor) and input.is_floating_point() else input for input in inputs
    )


def wide(*inputs: Any) -> torch.dtype:
    """Return the dtype to compute in: float32 or, where a floating tensor among the inputs is of it, float64."""
    dtypes = (input.dtype for input in inputs if isinstance(input, Tensor) and input.is_floating_point())
    return reduce(torch.promote_types, dtypes, torch.float32)


def is_autocast(device: torch.device) -> bool:
    """Whether autocast chooses the precision on such a device; of "meta", which has none, it can't be asked."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
