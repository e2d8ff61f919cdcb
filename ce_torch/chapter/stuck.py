"""Why the quadratic cost gets stuck: output neurons that say 0 to their own digit, saturated, and the δ they get."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ce_torch.costs._module import Cost
from ce_torch.training.loop import Training, evaluate
from ce_torch.training.mnist import MNIST, Examples
from ce_torch.training.saturation import is_saturated_wrong

EXAMPLES = 10_000  # of those to train on: what a neuron gets stuck at is what it should learn
STUCK = 0.9  # an output neuron is stuck if it is saturated at 0 for this share of its own digit


class Case(NamedTuple):
    """Networks to follow: how many hidden neurons they have, their cost, their first weights, and their rate.

    The weights are "large", from N(0, 1); "output", the same with those of the output layer scaled by 1 / √n for n
    inputs; or "scaled", with all of them scaled so. The rate is the one chosen for the cost `rate_of`.
    """

    hidden: int
    cost: str
    weights: str
    rate_of: str


def cases(smallest: int, largest: int) -> list[Case]:
    """Return the cases to compare: the quadratic cost with each of the first weights and of the rates, and others."""
    quadratic = Case(largest, "quadratic", "large", "quadratic")
    crossed = [
        quadratic._replace(weights=weights, rate_of=cost)
        for cost in ("quadratic", "ce")
        for weights in ("large", "output", "scaled")
    ]
    others = quadratic._replace(hidden=smallest), quadratic._replace(cost="ce", rate_of="ce")
    return list(dict.fromkeys((*crossed, *others)))


@torch.no_grad()
def scale_output_layer(training: Training) -> None:
    """Scale the first weights of the output layer from N(0, 1) to N(0, 1/n), and keep all others."""
    *_, weight = training.weights
    weight.mul_(weight.shape[-1] ** -0.5)


def look_at_first_steps(training: Training, data: MNIST, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Train many networks for some mini-batches of an epoch, and look at them after each number in `steps`."""
    looks, done = [], 0
    for examples in training.chunks():
        training.descend(examples)
        done += math.ceil(examples.shape[-1] / training.batch_size)
        looks += [look(training.network, training.cost, data)] if done in steps else []
        if done >= max(steps):
            break
    return looks


def look(network: nn.Module, cost: Cost, data: MNIST) -> dict[str, Any]:
    """Return what the output neurons of each of many networks do.

    Returns:
        a dictionary of lists, with a number for each network:
        accuracy: on test data.
        saturated, saturated_wrong: how many of the output neurons are; means over training examples.
        stuck: how many output neurons are stuck.
        delta, error: the means of |δ| and of |a − y| over the outputs that are saturated wrong; None if there are none.
    """
    examples = Examples(*(tensor[:EXAMPLES] for tensor in data.training))
    scores = evaluate(network, cost, *examples)
    names = "saturated", "saturated_wrong"
    return {
        "accuracy": evaluate(network, cost, *data.test)["accuracy"],
        **{name: scores[name] for name in names},
        **look_at_wrong(network(examples.x).detach(), cost, examples.y),
    }


def look_at_wrong(z: Tensor, cost: Cost, y: Tensor) -> dict[str, list[Any]]:
    """Return `stuck`, `delta` and `error` of `look`, for z of shape (networks, n, K) and class indices y (n,)."""
    a = cost.activation(z)
    wrong, own = is_saturated_wrong(a, y), one_hot(y, z.shape[-1])
    share = (wrong & own.bool()).sum(1) / own.sum(0)
    count = wrong.sum((1, 2))
    desired = own.to(z.dtype).expand_as(z)
    sizes = {"delta": cost.delta(z, desired).abs(), "error": (a - desired).abs()}
    means = {name: (size * wrong).sum((1, 2), dtype=torch.float64) / count for name, size in sizes.items()}
    return {
        "stuck": (share >= STUCK).sum(1).tolist(),
        **{name: list(rounded(mean)) for name, mean in means.items()},
    }


def rounded(values: Tensor) -> Iterator[float | None]:
    """Yield the values for JSON, which has no nan, with six digits."""
    return (None if value != value else float(f"{value:.6g}") for value in values.tolist())
