"""The cost and its gradients in one go, by blocks of examples: z is worked out once, and not again for the gradients.

What reaches the cost is not known yet, so that gradients can be had at once of a sum over examples only, up to the
factor that reaches it. Where no kernels for whole z are, zᵀ is made, with a row for each class: the products with W,
which has a row for each class too, are faster so than with z.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ce_torch.costs.autograd import may_be_differentiated
from ce_torch.costs.backend import tell
from ce_torch.costs.fast import NOT_PLAIN, WATCHED, gpu, is_plain, memory_is_all
from ce_torch.costs.fast.products import add_product, exponentials_, weighted_inputs
from ce_torch.costs.layer.autograd import gradients_of_costs, in_their_places, those_of
from ce_torch.costs.layer.blocks import Layer, Setting, Wanted, column, parts
from ce_torch.costs.layer.formulas import costs, in_own_precision
from ce_torch.costs.layer.shards import Shard
from ce_torch.costs.product import product
from ce_torch.costs.softmax import exponents

AT_ONCE = "the gradients are worked out with the cost"


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
        factor: Tensor,
        setting: Setting,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, y, peak, factor)
        ctx.setting, (ctx.wanted, _) = setting, those_of(ctx.needs_input_grad)
        total, ctx.gradients = cost_and_slopes(Layer(x, weight, bias, y, peak), factor, setting, ctx.wanted)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        *layer, factor = ctx.saved_tensors
        layer, gradients, ctx.gradients = Layer(*layer), ctx.gradients, None
        if may_be_differentiated(g):
            with torch.no_grad():
                sums = torch.stack(costs(layer, ctx.setting)[1])
            needed = *ctx.needs_input_grad[:3], False, False, False
            return *gradients_of_costs(g * factor, layer, ctx.setting, sums, needed), None
        if gradients is None:
            _, gradients = cost_and_slopes(layer, factor, ctx.setting, ctx.wanted)
        if not g.is_cpu or g.item() != 1:
            for gradient in gradients:
                gradient.mul_(g)
        return *in_their_places(gradients, ctx.wanted), None, None, None, None


def refusal(layer: Layer, reduction: str, shard: Shard) -> str | None:
    """Return why the gradients are not worked out with the cost, None where they are.

    They are where they will be asked for, of nothing but the numbers, and by the inputs and parameters only.
    """
    if torch.compiler.is_compiling():
        return "torch.compile sees an operator"
    *of_layer, y, peak, base = layer
    if reduction == "none":
        return 'reduction is "none"'
    if shard.group is not None:
        return "the classes are shared out among processes"
    if not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in of_layer)):
        return "no gradient is asked for"
    if y.is_floating_point():
        return "y holds desired outputs"
    if base is not None:
        return "label_smoothing is not 0"
    if peak.requires_grad:
        return "class_weight requires grad"
    if layer.dtype != layer.x.dtype:
        return "x has half precision"
    if not all(is_plain(tensor) for tensor in layer if tensor is not None):
        return NOT_PLAIN
    if not memory_is_all():
        return WATCHED
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "forward mode or torch.func differentiates the cost"
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        # What hooks do with the inputs, they do for memory: nothing else is to be kept.
        return "hooks for saved tensors are set"
    return None


@in_own_precision
def cost_and_slopes(
    layer: Layer, factor: Tensor, setting: Setting, wanted: Wanted
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return Σ factor · C, and its gradients that are wanted, by blocks of examples."""
    x, weight, bias, y, peak, _ = layer
    total = x.new_zeros(())
    new = torch.empty_like if len(x) > 0 else torch.zeros_like
    gradients = {
        name: new(tensor, memory_format=torch.contiguous_format)
        for name, tensor in layer._asdict().items()
        if name in wanted
    }
    count = examples_of_block(layer, setting)
    space = x.new_empty(len(weight) * count)
    refused = gpu.refusal(space)
    work_out = by_gpu_kernels if refused is None else transposed
    tell("blocks" if refused else "triton", f"triton: {refused}; {AT_ONCE}" if refused else AT_ONCE)
    for block in parts(len(x), count):
        of_block = Layer(x[block], weight, bias, y[block], peak[block])
        of_cost = setting.c * of_block.peak * factor[block]
        C = work_out(gradients, block, of_block, of_cost, setting.c, space[: len(weight) * len(of_block.x)])
        total += product(factor[block], C).sum()
    return total, tuple(gradients.values())


