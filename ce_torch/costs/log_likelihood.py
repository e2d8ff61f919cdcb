"""The log-likelihood cost of a softmax layer: Nielsen, section 3.1, equations (78)-(84).

    C = −ln a_y,    a = softmax(c z)        δ = c (a − y)        c = 1 / temperature, equation (83)

It comes in three forms: for a class y, which is never written out as a one-hot vector; for a class whose desired
outputs are smoothed; and for any desired outputs t, C = −Σⱼ tⱼ ln aⱼ. Their sum need not be 1, so δ = c (a Σⱼ tⱼ − t).
"""

import math

import torch
from torch import Tensor, softmax
from torch.nn.functional import log_softmax

from ce_torch.costs.autograd import hand_written
from ce_torch.costs.base import (
    Cost,
    check_arguments,
    check_weight,
    desired_outputs,
    in_dtype_of,
    name_classes,
    values_can_be_read,
)
from ce_torch.costs.fast import cpu, gpu
from ce_torch.costs.precision import wide, widen
from ce_torch.costs.reduction import reduce


def cost_of_class(z: Tensor, y: Tensor, c: float) -> Tensor:
    return -at(y, ln_a(z, c)).squeeze(-1)


def delta_of_class(z: Tensor, y: Tensor, c: float) -> Tensor:
    a = softmax(times(c, z), -1)
    y = y.unsqueeze(-1)
    return times(c, a.scatter_add(-1, y, torch.full_like(y, -1, dtype=a.dtype)))


of_class = hand_written(cost_of_class, delta_of_class, None, fast=(cpu.of_class, gpu.of_class))


def cost_of_outputs(z: Tensor, t: Tensor, c: float) -> Tensor:
    return -(t * ln_a(z, c)).sum(-1)


def delta_of_outputs(z: Tensor, t: Tensor, c: float) -> Tensor:
    return times(c, softmax(times(c, z), -1) * t.sum(-1, keepdim=True) - t)


def by_outputs(z: Tensor, t: Tensor, c: float) -> Tensor:
    return -ln_a(z, c)


of_outputs = hand_written(cost_of_outputs, delta_of_outputs, by_outputs)

# Of a smoothed class y the desired outputs are tⱼ = baseⱼ, of shape (C,), and `peak`, (..., 1), more at j = y.


def cost_of_smoothed_class(z: Tensor, y: Tensor, peak: Tensor, base: Tensor, c: float) -> Tensor:
    log_a = ln_a(z, c)
    return -(base * log_a).sum(-1) - (peak * at(y, log_a)).squeeze(-1)


def delta_of_smoothed_class(z: Tensor, y: Tensor, peak: Tensor, base: Tensor, c: float) -> Tensor:
    a = softmax(times(c, z), -1)
    return times(c, (a * (peak + base.sum()) - base).scatter_add(-1, y.unsqueeze(-1), -peak))


def by_peak(z: Tensor, y: Tensor, peak: Tensor, base: Tensor, c: float) -> Tensor:
    return -at(y, ln_a(z, c))


def by_base(z: Tensor, y: Tensor, peak: Tensor, base: Tensor, c: float) -> Tensor:
    return -ln_a(z, c)


of_smoothed_class = hand_written(cost_of_smoothed_class, delta_of_smoothed_class, None, by_peak, by_base)


def ln_a(z: Tensor, c: float) -> Tensor:
    return log_softmax(times(c, z), -1)


def at(y: Tensor, tensor: Tensor) -> Tensor:
    """Return what `tensor` (..., C) holds at the classes y (...), of shape (..., 1)."""
    return tensor.gather(-1, y.unsqueeze(-1))


def times(c: float, tensor: Tensor) -> Tensor:
    return tensor if c == 1 else c * tensor


