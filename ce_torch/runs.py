"""A run as its settings say: data, network and cost brought together."""

from collections.abc import Sequence

import torch

from ce_torch import mnist
from ce_torch.network import MLP, MLPs
from ce_torch.settings import COSTS, Settings, grid
from ce_torch.training import Training


def new_training(
    run: Settings, data: mnist.MNIST, monitor: Sequence[str] = ("training", "validation", "test")
) -> Training:
    """Return the training of a run: of one network, or of many at once, those of each point of the grid together."""
    device = data.training.x.device
    sizes, init = [784, *run["hidden"], 10], run["init"]
    cost, _ = COSTS[run["cost"]]
    points = [point for point in grid(run) for _ in range(run["runs"])]
    generators = [torch.Generator().manual_seed(run["seed"] + k) for _ in grid(run) for k in range(run["runs"])]
    alone = len(generators) == 1
    network = MLP(sizes, init=init, generator=generators[0]) if alone else MLPs(sizes, init=init, generators=generators)
    lr, lmbda = points[0] if alone else zip(*points, strict=True)
    return Training(
        network.to(device),
        cost(),
        *data.training,
        lr=lr,
        lmbda=lmbda,
        batch_size=run["batch_size"],
        generator=generators[0] if alone else generators,
        monitor={name: getattr(data, name) for name in monitor},
        compile=run["compile"],
    )
