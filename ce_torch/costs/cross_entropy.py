"""The cross-entropy cost of sigmoid neurons: Nielsen, section 3.1, equations (57)-(67) and (71)-(77).

    C = −Σⱼ [yⱼ ln aⱼ + (1 − yⱼ) ln(1 − aⱼ)],    a = σ(z)        δ = a − y

No factor σ′(z) is left in δ: the more wrong a neuron, the faster it learns.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ce_torch.costs.autograd import hand_written
from ce_torch.costs.base import Cost, check_arguments, check_weight, desired_outputs, in_dtype_of
from ce_torch.costs.fast import cpu, gpu
from ce_torch.costs.precision import widen

# In the formulas w is `weight`, p is `pos_weight`, None for 1; ln a is ln σ(z), ln(1 − a) is ln σ(−z).


def of_neurons(z: Tensor, y: Tensor, p: Tensor | None) -> Tensor:
    """The cost of each neuron, before w."""
    if p is None:
        # y ln a + (1 − y) ln(1 − a), in fewer operations.
        return -torch.lerp(logsigmoid(-z), logsigmoid(z), y)
    return -(p * y * logsigmoid(z) + (1 - y) * logsigmoid(-z))


def cost(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    return times(w, of_neurons(z, y, p)).sum(-1)


def delta(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    a = torch.sigmoid(z)
    return times(w, a - y if p is None else (p * y + 1 - y) * a - p * y)


def by_y(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    return times(w, -z if p is None else logsigmoid(-z) - p * logsigmoid(z))


def by_weight(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    return of_neurons(z, y, p)


def by_pos_weight(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    return times(w, -y * logsigmoid(z))


def times(factor: Tensor | None, tensor: Tensor) -> Tensor:
    return tensor if factor is None else factor * tensor


formulas = cost, delta, by_y, by_weight, by_pos_weight
with_weights = hand_written(*formulas)
without_weights = hand_written(*formulas, fast=(cpu.of_neurons("cross_entropy"), gpu.of_neurons("cross_entropy")))


def cross_entropy(
    z: Tensor,
    y: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The cross-entropy cost of sigmoid neurons, with δ = a − y written by hand.

        C = −Σⱼ wⱼ [pⱼ yⱼ ln aⱼ + (1 − yⱼ) ln(1 − aⱼ)],    a = σ(z)

    It is exact for every finite z, where the formula in a gives nan or inf. For y between 0 and 1 its minimum is the
    binary entropy of y, equation (64).

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., C).
        y: desired outputs in [0, 1], floating point, shape (..., C); or class indices, int64, shape (...), which
            stand for one-hot vectors.
        weight: w, a factor for each neuron's cost, floating point, of a shape that broadcasts to z's.
        pos_weight: p, a factor for the part of the cost that belongs to y, as `weight`.
        reduction: "mean" for the chapter's C = (1/n) Σₓ Cₓ over examples x
            (`F.binary_cross_entropy_with_logits` also divides by the number of neurons), "sum" for Σₓ Cₓ, "none" for
            every Cₓ, shape (...).

    Returns:
        The cost, of z's dtype (float32 under autocast). The mean over no examples is nan, their sum 0.

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> z = torch.tensor([[0.0, 1000.0]], requires_grad=True)
        >>> cross_entropy(z, torch.tensor([0])).backward()  # class 0 stands for (1, 0)
        >>> z.grad
        tensor([[-0.5000,  1.0000]])

    Source: Nielsen, section 3.1, equations (57)-(67).
    """
    check_arguments(z, y, reduction)
    check_neuron_weight("weight", weight, z)
    check_neuron_weight("pos_weight", pos_weight, z)
    apply = without_weights if weight is None and pos_weight is None else with_weights
    return in_dtype_of(z, apply(reduction, z, desired_outputs(y, z), weight, pos_weight))


def check_neuron_weight(name: str, weight: Tensor | None, z: Tensor) -> None:
    """Raise unless `weight` is None or broadcasts to z, and z need not broadcast to it."""
    check_weight(name, weight, z)
    if weight is None:
        return
    sizes = zip(reversed(weight.shape), reversed(z.shape), strict=False)
    if weight.ndim > z.ndim or any(size not in (1, of_z) for size, of_z in sizes):
        raise ValueError(
            f"{name} must have a shape that broadcasts to z's, {tuple(z.shape)}, got {tuple(weight.shape)}"
        )


class CrossEntropyCost(Cost):
    """The cross-entropy cost as a module: see `ce_torch.functional.cross_entropy` for its options.

    Example:
        >>> cost = CrossEntropyCost()
        >>> cost.delta(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([[-0.5000,  0.5000]])
    """

    function = staticmethod(cross_entropy)

    def activation(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def delta(self, z: Tensor, y: Tensor) -> Tensor:
        check_arguments(z, y)
        return delta(*widen((z, desired_outputs(y, z), self.weight, self.pos_weight))).to(z.dtype)
