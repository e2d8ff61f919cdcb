"""The section's single neuron, with one input x, which learns to output y."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._module import Cost
from ce_torch.costs.cross_entropy import CrossEntropyCost
from ce_torch.costs.quadratic import QuadraticCost

SIGMOID_COSTS = {"quadratic": QuadraticCost(), "cross-entropy": CrossEntropyCost()}


class Lesson(NamedTuple):
    """The state before each epoch and after the last: tensors of shape (epochs + 1, ...)."""

    w: Tensor
    b: Tensor
    z: Tensor
    a: Tensor
    C: Tensor
    delta: Tensor


# The values to draw while a neuron learns to output 0, by the labels of their axes.
COURSES: dict[str, Callable[[Lesson], Tensor]] = {
    "output a, desired: 0": lambda lesson: lesson.a,
    "cost C": lambda lesson: lesson.C,
    "|δ|": lambda lesson: lesson.delta.abs(),
}


def learn(
    cost: Cost, w: float | Tensor, b: float | Tensor, *, eta: float, epochs: int = 300, x: float = 1.0, y: float = 0.0
) -> Lesson:
    """Train neurons by gradient descent, from each pair of w and b.

        z = w x + b,    w → w − η δ x,    b → b − η δ

    Args:
        cost: the cost to minimise.
        w, b: the first weight and bias: numbers, or tensors that broadcast to the shape (...) of many neurons.
        eta: η, the learning rate.
        epochs: the number of steps.
        x, y: the only training example.

    Example:
        >>> from ce_torch.chapter.neuron import learn
        >>> learn(QuadraticCost(), 0.6, 0.9, eta=0.15).a[-1]
        tensor(0.0940, dtype=torch.float64)

    Source: Nielsen, section 3.1, equations (54)-(62).
    """
    start = (torch.as_tensor(value, dtype=torch.float64) for value in (w, b))
    weight, bias = torch.broadcast_tensors(*start)
    desired = torch.full_like(weight, y).unsqueeze(-1)
    moments = []
    for _ in range(epochs + 1):
        delta = cost.delta((weight * x + bias).unsqueeze(-1), desired).squeeze(-1)
        moments.append((weight, bias, delta))
        weight, bias = weight - eta * delta * x, bias - eta * delta
    weight, bias, delta = map(torch.stack, zip(*moments, strict=True))
    z = weight * x + bias
    C = type(cost).function(
        z.unsqueeze(-1), torch.full_like(z, y).unsqueeze(-1), **cost.options | {"reduction": "none"}
    )
    return Lesson(weight, bias, z, cost.activation(z.unsqueeze(-1)).squeeze(-1), C, delta)


def epochs_to_output(lesson: Lesson, output: float) -> Tensor:
    """Return the number of epochs until each neuron's output is below `output`; inf for never."""
    below = lesson.a < output
    first = below.to(torch.int8).argmax(0).double()
    return first.where(below.any(0), torch.inf)


def slopes(cost: Cost, z: Tensor, y: float = 0.0) -> Tensor:
    """Return δ = ∂C/∂b, the speed of learning, of a neuron at each of the weighted inputs z."""
    return cost.delta(z.unsqueeze(-1), torch.full_like(z, y).unsqueeze(-1)).squeeze(-1)
