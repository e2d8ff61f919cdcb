"""What benchmarks.costs measures: each cost with each of its options, beside PyTorch's own loss with the same."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from benchmarks.layouts import ROWS, arrange
from ce_torch.functional import cross_entropy, focal, log_likelihood, quadratic

Loss = Callable[..., Tensor]
PLAIN = "plain"
IGNORED = -100


class Case(NamedTuple):
    """A cost with options, by name: what it calls, what PyTorch has for it, and which parameters it sets."""

    cost: str
    name: str
    ours: Loss
    peer: Loss
    z: Tensor
    y: Tensor
    options: frozenset[str]


class Examples(NamedTuple):
    """The tensors that all cases of a size and layout share. The classes are dimension 1 of all sizes."""

    z: Tensor
    outputs: Tensor
    classes: Tensor
    ignored: Tensor
    weight: Tensor


def cases(size: tuple[int, ...], dtype: torch.dtype, device: str = "cpu", layout: str = ROWS) -> list[Case]:
    """Return the cases of all costs for a size: (N, K), or (N, K, H, W) of images."""
    examples = draw(size, dtype, device, layout)
    found = softmax_cases(examples) + sigmoid_cases(examples)
    if len(size) == 2:
        return found
    return [case._replace(ours=partial(case.ours, dim=1), options=case.options | {"dim"}) for case in found]


def draw(size: tuple[int, ...], dtype: torch.dtype, device: str, layout: str) -> Examples:
    generator = torch.Generator(device).manual_seed(0)
    N, K, *image = size
    z = torch.randn(size, generator=generator, device=device).to(dtype)
    outputs = torch.rand(size, generator=generator, device=device).to(dtype)
    classes = torch.randint(K, (N, *image), generator=generator, device=device)
    odd = torch.arange(classes.numel(), device=device).view_as(classes) % 2 == 1
    weight = torch.rand(K, generator=generator, device=device).to(dtype)
    return Examples(arrange(z, layout), arrange(outputs, layout), classes, classes.masked_fill(odd, IGNORED), weight)


def softmax_cases(examples: Examples) -> list[Case]:
    """Return the cases of the log-likelihood. F.cross_entropy has all of its options but the temperature."""
    half, smooth, weighted = {"ignore_index": IGNORED}, {"label_smoothing": 0.1}, {"weight": examples.weight}
    cool = {"temperature": 2.0}
    return [
        case("log_likelihood", name, log_likelihood, cooled_cross_entropy, examples.z, y, options)
        for name, y, options in (
            (PLAIN, examples.classes, {}),
            ("half ignored", examples.ignored, half),
            ("label smoothing", examples.classes, smooth),
            ("class weights", examples.classes, weighted),
            ("temperature", examples.classes, cool),
            ("these four", examples.ignored, half | smooth | weighted | cool),
            ("desired outputs", examples.outputs, {}),
            ("desired outputs, smoothing, weights, temperature", examples.outputs, smooth | weighted | cool),
            *common_options(examples.classes, examples.z.dtype),
        )
    ]


def sigmoid_cases(examples: Examples) -> list[Case]:
    """Return the cases of the costs that are a sum over neurons."""
    z, y, classes = examples.z, examples.outputs, examples.classes
    weight = examples.weight.view(-1, *[1] * (z.ndim - 2))  # it broadcasts to z
    weighted, positive, other = {"weight": weight}, {"pos_weight": weight}, {"alpha": 0.5, "gamma": 1.5}
    masked = {"mask": weight > 0.5}
    options = (PLAIN, y, {}), ("class indices", classes, {}), ("mask", y, masked), *common_options(y, z.dtype)
    more_options = {
        "cross_entropy": (
            ("mask, element mean", y, masked | {"reduction": "element_mean"}),
            ("weight", y, weighted),
            ("pos_weight", y, positive),
            ("both weights", y, weighted | positive),
            ("both weights, class indices", classes, weighted | positive),
        ),
        "focal": (("alpha, gamma", y, other), ("alpha, gamma, class indices", classes, other)),
    }
    return [
        case(cost, name, ours, partial(neuron_loss, peer), z, target, chosen | activation)
        for cost, ours, peer, activation in (
            ("cross_entropy", cross_entropy, F.binary_cross_entropy_with_logits, {}),
            ("quadratic", quadratic, sigmoid_mse, {}),
            ("linear_quadratic", quadratic, F.mse_loss, {"activation": "linear"}),
            ("focal", focal, sigmoid_focal_loss, {}),
        )
        for name, target, chosen in (*options, *more_options.get(cost, ()))
    ]


def common_options(y: Tensor, dtype: torch.dtype) -> list[tuple[str, Tensor, dict[str, Any]]]:
    """Return the options that every cost has."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [("reduction none", y, {"reduction": "none"}), ("out_dtype", y, {"out_dtype": wide})]


def case(cost: str, name: str, ours: Loss, peer: Loss, z: Tensor, y: Tensor, options: dict[str, Any]) -> Case:
    """Return a case of options, which both losses have, except for the activation: each peer has one of its own."""
    theirs = {key: value for key, value in options.items() if key != "activation"}
    ours, peer = partial(ours, **options), partial(peer, **theirs)
    if options.get("reduction") == "none":
        ours, peer = partial(summed, ours), partial(summed, peer)
    return Case(cost, name, ours, peer, z, y, frozenset(options))


def summed(loss: Loss, z: Tensor, y: Tensor, **options: Any) -> Tensor:
    return loss(z, y, **options).sum()


def cooled_cross_entropy(
    z: Tensor, y: Tensor, temperature: float = 1.0, out_dtype: torch.dtype | None = None, **options: Any
) -> Tensor:
    z = z if out_dtype is None else z.to(out_dtype)
    return F.cross_entropy(z if temperature == 1 else z / temperature, y, **options)


def neuron_loss(
    loss: Loss,
    z: Tensor,
    y: Tensor,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return a loss of PyTorch's by neuron, of class indices too, over what the mask lets count, in out_dtype."""
    if not y.is_floating_point():
        y = torch.zeros_like(z).scatter(1, y.unsqueeze(1), 1)
    if out_dtype is not None:
        z, y = z.to(out_dtype), y.to(out_dtype)
    if mask is not None and loss is F.binary_cross_entropy_with_logits:
        return loss(z, y, reduction="sum", weight=mask.to(z.dtype), **options) / mask.expand_as(z).sum()
    if mask is not None:
        return (mask * loss(z, y, reduction="none", **options)).sum() / mask.expand_as(z).sum()
    return loss(z, y, reduction=reduction, **options)


def sigmoid_mse(z: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    return F.mse_loss(torch.sigmoid(z), y, reduction=reduction)
