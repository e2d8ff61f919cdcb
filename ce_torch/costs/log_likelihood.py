"""The log-likelihood cost of a softmax layer: Nielsen, section 3.1, equations (78)-(84).

    C = −Σⱼ tⱼ ln aⱼ,    a = softmax(c z)        δ = c (T a − t),  T = Σⱼ tⱼ        c = 1 / temperature, equation (83)

For a class y, t is 1 at j = y and 0 elsewhere: C = −ln a_y and δ = c (a − y). Label smoothing and class weights are
other choices of t.
"""

import math
from typing import Any

import torch
from torch import Tensor, softmax
from torch.nn import functional as F

from ce_torch.costs._arguments import (
    check_arguments,
    check_class_weight,
    check_ignored,
    check_temperature_shape,
    class_dim,
    classes_last,
    values_can_be_read,
)
from ce_torch.costs._call import loss_function
from ce_torch.costs._desired import one_hot
from ce_torch.costs._function import CostFunction
from ce_torch.costs._in_graph import tied
from ce_torch.costs._module import Cost
from ce_torch.costs._precision import compute_dtype, result_dtype, to_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import quotient
from ce_torch.costs._softmax import exponentials
from ce_torch.costs._spec import CostSpec
from ce_torch.costs._torch_private import is_forward_mode, is_transformed, is_wrapped, unpack_dual

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


def curvature(
    v: Tensor, z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float
) -> Tensor:
    t = target(z, y, w, ignore_index, label_smoothing)
    return exponentials(z, c, t).curvature(v, t.sum(-1, keepdim=True), c)


def grad_y(z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float) -> Tensor:
    return -product(1 - label_smoothing, product(w, exponentials(z, c).ln_a))


def grad_weight(z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float) -> Tensor:
    t = target(z, y, None, ignore_index, label_smoothing)
    return -product(t, exponentials(z, c, t).ln_a)


def counted(
    z: Tensor, y: Tensor, w: Tensor | None, c: float, ignore_index: int, label_smoothing: float
) -> Tensor | None:
    """Return how much each example counts in the mean: for a class y its weight."""
    return None if y.is_floating_point() else example_weight(z, y, w, ignore_index)


def example_weight(z: Tensor, y: Tensor, w: Tensor | None, ignore_index: int) -> Tensor:
    counts = y != ignore_index
    if w is None:
        return counts
    w, classes = w.to(compute_dtype(z)), y.where(counts, 0)
    if w.ndim == 1:
        # Flat: vmap has no rule for an index without dimensions.
        return w.gather(0, classes.flatten()).view(y.shape).where(counts, 0)
    # Under vmap the weights may vary from example to example.
    return w.expand(*y.shape, -1).gather(-1, classes.unsqueeze(-1)).squeeze(-1).where(counts, 0)


LOG_LIKELIHOOD = CostFunction(
    CostSpec(
        name="log_likelihood",
        cost=cost,
        delta=delta,
        curvature=curvature,
        other_derivatives={"y": grad_y, "weight": grad_weight},
        counted=counted,
        family="softmax",
        examples=({}, {"temperature": 2.0, "label_smoothing": 0.1, "weight": torch.tensor([0.5, 1.0, 2.0])}),
    )
)


def prepare(
    z: Tensor,
    y: Tensor,
    temperature: float | Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    dim: int | None,
) -> tuple[CostFunction, tuple[Any, ...]]:
    z, y = classes_last(dim, z, y)
    y = check_arguments(z, y)
    check_class_weight("weight", weight, z.shape, z)
    check_ignored(ignore_index, y)
    return LOG_LIKELIHOOD, (z, y, weight, 1 / temperature, ignore_index, label_smoothing)


