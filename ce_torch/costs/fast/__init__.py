"""Faster ways than the formulas: by blocks that stay in the caches, by kernels for the CPU, by kernels for a GPU."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Fast(NamedTuple):
    """A way for a cost and its δ that are only worked out, and not differentiated again.

    C, sums = cost(reduction, z, ...) and ∂C/∂z = delta(grad, sums, reduction, z, ...), with what reached C in `grad`,
    where `takes(z, ...)`.
    """

    takes: Callable[..., bool]
    cost: Callable[..., tuple[Tensor, Any]]
    delta: Callable[..., Tensor]


def memory_is_all() -> bool:
    """Whether what is done to the memory of tensors is all that counts: no dispatch mode looks on, such as a tracer."""
    return torch._C._len_torch_dispatch_stack() == 0


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is numbers in memory as they are: no subclass's, not sparse, not to be negated when read."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
    )
