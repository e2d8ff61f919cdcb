"""The chapter's network, of sigmoid neurons in its hidden layers; and many such networks, computed at once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast, overload

import torch
from torch import Tensor, nn

INITIALISERS = ("large", "scaled")


class MLP(nn.Sequential):
    """A network of fully connected layers: x to z, the weighted inputs of the output layer.

        z¹ = w¹ x + b¹,    zˡ = wˡ σ(zˡ⁻¹) + bˡ

    The output layer's activation belongs to the cost: `cost.activation(network(x))`.

    Args:
        sizes: the number of neurons in each layer, the inputs first: [784, 30, 10].
        init: "scaled" draws the weights of a neuron with n inputs from N(0, 1/n), as network2.py does. "large" draws
            them from N(0, 1), as the chapter's runs do. Both draw biases from N(0, 1).
        generator: draws the numbers; PyTorch's global generator if None.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown init.

    Example:
        >>> from ce_torch.training.network import MLP
        >>> network = MLP([784, 30, 10])
        >>> network(torch.zeros(5, 784)).shape
        torch.Size([5, 10])

    Source: Nielsen, section 3.1, and "Weight initialization" later in chapter 3 for "scaled".
    """

    def __init__(self, sizes: Sequence[int], *, init: str = "scaled", generator: torch.Generator | None = None) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be two or more positive numbers of neurons, got {list(sizes)}")
        if init not in INITIALISERS:
            raise ValueError(f'init must be "large" or "scaled", got {init!r}')
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            linear = uninitialised_linear(inputs, outputs)
            nn.init.normal_(linear.weight, std=1.0 if init == "large" else inputs**-0.5, generator=generator)
            nn.init.normal_(linear.bias, generator=generator)
            layers += [linear, nn.Sigmoid()]
        super().__init__(*layers[:-1])

    @overload
    def __getitem__(self, idx: slice) -> nn.Sequential: ...
    @overload
    def __getitem__(self, idx: int) -> nn.Module: ...
    def __getitem__(self, idx: slice | int) -> nn.Module:
        """Return a layer; or, for a slice, the layers as an nn.Sequential, since an MLP never ends in a sigmoid."""
        return nn.Sequential(*list(self)[idx]) if isinstance(idx, slice) else list(self)[idx]


def uninitialised_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer without first weights: PyTorch takes time to draw its own."""
    return cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs))


class MLPs(nn.Sequential):
    """Networks of the same sizes, computed at once: one batched product for each layer.

    Network r has row r of every parameter, and is the `MLP` of `generators[r]`, up to rounding.

    Args:
        sizes, init: as for `MLP`.
        generators: draw the numbers of each network.

    Raises:
        ValueError: there are no generators, or as for `MLP`.

    Example:
        >>> from ce_torch.training.network import MLPs
        >>> networks = MLPs([784, 30, 10], generators=[torch.Generator().manual_seed(seed) for seed in range(20)])
        >>> networks(torch.zeros(5, 784)).shape, networks(torch.zeros(20, 5, 784)).shape
        (torch.Size([20, 5, 10]), torch.Size([20, 5, 10]))
    """

    def __init__(self, sizes: Sequence[int], *, init: str = "scaled", generators: Sequence[torch.Generator]) -> None:
        if not generators:
            raise ValueError("generators must hold one generator for each network, got none")
        layers_of_networks = zip(*(MLP(sizes, init=init, generator=generator) for generator in generators), strict=True)
        super().__init__(
            *(Linears(layers) if isinstance(layers[0], nn.Linear) else layers[0] for layers in layers_of_networks)
        )


class Linears(nn.Module):
    """The same layer of several networks.

    x is (n, inputs), for all of them, or (networks, n, inputs); z is (networks, n, outputs).
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            # In this order the gradient has the memory layout of the weights.
            return torch.baddbmm(self.bias.unsqueeze(-1), self.weight, x.mT).mT
        # All networks share x. As one layer of neurons they need no copies of it.
        z = nn.functional.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        return z.unflatten(-1, self.bias.shape).movedim(-2, 0)

    def extra_repr(self) -> str:
        networks, outputs, inputs = self.weight.shape
        return f"networks={networks}, in_features={inputs}, out_features={outputs}"
