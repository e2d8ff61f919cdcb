"""The log-likelihood cost of a softmax layer: Nielsen, section 3.1, equations (78)-(84).

    C = −Σⱼ tⱼ ln aⱼ,    a = softmax(c z)        δ = c (T a − t),  T = Σⱼ tⱼ        c = 1 / temperature, equation (83)

For a class y, t is 1 at j = y and 0 elsewhere: C = −ln a_y and δ = c (a − y). Label smoothing and class weights are
other choices of t.
"""

import math

import torch
from torch import Tensor, softmax

from ce_torch.costs.autograd import hand_written
from ce_torch.costs.base import Cost, check_arguments, check_classes, check_weight, evaluate, in_dtype_of
from ce_torch.costs.desired import one_hot
from ce_torch.costs.fast import cpu, gpu
from ce_torch.costs.precision import widen
from ce_torch.costs.product import product
from ce_torch.costs.reduction import quotient
from ce_torch.costs.softmax import exponentials

# The formulas take z, y, the weights of the classes w (None for 1), c, ignore_index and label_smoothing.


def target(z: Tensor, y: Tensor, w: Tensor | None, ignore_index: int, label_smoothing: float) -> Tensor:
    """Return t, shape (..., K): 0 for an example that is ignored."""
    t = y if y.is_floating_point() else one_hot(y.masked_fill(y == ignore_index, 0), z)
    if label_smoothing != 0:
        t = (1 - label_smoothing) * t + label_smoothing / z.shape[-1]
    if w is not None:
        t = w * t
    return t if y.is_floating_point() else t.masked_fill((y == ignore_index).unsqueeze(-1), 0)


def cost(z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float) -> Tensor:
    t = target(z, y, w, ignore_index, label_smoothing)
    return -product(t, exponentials(z, c, t).ln_a).sum(-1)


def delta(z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float) -> Tensor:
    t = target(z, y, w, ignore_index, label_smoothing)
    return exponentials(z, c, t).delta(t, t.sum(-1, keepdim=True), c)


def by_y(z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float) -> Tensor:
    return -product(1 - label_smoothing, product(w, exponentials(z, c).ln_a))


def by_weight(z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float) -> Tensor:
    t = target(z, y, None, ignore_index, label_smoothing)
    return -product(t, exponentials(z, c, t).ln_a)


def counts(
    z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float
) -> Tensor | None:
    return None if y.is_floating_point() else y != ignore_index


costs_of_softmax = hand_written(cost, delta, by_y, by_weight, counts=counts, fast=(cpu.of_softmax, gpu.of_softmax))


def log_likelihood(
    z: Tensor,
    y: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
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
    options = weight, 1 / temperature, ignore_index, label_smoothing
    if reduction != "mean" or weight is None or y.is_floating_point():
        return in_dtype_of(
            z, evaluate(costs_of_softmax, reduction, z, y, *options, ignore_index=ignore_index), out_dtype
        )
    C = evaluate(costs_of_softmax, "sum", z, y, *options, ignore_index=ignore_index)
    return in_dtype_of(z, quotient(C, total_weight(y, weight.to(C.dtype), ignore_index)), out_dtype)


def total_weight(y: Tensor, weight: Tensor, ignore_index: int) -> Tensor:
    """Return the sum of the weights of the classes y that are not ignored."""
    ignored = y == ignore_index
    return weight[y.masked_fill(ignored, 0)].masked_fill(ignored, 0).sum()


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
        check_arguments(z, y)
        options = self.options
        check_classes(y, z.shape[-1], options["ignore_index"])
        formula = self.weight, 1 / options["temperature"], options["ignore_index"], options["label_smoothing"]
        return delta(*widen((z, y, *formula))).to(z.dtype)