def by_gpu_kernels(
    gradients: dict[str, Tensor], block: slice, layer: Layer, of_cost: Tensor, c: float, space: Tensor
) -> Tensor:
    """Return C of each example of a block, and add its part to the gradients, by the kernels for whole z."""
    z = torch.mm(layer.x, layer.weight.mT, out=space.view(len(layer.x), -1))
    if layer.bias is not None:
        z += layer.bias
    options = None, c, -1, 0.0
    C, sums = gpu.cost_of_classes("none", z, layer.y, *options)
    delta = gpu.delta_of_classes(of_cost / c, sums, "none", z, layer.y, *options, in_place=True)
    if "x" in gradients:
        torch.mm(delta, layer.weight, out=gradients["x"][block])
    # What was there before the first block is not read.
    beta = min(block.start, 1)
    if "weight" in gradients:
        gradients["weight"].addmm_(delta.mT, layer.x, beta=beta)
    if "bias" in gradients:
        gradients["bias"].addmv_(delta.mT, torch.ones_like(of_cost), beta=beta)
    return product(layer.peak, C)


def transposed(
    gradients: dict[str, Tensor], block: slice, layer: Layer, of_cost: Tensor, c: float, space: Tensor
) -> Tensor:
    """Return C of each example of a block, and add its part to the gradients, with zᵀ for z."""
    z = space.view(len(layer.weight), -1)
    C, r = exponentials(layer, c, z)
    # With this z is (s / of_cost) δᵀ, s = 1 + r.
    add_slopes(gradients, block, layer, product(of_cost, 1 / (1 + r)), z)
    return C


def examples_of_block(layer: Layer, setting: Setting) -> int:
    count = min(max(setting.elements // max(len(layer.weight), 1), 1), max(len(layer.x), 1))
    # The products are faster with so many.
    return count - count % 16 if count > 16 else count


def exponentials(layer: Layer, c: float, z: Tensor) -> tuple[Tensor, Tensor]:
    """Write exp x, x = c (z − m), to z, with a row for each class, and r₋ = −Σⱼ exp xⱼ over j ≠ y at j = y.

    Return C and r = Σⱼ exp xⱼ − 1 of each example.
    """
    m = weighted_inputs(layer.weight, layer.x.mT.contiguous(), layer.bias, z)
    y = layer.y.unsqueeze(0)
    x_y = exponents(z.gather(0, y).squeeze(0), m, c)
    z.scatter_(0, y, -torch.inf)
    largest = torch.finfo(m.dtype).max
    others = exponentials_(z, m.clamp(-largest, largest), c)
    z.scatter_(0, y, -others.unsqueeze(0))
    r = others + x_y.expm1()
    return product(layer.peak, r.log1p() - x_y), r


def add_slopes(gradients: dict[str, Tensor], block: slice, layer: Layer, of_cost: Tensor, z: Tensor) -> None:
    """Add what a block of examples has of the gradients δ W, δᵀ x and Σ δ, where δᵀ = of_cost z."""
    if "x" in gradients:
        of_x = layer.x.new_zeros(layer.x.shape[1], len(layer.x))
        add_product(layer.weight.mT, z, out=of_x)
        gradients["x"][block] = (of_x * of_cost).mT
    # What was there before the first block is not read.
    beta = min(block.start, 1)
    if "weight" in gradients:
        add_product(z, layer.x * column(of_cost), gradients["weight"], beta)
    if "bias" in gradients:
        gradients["bias"].addmv_(z, of_cost, beta=beta)
