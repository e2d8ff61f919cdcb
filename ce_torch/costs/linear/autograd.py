"""The numbers of a layer as a function that keeps every promise of autograd, with both derivatives written by hand.

They are C, ℓ and H of each example. The function saves the layer's inputs, and four numbers of each example. The
derivatives by hand may treat these numbers as constants; for third derivatives, which are autograd's, the numbers are
computed again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._autograd import carry_tangents, may_be_differentiated
from ce_torch.costs._torch_private import (
    has_saved_tensor_hooks,
    is_batched,
    is_forward_mode,
    is_functionalized,
    is_legacy_batched,
    is_recorded,
    is_transformed,
)
from ce_torch.costs.linear import class_blocks, operators
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.changes import gradient_changes, number_changes, target_changes
from ce_torch.costs.linear.gradients import Needs, align
from ce_torch.costs.linear.held import HeldGradients, reserve
from ce_torch.costs.linear.layer import Layer, Tangent, cast
from ce_torch.costs.linear.operators import FIELD_COUNT, needed_fields


def numbers(layer: Layer, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return C, ℓ and H, shape (3, N), as autograd can differentiate them, and the predictions, shape (N,)."""
    if is_functionalized():
        found, _, prediction = class_blocks.numbers(layer, plan)
    else:
        held = reserve(layer.weight) if may_hold(layer, plan) else None
        found, _, prediction = LinearLogLikelihood.apply(plan, held, *layer)
    return found, prediction


def may_hold(layer: Layer, plan: Plan) -> bool:
    """Return True if memory of the weight's gradient may hold z from the forward pass to the backward pass."""
    is_final = not (is_transformed() or is_recorded() or is_forward_mode() or has_saved_tensor_hooks())
    return torch.is_grad_enabled() and layer.weight.requires_grad and is_final and plan.max_memory is None


class LinearLogLikelihood(torch.autograd.Function):
    """C, ℓ and H of each example, shape (3, N), the statistics, shape (4, N), and the predictions, shape (N,)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Plan, held: HeldGradients | None, *layer: Any) -> tuple[Tensor, Tensor, Tensor]:
        return operators.numbers(Layer(*layer), plan, held)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.plan, ctx.held, *layer = inputs
        ctx.save_for_backward(*layer, *output[:2])
        ctx.save_for_forward(*layer, *output[:2])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        g, *_ = grad_outputs
        if g is None:
            return (None,) * (2 + FIELD_COUNT)
        *layer, numbers, statistics = ctx.saved_tensors
        # The graph may live on, but holds no memory.
        held, ctx.held = ctx.held, None
        needs = ctx.needs_input_grad[2:]
        return None, None, *gradients(g, Layer(*layer), ctx.plan, statistics, needs, held, numbers)

    @staticmethod
    @carry_tangents
    def jvp(
        ctx: Any, saved: list[Any], _plan: None, _held: None, *tangent: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None]:
        *layer, _, statistics = saved
        changes = number_changes(ctx.plan, statistics, Layer(*layer), Tangent(*tangent))
        # vmap wants a tensor for the tangent of a constant; other callers want None.
        zeros = torch.zeros_like(statistics) if is_batched(statistics) else None
        return changes, zeros, None


class LinearLogLikelihoodGradients(torch.autograd.Function):
    """The gradients of Σ g · numbers by the layer's parameters that need one, and their derivatives.

    The gradients may be known, and the statistics and numbers that come with them. In forward mode the numbers bring
    how they change, which need not be found again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        plan: Plan,
        needs: Needs,
        known: tuple[Tensor, ...] | None,
        g: Tensor,
        statistics: Tensor | None,
        _numbers: Tensor | None,
        *layer: Any,
    ) -> tuple[Tensor, ...]:
        if known is not None:
            return known
        needed = [name in needs for name in Layer._fields]
        found = operators.gradients(g, Layer(*layer), plan, statistics, needed)
        return tuple(gradient for gradient in found if gradient is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, ctx.needs, _, g, statistics, _, *layer = inputs
        ctx.save_for_backward(g, statistics, *layer)
        ctx.save_for_forward(g, statistics, *layer)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        # Along `grad_outputs` Σ g · numbers changes by Σ g · jvp, whose gradients are `hvp` and `jvp`.
        tangent = Tangent._make((*align(grad_outputs, ctx.needs), None, None, None))
        if all(tensor is None for tensor in tangent):
            return (None,) * len(ctx.needs_input_grad)
        (g, statistics, *layer), plan = ctx.saved_tensors, ctx.plan
        layer = Layer(*layer)
        needs, needs_target = needed_fields(ctx.needs_input_grad[6:])
        by_g, *found = gradient_changes(needs, g, None, None, plan, statistics, layer, tangent)
        target = target_changes(g, layer, plan, tangent) if needs_target else (None,) * 3
        return None, None, None, by_g, None, None, *align(found, needs), *target

    @staticmethod
    @carry_tangents
    def jvp(
        ctx: Any,
        saved: list[Any],
        _plan: None,
        _needs: None,
        _known: None,
        g_change: Tensor | None,
        _statistics: None,
        changes: Tensor | None,
        *tangent: Tensor | None,
    ) -> tuple[Tensor, ...]:
        g, statistics, *layer = saved
        arguments = g, g_change, changes, ctx.plan, statistics, Layer(*layer), Tangent(*tangent)
        _, *found = gradient_changes(ctx.needs, *arguments)
        return tuple(found)


def gradients(
    g: Tensor,
    layer: Layer,
    plan: Plan,
    statistics: Tensor | None,
    needs: Sequence[bool],
    held: HeldGradients | None = None,
    numbers: Tensor | None = None,
    known: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g · numbers by the fields that need one, as autograd can differentiate them.

    The statistics are those that come with the numbers, or None if nobody kept them; so are what is held, the numbers,
    and the gradients themselves, where they are known.
    """
    is_final = not torch.is_grad_enabled() and not is_forward_mode()
    if is_final and (is_recorded() or not may_be_differentiated(g)):
        return operators.gradients(g, layer, plan, statistics, needs, held)
    names, needs_target = needed_fields(needs)
    if not needs_target and not is_legacy_batched(g):
        if statistics is None and known is None and not (is_transformed() or is_recorded() or is_forward_mode()):
            with torch.no_grad():
                statistics = operators.numbers(layer, plan)[1]
        numbers = numbers if is_forward_mode() else None
        found = LinearLogLikelihoodGradients.apply(plan, names, known, g, statistics, numbers, *layer)
        return *align(found, names), None, None, None
    if torch.is_grad_enabled():
        # Both formulas get the same converted layer, so that half precision rounds the sum of their gradients once.
        layer = cast(layer, layer.dtype)
    if may_be_differentiated(g):
        known = class_blocks.numbers(layer, plan)[1]
    else:
        known = operators.class_statistics(layer, plan, statistics)
    found = align(class_blocks.gradients(g, layer, plan, known, names), names)
    target = class_blocks.target_gradients(g, layer, plan, known) if needs_target else (None,) * 3
    return *found, *target
