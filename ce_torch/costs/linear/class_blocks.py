"""The numbers of a softmax layer and their derivatives, from the layer's inputs, by blocks of classes.

    z = x Wᵀ + b        s = c φ(z)        φ(z) = z, or κ tanh(z / κ)        a = softmax(s)        T = Σⱼ tⱼ
    C = −Σⱼ tⱼ ln aⱼ    ℓ = ln Σⱼ exp sⱼ  H = −Σⱼ aⱼ ln aⱼ

For gradients g_C, g_ℓ and g_H of these numbers

    ∂/∂s = G = g_C (T a − t) + g_ℓ a − g_H a (ln a + H)    ∂/∂z = c φ′ G    ∂/∂c = Σⱼ Gⱼ φⱼ    φ′ = 1 − (φ/κ)²

z has a row for each example and a column for each class. These functions go over blocks of its columns, and keep of a
block only what it adds to the sums over all. Along a tangent z changes by v = ẋ Wᵀ + x Ẇᵀ + ḃ, and s by
ṡ = ċ φ + c φ′ v. Then (ln a)˙ = ṡ − u, ȧ = a (ṡ − u), and

    Ċ = Σⱼ (T aⱼ − tⱼ) ṡⱼ − Σⱼ ṫⱼ ln aⱼ        ℓ̇ = u = Σⱼ aⱼ ṡⱼ        Ḣ = −Σⱼ aⱼ (ln aⱼ + H) ṡⱼ

All functions are differentiable. So autograd finds third and higher derivatives, for which it keeps z.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, Self, TypeVar

import torch
from torch import Tensor

from ce_torch.costs._precision import is_autocast
from ce_torch.costs._product import product
from ce_torch.costs._softmax import Exponentials, exponents, scale
from ce_torch.costs.linear.blocks import Plan, column
from ce_torch.costs.linear.gradients import LayerGradients, Needs, TargetGradients
from ce_torch.costs.linear.layer import Fields, Layer, Tangent, cast
from ce_torch.costs.linear.sums import RunningSums

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Statistics(NamedTuple):
    """m = maxⱼ φ(zⱼ), r = Σⱼ exp(c (φ(zⱼ) − m)) − 1, T and H of each example, all of shape (N,); H is 0 if unasked."""

    m: Tensor
    r: Tensor
    T: Tensor
    H: Tensor


class Block(NamedTuple):
    """A block of classes: φ, φ′ (None for 1), the exponentials of the scores, c, and columns of T and H."""

    phi: Tensor
    slope: Tensor | None
    exponentials: Exponentials
    c: float | Tensor
    T: Tensor
    H: Tensor

    @classmethod
    def compute(cls, layer: Layer, classes: slice, plan: Plan, statistics: Statistics) -> Self:
        phi, slope = capped(layer.z(classes), plan.softcap)
        m, r, T, H = (column(number) for number in statistics)
        c = layer.scale(plan)
        x = exponents(phi, m, c)
        return cls(phi, slope, Exponentials(x, x.exp(), r), c, T, H)

    @property
    def finite_phi(self) -> Tensor:
        """φ, or 0 where it is infinite: c has no part in a = 0."""
        return self.phi.masked_fill(~self.phi.isfinite(), 0)

    def z_part(self, tensor: Tensor) -> Tensor:
        """Return c φ′ · tensor: what a change of s is for one of z."""
        return scale(self.c, tensor if self.slope is None else self.slope * tensor)

    def score_gradient(self, t: Tensor, g: Tensor, plan: Plan) -> Tensor:
        """Return G, for the gradients g (3, N) of the numbers."""
        g_C, g_l, g_H = (column(row) for row in g)
        G = product(g_C, self.exponentials.delta(t, self.T, 1.0))
        ln_a = self.exponentials.ln_a
        if plan.logsumexp:
            G = G + product(g_l, ln_a.exp())
        if plan.entropy:
            G = G - product(g_H, product(ln_a.exp(), ln_a + self.H))
        return G

    def score_tangent(self, v: Tensor | None, c_tangent: Tensor | None) -> Tensor | None:
        """Return ṡ, or None if it is 0."""
        s_tangent = None if v is None else self.z_part(v)
        if c_tangent is None:
            return s_tangent
        by_c = column(c_tangent).to(self.phi.dtype) * self.finite_phi
        return by_c if s_tangent is None else s_tangent + by_c


def capped(z: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Return φ(z) and φ′(z), None for 1."""
    if softcap is None:
        return z, None
    tanh = (z / softcap).tanh()
    return softcap * tanh, 1 - tanh.square()


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


