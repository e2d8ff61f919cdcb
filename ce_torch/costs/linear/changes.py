"""How the numbers of a layer, and their gradients, change along a tangent: by kernels where these run.

Forward mode and the backward pass of a gradient ask for that. What is differentiated once more, and what is under
`vmap`, goes by the formulas.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._torch_private import Transform
from ce_torch.costs._transforms import Transformable
from ce_torch.costs.linear import class_blocks, cpu_blocks, cpu_changes
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.class_blocks import NumbersTangent, Statistics
from ce_torch.costs.linear.gradients import PARAMETERS, Needs
from ce_torch.costs.linear.layer import Layer, Tangent
from ce_torch.costs.linear.operators import FIELD_COUNT, find_kernels, known_statistics


class LayerChange(Transformable):
    """A function of a layer and its tangent. What differentiates it takes the formulas instead."""

    differentiable = frozenset()
    has_change = False

    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        return self.gradients_of_formulas(arguments, needed, *grads)

    def of_batch(self, transform: Transform, arguments: Sequence[Any]) -> Any:
        return self.formulas(*arguments)

    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Any:
        raise NotImplementedError


class NumberChanges(LayerChange):
    """Ċ, ℓ̇ and Ḣ, shape (3, N).

    The arguments are a plan, the statistics that come with the numbers, or None, and the fields of layer and tangent.
    """

    def values(self, *arguments: Any) -> Tensor:
        plan, statistics, *fields = arguments
        layer, tangent = read(fields)
        if not have_kernels(layer, tangent, plan, statistics):
            return self.formulas(*arguments)
        with torch.no_grad():
            known = Statistics(*known_statistics(layer, plan, statistics))
            return cpu_changes.number_changes(layer, tangent, plan, known)

    def formulas(self, *arguments: Any) -> Tensor:
        plan, _, *fields = arguments
        _, change = change_by_formulas(*read(fields), plan)
        return stacked(change)


class GradientChanges(LayerChange):
    """Ċ, ℓ̇ and Ḣ, and how the needed gradients of Σ g · numbers change.

    The arguments are what is needed, g, ġ, the first result if it is known, and those of `NumberChanges`.
    """

    def values(self, *arguments: Any) -> tuple[Tensor, ...]:
        needs, g, g_change, changes, plan, statistics, *fields = arguments
        layer, tangent = read(fields)
        if not have_kernels(layer, tangent, plan, g, g_change, changes, statistics):
            return self.formulas(*arguments)
        with torch.no_grad():
            known = Statistics(*known_statistics(layer, plan, statistics))
            if changes is None:
                changes = cpu_changes.number_changes(layer, tangent, plan, known)
            return changes, *cpu_changes.gradient_changes(g, g_change, layer, tangent, plan, known, changes, needs)

    def formulas(self, *arguments: Any) -> tuple[Tensor, ...]:
        needs, g, g_change, _, plan, _, *fields = arguments
        layer, tangent = read(fields)
        statistics, change = change_by_formulas(layer, tangent, plan)
        found = class_blocks.hvp(g, g_change, layer, tangent, plan, statistics, change, needs)
        parameters = (getattr(layer, name) for name in PARAMETERS if name in needs)
        dtypes = [parameter.dtype for parameter in parameters if parameter is not None]
        return stacked(change), *(tensor.to(dtype) for tensor, dtype in zip(found, dtypes, strict=True))


def read(fields: Sequence[Any]) -> tuple[Layer, Tangent]:
    """Return the layer and the tangent that these are the fields of."""
    return Layer(*fields[:FIELD_COUNT]), Tangent(*fields[FIELD_COUNT:])


def have_kernels(layer: Layer, tangent: Tangent, plan: Plan, *numbers: Tensor | None) -> bool:
    """Return True if kernels compute the changes along this tangent, from these numbers of examples."""
    return find_kernels(layer, plan) is cpu_blocks and cpu_changes.supports(layer, tangent, *numbers)


def change_by_formulas(layer: Layer, tangent: Tangent, plan: Plan) -> tuple[Statistics, NumbersTangent]:
    """Return the statistics, found anew so that they can be differentiated, and how the numbers change."""
    _, statistics, _ = class_blocks.numbers(layer, plan)
    return statistics, class_blocks.jvp(layer, tangent, plan, statistics)


def stacked(change: NumbersTangent) -> Tensor:
    return torch.stack([change.layer_part + change.target_part, change.u, change.H])


NUMBERS, GRADIENTS = NumberChanges("LinearChange"), GradientChanges("LinearGradientChange")


def number_changes(plan: Plan, statistics: Tensor | None, layer: Layer, tangent: Tangent) -> Tensor:
    """Return Ċ, ℓ̇ and Ḣ, shape (3, N), from the statistics that come with the numbers, or None."""
    return NUMBERS(plan, statistics, *layer, *tangent)


def gradient_changes(
    needs: Needs,
    g: Tensor,
    g_change: Tensor | None,
    changes: Tensor | None,
    plan: Plan,
    statistics: Tensor | None,
    layer: Layer,
    tangent: Tangent,
) -> tuple[Tensor, ...]:
    """Return Ċ, ℓ̇ and Ḣ, which may be known as `changes`, and how the needed gradients of Σ g · numbers change."""
    return GRADIENTS(needs, g, g_change, changes, plan, statistics, *layer, *tangent)


def target_changes(g: Tensor, layer: Layer, plan: Plan, tangent: Tangent) -> tuple[Tensor | None, ...]:
    """Return how the gradients of Σ g · numbers by y, on_value and off_value change along a tangent."""
    statistics, change = change_by_formulas(layer, tangent, plan)
    return class_blocks.target_hvp(g, layer, tangent, plan, statistics, change)
