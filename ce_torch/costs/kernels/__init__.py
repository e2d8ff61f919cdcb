"""Faster ways than the formulas: by blocks that stay in the caches, by kernels for the CPU, by kernels for a GPU."""

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Why a way does not take inputs.
NOT_PLAIN = "an input is no plain tensor, but sparse, of a subclass, or a view that negates"
WATCHED = "a dispatch mode is active, such as a tracer, which sees no kernels"
OFF = "CE_TORCH_KERNELS=0 turns them off"


class Fast(NamedTuple):
    """A way for a cost and its δ that are only worked out, and not differentiated again.

    `refusal(z, ...)` is why the way does not take these inputs, None where it does. Then
    C, sums = cost(reduction, z, ...) and ∂C/∂z = delta(grad, sums, reduction, z, ...), with what reached C in `grad`;
    sums are None where the cost was not worked out.
    """

    name: str
    refusal: Callable[..., str | None]
    cost: Callable[..., tuple[Tensor, Any]]
    delta: Callable[..., Tensor]


@cache
def kernels_are_on() -> bool:
    """Return whether the environment variable CE_TORCH_KERNELS lets kernels serve: 1, the default, or 0."""
    value = os.environ.get("CE_TORCH_KERNELS") or "1"
    if value not in ("0", "1"):
        logging.getLogger("ce_torch").warning(
            "CE_TORCH_KERNELS must be 0, for no kernels, or 1, the default, got %r; the kernels serve.", value
        )
    return value != "0"


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
