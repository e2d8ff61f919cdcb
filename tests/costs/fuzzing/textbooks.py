"""The formulas as a textbook writes them, in plain operations of PyTorch on float64: autograd differentiates them.

Each returns the cost of each example, shape (...), and the count by which "mean" divides their sum. What is infinite
comes as ±`INFINITE`, of which every limit is a finite number to autograd. `noise(name, tensor)` marks what a program
may round: see `check.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, one_hot

INFINITE = 1e200
Noise = Callable[[str, Tensor], Tensor]
Textbook = Callable[..., tuple[Tensor, Tensor]]


def desired(noise: Noise, z: Tensor, y: Tensor) -> Tensor:
    return noise("y", y if y.is_floating_point() else one_hot(y, z.shape[-1]).double())


def example_count(C: Tensor) -> Tensor:
    return C.new_tensor(C.numel())


def countable(noise: Noise, z: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return z and the desired outputs, 0 where they are not a number and have the weight 0."""
    y = desired(noise, z, y)
    z = torch.where((w == 0) & z.isnan(), 0, noise("z", z))
    return z, torch.where((w == 0) & ~y.isfinite(), 0, y)


def all_that_counts(z: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(z, dtype=torch.bool) if mask is None else mask.expand_as(z)


def quadratic(noise: Noise, z: Tensor, y: Tensor, *, activation: str, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    counts = all_that_counts(z, mask)
    z, y = countable(noise, z, y, counts)
    error = z - y if activation == "linear" else (1 - y) * torch.sigmoid(z) - y * torch.sigmoid(-z)
    return torch.where(counts, error.square(), 0).sum(-1) / 2, counts.any(-1).double().sum()


def neuron_cross_entropy(z: Tensor, y: Tensor, pos_weight: Tensor | float = 1.0) -> Tensor:
    return -pos_weight * y * logsigmoid(z) - (1 - y) * logsigmoid(-z)


def cross_entropy(
    noise: Noise,
    z: Tensor,
    y: Tensor,
    *,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    w = noise("weight", z.new_ones(()) if weight is None else weight)
    p = noise("pos_weight", z.new_ones(()) if pos_weight is None else pos_weight)
    counts = all_that_counts(z, mask)
    w = torch.where(counts, w, 0)
    z, y = countable(noise, z, y, w)
    C = (w * neuron_cross_entropy(z, y, p)).sum(-1)
    return C, counts.any(-1).double().sum()


def focal(
    noise: Noise, z: Tensor, y: Tensor, *, alpha: float | None, gamma: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    counts = all_that_counts(z, mask)
    z, y = countable(noise, z, y, counts)
    # Far out, where m underflows, as a logarithm that does not: there y has no derivative.
    is_far = ((y == 0) & (z < -300)) | ((y == 1) & (z > 300))
    m = ((1 - y) * torch.sigmoid(z) + y * torch.sigmoid(-z)).masked_fill(is_far, 1)
    ln_m = torch.where(is_far, logsigmoid(z * (1 - 2 * y)), m.log())
    balance = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    C = balance * torch.exp(gamma * ln_m) * neuron_cross_entropy(z, y)
    return torch.where(counts, C, 0).sum(-1), counts.any(-1).double().sum()


def log_likelihood(
    noise: Noise,
    z: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    counts = torch.ones(z.shape[:-1], dtype=torch.bool) if y.is_floating_point() else y != ignore_index
    w = noise("weight", z.new_ones(z.shape[-1]) if weight is None else weight)
    z = z.where(counts.unsqueeze(-1), 0)
    if isinstance(temperature, Tensor):
        z, temperature = noise("z", z), noise("temperature", temperature)
    x = noise("x", (z - z.detach().amax(-1, keepdim=True)) / temperature) if z.numel() else z
    classes = y if y.is_floating_point() else y.where(counts, 0)
    t = (1 - label_smoothing) * desired(noise, z, classes) + label_smoothing / z.shape[-1]
    t = w * t
    C = -(t * log_softmax(x, -1)).sum(-1)
    if label_smoothing != 0 or y.is_floating_point():
        T = t.sum(-1)
        C = C + (noise("T", T) - T) * x.logsumexp(-1)
    C = C.where(counts, 0)
    return C, example_count(C) if y.is_floating_point() else (w[classes] * counts).sum()


TEXTBOOKS: Mapping[str, Textbook] = {
    "quadratic": quadratic,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "log_likelihood": log_likelihood,
}


def expected_cost(name: str, noise: Noise, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
    """Return C for tensors in float64, reduced as the options say; the mean over nothing is nan, without a gradient."""
    options = {**options, **tensors}
    z, y, reduction = options.pop("z"), options.pop("y"), options.pop("reduction")
    options.pop("out_dtype")
    dim = options.pop("dim")
    dim = -1 if dim is None else dim
    if name != "log_likelihood" and dim != -1:
        for weight in {"weight", "pos_weight", "mask"} & tensors.keys():
            options[weight] = tensors[weight].expand_as(z).movedim(dim, -1)
    z, y = z.movedim(dim, -1), y.movedim(dim, -1) if y.is_floating_point() else y
    C, count = TEXTBOOKS[name](noise, z, y, **options)
    # The count is exact, what follows from its derivative is not.
    C, count = noise("C", C), count.detach() + noise("count", count - count.detach())
    if reduction == "element_mean":
        count = tensors["mask"].expand_as(tensors["z"]).double().sum() if "mask" in tensors else C.new_tensor(z.numel())
    elif reduction != "mean":
        return C if reduction == "none" else C.sum()
    return torch.where(count == 0, torch.nan, C.sum() / count.masked_fill(count == 0, 1))
