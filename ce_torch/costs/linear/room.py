"""Room that a gradient lends until it is written: the memory of its last rows."""

from collections.abc import Iterator

import torch
from torch import Tensor

# A tensor begins at a multiple of so many bytes, where products and kernels read fastest.
ALIGNMENT = 256
# What at most is lost to that by a few tensors.
SLACK = 8 * ALIGNMENT
Size = tuple[int, torch.dtype]


def count_bytes(*sizes: Size) -> int:
    """Return how many bytes tensors with these numbers of elements and dtypes take together."""
    return sum(-(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT for count, dtype in sizes)


def lent_bytes(gradient: Tensor, first: int) -> int:
    """Return how many bytes the gradient's rows from the first on lend."""
    return max(gradient[first:].nbytes - SLACK, 0)


def borrow(gradient: Tensor, first: int, *sizes: Size) -> Iterator[Tensor]:
    """Yield memory of each size: at the end of the gradient, if its rows from the first on have room for all."""
    needed, in_use = count_bytes(*sizes), first * gradient.stride(0) * gradient.element_size()
    start = (gradient.nbytes - needed) // ALIGNMENT * ALIGNMENT
    has_room = start >= in_use
    lent = gradient.view(-1).view(torch.uint8) if has_room else gradient.new_empty(needed, dtype=torch.uint8)
    start = start if has_room else 0
    for size in sizes:
        count, dtype = size
        yield lent[start : start + count * dtype.itemsize].view(dtype)
        start += count_bytes(size)
