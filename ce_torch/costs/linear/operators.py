"""The cost of a layer and its gradients as operators, which tracers and the compiler record without looking inside.

The operators have no derivatives of their own: the functions in `ce_torch.costs.linear.autograd` give them some. `cost`
and `gradients` call an operator where a tracer records it, and else compute at once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._autograd import may_be_differentiated
from ce_torch.costs._torch_private import is_recorded
from ce_torch.costs.linear import class_blocks, example_blocks
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.class_blocks import Statistics
from ce_torch.costs.linear.gradients import PARAMETERS, Needs, align
from ce_torch.costs.linear.layer import Fields, Layer

LAYER_SCHEMA = ", ".join(
    f"Tensor{'?' if hint == Tensor | None else ''} {name}" for name, hint in Fields.__annotations__.items()
)
FIELD_COUNT = len(Fields._fields)

library = torch.library.Library("ce_torch", "FRAGMENT")
library.define(
    f"linear_log_likelihood({LAYER_SCHEMA}, float c, SymInt? block_rows, float z_loss) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
library.define(
    f"linear_log_likelihood_gradients(Tensor g, Tensor statistics, {LAYER_SCHEMA}, float c, SymInt? block_rows, "
    "float z_loss, bool[] needs) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)


def cost(layer: Layer, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return the numbers of the examples, and their statistics, shape (3, N)."""
    if plan.shard.group is None and is_recorded():
        return torch.ops.ce_torch.linear_log_likelihood(*layer, plan.c, plan.block_rows, plan.z_loss)
    blocks = class_blocks if example_blocks.refusal(layer, plan) else example_blocks
    numbers, statistics = blocks.cost(layer, plan)
    return numbers, torch.stack(statistics)


def gradients(
    g: Tensor, layer: Layer, plan: Plan, statistics: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g C by the fields that need one. They can't be differentiated."""
    if plan.shard.group is None and is_recorded():
        arguments = g, statistics, *layer, plan.c, plan.block_rows, plan.z_loss, [*needs]
        found = iter(torch.ops.ce_torch.linear_log_likelihood_gradients(*arguments))
        return tuple(next(found) if needed else None for needed in needs)
    names, needs_target = needed_fields(needs)
    if not needs_target and not may_be_differentiated(g) and example_blocks.refusal(layer, plan) is None:
        found = example_blocks.gradients(layer, g, plan, names)
        return *align(found, names), None, None, None
    found = class_blocks.gradients(g, layer, plan, Statistics(*statistics), names)
    target = class_blocks.target_gradients(g, layer, plan, Statistics(*statistics)) if needs_target else (None,) * 3
    return *align(found, names), *target


def needed_fields(needs: Sequence[bool]) -> tuple[Needs, bool]:
    """Return which of x, weight, bias and the desired outputs need a gradient."""
    names = frozenset(name for name, needed in zip(PARAMETERS, needs, strict=False) if needed)
    return names, any(needs[len(PARAMETERS) :])


@torch.library.impl(library, "linear_log_likelihood", "CompositeExplicitAutograd")
@torch.no_grad()
def cost_kernel(*arguments: Any) -> tuple[Tensor, Tensor]:
    *layer, c, block_rows, z_loss = arguments
    return cost(Layer(*layer), Plan(c, block_rows, z_loss=z_loss))


@torch.library.register_fake("ce_torch::linear_log_likelihood", lib=library)
def cost_shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    layer = Layer(*arguments[:FIELD_COUNT])
    C, z_loss = layer.full(0), arguments[-1]
    return torch.stack([C, C] if z_loss else [C]), torch.stack([C, C, C])


@torch.library.impl(library, "linear_log_likelihood_gradients", "CompositeExplicitAutograd")
@torch.no_grad()
def gradient_kernel(g: Tensor, statistics: Tensor, *arguments: Any) -> list[Tensor]:
    *layer, c, block_rows, z_loss, needs = arguments
    found = gradients(g, Layer(*layer), Plan(c, block_rows, z_loss=z_loss), statistics, needs)
    return [gradient for gradient, needed in zip(found, needs, strict=True) if needed and gradient is not None]


@torch.library.register_fake("ce_torch::linear_log_likelihood_gradients", lib=library)
def gradient_shapes(g: Tensor, statistics: Tensor, *arguments: Any) -> list[Tensor]:
    *layer, _, _, _, needs = arguments
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, needed in zip(layer, needs, strict=True)
        if needed
    ]
