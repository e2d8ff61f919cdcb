"""The cost of a layer and its gradients as operators, which tracers and the compiler record without looking inside.

The operators have no derivatives of their own: the functions in `ce_torch.costs.linear.autograd` give them some.
`numbers` and `gradients` call an operator where a tracer records it, and else compute at once.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._autograd import is_number
from ce_torch.costs._torch_private import count_dispatch_modes, is_recorded
from ce_torch.costs.linear import class_blocks, cpu_blocks, example_blocks, gpu_blocks
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.class_blocks import Statistics
from ce_torch.costs.linear.gradients import PARAMETERS, Needs, align
from ce_torch.costs.linear.held import HeldGradients
from ce_torch.costs.linear.layer import Fields, Layer

LAYER_SCHEMA = ", ".join(
    f"Tensor{'?' if hint == Tensor | None else ''} {name}" for name, hint in Fields.__annotations__.items()
)
FIELD_COUNT = len(Fields._fields)
library = torch.library.Library("ce_torch", "FRAGMENT")
PLAN_SCHEMA = (
    "float plan_c, SymInt? block_rows, float? softcap, bool logsumexp, bool entropy, bool prediction, "
    "SymInt? max_memory, SymInt reserved"
)

library.define(
    f"linear_log_likelihood({LAYER_SCHEMA}, {PLAN_SCHEMA}) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
library.define(
    f"linear_log_likelihood_gradients(Tensor g, Tensor statistics, {LAYER_SCHEMA}, {PLAN_SCHEMA}, "
    "bool[] needs) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)


def numbers(layer: Layer, plan: Plan, held: HeldGradients | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return C, ℓ and H of each example, shape (3, N), its statistics, shape (4, N), and its prediction, shape (N,).

    What kernels can keep for the gradients goes to `held`.
    """
    if plan.shard.group is None and is_recorded():
        return torch.ops.ce_torch.linear_log_likelihood(*layer, *plan.options)
    formulas = find_kernels(layer, plan) or class_blocks
    if formulas is cpu_blocks:
        found, statistics, prediction = cpu_blocks.numbers(layer, plan, held)
    else:
        found, statistics, prediction = formulas.numbers(layer, plan)
    return found, torch.stack(statistics), prediction


def gradients(
    g: Tensor,
    layer: Layer,
    plan: Plan,
    statistics: Tensor | None,
    needs: Sequence[bool],
    held: HeldGradients | None = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g · numbers by the fields that need one. They can't be differentiated.

    The statistics are those that come with the numbers, or None if nobody kept them; so is what is held.
    """
    if plan.shard.group is None and is_recorded():
        arguments = g, known_statistics(layer, plan, statistics), *layer, *plan.options, [*needs]
        found = iter(torch.ops.ce_torch.linear_log_likelihood_gradients(*arguments))
        return tuple(next(found) if needed else None for needed in needs)
    names, needs_target = needed_fields(needs)
    is_final = not needs_target and is_number(g)
    kernels = find_kernels(layer, plan) if is_final else None
    if kernels is not None:
        arguments = g, layer, plan, Statistics(*known_statistics(layer, plan, statistics)), names
        found = cpu_blocks.gradients(*arguments, held) if kernels is cpu_blocks else kernels.gradients(*arguments)
        return *align(found, names), None, None, None
    if statistics is not None and is_final and not count_dispatch_modes():
        known = Statistics(*statistics)
    else:
        known = class_statistics(layer, plan, statistics)
    found = class_blocks.gradients(g, layer, plan, known, names)
    target = class_blocks.target_gradients(g, layer, plan, known) if needs_target else (None,) * 3
    return *align(found, names), *target


def known_statistics(layer: Layer, plan: Plan, statistics: Tensor | None) -> Tensor:
    return numbers(layer, plan)[1] if statistics is None else statistics


def class_statistics(layer: Layer, plan: Plan, statistics: Tensor | None) -> Statistics:
    """Return the statistics as `class_blocks` computes them.

    Kernels round z in another way. With their m, no z would be the largest, and 1 − a near 0 would lose its digits.
    """
    if statistics is None or plan.shard.group is None:
        return class_blocks.numbers(layer, plan)[1]
    return Statistics(*statistics)


def find_kernels(layer: Layer, plan: Plan) -> ModuleType | None:
    """Return what computes the numbers of this layer that the plan asks for, by kernels, or None."""
    # In half precision example_blocks has kernels of its own; in float32 tiles are faster.
    is_half = layer.dtype != layer.x.dtype
    modules = (gpu_blocks, example_blocks, cpu_blocks) if is_half else (gpu_blocks, cpu_blocks, example_blocks)
    return next((module for module in modules if module.refusal(layer, plan) is None), None)


def needed_fields(needs: Sequence[bool]) -> tuple[Needs, bool]:
    """Return which of the layer's parameters, and whether the desired outputs, need a gradient."""
    names = frozenset(name for name, needed in zip(PARAMETERS, needs, strict=False) if needed)
    return names, any(needs[len(PARAMETERS) :])


@torch.library.impl(library, "linear_log_likelihood", "CompositeExplicitAutograd")
@torch.no_grad()
def numbers_kernel(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return numbers(Layer(*arguments[:FIELD_COUNT]), Plan(*arguments[FIELD_COUNT:]))


@torch.library.register_fake("ce_torch::linear_log_likelihood", lib=library)
def number_shapes(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    layer = Layer(*arguments[:FIELD_COUNT])
    C = layer.full(0)
    return torch.stack([C] * 3), torch.stack([C] * 4), C.to(torch.int64)


@torch.library.impl(library, "linear_log_likelihood_gradients", "CompositeExplicitAutograd")
@torch.no_grad()
def gradient_kernel(g: Tensor, statistics: Tensor, *arguments: Any) -> list[Tensor]:
    *inputs, needs = arguments
    found = gradients(g, Layer(*inputs[:FIELD_COUNT]), Plan(*inputs[FIELD_COUNT:]), statistics, needs)
    return [gradient for gradient, needed in zip(found, needs, strict=True) if needed and gradient is not None]


@torch.library.register_fake("ce_torch::linear_log_likelihood_gradients", lib=library)
def gradient_shapes(g: Tensor, statistics: Tensor, *arguments: Any) -> list[Tensor]:
    layer, needs = arguments[:FIELD_COUNT], arguments[-1]
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, needed in zip(layer, needs, strict=True)
        if needed
    ]
