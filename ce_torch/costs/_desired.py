"""Desired outputs y, as numbers or as class indices."""

import torch
from torch import Tensor


def desired_outputs(y: Tensor, z: Tensor) -> Tensor:
    """Return y shaped like z: class indices become the one-hot vectors that they stand for."""
    return y if y.is_floating_point() else one_hot(y, z)


def one_hot(y: Tensor, z: Tensor) -> Tensor:
    """Return the desired outputs, shaped like z, that class indices y stand for."""
    return torch.zeros_like(z, requires_grad=False).scatter(-1, y.unsqueeze(-1), 1)
