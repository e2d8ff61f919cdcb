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

from ce_torch.costs.layer.blocks import Gradients, Layer, Setting, TargetGradients, Wanted, column, times
from ce_torch.costs.precision import is_autocast


class Sums(NamedTuple):
    """Of each example m = maxⱼ zⱼ, ln s with s = Σⱼ exp(c (zⱼ − m)), and T, all of shape (N,)."""

    m: Tensor
    log_s: Tensor
    T: Tensor

    def ln_a(self, z: Tensor, c: float) -> Tensor:
        return times(c, z - column(self.m)) - column(self.log_s)


def without_autocast(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Let a formula choose its precision itself, also in a backward pass under autocast."""

    @wraps(formula)
    def in_its_precision(*arguments: Any) -> Any:
        device = next(argument.x.device for argument in arguments if isinstance(argument, Layer))
        if not is_autocast(device):
            return formula(*arguments)
        with torch.autocast(device.type, enabled=False):
            return formula(*arguments)

    return in_its_precision


@without_autocast
def costs(layer: Layer, setting: Setting) -> tuple[Tensor, Sums]:
    """Return C of each example, as T ln s + c Σⱼ tⱼ (m − zⱼ), of which no large numbers cancel, and its sums."""
    c = setting.c
    m = layer.of_examples(-torch.inf)
    s, error, T = (layer.of_examples(0) for _ in range(3))
    for classes in layer.blocks(setting):
        z, t = layer.z(classes), layer.t(classes, setting)
        m_before, m = m, torch.maximum(m, z.detach().amax(-1))
        s = s * torch.exp(c * (m_before - finite(m))) + torch.exp(times(c, z - column(finite(m)))).sum(-1)
        error = error + unless_zero(T, m - m_before) + unless_zero(t, column(finite(m)) - z).sum(-1)
        T = T + t.sum(-1)
    shard = setting.shard
    if shard.group is not None:
        m_before, m = m, shard.largest(m)
        s = s * torch.exp(c * (m_before - finite(m)))
        error = error + unless_zero(T, m - m_before)
        s, error, T = shard.total(torch.stack([s, error, T])).unbind()
    log_s = s.log()
    return T * log_s + c * error, Sums(finite(m), log_s, T)


def finite(m: Tensor) -> Tensor:
    """m, or 0 where every z so far was −∞ and z − m would be nan."""
    return m.masked_fill(m == -torch.inf, 0)


def unless_zero(factor: Tensor, tensor: Tensor) -> Tensor:
    """Return the product, 0 where the factor is 0, also of ∞."""
    return torch.where(factor == 0, 0, factor * tensor)


@without_autocast
def slopes(g: Tensor, layer: Layer, setting: Setting, sums: Sums, wanted: Wanted) -> tuple[Tensor, ...]:
    """Return the gradients of Σ g C by those of x, weight and bias that are wanted: δ W, δᵀ x and Σ δ."""
    gradients = Gradients(layer, wanted, g)
    for classes in layer.blocks(setting):
        gradients.add(classes, column(g) * delta(layer, classes, setting, sums))
    return gradients.totals(setting)


def delta(layer: Layer, classes: slice, setting: Setting, sums: Sums) -> Tensor:
    a = torch.exp(sums.ln_a(layer.z(classes), setting.c))
    return times(setting.c, a * column(sums.T) - layer.t(classes, setting))


@without_autocast
def target_slopes(g: Tensor, layer: Layer, setting: Setting, sums: Sums) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g C by y, peak and base: −ln a, summed to their shapes."""
    gradients = TargetGradients(layer, g)
    for classes in layer.blocks(setting):
        gradients.add(classes, -column(g) * sums.ln_a(layer.z(classes), setting.c), setting)
    return gradients.totals(setting)


class Along(NamedTuple):
    """What a direction changes of each example: C by Σⱼ δⱼ vⱼ and by Σⱼ −ṫⱼ ln aⱼ; u, and Ṫ; all of shape (N,)."""

    by_layer: Tensor
    by_target: Tensor
    u: Tensor
    T: Tensor


@without_autocast
def along(layer: Layer, change: Layer, setting: Setting, sums: Sums) -> Along:
    u, t_v, T, by_target = (layer.of_examples(0) for _ in range(4))
    for classes in layer.blocks(setting):
        ln_a = sums.ln_a(layer.z(classes), setting.c)
        v, t_changes = layer.change_of_z(change, classes), layer.change_of_t(change, classes, setting)
        if v is not None:
            u = u + (ln_a.exp() * v).sum(-1)
            t_v = t_v + (layer.t(classes, setting) * v).sum(-1)
        if t_changes is not None:
            T = T + t_changes.sum(-1)
            by_target = by_target - (t_changes * ln_a).sum(-1)
    u, t_v, T, by_target = setting.shard.total(torch.stack([u, t_v, T, by_target])).unbind()
    return Along(setting.c * (sums.T * u - t_v), by_target, u, T)


@without_autocast
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
        a = torch.exp(sums.ln_a(layer.z(classes), c))
        delta = times(c, a * column(sums.T) - layer.t(classes, setting))
        changes = a * column(moved.T)
        v, t_changes = layer.change_of_z(change, classes), layer.change_of_t(change, classes, setting)
        if v is not None:
            changes = changes + times(c, column(sums.T) * a * (v - column(moved.u)))
        if t_changes is not None:
            changes = changes - t_changes
        rows = times(c, column(g) * changes)
        if g_change is not None:
            rows = rows + column(g_change) * delta
        gradients.add(classes, rows, column(g) * delta, change)
    return gradients.totals(setting)


@without_autocast
def target_curvature(
    g: Tensor, layer: Layer, change: Layer, setting: Setting, moved: Along
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g Σⱼ δⱼ vⱼ by y, peak and base: c (u − v), summed to their shapes."""
    gradients = TargetGradients(layer, g, *change)
    for classes in layer.blocks(setting):
        v = layer.change_of_z(change, classes)
        gradients.add(classes, times(setting.c, column(g) * (column(moved.u) - v)), setting)
    return gradients.totals(setting)
