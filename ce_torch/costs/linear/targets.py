"""Desired outputs t from y and the options, and how much each example counts."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_classes, values_can_be_read
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs._product import product
from ce_torch.costs.linear.vocabulary_parallel import Shard


class ClassTargets(NamedTuple):
    """Classes y (N,), their t = `off_value` (K,), plus `on_value` (N,) at j = y, and the weights of each example.

    `class_weight` (N,) is that of its class, `token_weight` (N,) a factor of its cost, None for 1. `z_loss` is λ. An
    ignored example has class 0 and class weight 0. An example is invalid if the layer does not have its class.
    """

    y: Tensor
    on_value: Tensor
    off_value: Tensor | None
    class_weight: Tensor
    token_weight: Tensor | None
    ignored: Tensor
    invalid: Tensor | None
    z_loss: float

    @property
    def counted(self) -> Tensor:
        """How much each example counts in the mean."""
        return product(self.token_weight, self.class_weight)

    @property
    def empty(self) -> Tensor:
        """True for examples that neither cost anything nor pass a gradient to the layer."""
        empty = self.ignored
        if self.off_value is None and self.z_loss == 0:
            empty = empty | (self.class_weight == 0)
        return empty if self.token_weight is None else empty | (self.token_weight == 0)

    @property
    def left_out(self) -> Tensor:
        """True for examples that no derivative needs either, those by weights included."""
        weights_are_fixed = not (self.class_weight.requires_grad or requires_grad(self.token_weight))
        return self.empty if weights_are_fixed else self.ignored

    def select(self, examples: Tensor) -> Self:
        """Return the targets of some examples."""
        selected = {
            name: None if tensor is None else tensor[examples]
            for name, tensor in self._asdict().items()
            if name not in ("off_value", "z_loss")
        }
        return self._replace(**selected)

    def masked_inputs(self, x: Tensor) -> Tensor:
        """Return x (N, D), with rows of 0 for examples that do not count and may hold nan: 0 times nan is nan."""
        empty = self.empty
        is_readable = values_can_be_read(empty) and values_can_be_read(x)
        if is_readable and not empty.any():
            return x
        empty = empty & ~x.isfinite().all(-1)
        return x if is_readable and not empty.any() else x.masked_fill(empty.unsqueeze(-1), 0)

    def factor(self, reduction: str) -> Tensor:
        """Return the factor of each example's cost in the sum or mean."""
        factor = 1 / self.counted.sum() if reduction == "mean" else torch.ones_like(self.class_weight)
        return torch.where(self.ignored, 0, product(self.token_weight, factor))

    def masked_cost(self, C: Tensor) -> Tensor:
        """Return C of each example times its token weight: 0 for an ignored one, nan for an invalid one."""
        C = product(self.token_weight, C.masked_fill(self.ignored, 0))
        return C if self.invalid is None else C.masked_fill(self.invalid, torch.nan)


def requires_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def kept_examples(left_out: Tensor, x: Tensor) -> Tensor | None:
    """Return the indices of the other examples of x, or None for all; also where that can't be known for free."""
    if not (values_can_be_read(left_out) and values_can_be_read(x) and left_out.any()):
        return None
    return (~left_out).nonzero().squeeze(1)


def class_targets(
    y: Tensor,
    x: Tensor,
    local_classes: int,
    class_weight: Tensor | None,
    token_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    shard: Shard,
) -> ClassTargets:
    """Return t for classes y (N,) of the examples x (N, D). This process has `local_classes` of all classes."""
    check_classes(y, shard.classes, ignore_index)
    ignored = y == ignore_index
    y = y.masked_fill(ignored, 0)
    invalid = None if values_can_be_read(y) else (y < 0) | (y >= shard.classes)
    if invalid is not None:
        # Kernels read what a class points to.
        y = y.masked_fill(invalid, 0)
    ones = torch.ones(y.shape, dtype=compute_dtype(x), device=x.device)
    own_weight = ones
    if class_weight is not None:
        class_weight = class_weight.to(compute_dtype(x))
        is_local = (y >= shard.start) & (y < shard.start + local_classes)
        gathered = class_weight[(y - shard.start).clamp(0, local_classes - 1)] if local_classes else ones
        own_weight = shard.total(torch.where(is_local, gathered, 0))
    own_weight = own_weight.masked_fill(ignored, 0)
    if invalid is not None:
        own_weight = own_weight.masked_fill(invalid, torch.nan)
    if label_smoothing == 0:
        return ClassTargets(y, own_weight, None, own_weight, token_weight, ignored, invalid, z_loss)
    if class_weight is None:
        class_weight = torch.ones(local_classes, dtype=compute_dtype(x), device=x.device)
    on_value, off_value = (1 - label_smoothing) * own_weight, label_smoothing / shard.classes * class_weight
    return ClassTargets(y, on_value, off_value, own_weight, token_weight, ignored, invalid, z_loss)


def masked_inputs(x: Tensor, y: Tensor) -> Tensor:
    """Return x, with 0 for examples that have no desired output and whose inputs are not all finite.

    Return x as it is where its values can't be read for free.
    """
    # A finite sum, which takes one operation, has finite terms.
    if not (values_can_be_read(x) and values_can_be_read(y)) or math.isfinite(x.sum().item()):
        return x
    is_finite = x.isfinite().all(-1)
    is_empty = ~is_finite
    is_empty[~is_finite] = (y[~is_finite] == 0).all(-1)
    return x.masked_fill(is_empty.unsqueeze(-1), 0)


def dense_targets(y: Tensor, x: Tensor, class_weight: Tensor | None, label_smoothing: float, classes: int) -> Tensor:
    """Return t for desired outputs y, with label smoothing over `classes` classes, and class weights."""
    if class_weight is None and label_smoothing == 0:
        return y
    t = (1 - label_smoothing) * y.to(compute_dtype(x)) + label_smoothing / classes
    return t if class_weight is None else class_weight.to(compute_dtype(x)) * t
