"""Divergences between two softmax layers, the student's and the teacher's, and their gradients by the scores of both.

The student gives its classes the probabilities q = softmax(s), the teacher p = softmax(t). With u = ln p − ln q,

    forward KL        D = KL(p‖q) = Σ p u               ∂D/∂s = q − p               ∂D/∂t = p (u − D)
    reverse KL        D = KL(q‖p) = −Σ q u              ∂D/∂s = −q (u + D)          ∂D/∂t = p − q
    Jensen-Shannon    D = β A + (1 − β) B               ∂D/∂s = (1 − β) q (ln(q/m) − B)
                      A = KL(p‖m), B = KL(q‖m)          ∂D/∂t = β p (ln(p/m) − A)
                      m = β p + (1 − β) q

A divergence with student and teacher swapped is the other KL, or that of 1 − β. So one gradient serves both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._arguments import values_can_be_read
from ce_torch.costs._product import product
from ce_torch.costs._softmax import Exponentials
from ce_torch.costs._torch_private import is_forward_mode

SWAPPED = {"forward_kl": "reverse_kl", "reverse_kl": "forward_kl", "jensen_shannon": "jensen_shannon"}
DIVERGENCES = tuple(SWAPPED)

# exp u is finite in float32.
LARGEST_MODERATE = 80.0


class Divergence(NamedTuple):
    """One of DIVERGENCES by name, and the teacher's part β of the mixture."""

    name: str
    beta: float

    def swapped(self) -> "Divergence":
        """Return the divergence that has the same value once student and teacher have swapped places."""
        return Divergence(SWAPPED[self.name], 1 - self.beta)

    def value(self, student: Exponentials, teacher: Exponentials) -> Tensor:
        """Return D of each example, shape (...)."""
        if self.name == "forward_kl":
            return kl(teacher, student)
        if self.name == "reverse_kl":
            return kl(student, teacher)
        to_teacher, to_student = mixture_ratios(student, teacher, self.beta)
        p, q = probabilities(teacher), probabilities(student)
        return (self.beta * product(p, to_teacher) + (1 - self.beta) * product(q, to_student)).sum(-1)

    def gradient(self, student: Exponentials, teacher: Exponentials) -> Tensor:
        """Return ∂D/∂s, shape (..., K)."""
        if self.name == "forward_kl":
            # In this form of q − p no digits are lost where both are near 1.
            p, q = probabilities(teacher), probabilities(student)
            return q * complements(teacher) - p * complements(student)
        if self.name == "reverse_kl":
            return centered(student, log_ratio(student, teacher))
        _, to_student = mixture_ratios(student, teacher, self.beta)
        return (1 - self.beta) * centered(student, to_student)


def probabilities(softmax: Exponentials) -> Tensor:
    return softmax.e / (1 + softmax.r)


def complements(softmax: Exponentials) -> Tensor:
    """Return 1 − p."""
    return (softmax.r + (1 - softmax.e)) / (1 + softmax.r)


def log_ratio(p: Exponentials, q: Exponentials) -> Tensor:
    """Return u = ln p − ln q, 0 for classes that both rule out."""
    ln_p, ln_q = p.ln_a, q.ln_a
    u = ln_p - ln_q
    return u if is_moderate(u) else u.masked_fill((ln_p == -torch.inf) & (ln_q == -torch.inf), 0)


def kl(p: Exponentials, q: Exponentials) -> Tensor:
    """Return Σ p u, as Σ (p u + q − p): no large terms cancel where p and q are about the same."""
    u, a = log_ratio(p, q), probabilities(p)
    if is_moderate(u):
        return (a * (u + torch.expm1(-u))).sum(-1)
    # Where p is smaller than q by more than this, only q is left of a term.
    is_negligible = u < -LARGEST_MODERATE
    u = u.masked_fill(is_negligible, 0)
    return torch.where(is_negligible, probabilities(q), product(a, u + torch.expm1(-u))).sum(-1)


def is_moderate(u: Tensor) -> bool:
    """Return True if a look at the values is free, and none is infinite, nan, or so large that exp u is."""
    if not values_can_be_read(u) or is_forward_mode() or u.numel() == 0:
        return False
    least, largest = u.aminmax()
    return least.item() > -LARGEST_MODERATE and largest.item() < LARGEST_MODERATE


def centered(softmax: Exponentials, v: Tensor) -> Tensor:
    """Return p (v − Σ p v). A class that is ruled out adds nothing."""
    if not is_moderate(v):
        v = v.masked_fill(softmax.e == 0, 0)
    return softmax.curvature(v, v.new_ones(()), 1.0)


def mixture_ratios(student: Exponentials, teacher: Exponentials, beta: float) -> tuple[Tensor, Tensor]:
    """Return ln(p/m) and ln(q/m). The larger one of p and q comes first, so that nothing overflows."""
    u = log_ratio(teacher, student)
    # One of these is 0. As |u| has no derivative at 0, they stand for it.
    above, below = u.relu(), u.clamp(max=0)
    other_part = beta if beta == 0.5 else torch.where(u > 0, u.new_full((), 1 - beta), beta)
    # m is the larger one, times 1 + (the other's part) (e^−|u| − 1).
    larger = -torch.log1p(other_part * torch.expm1(below - above))
    return larger + below, larger - above
