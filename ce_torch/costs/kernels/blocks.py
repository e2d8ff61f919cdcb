"""Formulas computed block of rows by block of rows, for z on the CPU that is larger than its caches.

What a formula makes on the way (softmax, say) is never larger than a block: it stays in the cache, and costs neither
the memory nor the time of one more tensor of z's size.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype, to_compute_dtype, to_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import example_grad, reduce
from ce_torch.costs.kernels import NOT_PLAIN, Implementation, is_plain

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

# The elements of a block: what fits into a second-level cache with all that a formula makes of it, and as many as
# PyTorch computes in one thread. Threads that share so little wait for one another after each operation.
ELEMENTS = 32768

# In every dimension that is cut, counted from the last: where the block starts, and its length. () is the whole.
Block = tuple[tuple[int, int, int], ...]


def blocks(spec: "CostSpec") -> Implementation:
    """Return the cost's formulas block by block as an implementation, without statistics."""

    def cost(dtype: torch.dtype, reduction: str, z: Tensor, *inputs: Any) -> tuple[Tensor, None]:
        C = torch.empty(z.shape[:-1], dtype=compute_dtype(z), device=z.device)
        for block in cut(z.shape):
            narrow(C, block, missing_dims=1).copy_(spec.cost(*to_compute_dtype(narrow_all((z, *inputs), block))))
        return to_dtype(reduce(reduction, C, spec.counted(z, *inputs)), dtype), None

    def delta(grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any) -> Tensor:
        out, g = torch.empty_like(z), example_grad(grad_output, reduction, z, spec.counted(z, *inputs))
        for block in cut(z.shape):
            out_block, g_block, *inputs_block = narrow_all((out, g, z, *inputs), block)
            out_block.copy_(product(g_block, spec.delta(*to_compute_dtype(inputs_block))))
        return out

    def change(
        v: Tensor, grad_output: Tensor | None, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        counted = spec.counted(z, *inputs)
        C_change = torch.empty(z.shape[:-1], dtype=compute_dtype(z), device=z.device)
        out = g = None
        if grad_output is not None:
            out, g = torch.empty_like(z), example_grad(grad_output, reduction, z, counted)
        for block in cut(z.shape):
            g_block, v_block, *inputs_block = narrow_all((g, v, z, *inputs), block)
            arguments = to_compute_dtype(inputs_block)
            v_block = v_block.to(C_change.dtype)
            narrow(C_change, block, missing_dims=1).copy_(product(v_block, spec.delta(*arguments)).sum(-1))
            if out is not None:
                narrow(out, block).copy_(product(g_block, spec.curvature(v_block, *arguments)))
        return reduce(reduction, C_change, counted, empty=0), out

    return Implementation("blocks", refusal, cost, delta, change)


def refusal(z: Tensor, *inputs: Any) -> str | None:
    """Return why blocks do not pay for z: they do where passes over memory are what takes the time."""
    if not z.is_cpu:
        return "z is not on the CPU"
    if not all(is_plain(input) for input in (z, *inputs) if isinstance(input, Tensor)):
        return NOT_PLAIN
    if z.ndim == 1:
        return "z is a single example"
    if z.numel() <= ELEMENTS:
        return "z is no larger than a block"
    return None


def cut(shape: Sequence[int]) -> Iterator[Block]:
    """Yield the blocks of a tensor of this shape, each of at least one row."""
    if math.prod(shape) <= ELEMENTS:
        yield ()
        return
    first, *rest = shape
    rows = ELEMENTS // max(math.prod(rest), 1)
    if rows == 0 and len(rest) > 1:
        for start in range(first):
            for block in cut(rest):
                yield ((-len(shape), start, 1), *block)
    else:
        rows = max(rows, 1)
        for start in range(0, first, rows):
            yield ((-len(shape), start, min(rows, first - start)),)


def narrow_all(inputs: Sequence[Any], block: Block) -> tuple[Any, ...]:
    """Return the block of each tensor that broadcasts to z, or of class indices, which lack z's last dimension."""
    return tuple(
        narrow(input, block, missing_dims=int(input.dtype == torch.int64)) if isinstance(input, Tensor) else input
        for input in inputs
    )


def narrow(tensor: Tensor, block: Block, missing_dims: int = 0) -> Tensor:
    """Return a view on the block of a tensor, which may lack the last dimensions of z."""
    for dim, start, length in block:
        dim += missing_dims
        if tensor.ndim >= -dim and tensor.shape[dim] not in (1, length):
            tensor = tensor.narrow(dim, start, length)
    return tensor
