"""Gradients to which blocks of classes add their parts, one after the other."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ce_torch.costs.kernels import is_plain
from ce_torch.costs.linear.blocks import Plan, narrow
from ce_torch.costs.linear.layer import NO_TANGENT, Fields, Layer, Tangent, is_constant

# The names of those fields before the desired outputs that need a gradient.
Needs = frozenset[str]
PARAMETERS = Fields._fields[:6]


def align(gradients: Iterable[Tensor], needs: Needs) -> tuple[Tensor | None, ...]:
    """Return the gradients of the layer's parameters: None, or the next of `gradients` where one is needed."""
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
    """The needed ones of the layer's gradients but those of y, to which each block of classes adds its part."""

    def __init__(self, layer: Layer, needs: Needs, *factors: Tensor | None) -> None:
        self.layer, self.in_place = layer, writes_memory(layer, factors)
        self.needed = [name for name in PARAMETERS if name in needs and getattr(layer, name) is not None]
        # The gradients of what has a row for each example add up, those of what has one for each class follow another.
        self.sums: dict[str, Tensor] = {
            name: torch.zeros(getattr(layer, name).shape, dtype=layer.dtype, device=layer.x.device)
            for name in ("x", "adapter_x", "c")
            if name in self.needed
        }
        self.blocked = {
            name: BlockedGradient(getattr(layer, name), self.in_place)
            for name in ("weight", "adapter_weight", "bias")
            if name in self.needed
        }

    def add_to_c(self, terms: Tensor) -> None:
        """Add the sum over the classes of a block."""
        self.sums["c"] = self.sums["c"] + terms.sum(-1)

    def add(
        self, classes: slice, rows: Tensor, tangent_rows: Tensor | None = None, tangent: Tangent = NO_TANGENT
    ) -> None:
        """Add rows W, rowsᵀ x and Σ rows, and the products of `tangent_rows` with Ẇ and ẋ, if there are any.

        So for the adapter, too.
        """
        for prefix in ("", "adapter_"):
            x_name, weight_name = f"{prefix}x", f"{prefix}weight"
            terms = [(rows, getattr(self.layer, x_name), getattr(self.layer, weight_name))]
            if tangent_rows is not None:
                terms.append((tangent_rows, getattr(tangent, x_name), getattr(tangent, weight_name)))
            for factor, _, weight in terms:
                if x_name in self.sums and weight is not None:
                    # The product comes first, since addmm may add one class after the other, and round every time.
                    product, total = self.layer.matmul(factor, narrow(weight, classes)), self.sums[x_name]
                    self.sums[x_name] = total.add_(product) if self.in_place else total + product
            if weight_name in self.blocked:
                products = [self.layer.matmul(factor.mT, x) for factor, x, _ in terms if x is not None]
                self.blocked[weight_name].add(classes, sum(products[1:], start=products[0]))
        if "bias" in self.blocked:
            self.blocked["bias"].add(classes, rows.sum(0))

    def totals(self, plan: Plan) -> tuple[Tensor, ...]:
        """Return the needed gradients, in the order of the fields."""
        return tuple(
            self.blocked[name].total()
            if name in self.blocked
            else plan.shard.total(self.sums[name]).to(getattr(self.layer, name).dtype)
            for name in self.needed
        )


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