@loss_function(F.cross_entropy)
def log_likelihood(
    z: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    dim: int | None = None,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The log-likelihood cost of a softmax layer: `F.cross_entropy(z, y)`, options included, for z of shape (N, K).

    It is not the chapter's `cross_entropy`, which is of sigmoid neurons. Research code may call this one
    `softmax_cross_entropy`, the same function. Unlike in PyTorch, classes are the last dimension of z unless `dim` says
    another, and the dtype of y tells class indices from desired outputs.

        C = −ln a_y, or −Σⱼ yⱼ ln aⱼ for desired outputs y,    a = softmax(z / temperature),    δ = a − y, by hand

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., K). -inf rules a class out, and inf takes
            all: the cost is the limit. With nan, or all classes ruled out, it is nan.
        y: class indices, int64 or uint8, shape (...); or desired outputs in [0, 1], floating point, shape (..., K).
        temperature: at least 1e-38; 1 / temperature is equation (83)'s c. A tensor, floating point, shape (), gets its
            gradient too.
        weight: a factor for the cost of each class, floating point, shape (K,).
        ignore_index: examples whose class index this is cost nothing, whatever their z, and do not count in the mean.
            Class indices only.
        label_smoothing: from 0 to 1, the part of every y that is spread evenly over all classes.
        dim: the dimension of z, and of desired outputs, that holds the classes; class indices lack it. None for the
            last; 1 for z of shape (N, K, H, W), which PyTorch's losses expect.
        reduction: "mean" for the chapter's C = (1/n) Σₓ Cₓ over examples x, "sum" for Σₓ Cₓ, "none" for every Cₓ,
            shape (...). For class indices the mean is weighted: n is the sum of the weights of the classes y.
        out_dtype: the dtype of the cost, such as torch.float32 for z in half precision; None for z's.

    Returns:
        The cost, of z's dtype (float32 under autocast) or `out_dtype`. The mean over no examples, or none that is not
        ignored, is nan; their sum is 0.

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
    scaled = z
    if isinstance(temperature, Tensor):
        check_temperature_shape(temperature)
        scaled, temperature = tied(divide(z, temperature), z, temperature), 1.0
    function, inputs = prepare(scaled, y, temperature, weight, ignore_index, label_smoothing, dim)
    dtype = result_dtype(z, out_dtype)
    if weight is None or not may_change(weight):
        return function(dtype, reduction, *inputs)
    scaled, y, _, *constants = inputs
    # Once for cost and mean: the sum of its two gradients is what is rounded.
    given, weight = weight, weight.to(compute_dtype(z))
    inputs = scaled, y, weight, *constants
    if reduction != "mean" or y.is_floating_point():
        return function(dtype, reduction, *inputs)
    # The mean is divided by weights, which have a derivative too.
    C = function(compute_dtype(z), "sum", *inputs)
    C = to_dtype(quotient(C, example_weight(z, y, weight, ignore_index).sum()), dtype)
    return tied(C, z, given)


def may_change(weight: Tensor) -> bool:
    """Return True if somebody may ask for a derivative by the weight."""
    if weight.requires_grad or (is_transformed() and is_wrapped(weight)):
        return True
    return is_forward_mode() and unpack_dual(weight)[1] is not None


def divide(tensor: Tensor, temperature: Tensor) -> Tensor:
    """Return the tensor, at least in float32, divided by a temperature, or one a row, whose gradient is autograd's.

    What is infinite stays so, and adds nothing to that gradient.
    """
    tensor = tensor.to(compute_dtype(tensor))
    temperature = temperature.to(tensor.dtype)
    if temperature.ndim:
        temperature = temperature.unsqueeze(-1)
    # A finite sum, which takes one operation, has finite terms.
    if values_can_be_read(tensor) and math.isfinite(tensor.detach().sum().item()):
        return tensor / temperature
    finite = tensor.isfinite()
    return torch.where(finite, tensor.masked_fill(~finite, 0) / temperature, tensor / temperature.detach())


class LogLikelihoodCost(Cost):
    """The log-likelihood cost as a module: see `ce_torch.functional.log_likelihood` for its options.

    Example:
        >>> cost = LogLikelihoodCost(temperature=0.5)
        >>> cost.activation(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])
    """

    function, prepare = staticmethod(log_likelihood), staticmethod(prepare)
    cost_functions = (LOG_LIKELIHOOD,)

    def activation(self, z: Tensor) -> Tensor:
        return softmax(z / self.options["temperature"], class_dim(self.options["dim"]))
