"""From the cost of each example to the cost of all, and back."""

import math

from torch import Tensor


def reduce(C: Tensor, reduction: str) -> Tensor:
    """Return (1/n) Σₓ Cₓ for "mean", Σₓ Cₓ for "sum", every Cₓ for "none"."""
    if reduction == "none":
        return C
    return C.mean() if reduction == "mean" else C.sum()


def unreduce(grad: Tensor, reduction: str, z: Tensor) -> Tensor:
    """Return the gradient that reaches the cost of each example of z, of a shape that broadcasts to z's."""
    if reduction == "none":
        return grad.unsqueeze(-1)
    return grad / math.prod(z.shape[:-1]) if reduction == "mean" else grad
