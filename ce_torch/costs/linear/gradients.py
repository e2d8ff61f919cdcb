"""Gradients to which blocks of classes add their parts, one after the other."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ce_torch.costs.kernels import is_plain
from ce_torch.costs.linear.blocks import Plan, narrow
from ce_torch.costs.linear.layer import NO_TANGENT, Fields, Layer, Tangent, is_constant

# The names of those of x, weight, bias and c that need a gradient.
Needs = frozenset[str]
PARAMETERS = Fields._fields[:4]


def align(gradients: Iterable[Tensor], needs: Needs) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, bias and c: None, or the next of `gradients` where one is needed."""
    remaining = iter(gradients)
    return tuple(next(remaining) if name in needs else None for name in PARAMETERS)


def writes_memory(layer: Layer, factors: Iterable[Tensor | None]) -> bool:
    """Return True if blocks may write to one tensor: all tensors are plain, and none is differentiated again."""
    return is_constant(*factors) and all(is_plain(tensor) for tensor in layer if tensor is not None)


class BlockedGradient:
    """The gradient of a tensor, which comes block by block along a dimension."""

    def __init__(self, tensor: Tensor, in_place: bool, dim: int = 0) -> None:
        self.dtype, self.dim = tensor.dtype, dim
        self.blocks: list[Tensor] = []
        # To concatenate blocks in the end takes their memory twice.
        self.result = torch.empty_like(tensor, memory_format=torch.contiguous_format) if in_place else None

    def add(self, classes: slice, value: Tensor) -> None:
        if self.result is None:
            self.blocks.append(value.to(self.dtype))
        else:
            narrow(self.result, classes, self.dim).copy_(value)

    def total(self) -> Tensor:
        return torch.cat(self.blocks, self.dim) if self.result is None else self.result


class LayerGradients:
    """The needed ones of the gradients of x, weight, bias and c, to which each block of classes adds its part."""

    def __init__(self, layer: Layer, needs: Needs, *factors: Tensor | None) -> None:
        self.layer, self.in_place = layer, writes_memory(layer, factors)
        self.x = torch.zeros(layer.x.shape, dtype=layer.dtype, device=layer.x.device) if "x" in needs else None
        self.weight = BlockedGradient(layer.weight, self.in_place) if "weight" in needs else None
        self.bias = None
        if "bias" in needs and layer.bias is not None:
            self.bias = BlockedGradient(layer.bias, self.in_place)
        self.c = layer.full(0) if "c" in needs and layer.c is not None else None

    def add_to_c(self, terms: Tensor) -> None:
        """Add the sum over the classes of a block."""
        if self.c is not None:
            self.c = self.c + terms.sum(-1)

    def add(
        self, classes: slice, rows: Tensor, tangent_rows: Tensor | None = None, tangent: Tangent = NO_TANGENT
    ) -> None:
        """Add rows W, rowsᵀ x and Σ rows, and the products of `tangent_rows` with Ẇ and ẋ, if there are any."""
        terms: list[tuple[Tensor, Tensor | None, Tensor | None]] = [(rows, self.layer.x, self.layer.weight)]
        if tangent_rows is not None:
            terms.append((tangent_rows, tangent.x, tangent.weight))
        if self.x is not None:
            for factor, _, weight in terms:
                if weight is not None:
                    # The product comes first, since addmm may add one class after the other, and round every time.
                    product = self.layer.matmul(factor, narrow(weight, classes))
                    self.x = self.x.add_(product) if self.in_place else self.x + product
        if self.weight is not None:
            products = [self.layer.matmul(factor.mT, x) for factor, x, _ in terms if x is not None]
            self.weight.add(classes, sum(products[1:], start=products[0]))
        if self.bias is not None:
            self.bias.add(classes, rows.sum(0))

    def totals(self, plan: Plan) -> tuple[Tensor, ...]:
        """Return the needed gradients, in the order of the fields."""
        totals = []
        if self.x is not None:
            totals.append(plan.shard.total(self.x).to(self.layer.x.dtype))
        totals += [gradient.total() for gradient in (self.weight, self.bias) if gradient is not None]
        if self.c is not None and self.layer.c is not None:
            totals.append(plan.shard.total(self.c).to(self.layer.c.dtype))
        return tuple(totals)


class TargetGradients:
    """The gradients of y, on_value and off_value, as far as a layer has these; each block adds its part to them."""

    def __init__(self, layer: Layer, *factors: Tensor | None) -> None:
        self.layer, in_place = layer, writes_memory(layer, factors)
        self.y = BlockedGradient(layer.y, in_place, dim=1) if layer.y.is_floating_point() else None
        self.on_value = None if layer.on_value is None else layer.full(0)
        self.off_value = None if layer.off_value is None else BlockedGradient(layer.off_value, in_place)

    def add(self, classes: slice, t_gradient: Tensor, plan: Plan) -> None:
        if self.y is not None:
            self.y.add(classes, t_gradient)
        if self.on_value is not None:
            self.on_value = self.on_value + torch.where(self.layer.class_mask(classes, plan), t_gradient, 0).sum(-1)
        if self.off_value is not None:
            self.off_value.add(classes, t_gradient.sum(0))

    def totals(self, plan: Plan) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        on_value = self.on_value
        if on_value is not None and self.layer.on_value is not None:
            on_value = plan.shard.total(on_value).to(self.layer.on_value.dtype)
        return (
            None if self.y is None else self.y.total(),
            on_value,
            None if self.off_value is None else self.off_value.total(),
        )
