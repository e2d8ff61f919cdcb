"""δ = ∂C/∂z three ways: written by hand, from autograd, from finite differences."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._module import Cost
from ce_torch.costs.cross_entropy import CrossEntropyCost
from ce_torch.costs.log_likelihood import LogLikelihoodCost
from ce_torch.costs.quadratic import QuadraticCost


class Subject(NamedTuple):
    """A cost, and the textbook's formula for it, as a function of z and y."""

    cost: Cost
    formula: Callable[[Tensor, Tensor], Tensor]


class Deltas(NamedTuple):
    """δ of one example, computed in three ways."""

    manual: Tensor
    autograd: Tensor
    differences: Tensor


def sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-z))


def quadratic(a: Tensor, y: Tensor) -> Tensor:
    return ((a - y) ** 2).sum() / 2


def cross_entropy(a: Tensor, y: Tensor) -> Tensor:
    return -(y * a.log() + (1 - y) * (1 - a).log()).sum()


def log_likelihood(z: Tensor, y: Tensor) -> Tensor:
    a = torch.exp(z) / torch.exp(z).sum()
    return -(y * a.log()).sum()


SUBJECTS = {
    "quadratic, sigmoid neurons": Subject(QuadraticCost(), lambda z, y: quadratic(sigmoid(z), y)),
    "quadratic, linear neurons": Subject(QuadraticCost(activation="linear"), quadratic),
    "cross-entropy, sigmoid neurons": Subject(CrossEntropyCost(), lambda z, y: cross_entropy(sigmoid(z), y)),
    "log-likelihood, softmax": Subject(LogLikelihoodCost(), log_likelihood),
}


def compute_deltas(subject: Subject, z: Tensor, y: Tensor, step: float = 1e-5) -> Deltas:
    """Return δ for weighted inputs z and desired outputs y, both of shape (K,).

    `manual` is `cost.delta`, written by hand. `autograd` comes from the textbook's formula, independently of the cost.
    `differences` are finite differences of the cost's own values, (C(z + step) − C(z − step)) / (2 step).
    """
    cost = subject.cost
    autograd = torch.func.grad(subject.formula)(z, y)
    steps = step * torch.eye(len(z), dtype=z.dtype)
    desired = y.expand(len(z), -1)
    options = cost.options | {"reduction": "none"}
    C_up, C_down = (type(cost).function(z + change, desired, **options) for change in (steps, -steps))
    return Deltas(cost.delta(z, y), autograd, (C_up - C_down) / (2 * step))
