"""From the cost of each example to the cost of all, and back."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype


def reduce(
    reduction: str, C: Tensor, counted: Tensor | None = None, batch_dims: int = 0, empty: float = math.nan
) -> Tensor:
    """Return (1/n) Σₓ Cₓ for "mean", Σₓ Cₓ for "sum", every Cₓ for "none"; n is the number of examples that count.

    The first `batch_dims` dimensions are those of a batch of costs: each cost is reduced. The mean is `empty` if no
    example counts: nan, or 0 for derivatives of costs.
    """
    if reduction == "none":
        return C
    if batch_dims and math.prod(C.shape[batch_dims:]) == 1:
        # Each cost is of one example, as where vmap gives each example a gradient.
        C = C.reshape(C.shape[:batch_dims])
        return C if reduction == "sum" or counted is None else quotient(C, counted.reshape(C.shape), empty)
    dims = tuple(range(batch_dims, C.ndim))
    if reduction == "sum":
        return C.sum(dims)
    return C.mean(dims) if counted is None else quotient(C.sum(dims), counted.sum(dims), empty)


def example_grad(grad_output: Tensor, reduction: str, z: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the gradient that reaches the cost of each example of z, in a shape that broadcasts to z's.

    It is of the dtype to compute in, before anything is rounded.
    """
    grad_output = grad_output.to(compute_dtype(z))
    if reduction == "none":
        return grad_output.unsqueeze(-1)
    if reduction == "sum":
        return grad_output
    if counted is None:
        return grad_output / count(grad_output, z.shape[:-1])
    # Where no example counts, none has a gradient.
    return quotient(grad_output, counted.sum(), empty=0)


def count(tensor: Tensor, shape: Sequence[int]) -> int | Tensor:
    """Return how many elements a shape has, as what divides the tensor: vmap can't divide by a compiler's symbols."""
    n = math.prod(shape)
    return n if isinstance(n, int) else tensor.new_full((), n, dtype=torch.int64)


def quotient(C: Tensor, n: Tensor, empty: float = math.nan) -> Tensor:
    """Return C / n; where n is 0, `empty` without a gradient."""
    if n.dtype == torch.bool:
        return C.where(n, empty)
    is_empty = n == 0
    return (C / n.masked_fill(is_empty, 1)).masked_fill(is_empty, empty)
