"""Saturated output neurons: σ is flat there, so σ′, a factor of the quadratic cost's δ, is nearly 0."""

import math

import torch
from torch import Tensor

SATURATED_Z = 4  # beyond ± this z a neuron is saturated: σ′ < 0.02
NEAR = 1 / (1 + math.exp(SATURATED_Z))  # σ(−4), how near to 0 or 1 the output is there


def is_saturated(a: Tensor) -> Tensor:
    """Return for each output whether it is nearer to 0 or 1 than σ(−4); for a sigmoid neuron, whether |z| > 4."""
    return torch.minimum(a, 1 - a) < NEAR


def is_saturated_wrong(a: Tensor, y: Tensor) -> Tensor:
    """Return for each output whether it is saturated at 0 where 1 is desired, or at 1 where 0 is.

    Args:
        a: the outputs, (..., n, K).
        y: class indices, (n,).
    """
    desired = y[:, None] == torch.arange(a.shape[-1], device=a.device)
    return is_saturated(a) & ((a > 0.5) != desired)
