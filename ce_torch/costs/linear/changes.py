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
    """A function of a layer and its tangent whose derivatives are those of the formulas."""

    differentiable = frozenset()
    has_change = False

    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        return self.gradients_of_formulas(arguments, needed, *grads)

    def of_batch(self, transform: Transform, arguments: Sequence[Any]) -> Any:
        return self.formulas(*arguments)

    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Any:
        raise NotImplementedError


class NumberChanges(LayerChange):
    """Ċ, ℓ̇ and Ḣ, shape (3, N), of a plan, the statistics that come with the numbers, a layer and a tangent."""

    def values(self, *arguments: Any) -> Tensor:
        plan, statistics, *fields = arguments
        layer, tangent = Layer(*fields[:FIELD_COUNT]), Tangent(*fields[FIELD_COUNT:])
        if find_kernels(layer, plan) is not cpu_blocks or not cpu_changes.supports(layer, tangent, statistics):
            return self.formulas(*arguments)
        with torch.no_grad():
            known = Statistics(*known_statistics(layer, plan, statistics))
            return cpu_changes.number_changes(layer, tangent, plan, known)

    def formulas(self, *arguments: Any) -> Tensor:
        plan, _, *fields = arguments
        layer, tangent = Layer(*fields[:FIELD_COUNT]), Tangent(*fields[FIELD_COUNT:])
        _, statistics, _ = class_blocks.numbers(layer, plan)
        return stacked(class_blocks.jvp(layer, tangent, plan, statistics))


class GradientChanges(LayerChange):
    """The same, and how the needed gradients of Σ g · numbers change.

    The arguments are what is needed, g, ġ, the first result if it is known, and those of `NumberChanges`.
    """

    def values(self, *arguments: Any) -> tuple[Tensor, ...]:
        needs, g, g_change, changes, plan, statistics, *fields = arguments
        layer, tangent = Layer(*fields[:FIELD_COUNT]), Tangent(*fields[FIELD_COUNT:])
        numbers = g, g_change, changes, statistics
        if find_kernels(layer, plan) is not cpu_blocks or not cpu_changes.supports(layer, tangent, *numbers):
            return self.formulas(*arguments)
        with torch.no_grad():
            known = Statistics(*known_statistics(layer, plan, statistics))
            if changes is None:
                changes = cpu_changes.number_changes(layer, tangent, plan, known)
            return changes, *cpu_changes.gradient_changes(g, g_change, layer, tangent, plan, known, changes, needs)

    def formulas(self, *arguments: Any) -> tuple[Tensor, ...]:
        needs, g, g_change, _, plan, _, *fields = arguments
        layer, tangent = Layer(*fields[:FIELD_COUNT]), Tangent(*fields[FIELD_COUNT:])
        _, statistics, _ = class_blocks.numbers(layer, plan)
        change = class_blocks.jvp(layer, tangent, plan, statistics)
        found = class_blocks.hvp(g, g_change, layer, tangent, plan, statistics, change, needs)
        fields = (getattr(layer, name) for name in PARAMETERS if name in needs)
        dtypes = [field.dtype for field in fields if field is not None]
        return stacked(change), *(tensor.to(dtype) for tensor, dtype in zip(found, dtypes, strict=True))


def stacked(change: NumbersTangent) -> Tensor:
    return torch.stack([change.layer_part + change.target_part, change.u, change.H])


NUMBERS, GRADIENTS = NumberChanges("LinearChange"), GradientChanges("LinearGradientChange")


def number_changes(plan: Plan, statistics: Tensor | None, layer: Layer, tangent: Tangent) -> Tensor:
    """Return Ċ, ℓ̇ and Ḣ, shape (3, N). The statistics are those that come with the numbers, or None."""
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
    """Return the same, which may be known, and how the needed gradients of Σ g · numbers change."""
    return GRADIENTS(needs, g, g_change, changes, plan, statistics, *layer, *tangent)
