"""What benchmarks.costs measures: each cost with each of its options, beside PyTorch's own loss with the same."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ce_torch.functional import cross_entropy, focal, log_likelihood, quadratic

Loss = Callable[[Tensor, Tensor], Tensor]
PLAIN = "plain"


class Case(NamedTuple):
    """A cost with options, by name: what it calls, what PyTorch has for it, and which parameters it sets."""

    cost: str
    name: str
    ours: Loss
    peer: Loss
    z: Tensor
    y: Tensor
    options: frozenset[str]


def cases(N: int, K: int, dtype: torch.dtype, device: str = "cpu") -> list[Case]:
    """Return the cases of all costs for N examples of K classes."""
    generator = torch.Generator(device).manual_seed(0)
    z = torch.randn(N, K, generator=generator, device=device).to(dtype)
    outputs = torch.rand(N, K, generator=generator, device=device).to(dtype)
    weight = torch.rand(K, generator=generator, device=device).to(dtype)
    classes = torch.randint(K, (N,), generator=generator, device=device)
    ignored = classes.where(torch.arange(N, device=device) % 2 == 0, -1)
    half, smooth, weighted = {"ignore_index": -1}, {"label_smoothing": 0.1}, {"weight": weight}
    cool, positive = {"temperature": 2.0}, {"pos_weight": weight}
    found = []

    def add(cost: str, ours: Loss, peer: Loss, y: Tensor, name: str, **options: object) -> None:
        found.append(Case(cost, name, partial(ours, **options), peer, z, y, frozenset(options)))

    for name, y, options in (
        (PLAIN, classes, {}),
        ("half ignored", ignored, half),
        ("label smoothing", classes, smooth),
        ("class weights", classes, weighted),
        ("temperature", classes, cool),
        ("desired outputs", outputs, {}),
        ("desired outputs, smoothing, weights", outputs, smooth | weighted),
        ("all", ignored, half | smooth | weighted | cool),
    ):
        add("log_likelihood", log_likelihood, partial(cooled_cross_entropy, **options), y, name, **options)
    binary = F.binary_cross_entropy_with_logits
    for name, options in ((PLAIN, {}), ("weight", weighted), ("pos_weight", positive), ("both", weighted | positive)):
        add("cross_entropy", cross_entropy, partial(binary, **options), outputs, name, **options)
    for cost, ours, peer in (
        ("cross_entropy", cross_entropy, binary),
        ("quadratic", quadratic, sigmoid_mse),
    ):
        add(
            cost,
            ours,
            lambda z, y, peer=peer: peer(z, torch.zeros_like(z).scatter(-1, y[:, None], 1)),
            classes,
            "class indices",
        )
    add("quadratic", quadratic, sigmoid_mse, outputs, PLAIN)
    add("quadratic", quadratic, F.mse_loss, outputs, "linear", activation="linear")
    for name, options in ((PLAIN, {}), ("alpha, gamma", {"alpha": 0.5, "gamma": 1.5})):
        add("focal", focal, partial(sigmoid_focal_loss, reduction="mean", **options), outputs, name, **options)
    return found


def cooled_cross_entropy(z: Tensor, y: Tensor, temperature: float = 1.0, **options: object) -> Tensor:
    return F.cross_entropy(z if temperature == 1 else z / temperature, y, **options)


def sigmoid_mse(z: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(torch.sigmoid(z), y)
