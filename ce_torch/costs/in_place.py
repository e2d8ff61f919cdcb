"""The formulas of sigmoid and linear neurons for a block of large z: in few passes, in place, not differentiable.

A cost returns C of the examples in the block and may use `out`; a δ is written to `out`. `buffer()` is more memory of
that shape. Both are the same for every block: new memory for each would take longer than the arithmetic.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Buffer = Callable[[], Tensor]


def cost_of_linear(z: Tensor, y: Tensor, out: Tensor, buffer: Buffer) -> Tensor:
    return torch.sub(z, y, out=out).square_().sum(-1).mul_(0.5)


def delta_of_linear(z: Tensor, y: Tensor, out: Tensor, buffer: Buffer) -> None:
    torch.sub(z, y, out=out)


def cost_of_sigmoid(z: Tensor, y: Tensor, out: Tensor, buffer: Buffer) -> Tensor:
    return torch.sigmoid(z, out=out).sub_(y).square_().sum(-1).mul_(0.5)


def delta_of_sigmoid(z: Tensor, y: Tensor, out: Tensor, buffer: Buffer) -> None:
    a = torch.sigmoid(z, out=buffer())
    torch.sub(a, y, out=out).mul_(a).mul_(torch.neg(z, out=a).sigmoid_())


def cost_of_cross_entropy(z: Tensor, y: Tensor, w: None, p: None, out: Tensor, buffer: Buffer) -> Tensor:
    # ln(1 + exp(−|z|)) + max(z, 0) − y z: exact on both sides, with one exponential and one logarithm.
    torch.abs(z, out=out).neg_().exp_().log1p_()
    return out.add_(torch.clamp_min(z, 0, out=buffer())).addcmul_(z, y, value=-1).sum(-1)


def delta_of_cross_entropy(z: Tensor, y: Tensor, w: None, p: None, out: Tensor, buffer: Buffer) -> None:
    torch.sigmoid(z, out=out).sub_(y)
