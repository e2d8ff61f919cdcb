"""Fixtures: the section's figures, drawn once for all tests, and random networks for its equations."""

import pickle
from functools import partial, partialmethod

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.func import functional_call
from torch.nn.functional import one_hot

from ce_torch.training.network import MLP


@pytest.fixture(scope="session")
def section_figure(root):
    """Return a copy of one of the section's figures, by its name. A layout changes a figure, so none is shared."""
    from ce_torch.chapter.figures import DRAWINGS

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        pickled = {name: pickle.dumps(drawing.draw()) for name, drawing in DRAWINGS.items()}
    return lambda name: pickle.loads(pickled[name])


class Examples:
    """A network with random weights and six random examples: x, and desired outputs y or classes."""

    def __init__(self, sizes, seed):
        generator = torch.Generator().manual_seed(seed)
        self.network = MLP(sizes, init="large", generator=generator).double()
        self.x = torch.randn(6, sizes[0], generator=generator, dtype=torch.float64)
        self.y = torch.rand(6, sizes[-1], generator=generator, dtype=torch.float64)
        self.classes = torch.randint(sizes[-1], (6,), generator=generator)
        self.one_hot = one_hot(self.classes, sizes[-1]).double()
        self.z = self.network(self.x).detach()
        self.a = 1 / (1 + torch.exp(-self.z))
        self.sigma_prime = torch.exp(-self.z) / (1 + torch.exp(-self.z)) ** 2
        self.softmax = torch.exp(self.z) / torch.exp(self.z).sum(-1, keepdim=True)
        self.a_before = self.network[:-1](self.x).detach()

    def gradient(self, parameter, cost, reduction="mean", y=None):
        """Return ∂C/∂w or ∂C/∂b of the output layer; with reduction "none", one for each example."""
        name = f"{len(self.network) - 1}.{parameter}"
        z = partial(functional_call, self.network, args=(self.x,))
        y = self.y if y is None else y
        return jacobian(lambda p: cost(z({name: p}), y, reduction=reduction), self.network.get_parameter(name))

    gradient_in_w = partialmethod(gradient, "weight")
    gradient_in_b = partialmethod(gradient, "bias")


@pytest.fixture(params=range(3))
def neuron(request):
    return Examples([4, 1], request.param)


@pytest.fixture(params=range(3))
def network(request):
    return Examples([5, 4, 3], request.param)
