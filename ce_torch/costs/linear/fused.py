"""The cost and its gradients in one pass, which computes z once.

The pass does not know yet which gradient reaches the cost. That gradient is a factor of all others where the cost is
one number, the sum or mean over examples; only such costs are computed here. Of several forward passes before a
backward pass the first one keeps its gradients, and the others leave theirs to the backward pass.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._autograd import is_number, may_be_differentiated
from ce_torch.costs._backend import record
from ce_torch.costs._product import product
from ce_torch.costs._torch_private import has_saved_tensor_hooks, is_forward_mode, is_transformed, tracing_state
from ce_torch.costs.kernels import gpu, is_plain
from ce_torch.costs.linear import example_blocks
from ce_torch.costs.linear.autograd import gradients, numbers
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.example_blocks import cost_and_gradients
from ce_torch.costs.linear.gradients import PARAMETERS, Needs, align
from ce_torch.costs.linear.held import HELD, HeldGradients
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.operators import needed_fields


class FusedLinearLogLikelihood(torch.autograd.Function):
    """Σ factor (C + λ ℓ²) over the examples, for classes y. The factor is 0 for examples that do not count."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, z_loss: float, held: HeldGradients | None, factor: Tensor, *fields: Any
    ) -> Tensor:
        ctx.plan, ctx.z_loss, ctx.held, (ctx.needs, _) = plan, z_loss, held, needed_fields(ctx.needs_input_grad[4:])
        layer = Layer(*fields)
        if held is None:
            record("blocks", HELD)
            costs = example_blocks.numbers(layer, plan, z_loss)[0][0]
        else:
            costs, held.gradients = cost_and_gradients(layer, factor, plan, ctx.needs, z_loss)
        ctx.save_for_backward(factor, costs, *layer)
        return product(factor, costs).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (g,) = grad_outputs
        factor, costs, *layer = ctx.saved_tensors
        layer, held, ctx.held = Layer(*layer), ctx.held, None
        if may_be_differentiated(g):
            arguments, needs = (g, factor, layer, ctx.plan, ctx.z_loss), ctx.needs_input_grad[3:]
            known = known_gradients(held, g, ctx.needs, needed_fields(needs[1:])[0])
            return None, None, None, *differentiable_gradients(*arguments, needs, known)
        by_factor = g * costs if ctx.needs_input_grad[3] else None
        if held is None or held.gradients is None:
            _, found = cost_and_gradients(layer, factor, ctx.plan, ctx.needs, ctx.z_loss)
        else:
            found = held.gradients
        multiply_by(found, g)
        return None, None, None, by_factor, *align(found, ctx.needs), None, None, None


def known_gradients(held: HeldGradients | None, g: Tensor, names: Needs, needed: Needs) -> tuple[Tensor, ...] | None:
    """Return the needed ones of the gradients of these names times g, or None if these can't be had as numbers."""
    if held is None or held.gradients is None or is_transformed() or is_forward_mode():
        return None
    if not (is_plain(g) and is_number(g)) or torch.compiler.is_compiling():
        return None
    ordered = (name for name in PARAMETERS if name in names)
    found = tuple(gradient for name, gradient in zip(ordered, held.gradients, strict=True) if name in needed)
    with torch.no_grad():
        multiply_by(found, g)
    return found


def multiply_by(gradients: Sequence[Tensor], g: Tensor) -> None:
    """Multiply gradients, which are contiguous, in place by what reached the cost, mostly 1."""
    if g.is_cpu and g.item() == 1:
        return
    for gradient in gradients:
        if gpu.refusal(gradient, g) is None and gradient.dtype != torch.float64:
            gpu.multiply_by(gradient, g)
        else:
            gradient.mul_(g)


def differentiable_gradients(
    g: Tensor,
    factor: Tensor,
    layer: Layer,
    plan: Plan,
    z_loss: float,
    needs: Sequence[bool],
    known: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients by factor and the layer, those that are needed, as autograd can differentiate them.

    The known ones are those by the layer.
    """
    plan, (needs_factor, *needs) = replace(plan, logsumexp=z_loss != 0), needs
    upstream, by_factor = g * factor, None
    zero = torch.zeros_like(upstream)
    by_logsumexp = zero
    if z_loss != 0 or needs_factor:
        (C, logsumexp, _), _ = numbers(layer, plan)
        by_logsumexp = product(upstream, 2 * z_loss * logsumexp)
        by_factor = g * (C + z_loss * logsumexp.square()) if needs_factor else None
    by_numbers = torch.stack([upstream, by_logsumexp, zero])
    return by_factor, *gradients(by_numbers, layer, plan, None, needs, known=known)


def refusal(layer: Layer, reduction: str, plan: Plan, z_loss: float) -> str | None:
    """Return why the gradients are not computed with the cost, or None if they are.

    They are if the backward pass will ask for them, as numbers only, and by x, weight and bias only.
    """
    if torch.compiler.is_compiling():
        return "torch.compile sees an operator"
    if tracing_state() is not None:
        return "a trace records operations, and no Function of autograd"
    if reduction == "none":
        return 'reduction is "none"'
    return unasked(layer) or example_blocks.refusal(layer, plan, z_loss)


def unasked(layer: Layer) -> str | None:
    """Return why gradients of this layer are not asked for, or not in this way, or None."""
    parameters, target = (getattr(layer, name) for name in PARAMETERS), (layer.on_value, layer.off_value)
    if not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in parameters)):
        return "no gradient is asked for"
    if any(tensor is not None and tensor.requires_grad for tensor in target):
        return "class_weight requires grad"
    if is_forward_mode():
        return "forward mode differentiates the cost"
    if layer.x.dtype == torch.float16:
        return "gradients in float16 may vanish without the loss scale, which the backward pass brings"
    if has_saved_tensor_hooks():
        # Hooks save memory by what they do to saved tensors. Gradients that are kept would escape them.
        return "hooks for saved tensors are set"
    return None
