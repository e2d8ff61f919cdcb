"""Products in which what does not count adds nothing, whatever stands there."""

from torch import Tensor


def product(factor: Tensor | float | None, tensor: Tensor) -> Tensor:
    """Return factor · tensor, 0 where the factor is 0 and the tensor is ±∞ or nan; None stands for 1.

    A factor of 0 still has its derivative, the tensor, wherever that is finite.
    """
    if factor is None:
        return tensor
    if not isinstance(factor, Tensor):
        if factor == 0:
            tensor = tensor.masked_fill(~tensor.isfinite(), 0)
        return tensor if factor == 1 else factor * tensor
    return factor * tensor.masked_fill((factor == 0) & ~tensor.isfinite(), 0)
