"""The chapter's networks, trained on MNIST by train.py: their histories, and the digits that they get wrong.

    python train.py --cost ce --checkpoint checkpoints/chapter-ce.pt --overwrite

trains one of them again; do the same for quadratic and ll. The checkpoints come with the project.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._module import Cost
from ce_torch.training import checkpoint, mnist
from ce_torch.training.loop import Record
from ce_torch.training.network import MLP
from ce_torch.training.settings import COSTS

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "checkpoints"


class Trained(NamedTuple):
    """A network of the chapter, the cost that trained it, and the history of its training."""

    network: MLP
    cost: Cost
    history: list[Record]


def load_trained(name: str, folder: Path = FOLDER) -> Trained:
    """Return the network that comes with the project for a cost: "quadratic", "ce" or "ll".

    Raises:
        CheckpointError: the folder has no such checkpoint, or a damaged one.
    """
    run, state = checkpoint.load(folder / f"chapter-{name}.pt")
    network = MLP([784, *run["hidden"], 10])
    network.load_state_dict(state["network"])
    cost, _ = COSTS[run["cost"]]
    return Trained(network.eval(), cost(), state["history"])


@cache
def load_test_images() -> mnist.Examples:
    """Return the test images of the project's own MNIST, read only once. Raises `DataError`."""
    return mnist.load(PROJECT / "data").test


class Digits(NamedTuple):
    """Images that a network gets wrong: numbers, pixels, the network's outputs, the digits, and the costs."""

    numbers: Tensor
    x: Tensor
    a: Tensor
    y: Tensor
    C: Tensor


@torch.inference_mode()
def most_wrong(trained: Trained, x: Tensor, y: Tensor, n: int) -> Digits:
    """Return the n examples with the highest costs, the highest first."""
    z = trained.network(x)
    C = type(trained.cost).function(z, y, **trained.cost.options | {"reduction": "none"})
    numbers = C.argsort(descending=True, stable=True)[:n]
    return Digits(numbers, x[numbers], trained.cost.activation(z[numbers]), y[numbers], C[numbers])
