"""The log-likelihood of a softmax layer and its derivatives, from the layer's inputs, by blocks of classes.

    z = x Wᵀ + b        a = softmax(c z)        C = −Σⱼ tⱼ ln aⱼ        δ = c (T a − t),  T = Σⱼ tⱼ

z would have a row for each example and a column for each class. It is never whole: these functions go over blocks of
classes, and keep of a block what it adds to the sums over all. Along a direction (ẋ, Ẇ, ḃ, ṫ) z changes by
v = ẋ Wᵀ + x Ẇᵀ + ḃ, and

    Ċ = Σⱼ δⱼ vⱼ − Σⱼ ṫⱼ ln aⱼ        δ̇ = c² T a (v − u) + c (Ṫ a − ṫ),  u = Σⱼ aⱼ vⱼ

All of it is differentiable, so that autograd finds the third derivatives and higher ones, for which it does keep z.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._precision import is_autocast
from ce_torch.costs._product import product
from ce_torch.costs._softmax import Exponentials, above_minus_infinity, exponents, scale
from ce_torch.costs.linear.blocks import Gradients, Layer, Setting, TargetGradients, Wanted, column


class Sums(NamedTuple):
    """Of each example m = maxⱼ zⱼ, r = Σⱼ exp(c (zⱼ − m)) − 1, and T, all of shape (N,)."""

    m: Tensor
    r: Tensor
    T: Tensor

    def exponentials(self, z: Tensor, c: float) -> Exponentials:
        """Return those of a block of classes."""
        x = exponents(z, column(self.m), c)
        return Exponentials(x, x.exp(), column(self.r))


class RunningSum:
    """Σⱼ exp xⱼ, xⱼ = c (zⱼ − m), as classes come: how many are 1, the largest, and the sum of the others."""

    def __init__(self, layer: Layer, c: float) -> None:
        self.c, self.m = c, layer.of_examples(-torch.inf)
        self.ones, self.others = layer.of_examples(0), layer.of_examples(0)

    def move(self, m: Tensor) -> Tensor:
        """Let m be the largest from now on, and return by how much x falls."""
        moved = m > self.m
        fall = scale(self.c, torch.where(moved, m - above_minus_infinity(self.m), 0))
        so_far = (self.ones + self.others) * torch.exp(-fall)
        self.ones, self.others = torch.where(moved, 0, self.ones), torch.where(moved, so_far, self.others)
        self.m = m
        return fall

    def add(self, x: Tensor) -> None:
        is_largest = (x == 0).to(x.dtype)
        self.ones = self.ones + is_largest.sum(-1)
        self.others = self.others + (x.exp() - is_largest).sum(-1)


def in_own_precision(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Let a formula choose its precision itself, also in a backward pass under autocast.

    Where autograd may differentiate it, its layers come in the precision to compute in: of a tensor that each block
    converts, the gradients of the blocks would be rounded before they are added.
    """

    @wraps(formula)
    def wrapped(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            dtype = next(argument.dtype for argument in arguments if isinstance(argument, Layer))
            arguments = tuple(argument.to(dtype) if isinstance(argument, Layer) else argument for argument in arguments)
        device = next(argument.x.device for argument in arguments if isinstance(argument, Layer))
        if not is_autocast(device):
            return formula(*arguments)
        with torch.autocast(device.type, enabled=False):
            return formula(*arguments)

    return wrapped


@in_own_precision
def costs(layer: Layer, setting: Setting) -> tuple[Tensor, Sums]:
    """Return C of each example, as T ln(1 + r) − Σⱼ tⱼ xⱼ, of which no large numbers cancel, and its sums."""
    c, shard = setting.c, setting.shard
    running = RunningSum(layer, c)
    t_x, T = layer.of_examples(0), layer.of_examples(0)
    for classes in layer.blocks(setting):
        z, t = layer.z(classes), layer.t(classes, setting)
        t_x = t_x - product(T, running.move(torch.maximum(running.m, z.detach().amax(-1))))
        x = exponents(z, column(running.m), c)
        running.add(x)
        t_x = t_x + product(t, x).sum(-1)
        T = T + t.sum(-1)
    ones, others = running.ones, running.others
    if shard.group is not None:
        t_x = t_x - product(T, running.move(shard.largest(running.m)))
        sums = torch.stack([running.ones, running.others, t_x, T])
        ones, others, t_x, T = shard.total(sums).unbind()
    # What has no largest number, and does not count, is as if all its z were 0.
    hollow = ~(running.m > -torch.inf) & (T == 0)
    m, r = running.m.masked_fill(hollow, 0), (others + (ones - 1)).masked_fill(hollow, 0)
    return T * r.log1p() - t_x, Sums(m, r, T)


@in_own_precision
def slopes(g: Tensor, layer: Layer, setting: Setting, sums: Sums, wanted: Wanted) -> tuple[Tensor, ...]:
    """Return the gradients of Σ g C by those of x, weight and bias that are wanted: δ W, δᵀ x and Σ δ."""
    gradients = Gradients(layer, wanted, g)
    for classes in layer.blocks(setting):
        gradients.add(classes, product(column(g), delta(layer, classes, setting, sums)))
    return gradients.totals(setting)


def delta(layer: Layer, classes: slice, setting: Setting, sums: Sums) -> Tensor:
    t = layer.t(classes, setting)
    return sums.exponentials(layer.z(classes), setting.c).delta(t, column(sums.T), setting.c)


@in_own_precision
def target_slopes(g: Tensor, layer: Layer, setting: Setting, sums: Sums) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g C by y, peak and base: −ln a, summed to their shapes."""
    gradients = TargetGradients(layer, g)
    for classes in layer.blocks(setting):
        gradients.add(classes, product(column(g), -sums.exponentials(layer.z(classes), setting.c).ln_a), setting)
    return gradients.totals(setting)


class Along(NamedTuple):
    """What a direction changes of each example: C by Σⱼ δⱼ vⱼ and by Σⱼ −ṫⱼ ln aⱼ; u, and Ṫ; all of shape (N,)."""

    by_layer: Tensor
    by_target: Tensor
    u: Tensor
    T: Tensor


@in_own_precision
def along(layer: Layer, change: Layer, setting: Setting, sums: Sums) -> Along:
    u, t_v, T, by_target = (layer.of_examples(0) for _ in range(4))
    for classes in layer.blocks(setting):
        ln_a = sums.exponentials(layer.z(classes), setting.c).ln_a
        v, t_changes = layer.change_of_z(change, classes), layer.change_of_t(change, classes, setting)
        if v is not None:
            u = u + (ln_a.exp() * v).sum(-1)
            t_v = t_v + (layer.t(classes, setting) * v).sum(-1)
        if t_changes is not None:
            T = T + t_changes.sum(-1)
            by_target = by_target - product(t_changes, ln_a).sum(-1)
    u, t_v, T, by_target = setting.shard.total(torch.stack([u, t_v, T, by_target])).unbind()
    return Along(setting.c * (sums.T * u - t_v), by_target, u, T)


@in_own_precision
def curvature(
    g: Tensor,
    g_change: Tensor | None,
    layer: Layer,
    change: Layer,
    setting: Setting,
    sums: Sums,
    moved: Along,
    wanted: Wanted,
) -> tuple[Tensor, ...]:
    """Return how `slopes` change along a direction: (g δ)˙ W + g δ Ẇ, (g δ)˙ᵀ x + g δᵀ ẋ and Σ (g δ)˙."""
    c = setting.c
    gradients = Gradients(layer, wanted, g, *change)
    for classes in layer.blocks(setting):
        exponentials = sums.exponentials(layer.z(classes), c)
        a, delta = exponentials.ln_a.exp(), exponentials.delta(layer.t(classes, setting), column(sums.T), c)
        changes = a * column(moved.T)
        v, t_changes = layer.change_of_z(change, classes), layer.change_of_t(change, classes, setting)
        if v is not None:
            changes = changes + scale(c, column(sums.T) * a * (v - column(moved.u)))
        if t_changes is not None:
            changes = changes - t_changes
        rows = scale(c, column(g) * changes)
        if g_change is not None:
            rows = rows + column(g_change) * delta
        gradients.add(classes, rows, column(g) * delta, change)
    return gradients.totals(setting)


@in_own_precision
def target_curvature(
    g: Tensor, layer: Layer, change: Layer, setting: Setting, moved: Along
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g Σⱼ δⱼ vⱼ by y, peak and base: c (u − v), summed to their shapes."""
    gradients = TargetGradients(layer, g, *change)
    for classes in layer.blocks(setting):
        v = layer.change_of_z(change, classes)
        gradients.add(classes, scale(setting.c, column(g) * (column(moved.u) - v)), setting)
    return gradients.totals(setting)
