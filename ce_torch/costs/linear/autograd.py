"""The cost of a layer as a function that keeps every promise of autograd, with both derivatives written by hand.

What is saved is the layer's inputs, and three numbers of each example. They count as constants only where they are used
together with derivatives that were worked out by hand: third derivatives are autograd's, of sums worked out again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._function import carry_tangents, may_be_differentiated
from ce_torch.costs.linear import by_examples
from ce_torch.costs.linear.blocks import Layer, Setting, Wanted
from ce_torch.costs.linear.formulas import (
    Sums,
    along,
    costs,
    curvature,
    slopes,
    target_curvature,
    target_slopes,
)

# The inputs of both functions: those of a Layer, then the Setting.
INPUTS = len(Layer._fields)


class Costs(torch.autograd.Function):
    """C of each example, of shape (N,), and its sums."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        peak: Tensor | None,
        base: Tensor | None,
        setting: Setting,
    ) -> tuple[Tensor, Tensor]:
        C, sums = costs_of_examples(Layer(x, weight, bias, y, peak, base), setting)
        return C, torch.stack(sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *layer, ctx.setting = inputs
        ctx.save_for_backward(*layer, output[1])
        ctx.save_for_forward(*layer, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * (INPUTS + 1)
        *layer, sums = ctx.saved_tensors
        return *gradients_of_costs(g, Layer(*layer), ctx.setting, sums, ctx.needs_input_grad), None

    @staticmethod
    @carry_tangents
    def jvp(ctx: Any, saved: list[Tensor | None], *changes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        *layer, constants = saved
        layer = Layer(*layer)
        _, sums = costs(layer, ctx.setting)
        moved = along(layer, Layer(*changes[:INPUTS]), ctx.setting, sums)
        # Where `vmap` calls, a tangent is a tensor; elsewhere a constant has none.
        batched = torch._C._functorch.is_batchedtensor(constants)
        return moved.by_layer + moved.by_target, torch.zeros_like(constants) if batched else None


class Slopes(torch.autograd.Function):
    """The gradients of Σ g C that are wanted, by x, weight and bias."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        peak: Tensor | None,
        base: Tensor | None,
        sums: Tensor,
        setting: Setting,
        wanted: Wanted,
    ) -> tuple[Tensor, ...]:
        return slopes(g, Layer(x, weight, bias, y, peak, base), setting, Sums(*sums), wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, ctx.setting, ctx.wanted = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # Σ g C changes along `grads` by Σ g Σⱼ δⱼ vⱼ: its gradients are the changes of the slopes, and Σⱼ δⱼ vⱼ.
        change = Layer(*in_their_places(grads, ctx.wanted))
        if all(tensor is None for tensor in change):
            return (None,) * len(ctx.needs_input_grad)
        (g, *layer), setting = ctx.saved_tensors, ctx.setting
        layer = Layer(*layer)
        _, sums = costs(layer, setting)
        moved = along(layer, change, setting, sums)
        wanted, wants_target = those_of(ctx.needs_input_grad[1:])
        of_layer = curvature(g, None, layer, change, setting, sums, moved, wanted)
        of_target = target_curvature(g, layer, change, setting, moved) if wants_target else (None,) * 3
        return moved.by_layer, *in_their_places(of_layer, wanted), *of_target, None, None, None

    @staticmethod
    @carry_tangents
    def jvp(
        ctx: Any, saved: list[Tensor | None], g_change: Tensor | None, *changes: Tensor | None
    ) -> tuple[Tensor, ...]:
        (g, *layer), change = saved, Layer(*changes[:INPUTS])
        layer = Layer(*layer)
        _, sums = costs(layer, ctx.setting)
        moved = along(layer, change, ctx.setting, sums)
        return curvature(g, g_change, layer, change, ctx.setting, sums, moved, ctx.wanted)


def costs_of_examples(layer: Layer, setting: Setting) -> tuple[Tensor, Sums]:
    """Return C of each example, and its sums, where only their numbers count if nothing else can be asked for."""
    formula = costs if by_examples.refusal(layer, setting.shard) else by_examples.costs
    return formula(layer, setting)


def gradients_of_costs(
    g: Tensor, layer: Layer, setting: Setting, sums: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g C by the fields of a Layer that need one."""
    wanted, wants_target = those_of(needed)
    if not wants_target and not may_be_differentiated(g) and by_examples.refusal(layer, setting.shard) is None:
        _, gradients = by_examples.cost_and_slopes(layer, g, setting, wanted)
        return *in_their_places(gradients, wanted), None, None, None
    if torch.is_grad_enabled() and (wants_target or torch._C._functorch.is_legacy_batchedtensor(g)):
        # Once for both formulas: of their gradients in half precision the sum is what is rounded.
        layer = layer.to(layer.dtype)
    if wants_target:
        sums = costs(layer, setting)[1] if may_be_differentiated(g) else Sums(*sums)
        of_layer = slopes(g, layer, setting, sums, wanted)
        return *in_their_places(of_layer, wanted), *target_slopes(g, layer, setting, sums)
    if torch._C._functorch.is_legacy_batchedtensor(g):
        sums = costs(layer, setting)[1] if torch.is_grad_enabled() else Sums(*sums)
        return *in_their_places(slopes(g, layer, setting, sums, wanted), wanted), None, None, None
    return *in_their_places(Slopes.apply(g, *layer, sums, setting, wanted), wanted), None, None, None


def those_of(needed: tuple[bool, ...]) -> tuple[Wanted, bool]:
    """Return by which of x, weight and bias a gradient is needed, and whether one by the target is."""
    of_layer = zip(Layer._fields[:3], needed[:3], strict=True)
    return frozenset(name for name, of_this in of_layer if of_this), any(needed[3:INPUTS])


def in_their_places(gradients: tuple[Tensor | None, ...], wanted: Wanted) -> Iterator[Tensor | None]:
    """Yield the gradients that are wanted by x, weight and bias, None for others."""
    gradients = iter(gradients)
    for name in Layer._fields[:3]:
        yield next(gradients) if name in wanted else None
