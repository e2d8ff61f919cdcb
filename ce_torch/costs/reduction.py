"""From the cost of each example to the cost of all, and back."""

import math

from torch import Tensor


def reduce(reduction: str, C: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return (1/n) Σₓ Cₓ for "mean", Σₓ Cₓ for "sum", every Cₓ for "none"; n is the number of examples that count."""
    if reduction == "none":
        return C
    if reduction == "sum":
        return C.sum()
    return C.mean() if counts is None else C.sum() / counts.sum()


def unreduce(grad: Tensor, reduction: str, z: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the gradient that reaches the cost of each example of z, of a shape that broadcasts to z's."""
    if reduction == "none":
        return grad.unsqueeze(-1)
    if reduction == "sum":
        return grad
    return grad / (math.prod(z.shape[:-1]) if counts is None else counts.sum())
