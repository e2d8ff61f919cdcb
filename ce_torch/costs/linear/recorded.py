"""The cost and its gradients in one pass, as operators that a compiler records: one for each pass of autograd.

What the first one computes ahead is no result of it, for then the second one could not write to its memory. The result
is a ticket, a tensor by which the second one finds it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import scale
from ce_torch.costs.linear import example_blocks, operators
from ce_torch.costs.linear.blocks import Plan, column
from ce_torch.costs.linear.class_blocks import Statistics
from ce_torch.costs.linear.example_blocks import cost_and_gradients
from ce_torch.costs.linear.fused import differentiable_gradients, multiply_by
from ce_torch.costs.linear.gradients import PARAMETERS, Needs
from ce_torch.costs.linear.held import HeldGradients, find_held, new_ticket, reserve
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.operators import FIELD_COUNT, LAYER_SCHEMA, PLAN_SCHEMA, library, needed_fields

NUMBERS = f"{LAYER_SCHEMA}, {PLAN_SCHEMA}, float z_loss, bool[] needs"
library.define(
    f"linear_log_likelihood_cost(Tensor factor, {NUMBERS}) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
library.define(
    f"linear_log_likelihood_cost_gradients(Tensor g, Tensor statistics, Tensor ticket, Tensor factor, {NUMBERS}) -> "
    "Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)


class RecordedLinearLogLikelihood(torch.autograd.Function):
    """Σ factor (C + λ ℓ²) over the examples, for classes y, as `FusedLinearLogLikelihood`."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, z_loss: float, factor: Tensor, *fields: Any) -> Tensor:
        ctx.plan, ctx.z_loss = plan, z_loss
        needs = [*ctx.needs_input_grad[3 : 3 + len(PARAMETERS)]]
        costs, *kept = torch.ops.ce_torch.linear_log_likelihood_cost(factor, *fields, *plan.options, z_loss, needs)
        ctx.save_for_backward(costs, *kept, factor, *fields)
        return product(factor, costs).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (g,), (costs, *kept, factor), fields = grad_outputs, ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        needs_factor, *needs = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            layer = Layer(*fields)
            found = differentiable_gradients(g, factor, layer, ctx.plan, ctx.z_loss, ctx.needs_input_grad[2:])
            return None, None, *found
        needs = needs[: len(PARAMETERS)]
        arguments = g, *kept, factor, *fields, *ctx.plan.options, ctx.z_loss, needs
        found = iter(torch.ops.ce_torch.linear_log_likelihood_cost_gradients(*arguments))
        by_parameters = (next(found) if needed else None for needed in needs)
        return None, None, g * costs if needs_factor else None, *by_parameters, None, None, None


def read(inputs: Sequence[Any], needs: Sequence[bool]) -> tuple[Layer, Plan, Needs]:
    """Return the layer, whose weight requires a gradient if one is needed, the plan, and what needs gradients."""
    layer, (names, _) = Layer(*inputs[:FIELD_COUNT]), needed_fields(needs)
    weight = layer.weight.detach().requires_grad_("weight" in names)
    return layer._replace(weight=weight), Plan(*inputs[FIELD_COUNT:]), names


@torch.library.impl(library, "linear_log_likelihood_cost", "CompositeExplicitAutograd")
@torch.no_grad()
def cost_kernel(factor: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, z_loss, needs = arguments
    layer, plan, names = read(inputs, needs)
    held = reserve(Layer(*inputs[:FIELD_COUNT]).weight) if "weight" in names else HeldGradients(layer.weight)
    if example_blocks.refusal(layer, plan, z_loss) is not None:
        plan = replace(plan, logsumexp=z_loss != 0)
        held = held if "weight" in names else None
        (C, logsumexp, _), statistics, _ = operators.numbers(layer, plan, held)
        return C + product(z_loss, logsumexp.square()), statistics, new_ticket(held)
    if held is None:
        costs = example_blocks.numbers(layer, plan, z_loss)[0][0]
    else:
        costs, held.gradients = cost_and_gradients(layer, factor, plan, names, z_loss)
    return costs, torch.stack([layer.full(0)] * len(Statistics._fields)), new_ticket(held)


@torch.library.register_fake("ce_torch::linear_log_likelihood_cost", lib=library)
def cost_shapes(factor: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    C = Layer(*arguments[:FIELD_COUNT]).full(0)
    return C, torch.stack([C] * len(Statistics._fields)), C.new_empty(1, dtype=torch.int64)


@torch.library.impl(library, "linear_log_likelihood_cost_gradients", "CompositeExplicitAutograd")
@torch.no_grad()
def gradient_kernel(g: Tensor, statistics: Tensor, ticket: Tensor, factor: Tensor, *arguments: Any) -> list[Tensor]:
    *inputs, z_loss, needs = arguments
    layer, plan, names = read(inputs, needs)
    held = find_held(ticket)
    if example_blocks.refusal(layer, plan, z_loss) is not None:
        by_costs, (m, r, *_) = g * factor, statistics
        logsumexp = scale(layer.scale(plan), column(m)).squeeze(-1) + r.log1p()
        by_logsumexp = product(by_costs, 2 * z_loss * logsumexp)
        by_numbers = torch.stack([by_costs, by_logsumexp, torch.zeros_like(by_costs)])
        plan, needed = replace(plan, logsumexp=z_loss != 0), [*needs, False, False, False]
        found = operators.gradients(by_numbers, layer, plan, statistics, needed, held)
        return [gradient for gradient in found if gradient is not None]
    found = None if held is None else held.gradients
    if held is None or found is None:
        _, found = cost_and_gradients(layer, factor, plan, names, z_loss)
    else:
        held.gradients = None
    multiply_by(found, g)
    return [*found]


@torch.library.register_fake("ce_torch::linear_log_likelihood_cost_gradients", lib=library)
def gradient_shapes(g: Tensor, statistics: Tensor, ticket: Tensor, factor: Tensor, *arguments: Any) -> list[Tensor]:
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, needed in zip(arguments, arguments[-1], strict=False)
        if needed
    ]