def with_maximum(m: Tensor, r: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    """Return m and r; an example that does not count, and whose z has no maximum, passes for one whose z are all 0."""
    is_empty = ~(m > -torch.inf) & (T == 0)
    return m.masked_fill(is_empty, 0), r.masked_fill(is_empty, 0)


@fixed_precision
def numbers(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N), 0 for those that are not asked for; the statistics; and the predictions.

    In C = T ln(1 + r) − Σⱼ tⱼ xⱼ and H = ln(1 + r) − Σⱼ aⱼ xⱼ no large numbers cancel.
    """
    c, shard = layer.scale(plan), plan.shard
    running = RunningSums(layer, plan)
    for classes in layer.blocks(plan):
        running.add(capped(layer.z(classes), plan.softcap)[0], layer.t(classes, plan), classes)
    ones, others, e_x, t_x, T = running.totals()
    m, r = with_maximum(running.m, others + (ones - 1), T)
    zero = layer.full(0)
    logsumexp = scale(c, column(m)).squeeze(-1) + r.log1p() if plan.logsumexp else zero
    H = r.log1p() - e_x / (1 + r) if plan.entropy else zero
    C = T * r.log1p() - t_x
    return torch.stack([C, logsumexp, H]), Statistics(m, r, T, H), running.prediction(shard)


@fixed_precision
def gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the gradients of Σ g · numbers by the parameters that need one: D W, Dᵀ x, Σ D, Σⱼ G φ, …."""
    sums = LayerGradients(layer, needs, g)
    for classes in layer.blocks(plan):
        block = Block.compute(layer, classes, plan, statistics)
        G = block.score_gradient(layer.t(classes, plan), g, plan)
        sums.add(classes, block.z_part(G))
        if "c" in needs:
            sums.add_to_c(G * block.finite_phi)
    return sums.totals(plan)


@fixed_precision
def target_gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g · numbers by y, on_value and off_value: −g_C ln a, summed to their shapes."""
    sums = TargetGradients(layer, g)
    for classes in layer.blocks(plan):
        block = Block.compute(layer, classes, plan, statistics)
        sums.add(classes, product(column(g[0]), -block.exponentials.ln_a), plan)
    return sums.totals(plan)


class NumbersTangent(NamedTuple):
    """Ċ in two parts, Σⱼ (T aⱼ − tⱼ) ṡⱼ and −Σⱼ ṫⱼ ln aⱼ; u = ℓ̇, Ṫ, and Ḣ; all of shape (N,)."""

    layer_part: Tensor
    target_part: Tensor
    u: Tensor
    T: Tensor
    H: Tensor


@fixed_precision
def jvp(layer: Layer, tangent: Tangent, plan: Plan, statistics: Statistics) -> NumbersTangent:
    """Return how the numbers of each example change along a tangent of the layer."""
    u, t_s, T, target_part, H = (layer.full(0) for _ in range(5))
    for classes in layer.blocks(plan):
        block = Block.compute(layer, classes, plan, statistics)
        ln_a = block.exponentials.ln_a
        a, t_tangent = ln_a.exp(), layer.t_tangent(tangent, classes, plan)
        s_tangent = block.score_tangent(layer.z_tangent(tangent, classes), tangent.c)
        if s_tangent is not None:
            u = u + (a * s_tangent).sum(-1)
            t_s = t_s + (layer.t(classes, plan) * s_tangent).sum(-1)
            if plan.entropy:
                H = H - (product(a, ln_a + block.H) * s_tangent).sum(-1)
        if t_tangent is not None:
            T = T + t_tangent.sum(-1)
            target_part = target_part - product(t_tangent, ln_a).sum(-1)
    u, t_s, T, target_part, H = plan.shard.total(torch.stack([u, t_s, T, target_part, H])).unbind()
    return NumbersTangent(statistics.T * u - t_s, target_part, u, T, H)


@fixed_precision
def hvp(
    g: Tensor,
    g_tangent: Tensor | None,
    layer: Layer,
    tangent: Tangent,
    plan: Plan,
    statistics: Statistics,
    change: NumbersTangent,
    needs: Needs,
) -> tuple[Tensor, ...]:
    """Return how `gradients` change along a tangent: Ḋ W + D Ẇ, Ḋᵀ x + Dᵀ ẋ, Σ Ḋ, and Σⱼ (Ġ φ + G φ′ v)."""
    sums = LayerGradients(layer, needs, g, *tangent)
    for classes in layer.blocks(plan):
        block = Block.compute(layer, classes, plan, statistics)
        t, v = layer.t(classes, plan), layer.z_tangent(tangent, classes)
        G = block.score_gradient(t, g, plan)
        s_tangent = block.score_tangent(v, tangent.c)
        t_tangent = layer.t_tangent(tangent, classes, plan)
        G_tangent = score_gradient_tangent(block, g, s_tangent, t_tangent, change, plan)
        if g_tangent is not None:
            G_tangent = G_tangent + block.score_gradient(t, g_tangent, plan)
        slope_v = None if v is None else v if block.slope is None else block.slope * v
        rows = z_gradient_tangent(block, G, G_tangent, slope_v, tangent.c, plan)
        sums.add(classes, rows, block.z_part(G), tangent)
        if "c" in needs:
            sums.add_to_c(G_tangent * block.finite_phi + (0 if slope_v is None else G * slope_v))
    return sums.totals(plan)


def z_gradient_tangent(
    block: Block, G: Tensor, G_tangent: Tensor, slope_v: Tensor | None, c_tangent: Tensor | None, plan: Plan
) -> Tensor:
    """Return how c φ′ G changes along Ġ, φ′ v and ċ."""
    rows = block.z_part(G_tangent)
    if c_tangent is not None:
        rows = rows + column(c_tangent) * (G if block.slope is None else block.slope * G)
    if slope_v is not None and plan.softcap is not None:
        # φ″ v = −2 φ φ′ v / κ²
        rows = rows + scale(block.c, -2 / plan.softcap**2 * block.phi * slope_v * G)
    return rows


def score_gradient_tangent(
    block: Block,
    g: Tensor,
    s_tangent: Tensor | None,
    t_tangent: Tensor | None,
    change: NumbersTangent,
    plan: Plan,
) -> Tensor:
    """Return Ġ along ṡ and ṫ, for constant g."""
    g_C, g_l, g_H = (column(row) for row in g)
    ln_a = block.exponentials.ln_a
    a = ln_a.exp()
    C_part = a * column(change.T)
    if t_tangent is not None:
        C_part = C_part - t_tangent
    if s_tangent is None:
        return product(g_C, C_part)
    ln_a_tangent = s_tangent - column(change.u)
    a_tangent = a * ln_a_tangent
    G_tangent = product(g_C, C_part + block.T * a_tangent)
    if plan.logsumexp:
        G_tangent = G_tangent + product(g_l, a_tangent)
    if plan.entropy:
        entropy_part = product(a_tangent, ln_a + block.H) + a * (ln_a_tangent + column(change.H))
        G_tangent = G_tangent - product(g_H, entropy_part)
    return G_tangent


@fixed_precision
def target_hvp(
    g: Tensor, layer: Layer, tangent: Tangent, plan: Plan, statistics: Statistics, change: NumbersTangent
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g_C Σⱼ (T aⱼ − tⱼ) ṡⱼ by y, on_value and off_value: g_C (u − ṡ), summed."""
    sums = TargetGradients(layer, g, *tangent)
    for classes in layer.blocks(plan):
        s_tangent = Block.compute(layer, classes, plan, statistics).score_tangent(
            layer.z_tangent(tangent, classes), tangent.c
        )
        difference = column(change.u) if s_tangent is None else column(change.u) - s_tangent
        sums.add(classes, column(g[0]) * difference, plan)
    return sums.totals(plan)
