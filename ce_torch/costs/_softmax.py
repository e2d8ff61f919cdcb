"""Softmax, exact where an output is near 0 or 1, and for z of any size.

With m = maxⱼ zⱼ, xⱼ = c (zⱼ − m) and r = Σⱼ exp xⱼ − 1, to which the largest z adds nothing,

    a = exp x / (1 + r)        ln a = x − ln(1 + r)        1 − a = (r + (1 − exp x)) / (1 + r)

The maximum is subtracted before anything is scaled, so that no c and no z is too large.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._product import product


class Exponentials(NamedTuple):
    """x and e = exp x, shape (..., K), and r, shape (..., 1)."""

    x: Tensor
    e: Tensor
    r: Tensor

    @property
    def ln_a(self) -> Tensor:
        return self.x - self.r.log1p()

    def delta(self, t: Tensor, T: Tensor, c: float | Tensor) -> Tensor:
        """Return c (T a − t) for desired outputs t with the sum T, as c (a (T − t) − t (1 − a))."""
        return scale(c, (self.e * (T - t) - t * (self.r + (1 - self.e))) / (1 + self.r))

    def curvature(self, v: Tensor, T: Tensor, c: float) -> Tensor:
        """Return c² T a (v − Σⱼ aⱼ vⱼ), the change of δ in the direction v, exact where a is near 1, as 1 − a is."""
        is_largest = (self.x == 0).to(v.dtype)
        v_of_largest = (is_largest * v).sum(-1, keepdim=True)
        v_of_others = ((self.e - is_largest) * v).sum(-1, keepdim=True)
        difference = (v * self.r + (v - v_of_largest) - v_of_others) / (1 + self.r)
        return product(T, scale(c, scale(c, self.e / (1 + self.r) * difference)))


def exponentials(z: Tensor, c: float, t: Tensor | None = None) -> Exponentials:
    """Return x, e and r of z, or of 0 for examples that have no maximum and no desired output t either."""
    m = z.detach().amax(-1, keepdim=True)
    if t is not None:
        hollow = ~(m > -torch.inf) & (t == 0).all(-1, keepdim=True)
        z, m = z.masked_fill(hollow, 0), m.masked_fill(hollow, 0)
    x = exponents(z, m, c)
    e, is_largest = x.exp(), (x == 0).to(x.dtype)
    return Exponentials(x, e, (e - is_largest).sum(-1, keepdim=True) + (is_largest.sum(-1, keepdim=True) - 1))


def exponents(z: Tensor, m: Tensor, c: float | Tensor) -> Tensor:
    """Return c (z − m), 0 where both are ∞ and −∞ where both are −∞."""
    return scale(c, (z - clamp_infinite(m)).masked_fill(z == torch.inf, 0))


def clamp_infinite(m: Tensor) -> Tensor:
    """Return m, or the lowest finite number for −∞, which still is ∞ away."""
    return m.clamp(min=torch.finfo(m.dtype).min)


def scale(c: float | Tensor, tensor: Tensor) -> Tensor:
    """Return c · tensor; a c below the dtype's normal numbers is the smallest of them, so that c · ∞ is ∞."""
    if isinstance(c, Tensor):
        return c.clamp(min=torch.finfo(tensor.dtype).tiny) * tensor
    return tensor if c == 1 else max(c, torch.finfo(tensor.dtype).tiny) * tensor
