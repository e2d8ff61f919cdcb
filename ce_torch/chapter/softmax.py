"""A softmax layer, and the slope of each output in each weighted input."""

from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs.log_likelihood import LogLikelihoodCost


class Layer(NamedTuple):
    """The outputs a of a softmax layer, and the slopes ∂aⱼ/∂zₖ in row j and column k."""

    a: Tensor
    slopes: Tensor


def layer(z: Tensor, temperature: float = 1.0) -> Layer:
    """Return the outputs for weighted inputs z of shape (K,), and their slopes, by autograd.

    Example:
        >>> from ce_torch.chapter.softmax import layer
        >>> layer(torch.zeros(2, dtype=torch.float64)).slopes
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]], dtype=torch.float64)

    Source: Nielsen, section 3.1, equations (78), (79) and (83) with c = 1 / temperature.
    """
    activation = LogLikelihoodCost(temperature=temperature).activation
    return Layer(activation(z), torch.func.jacrev(activation)(z))
