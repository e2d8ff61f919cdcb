"""The formulas of sigmoid and linear neurons for a block of large z: in few passes, in place, not differentiable.

A cost writes to both of its two buffers, shaped like z, and returns C of the examples; a δ is written to the first.
New memory for every block would take longer than the arithmetic.
"""

import torch
from torch import Tensor

Buffers = tuple[Tensor, Tensor]


def cost_of_linear(z: Tensor, y: Tensor, buffers: Buffers) -> Tensor:
    difference, _ = buffers
    return torch.sub(z, y, out=difference).square_().sum(-1).mul_(0.5)


def delta_of_linear(z: Tensor, y: Tensor, buffers: Buffers) -> None:
    delta, _ = buffers
    torch.sub(z, y, out=delta)


def cost_of_sigmoid(z: Tensor, y: Tensor, buffers: Buffers) -> Tensor:
    a, _ = buffers
    return torch.sigmoid(z, out=a).sub_(y).square_().sum(-1).mul_(0.5)


def delta_of_sigmoid(z: Tensor, y: Tensor, buffers: Buffers) -> None:
    delta, a = buffers
    torch.sigmoid(z, out=a)
    torch.sub(a, y, out=delta).mul_(a).mul_(torch.neg(z, out=a).sigmoid_())


def cost_of_cross_entropy(z: Tensor, y: Tensor, w: None, p: None, buffers: Buffers) -> Tensor:
    # ln(1 + exp(−|z|)) + max(z, 0) − y z: exact on both sides, with one exponential and one logarithm.
    C, positive = buffers
    torch.abs(z, out=C).neg_().exp_().log1p_()
    return C.add_(torch.clamp_min(z, 0, out=positive)).addcmul_(z, y, value=-1).sum(-1)


def delta_of_cross_entropy(z: Tensor, y: Tensor, w: None, p: None, buffers: Buffers) -> None:
    delta, _ = buffers
    torch.sigmoid(z, out=delta).sub_(y)
