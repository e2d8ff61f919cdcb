"""Implementations of a cost and its δ: kernels for the CPU, kernels for GPUs, formulas by blocks, formulas."""

import logging
import math
import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ce_torch.costs._precision import to_dtype
from ce_torch.costs._torch_private import is_zero_tensor

# Reasons against an implementation.
NOT_PLAIN = "an input is no plain tensor, but sparse, of a subclass, or a view that negates"
OFF = "CE_TORCH_KERNELS=0 turns them off"


class Implementation(NamedTuple):
    """A way to compute a cost, its δ, and how both change in a direction.

    `refusal(z, y, ...)` says why these inputs are not supported, and is None if they are. Then
    C, statistics = cost(dtype, reduction, z, y, ...) and ∂C/∂z = delta(grad_output, statistics, reduction, z, y, ...).
    Statistics, of at most 3 N numbers and a few, are what δ can use of the pass over z. A cost that has none
    returns None. For None, and on the CPU for statistics without numbers, delta makes that pass itself.
    change(v, grad_output, statistics, reduction, z, y, ...) are the derivatives of C and of ∂C/∂z in the direction v,
    shaped like z; where grad_output is None that of C, and None. both(dtype, v, reduction, z, y, ...), if there is one,
    are C and its derivative of one reading.
    """

    name: str
    refusal: Callable[..., str | None]
    cost: Callable[..., tuple[Tensor, Tensor | None]]
    delta: Callable[..., Tensor]
    change: Callable[..., tuple[Tensor, Tensor | None]]
    both: Callable[..., tuple[Tensor, Tensor]] | None = None

    def value_and_change(self, dtype: torch.dtype, v: Tensor, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Return C and how it changes with z in the direction v, in this dtype."""
        if self.both is not None:
            return self.both(dtype, v, reduction, *inputs)
        C, statistics = self.cost(dtype, reduction, *inputs)
        C_change, _ = self.change(v, None, statistics, reduction, *inputs)
        return C, to_dtype(C_change, dtype)


@cache
def kernels_are_on() -> bool:
    """Return True if the environment variable CE_TORCH_KERNELS lets kernels run: 1, the default, or 0."""
    value = os.environ.get("CE_TORCH_KERNELS") or "1"
    if value not in ("0", "1"):
        logging.getLogger("ce_torch").warning(
            "CE_TORCH_KERNELS must be 0, for no kernels, or 1, the default, got %r; the kernels run.", value
        )
    return value != "0"


def is_plain(tensor: Tensor) -> bool:
    """Return True for numbers in memory as they are: no subclass's, not sparse, not to be negated when read."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and not is_zero_tensor(tensor)
    )


def new_cost(reduction: str, z: Tensor, dtype: torch.dtype) -> Tensor:
    """Return memory for C."""
    return z.new_empty(z.shape[:-1] if reduction == "none" else (), dtype=dtype)


def statistics_of_row(y: Tensor) -> int:
    """Return how many statistics a row has: m, r, and T, which the CPU's kernels find again for classes."""
    return 3 if y.is_floating_point() else 2


def statistics_room(z: Tensor, y: Tensor, dtype: torch.dtype) -> int:
    """Return how often the statistics fit into a hundredth of z: the CPU's kernels keep them where it is 1 or more."""
    return z.shape[-1] * z.element_size() // (100 * statistics_of_row(y) * dtype.itemsize)


def new_statistics(z: Tensor, y: Tensor, dtype: torch.dtype, *, on_gpu: bool = False) -> Tensor:
    """Return memory for the statistics of each example, without numbers where the CPU's kernels keep none."""
    count = math.prod(z.shape[:-1]) * (3 if on_gpu else statistics_of_row(y))
    # Without an `if`, which compilers could not decide where the number of classes is unknown.
    keeps = 1 if on_gpu else torch.sym_min(1, statistics_room(z, y, dtype))
    # An even number, so that the first two can be a float64.
    return z.new_empty((2 + count + count % 2) * keeps, dtype=dtype)