def log_likelihood(
    z: Tensor,
    y: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The log-likelihood cost of a softmax layer, with δ = a − y written by hand.

        C = −ln a_y, or −Σⱼ yⱼ ln aⱼ for desired outputs y,    a = softmax(z / temperature)

    For z of shape (N, C) it equals `F.cross_entropy` with the same options. Unlike there, classes are always the last
    dimension of z, and y is told apart by its dtype.

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., C). -inf rules a class out; an example of
            which +inf or nan is part costs nan.
        y: class indices, int64, shape (...); or desired outputs in [0, 1], floating point, shape (..., C).
        temperature: at least 1e-38; 1 / temperature is equation (83)'s c.
        weight: a factor for the cost of each class, floating point, shape (C,).
        ignore_index: examples whose class index this is cost nothing and do not count in the mean. Class indices only.
        label_smoothing: from 0 to 1, the part of every y that is spread evenly over all classes.
        reduction: "mean" for the chapter's C = (1/n) Σₓ Cₓ over examples x, "sum" for Σₓ Cₓ, "none" for every Cₓ,
            shape (...). For class indices the mean is weighted: n is the sum of the weights of the classes y.

    Returns:
        The cost, of z's dtype (float32 under autocast). The mean over no examples, or none that is not ignored, is
        nan; their sum is 0.

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 1000.0]], requires_grad=True)
        >>> log_likelihood(z, torch.tensor([0, 1]), reduction="sum").backward()
        >>> z.grad
        tensor([[-0.5000,  0.5000],
                [ 0.0000,  0.0000]])

    Source: Nielsen, section 3.1, equations (78)-(84); label smoothing: Szegedy et al., "Rethinking the Inception
    Architecture for Computer Vision", 2016.
    """
    check_arguments(z, y, reduction)
    check_options(y, temperature, ignore_index, label_smoothing)
    check_weight_of_classes("weight", weight, z.shape[-1], z, "z")
    c = 1 / temperature
    if y.is_floating_point():
        return in_dtype_of(z, of_outputs(reduction, z, weighted(y, weight, label_smoothing, z.shape[-1]), c))
    if weight is None and label_smoothing == 0 and ignore_index < 0 and values_can_be_read(y):
        try:
            return in_dtype_of(z, of_class(reduction, z, y, c))
        except (IndexError, RuntimeError):
            # Some y is ignored, or is no class. To ask before takes a tenth of the time of a small cost.
            if name_classes(y, z.shape[-1], ignore_index):
                raise
    else:
        name_classes(y, z.shape[-1], ignore_index)
    C, share = with_options(z, y, c, weight, ignore_index, label_smoothing)
    return in_dtype_of(z, C.sum() / share.sum() if reduction == "mean" else reduce(C, reduction))


def weighted(y: Tensor, weight: Tensor | None, label_smoothing: float, classes: int) -> Tensor:
    """Return the desired outputs t that label smoothing, over so many classes, and class weights make of y."""
    if weight is None and label_smoothing == 0:
        return y
    (t,) = widen((y,))
    t = (1 - label_smoothing) * t + label_smoothing / classes
    return t if weight is None else weight * t


def with_options(
    z: Tensor, y: Tensor, c: float, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the cost of each example, and how much the example counts in the mean."""
    ignored = y == ignore_index
    y = y.masked_fill(ignored, 0)
    weight = torch.ones(z.shape[-1], dtype=wide(z), device=z.device) if weight is None else weight.to(wide(z))
    share = at(y, weight.expand(z.shape))
    if label_smoothing == 0:
        C = share.squeeze(-1) * of_class("none", z, y, c)
    else:
        base = label_smoothing / len(weight) * weight
        C = of_smoothed_class("none", z, y, (1 - label_smoothing) * share, base, c)
    return C.masked_fill(ignored, 0), share.squeeze(-1).masked_fill(ignored, 0)


def check_options(y: Tensor, temperature: float, ignore_index: int, label_smoothing: float) -> None:
    """Raise `ValueError` unless the options are such as `log_likelihood` takes."""
    # c = 1 / temperature is infinite in float32 for less, and c z is nan.
    if not (isinstance(temperature, (int, float)) and 1e-38 <= temperature < math.inf):
        raise ValueError(f"temperature must be a finite number of at least 1e-38, got {temperature!r}")
    if not (isinstance(label_smoothing, (int, float)) and 0 <= label_smoothing <= 1):
        raise ValueError(f"label_smoothing must be a number from 0 to 1, got {label_smoothing!r}")
    if y.is_floating_point() and ignore_index >= 0:
        raise ValueError(
            f"ignore_index={ignore_index} goes with class indices, but y holds desired outputs ({y.dtype})"
        )


def check_weight_of_classes(name: str, weight: Tensor | None, classes: int, z: Tensor, of: str) -> None:
    """Raise `TypeError` or `ValueError` unless the argument called `name` has a factor for each class, or is None."""
    check_weight(name, weight, z, of)
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{name} must have shape {(classes,)}, one factor a class, got {tuple(weight.shape)}")


class LogLikelihoodCost(Cost):
    """The log-likelihood cost as a module: see `ce_torch.functional.log_likelihood` for its options.

    Example:
        >>> cost = LogLikelihoodCost(temperature=0.5)
        >>> cost.activation(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])
    """

    function = staticmethod(log_likelihood)

    def activation(self, z: Tensor) -> Tensor:
        return softmax(z / self.options["temperature"], -1)

    def delta(self, z: Tensor, y: Tensor) -> Tensor:
        options = self.options
        check_arguments(z, y)
        outputs = desired_outputs(y, z, options["ignore_index"])
        t = weighted(outputs, self.weight, options["label_smoothing"], z.shape[-1])
        if not y.is_floating_point():
            t = t.masked_fill((y == options["ignore_index"]).unsqueeze(-1), 0)
        return delta_of_outputs(*widen((z, t, 1 / options["temperature"]))).to(z.dtype)
