"""Sums over classes that come in blocks, each example's largest score so far subtracted."""

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import clamp_infinite, exponents, scale
from ce_torch.costs.linear.blocks import Plan, column
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.vocabulary_parallel import Shard


class RunningSums:
    """With xⱼ = c (φⱼ − m), over the classes so far: Σ exp x, as how many terms are 1 and the sum of the others;
    Σ x exp x, Σ t x, Σ t; and the class of the largest."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.plan, self.c = plan, layer.scale(plan)
        self.m = layer.full(-torch.inf)
        self.ones, self.others, self.e_x, self.t_x, self.T = (layer.full(0) for _ in range(5))
        self.largest = torch.zeros(layer.x.shape[:1], dtype=torch.int64, device=layer.x.device)

    def add(self, phi: Tensor, t: Tensor, classes: slice) -> None:
        """Add a block of classes."""
        m, index = phi.detach().max(-1) if self.plan.prediction else (phi.detach().amax(-1), None)
        if index is not None:
            is_larger = (m > self.m) | (m.isnan() & ~self.m.isnan())
            index = index + (classes.start + self.plan.shard.start)
            self.largest = torch.where(is_larger, index, self.largest)
        self.raise_maximum(torch.maximum(self.m, m))
        x = exponents(phi, column(self.m), self.c)
        is_largest, e = (x == 0).to(x.dtype), x.exp()
        self.ones = self.ones + is_largest.sum(-1)
        self.others = self.others + (e - is_largest).sum(-1)
        if self.plan.entropy:
            self.e_x = self.e_x + product(e, x).sum(-1)
        self.t_x = self.t_x + product(t, x).sum(-1)
        self.T = self.T + t.sum(-1)

    def raise_maximum(self, m: Tensor) -> None:
        """Make m the maximum."""
        grows = m > self.m
        difference = torch.where(grows, m - clamp_infinite(self.m), 0)
        fall = scale(self.c, column(difference)).squeeze(-1)
        shrink = torch.exp(-fall)
        self.e_x = product(shrink, self.e_x - product(self.ones + self.others, fall))
        self.others = torch.where(grows, (self.ones + self.others) * shrink, self.others)
        self.ones = torch.where(grows, 0, self.ones)
        self.t_x = self.t_x - product(self.T, fall)
        self.m = m

    def totals(self) -> tuple[Tensor, ...]:
        """Return the sums over the classes of all processes."""
        shard, self.local_m = self.plan.shard, self.m
        if shard.group is not None:
            self.raise_maximum(shard.largest(self.m))
        return shard.total(torch.stack([self.ones, self.others, self.e_x, self.t_x, self.T])).unbind()

    def prediction(self, shard: Shard) -> Tensor:
        """Return the class of the largest score of each example, the first of equal ones."""
        if shard.group is None or not self.plan.prediction:
            return self.largest
        # Processes without the largest leave the choice to the others.
        return -shard.largest(-torch.where(self.local_m == self.m, self.largest, shard.classes))
