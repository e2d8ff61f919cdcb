"""What classes y stand for: desired outputs t, and how much each example counts."""

from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_classes, values_can_be_read
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.linear.shards import Shard


class Classes(NamedTuple):
    """Classes y (N,), with tⱼ = baseⱼ (C,) and at j = y `peak` (N,) more; the examples' shares in the mean, (N,).

    An example that is ignored has class 0 and no share. One whose class is none of the layer's is `wrong`.
    """

    y: Tensor
    peak: Tensor
    base: Tensor | None
    share: Tensor
    ignored: Tensor
    wrong: Tensor | None

    def counted(self, x: Tensor) -> Tensor:
        """Return the inputs x (N, D), 0 for examples that do not count: 0 times what stands there may be nan."""
        hollow = self.ignored if self.base is not None else self.ignored | (self.share == 0)
        readable = values_can_be_read(hollow)
        if readable and not hollow.any():
            return x
        hollow = hollow & ~x.isfinite().all(-1)
        return x if readable and not hollow.any() else x.masked_fill(hollow.unsqueeze(-1), 0)

    def factor(self, reduction: str) -> Tensor:
        """Return what each example's cost has as a factor in the sum or mean."""
        factor = 1 / self.share.sum() if reduction == "mean" else torch.ones_like(self.share)
        return torch.where(self.ignored, 0, factor)

    def masked(self, C: Tensor) -> Tensor:
        C = C.masked_fill(self.ignored, 0)
        return C if self.wrong is None else C.masked_fill(self.wrong, torch.nan)


def desired_classes(
    y: Tensor,
    x: Tensor,
    here: int,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    shard: Shard,
) -> Classes:
    """Return what classes y (N,) of the examples x (N, D) stand for; `here` is how many classes are in this process."""
    check_classes(y, shard.classes, ignore_index)
    ignored = y == ignore_index
    y = y.masked_fill(ignored, 0)
    wrong = None if values_can_be_read(y) else (y < 0) | (y >= shard.classes)
    share = torch.ones(y.shape, dtype=compute_dtype(x), device=x.device)
    if weight is not None:
        weight = weight.to(compute_dtype(x))
        own = (y >= shard.start) & (y < shard.start + here)
        of_own = weight[(y - shard.start).clamp(0, here - 1)] if here else share
        share = shard.total(torch.where(own, of_own, 0))
    share = share.masked_fill(ignored, 0)
    if label_smoothing == 0:
        return Classes(y, share, None, share, ignored, wrong)
    weight = torch.ones(here, dtype=compute_dtype(x), device=x.device) if weight is None else weight
    return Classes(y, (1 - label_smoothing) * share, label_smoothing / shard.classes * weight, share, ignored, wrong)


def counted_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return x, 0 for examples with inputs that are not finite and no desired output, as far as a look at x is free."""
    if not values_can_be_read(x) or (finite := x.isfinite().all(-1)).all():
        return x
    hollow = ~finite
    hollow[~finite] = (y[~finite] == 0).all(-1)
    return x.masked_fill(hollow.unsqueeze(-1), 0)


def desired_outputs(y: Tensor, x: Tensor, weight: Tensor | None, label_smoothing: float, classes: int) -> Tensor:
    """Return what label smoothing, over so many classes in all, and class weights make of desired outputs y."""
    if weight is None and label_smoothing == 0:
        return y
    t = (1 - label_smoothing) * y.to(compute_dtype(x)) + label_smoothing / classes
    return t if weight is None else weight.to(compute_dtype(x)) * t
