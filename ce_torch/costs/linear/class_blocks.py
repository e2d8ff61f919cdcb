"""The log-likelihood of a softmax layer and its derivatives, from the layer's inputs, by blocks of classes.

    z = x Wᵀ + b        a = softmax(c z)        C = −Σⱼ tⱼ ln aⱼ        δ = c (T a − t),  T = Σⱼ tⱼ

z has a row for each example and a column for each class. These functions go over blocks of its columns, and keep of a
block only what it adds to the sums over all. Along a tangent (ẋ, Ẇ, ḃ, ṫ) z changes by v = ẋ Wᵀ + x Ẇᵀ + ḃ, and

    Ċ = Σⱼ δⱼ vⱼ − Σⱼ ṫⱼ ln aⱼ        δ̇ = c² T a (v − u) + c (Ṫ a − ṫ),  u = Σⱼ aⱼ vⱼ

With z_loss, examples also have ℓ = ln Σⱼ exp c zⱼ, for which ∂ℓ/∂z = c a. Numbers of the examples are then a tensor of
shape (2, N), C and ℓ, else of shape (1, N); so are the gradients g that reach them.

All functions are differentiable. So autograd finds third and higher derivatives, for which it keeps z.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from ce_torch.costs._precision import is_autocast
from ce_torch.costs._product import product
from ce_torch.costs._softmax import Exponentials, clamp_infinite, exponents, scale
from ce_torch.costs.linear.blocks import Plan, column
from ce_torch.costs.linear.gradients import LayerGradients, Needs, TargetGradients
from ce_torch.costs.linear.layer import Fields, Layer, Tangent, cast

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Statistics(NamedTuple):
    """m = maxⱼ zⱼ, r = Σⱼ exp(c (zⱼ − m)) − 1, and T of each example, all of shape (N,)."""

    m: Tensor
    r: Tensor
    T: Tensor

    def exponentials(self, z: Tensor, c: float) -> Exponentials:
        """Return x, e and r for z, a block of classes."""
        x = exponents(z, column(self.m), c)
        return Exponentials(x, x.exp(), column(self.r))

    def numbers(self, C: Tensor, plan: Plan) -> Tensor:
        """Return C and, with z_loss, ℓ of each example."""
        return torch.stack([C, scale(plan.c, self.m) + self.r.log1p()] if plan.z_loss else [C])


class RunningSum:
    """Σⱼ exp xⱼ, xⱼ = c (zⱼ − m), over the classes so far: how many terms are 1, and the sum of the others."""

    def __init__(self, layer: Layer, c: float) -> None:
        self.c, self.m = c, layer.full(-torch.inf)
        self.ones, self.others = layer.full(0), layer.full(0)

    def raise_maximum(self, m: Tensor) -> Tensor:
        """Make m the maximum, and return how much smaller all x become."""
        grows = m > self.m
        fall = scale(self.c, torch.where(grows, m - clamp_infinite(self.m), 0))
        others = (self.ones + self.others) * torch.exp(-fall)
        self.ones, self.others = torch.where(grows, 0, self.ones), torch.where(grows, others, self.others)
        self.m = m
        return fall

    def add(self, x: Tensor) -> None:
        is_largest = (x == 0).to(x.dtype)
        self.ones = self.ones + is_largest.sum(-1)
        self.others = self.others + (x.exp() - is_largest).sum(-1)


def fixed_precision(formula: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Turn autocast off for a formula, which chooses its precision itself.

    Where autograd may differentiate the formula, convert its layer to the dtype to compute in. If each block converted
    its own part, the blocks' gradients would be rounded before they are added.
    """

    @wraps(formula)
    def wrapped(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        layer = next(argument for argument in arguments if isinstance(argument, Layer))
        if torch.is_grad_enabled():
            arguments = tuple(cast(a, layer.dtype) if isinstance(a, Fields) else a for a in arguments)  # pyright: ignore[reportAssignmentType]
        if not is_autocast(layer.x.device):
            return formula(*arguments, **options)
        with torch.autocast(layer.x.device.type, enabled=False):
            return formula(*arguments, **options)

    return wrapped


@fixed_precision
def cost(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics]:
    """Return the numbers of the examples, and their statistics.

    In C = T ln(1 + r) − Σⱼ tⱼ xⱼ no large numbers cancel.
    """
    c, shard = plan.c, plan.shard
    running = RunningSum(layer, c)
    t_x, T = layer.full(0), layer.full(0)
    for classes in layer.blocks(plan):
        z, t = layer.z(classes), layer.t(classes, plan)
        t_x = t_x - product(T, running.raise_maximum(torch.maximum(running.m, z.detach().amax(-1))))
        x = exponents(z, column(running.m), c)
        running.add(x)
        t_x = t_x + product(t, x).sum(-1)
        T = T + t.sum(-1)
    if shard.group is not None:
        t_x = t_x - product(T, running.raise_maximum(shard.largest(running.m)))
    sums = torch.stack([running.ones, running.others, t_x, T])
    ones, others, t_x, T = shard.total(sums).unbind()
    # An example that does not count, and whose z has no maximum, passes for one whose z are all 0.
    is_empty = ~(running.m > -torch.inf) & (T == 0)
    m, r = running.m.masked_fill(is_empty, 0), (others + (ones - 1)).masked_fill(is_empty, 0)
    statistics = Statistics(m, r, T)
    return statistics.numbers(T * r.log1p() - t_x, plan), statistics


@fixed_precision
def gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the gradients of Σ g C + Σ g ℓ by those of x, weight and bias that need one: δ W, δᵀ x and Σ δ."""
    sums = LayerGradients(layer, needs, g)
    for classes in layer.blocks(plan):
        exponentials = statistics.exponentials(layer.z(classes), plan.c)
        t = layer.t(classes, plan)
        sums.add(classes, rows(g, exponentials, exponentials.delta(t, column(statistics.T), plan.c), plan))
    return sums.totals(plan)


def rows(g: Tensor, exponentials: Exponentials, delta: Tensor, plan: Plan) -> Tensor:
    """Return the gradient of Σ g C + Σ g ℓ by z of a block of classes: g δ + g c a."""
    result = product(column(g[0]), delta)
    if plan.z_loss:
        result = result + product(column(g[1]), scale(plan.c, exponentials.ln_a.exp()))
    return result


@fixed_precision
def target_gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g C by y, on_value and off_value: −ln a, summed to their shapes."""
    sums = TargetGradients(layer, g)
    for classes in layer.blocks(plan):
        sums.add(classes, product(column(g[0]), -statistics.exponentials(layer.z(classes), plan.c).ln_a), plan)
    return sums.totals(plan)


class CostTangent(NamedTuple):
    """Ċ of each example, in two parts, Σⱼ δⱼ vⱼ and −Σⱼ ṫⱼ ln aⱼ; and u and Ṫ; all of shape (N,)."""

    layer_part: Tensor
    target_part: Tensor
    u: Tensor
    T: Tensor

    def numbers(self, C: Tensor, plan: Plan) -> Tensor:
        """Return Ċ and, with z_loss, ℓ̇ = c u."""
        return torch.stack([C, scale(plan.c, self.u)] if plan.z_loss else [C])


@fixed_precision
def jvp(layer: Layer, tangent: Tangent, plan: Plan, statistics: Statistics) -> CostTangent:
    """Return how the cost of each example changes along a tangent of the layer."""
    u, t_v, T, target_part = (layer.full(0) for _ in range(4))
    for classes in layer.blocks(plan):
        ln_a = statistics.exponentials(layer.z(classes), plan.c).ln_a
        v, t_tangent = layer.z_tangent(tangent, classes), layer.t_tangent(tangent, classes, plan)
        if v is not None:
            u = u + (ln_a.exp() * v).sum(-1)
            t_v = t_v + (layer.t(classes, plan) * v).sum(-1)
        if t_tangent is not None:
            T = T + t_tangent.sum(-1)
            target_part = target_part - product(t_tangent, ln_a).sum(-1)
    u, t_v, T, target_part = plan.shard.total(torch.stack([u, t_v, T, target_part])).unbind()
    return CostTangent(plan.c * (statistics.T * u - t_v), target_part, u, T)


@fixed_precision
def hvp(
    g: Tensor,
    g_tangent: Tensor | None,
    layer: Layer,
    tangent: Tangent,
    plan: Plan,
    statistics: Statistics,
    cost_tangent: CostTangent,
    needs: Needs,
) -> tuple[Tensor, ...]:
    """Return how `gradients` change along a tangent: (g δ)˙ W + g δ Ẇ, (g δ)˙ᵀ x + g δᵀ ẋ and Σ (g δ)˙.

    Here g δ stands for `rows`.
    """
    c = plan.c
    sums = LayerGradients(layer, needs, g, *tangent)
    for classes in layer.blocks(plan):
        exponentials = statistics.exponentials(layer.z(classes), c)
        a, delta = exponentials.ln_a.exp(), exponentials.delta(layer.t(classes, plan), column(statistics.T), c)
        a_tangent = a * column(cost_tangent.T)
        v, t_tangent = layer.z_tangent(tangent, classes), layer.t_tangent(tangent, classes, plan)
        if v is not None:
            a_tangent = a_tangent + scale(c, column(statistics.T) * a * (v - column(cost_tangent.u)))
        if t_tangent is not None:
            a_tangent = a_tangent - t_tangent
        change = scale(c, column(g[0]) * a_tangent)
        if plan.z_loss and v is not None:
            change = change + scale(c, scale(c, column(g[1]) * a * (v - column(cost_tangent.u))))
        if g_tangent is not None:
            change = change + rows(g_tangent, exponentials, delta, plan)
        sums.add(classes, change, rows(g, exponentials, delta, plan), tangent)
    return sums.totals(plan)


@fixed_precision
def target_hvp(
    g: Tensor, layer: Layer, tangent: Tangent, plan: Plan, cost_tangent: CostTangent
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g Σⱼ δⱼ vⱼ by y, on_value and off_value: c (u − v), summed to their shapes."""
    sums = TargetGradients(layer, g, *tangent)
    for classes in layer.blocks(plan):
        v = layer.z_tangent(tangent, classes)
        u_minus_v = column(cost_tangent.u) if v is None else column(cost_tangent.u) - v
        sums.add(classes, scale(plan.c, column(g[0]) * u_minus_v), plan)
    return sums.totals(plan)
