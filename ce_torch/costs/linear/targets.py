"""Desired outputs t from y and the options, and how much each example counts."""

from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_classes, values_can_be_read
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.linear.vocabulary_parallel import Shard


class ClassTargets(NamedTuple):
    """Classes y (N,), their t = `off_value` (K,), plus `on_value` (N,) at j = y, and each example's weight in the mean.

    An ignored example has class 0 and weight 0. An example is invalid if the layer does not have its class.
    """

    y: Tensor
    on_value: Tensor
    off_value: Tensor | None
    example_weight: Tensor
    ignored: Tensor
    invalid: Tensor | None

    def masked_inputs(self, x: Tensor) -> Tensor:
        """Return x (N, D), with rows of 0 for examples that do not count and may hold nan: 0 times nan is nan."""
        is_empty = self.ignored if self.off_value is not None else self.ignored | (self.example_weight == 0)
        is_readable = values_can_be_read(is_empty) and values_can_be_read(x)
        if is_readable and not is_empty.any():
            return x
        is_empty = is_empty & ~x.isfinite().all(-1)
        return x if is_readable and not is_empty.any() else x.masked_fill(is_empty.unsqueeze(-1), 0)

    def factor(self, reduction: str) -> Tensor:
        """Return the factor of each example's cost in the sum or mean."""
        factor = 1 / self.example_weight.sum() if reduction == "mean" else torch.ones_like(self.example_weight)
        return torch.where(self.ignored, 0, factor)

    def masked_cost(self, C: Tensor) -> Tensor:
        """Return C of each example: 0 for an ignored one, nan for an invalid one."""
        C = C.masked_fill(self.ignored, 0)
        return C if self.invalid is None else C.masked_fill(self.invalid, torch.nan)


def class_targets(
    y: Tensor,
    x: Tensor,
    local_classes: int,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    shard: Shard,
) -> ClassTargets:
    """Return t for classes y (N,) of the examples x (N, D). This process has `local_classes` of all classes."""
    check_classes(y, shard.classes, ignore_index)
    ignored = y == ignore_index
    y = y.masked_fill(ignored, 0)
    invalid = None if values_can_be_read(y) else (y < 0) | (y >= shard.classes)
    ones = torch.ones(y.shape, dtype=compute_dtype(x), device=x.device)
    example_weight = ones
    if class_weight is not None:
        class_weight = class_weight.to(compute_dtype(x))
        is_local = (y >= shard.start) & (y < shard.start + local_classes)
        gathered = class_weight[(y - shard.start).clamp(0, local_classes - 1)] if local_classes else ones
        example_weight = shard.total(torch.where(is_local, gathered, 0))
    example_weight = example_weight.masked_fill(ignored, 0)
    if label_smoothing == 0:
        return ClassTargets(y, example_weight, None, example_weight, ignored, invalid)
    if class_weight is None:
        class_weight = torch.ones(local_classes, dtype=compute_dtype(x), device=x.device)
    on_value, off_value = (1 - label_smoothing) * example_weight, label_smoothing / shard.classes * class_weight
    return ClassTargets(y, on_value, off_value, example_weight, ignored, invalid)


def masked_inputs(x: Tensor, y: Tensor) -> Tensor:
    """Return x, with 0 for examples that have no desired output and whose inputs are not all finite.

    Return x as it is where its values can't be read for free.
    """
    if not (values_can_be_read(x) and values_can_be_read(y)) or (is_finite := x.isfinite().all(-1)).all():
        return x
    is_empty = ~is_finite
    is_empty[~is_finite] = (y[~is_finite] == 0).all(-1)
    return x.masked_fill(is_empty.unsqueeze(-1), 0)


def dense_targets(y: Tensor, x: Tensor, class_weight: Tensor | None, label_smoothing: float, classes: int) -> Tensor:
    """Return t for desired outputs y, with label smoothing over `classes` classes, and class weights."""
    if class_weight is None and label_smoothing == 0:
        return y
    t = (1 - label_smoothing) * y.to(compute_dtype(x)) + label_smoothing / classes
    return t if class_weight is None else class_weight.to(compute_dtype(x)) * t
