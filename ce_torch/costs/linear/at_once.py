"""The cost and its gradients in one go: z is worked out once, and not again for the gradients.

What reaches the cost is not known yet, so that gradients can be had at once of a sum over examples only, up to the
factor that reaches it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ce_torch.costs._function import may_be_differentiated
from ce_torch.costs.linear import by_examples
from ce_torch.costs.linear.autograd import gradients_of_costs, in_their_places, those_of
from ce_torch.costs.linear.blocks import Layer, Setting
from ce_torch.costs.linear.by_examples import cost_and_slopes
from ce_torch.costs.linear.formulas import costs
from ce_torch.costs.linear.shards import Shard


class AtOnce(torch.autograd.Function):
    """Σ factor · C over the examples, of classes y, where C and factor are 0 for examples that don't count."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        peak: Tensor,
        base: Tensor | None,
        factor: Tensor,
        setting: Setting,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, y, peak, base, factor)
        ctx.setting, (ctx.wanted, _) = setting, those_of(ctx.needs_input_grad)
        total, ctx.gradients = cost_and_slopes(Layer(x, weight, bias, y, peak, base), factor, setting, ctx.wanted)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        *layer, factor = ctx.saved_tensors
        layer, gradients, ctx.gradients = Layer(*layer), ctx.gradients, None
        if may_be_differentiated(g):
            with torch.no_grad():
                sums = torch.stack(costs(layer, ctx.setting)[1])
            needed = *ctx.needs_input_grad[:3], False, False, False
            return *gradients_of_costs(g * factor, layer, ctx.setting, sums, needed), None, None
        if gradients is None:
            _, gradients = cost_and_slopes(layer, factor, ctx.setting, ctx.wanted)
        if not g.is_cpu or g.item() != 1:
            for gradient in gradients:
                gradient.mul_(g)
        return *in_their_places(gradients, ctx.wanted), None, None, None, None, None


def refusal(layer: Layer, reduction: str, shard: Shard) -> str | None:
    """Return why the gradients are not worked out with the cost, None where they are.

    They are where they will be asked for, of nothing but the numbers, and by the inputs and parameters only.
    """
    if torch.compiler.is_compiling():
        return "torch.compile sees an operator"
    *of_layer, _, peak, base = layer
    if reduction == "none":
        return 'reduction is "none"'
    if not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in of_layer)):
        return "no gradient is asked for"
    if any(tensor is not None and tensor.requires_grad for tensor in (peak, base)):
        return "class_weight requires grad"
    if forward_ad._current_level >= 0:
        return "forward mode differentiates the cost"
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        # What hooks do with the inputs, they do for memory: nothing else is to be kept.
        return "hooks for saved tensors are set"
    return by_examples.refusal(layer, shard)
