"""The chapter's network: sigmoid neurons in the hidden layers, weighted inputs out."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

INITIALISERS = ("large", "scaled")


class MLP(nn.Sequential):
    """A network of fully connected layers: x to z, the weighted inputs of the output layer.

        z¹ = w¹ x + b¹,    zˡ = wˡ σ(zˡ⁻¹) + bˡ

    The output layer's activation belongs to the cost: `cost.activation(network(x))`.

    Args:
        sizes: the number of neurons in each layer, the inputs first: [784, 30, 10].
        init: "scaled" draws weights from N(0, 1/n), n the number of inputs of the neuron, as network2.py does;
            "large" draws them from N(0, 1), as the chapter's runs do. Biases are from N(0, 1) in both.
        generator: where the numbers come from; PyTorch's global generator if None.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown init.

    Example:
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
            linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
            nn.init.normal_(linear.weight, std=1.0 if init == "large" else inputs**-0.5, generator=generator)
            nn.init.normal_(linear.bias, generator=generator)
            layers += [linear, nn.Sigmoid()]
        super().__init__(*layers[:-1])

    def __getitem__(self, index: int | slice) -> nn.Module:
        """Return a layer; or, for a slice, the layers as an nn.Sequential: it is no MLP if it ends in a sigmoid."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)
