"""Formulas worked out block of rows by block of rows, for z on the CPU that is larger than its caches.

What a formula makes on the way (softmax, say) is never larger than a block: it stays in the cache, and costs neither
the memory nor the time of one more tensor of z's size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._precision import wide, widen
from ce_torch.costs._product import product
from ce_torch.costs._reduction import reduce, unreduce
from ce_torch.costs.kernels import NOT_PLAIN, Fast, is_plain

# The elements of a block: what fits into a second-level cache with all that a formula makes of it, and as many as
# PyTorch works out in one thread. Threads that share so little wait for one another after each operation.
ELEMENTS = 32768

# In every dimension that is cut, counted from the last: where the part starts, and its length. () is the whole.
Part = tuple[tuple[int, int, int], ...]


def refusal(z: Tensor, *_: Any) -> str | None:
    """Return why blocks are not for z: they are where z's passes over memory are what takes the time."""
    if not z.is_cpu:
        return "z is not on the CPU"
    if not is_plain(z):
        return NOT_PLAIN
    if z.ndim == 1:
        return "z is a single example"
    if z.numel() <= ELEMENTS:
        return "z is no larger than a block"
    return None


def parts(shape: Sequence[int]) -> Iterator[Part]:
    """Yield the blocks of a tensor of this shape, each of at least one row."""
    if math.prod(shape) <= ELEMENTS:
        yield ()
        return
    first, *rest = shape
    rows = ELEMENTS // max(math.prod(rest), 1)
    if rows == 0 and len(rest) > 1:
        for start in range(first):
            for part in parts(rest):
                yield ((-len(shape), start, 1), *part)
    else:
        rows = max(rows, 1)
        for start in range(0, first, rows):
            yield ((-len(shape), start, min(rows, first - start)),)


def parts_of(inputs: Sequence[Any], part: Part) -> tuple[Any, ...]:
    """Return the part of each tensor that broadcasts to z, or of class indices, which lack z's last dimension."""
    if part == ():
        return tuple(inputs)
    return tuple(
        part_of(input, part, 0 if input.is_floating_point() else 1) if isinstance(input, Tensor) else input
        for input in inputs
    )


def part_of(tensor: Tensor, part: Part, dimensions_lacking: int = 0) -> Tensor:
    """Return a view on the part of a tensor, which may lack the last dimensions of z."""
    for dimension, start, length in part:
        dimension += dimensions_lacking
        if tensor.ndim >= -dimension and tensor.shape[dimension] not in (1, length):
            tensor = tensor.narrow(dimension, start, length)
    return tensor


def by_blocks(cost: Callable[..., Tensor], delta: Callable[..., Tensor], counts: Callable[..., Tensor | None]) -> Fast:
    """Return the formulas of a cost and its δ, worked out block of rows by block of rows."""

    def cost_by_blocks(reduction: str, z: Tensor, *inputs: Any) -> tuple[Tensor, None]:
        C = torch.empty(z.shape[:-1], dtype=wide(z), device=z.device)
        for part in parts(z.shape):
            part_of(C, part, dimensions_lacking=1).copy_(cost(*widen(parts_of((z, *inputs), part))))
        return reduce(reduction, C, counts(z, *inputs)), None

    def delta_by_blocks(grad: Tensor, sums: None, reduction: str, z: Tensor, *inputs: Any) -> Tensor:
        out, of_example = torch.empty_like(z), unreduce(grad, reduction, z, counts(z, *inputs))
        for part in parts(z.shape):
            out_part, of_part, *inputs_part = parts_of((out, of_example, z, *inputs), part)
            out_part.copy_(product(of_part, delta(*widen(inputs_part))))
        return out

    return Fast("blocks", refusal, cost_by_blocks, delta_by_blocks)
