"""How the numbers of a layer on the CPU, and their gradients, change along a tangent, by kernels.

The formulas are those of `class_blocks.py`. The numbers take three products, the gradients seven.
"""

import torch
from torch import Tensor

from ce_torch.costs._autograd import is_number
from ce_torch.costs.kernels.layer_numbers import add_changes
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision
from ce_torch.costs.linear.cpu_blocks import LayerTiles, add_parts, example_numbers, parts
from ce_torch.costs.linear.cpu_tiles import Tangents
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.layer import Layer, Tangent

MOVING = "x", "weight", "bias"


def supports(layer: Layer, tangent: Tangent, *others: Tensor | None) -> bool:
    """Return True if kernels that support the layer do so along the tangent, and with these numbers of examples."""
    moving = {name: change for name, change in zip(tangent._fields, tangent, strict=True) if change is not None}
    return (
        all(name in MOVING and change.dtype == layer.x.dtype for name, change in moving.items())
        and all(is_number(tensor) for tensor in (*moving.values(), *others))
        and bool(moving)
    )


def tangents(layer: Layer, tangent: Tangent, part: slice) -> Tangents:
    """Return the tangent of some examples."""
    x = None if tangent.x is None else tangent.x[part]
    return Tangents(layer.x[part], layer.weight, x, tangent.weight, tangent.bias)


@fixed_precision
def number_changes(layer: Layer, tangent: Tangent, plan: Plan, statistics: Statistics) -> Tensor:
    """Return how C, ℓ and H of each example change, shape (3, N)."""
    known, found = torch.stack(example_numbers(layer, statistics)), []
    for part in parts(layer):
        tiles, own = LayerTiles(layer.examples(part), plan), tangents(layer, tangent, part)
        numbers, sums = tiles.padded(known[:, part]), torch.zeros(3, tiles.N, dtype=torch.float32)
        tiles.arguments.m = None
        for _ in zip(tiles.classes(), own.classes(), strict=True):
            add_changes(tiles.arguments, own.arguments, numbers, sums)
        found.append(sums[:, : len(tiles.x)])
    return torch.cat(found, -1)


@fixed_precision
def gradient_changes(
    g: Tensor,
    g_change: Tensor | None,
    layer: Layer,
    tangent: Tangent,
    plan: Plan,
    statistics: Statistics,
    changes: Tensor,
    needs: Needs,
) -> tuple[Tensor, ...]:
    """Return how the needed gradients of Σ g · numbers change, for `changes` of the numbers and g."""
    g_change = torch.zeros_like(changes) if g_change is None else g_change.to(layer.dtype)
    # Thirteen rows, in the order of `add_gradient_changes`.
    numbers = *example_numbers(layer, statistics), *g.to(layer.dtype), *changes[1:], *g_change
    tiles = LayerTiles(layer.examples(parts(layer)[0]), plan)
    return add_parts(
        layer, plan, torch.stack(numbers), needs, tiles, tangent=lambda part: tangents(layer, tangent, part)
    )
