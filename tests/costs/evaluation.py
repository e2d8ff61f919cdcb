"""The value and the gradient of a cost, for tests that compare two ways to compute them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def cost_and_delta(
    cost: Callable[..., Tensor], z: Tensor, y: Tensor, upstream: float = 2.0, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return C, and its gradient by z for upstream gradients that rise from 1 to `upstream`."""
    z = z.detach().requires_grad_()
    C = cost(z, y, **options)
    (delta,) = torch.autograd.grad(C, z, torch.linspace(1, upstream, C.numel()).view(C.shape).to(C))
    return C.detach(), delta
