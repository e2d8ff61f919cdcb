"""Small networks and their trainings, for the tests of the loop."""

import torch

from ce_torch import CrossEntropyCost
from ce_torch.training.loop import Training
from ce_torch.training.network import MLP, MLPs


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def examples(n, seed=0):
    g = generator(seed)
    return torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)


def new_training(cost=None, *, n=23, seed=0, monitor=("validation",), lr=0.5, **options):
    g = generator(seed)
    return Training(
        MLP([4, 5, 3], generator=g).double(),
        cost or CrossEntropyCost(),
        *examples(n),
        lr=lr,
        generator=g,
        monitor={name: examples(50, seed=9) for name in monitor},
        **options,
    )


def new_training_of_many(networks=3, seed=0, lr=0.5, **options):
    generators = [generator(seed + k) for k in range(networks)]
    return Training(
        MLPs([4, 5, 3], generators=generators).double(),
        CrossEntropyCost(),
        *examples(23),
        lr=lr,
        generator=generators,
        monitor={"validation": examples(50, seed=9)},
        **options,
    )


def train(training, epochs, **options):
    return list(training.run(epochs, **options))


def weights(training):
    return [parameter.detach().clone() for parameter in training.network.parameters()]


def assert_equal(actual, expected):
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
