"""The cost and its gradients in one pass, which computes z once.

The pass does not know yet which gradient reaches the cost. That gradient is a factor of all others where the cost is
one number, the sum or mean over examples; only such costs are computed here.
"""

from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._autograd import may_be_differentiated
from ce_torch.costs._torch_private import has_saved_tensor_hooks, is_forward_mode
from ce_torch.costs.linear import example_blocks
from ce_torch.costs.linear.autograd import gradients, numbers_and_statistics
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.example_blocks import cost_and_gradients
from ce_torch.costs.linear.gradients import align
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.operators import needed_fields


class FusedLinearLogLikelihood(torch.autograd.Function):
    """Σ factor · (C + z_loss ℓ²) over the examples, for classes y. The factor is 0 for examples that do not count."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, factor: Tensor, *layer: Any) -> Tensor:
        ctx.save_for_backward(factor, *layer)
        ctx.plan, (ctx.needs, _) = plan, needed_fields(ctx.needs_input_grad[2:])
        total, ctx.gradients = cost_and_gradients(Layer(*layer), factor, plan, ctx.needs)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (g,) = grad_outputs
        factor, *layer = ctx.saved_tensors
        layer, found, ctx.gradients = Layer(*layer), ctx.gradients, None
        if may_be_differentiated(g):
            numbers, statistics = numbers_and_statistics(layer, ctx.plan)
            example_grad = ctx.plan.example_grad(g * factor, numbers)
            return None, None, *gradients(example_grad, layer, ctx.plan, statistics, ctx.needs_input_grad[2:])
        if found is None:
            _, found = cost_and_gradients(layer, factor, ctx.plan, ctx.needs)
        if not g.is_cpu or g.item() != 1:
            for gradient in found:
                gradient.mul_(g)
        return None, None, *align(found, ctx.needs), None, None, None


def refusal(layer: Layer, reduction: str, plan: Plan) -> str | None:
    """Return why the gradients are not computed with the cost, or None if they are.

    They are if the backward pass will ask for them, as numbers only, and by x, weight and bias only.
    """
    if torch.compiler.is_compiling():
        return "torch.compile sees an operator"
    parameters, target = layer[:3], (layer.on_value, layer.off_value)
    if reduction == "none":
        return 'reduction is "none"'
    if not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in parameters)):
        return "no gradient is asked for"
    if any(tensor is not None and tensor.requires_grad for tensor in target):
        return "class_weight requires grad"
    if is_forward_mode():
        return "forward mode differentiates the cost"
    if has_saved_tensor_hooks():
        # Hooks save memory by what they do to saved tensors. Gradients that are kept would escape them.
        return "hooks for saved tensors are set"
    return example_blocks.refusal(layer, plan)
