"""The quadratic cost: Nielsen, section 3.1, equations (54)-(56), (65) and (68)-(70).

    C = ½ Σⱼ (aⱼ − yⱼ)²        δ = (a − y) σ′(z) for sigmoid neurons, δ = a − y for linear ones

σ′(z) is nearly 0 where a neuron is saturated, right or wrong: the learning slowdown.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ce_torch.costs._arguments import check_arguments, check_classes, check_option
from ce_torch.costs._call import called_as
from ce_torch.costs._desired import desired_outputs
from ce_torch.costs._function import hand_written
from ce_torch.costs._module import Cost, evaluate, in_dtype_of
from ce_torch.costs.kernels import cpu, gpu


def cost_of_linear(z: Tensor, y: Tensor) -> Tensor:
    return 0.5 * error_of_linear(z, y).square().sum(-1)


def error_of_linear(z: Tensor, y: Tensor) -> Tensor:
    return z - desired_outputs(y, z)


def by_y_of_linear(z: Tensor, y: Tensor) -> Tensor:
    return -error_of_linear(z, y)


def cost_of_sigmoid(z: Tensor, y: Tensor) -> Tensor:
    return 0.5 * error_of_sigmoid(z, y).square().sum(-1)


def error_of_sigmoid(z: Tensor, y: Tensor) -> Tensor:
    """Return a − y as (1 − y) σ(z) − y σ(−z), of which no digits are lost where y and a are near 1."""
    y = desired_outputs(y, z)
    return (1 - y) * torch.sigmoid(z) - y * torch.sigmoid(-z)


def delta_of_sigmoid(z: Tensor, y: Tensor) -> Tensor:
    # σ′(z) as σ(z) σ(−z): 1 − σ(z) has lost its digits where a neuron is saturated.
    return error_of_sigmoid(z, y) * torch.sigmoid(z) * torch.sigmoid(-z)


def by_y_of_sigmoid(z: Tensor, y: Tensor) -> Tensor:
    return -error_of_sigmoid(z, y)


of_sigmoid = hand_written(
    cost_of_sigmoid,
    delta_of_sigmoid,
    by_y_of_sigmoid,
    fast=(cpu.of_neurons("quadratic"), gpu.of_neurons("quadratic")),
)
of_linear = hand_written(
    cost_of_linear,
    error_of_linear,
    by_y_of_linear,
    fast=(cpu.of_neurons("linear"), gpu.of_neurons("linear")),
)


@called_as(mse_loss)
def quadratic(
    z: Tensor, y: Tensor, *, activation: str = "sigmoid", reduction: str = "mean", out_dtype: torch.dtype | None = None
) -> Tensor:
    """The quadratic cost: N / 2 · `F.mse_loss(torch.sigmoid(z), y)`, or `F.mse_loss(z, y)`, for N neurons.

        C = ½ Σⱼ (aⱼ − yⱼ)²,    a = σ(z) or a = z,    δ = (a − y) σ′(z) or δ = a − y, written by hand

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., C).
        y: desired outputs, floating point, shape (..., C); or class indices, int64, shape (...), which stand for
            one-hot vectors.
        activation: "sigmoid" for a = σ(z), "linear" for a = z.
        reduction: "mean" for the chapter's C = (1/n) Σₓ Cₓ over examples x (`F.mse_loss` also divides by the number
            of neurons, and has no ½), "sum" for Σₓ Cₓ, "none" for every Cₓ, shape (...).
        out_dtype: the dtype of the cost, such as torch.float32 for z in half precision; None for z's.

    Returns:
        The cost, of z's dtype (float32 under autocast) or `out_dtype`. The mean over no examples is nan, their sum 0.

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> z = torch.tensor([[0.0, 0.0]], requires_grad=True)
        >>> quadratic(z, torch.tensor([0])).backward()  # class 0 stands for (1, 0)
        >>> z.grad
        tensor([[-0.1250,  0.1250]])

    Source: Nielsen, section 3.1, equations (54)-(56) and (65) for "sigmoid", (68)-(70) for "linear".
    """
    y = check_arguments(z, y)
    costs = of_sigmoid if activation == "sigmoid" else of_linear
    return in_dtype_of(z, evaluate(costs, reduction, z, y), out_dtype)


class QuadraticCost(Cost):
    """The quadratic cost as a module: see `ce_torch.functional.quadratic` for its options.

    Example:
        >>> cost = QuadraticCost(activation="linear")
        >>> cost(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
        tensor(2.)
    """

    function = staticmethod(quadratic)

    def __init__(
        self, *, activation: str = "sigmoid", reduction: str = "mean", out_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self._activation, self.reduction, self.out_dtype = check_option("activation", activation), reduction, out_dtype

    @property
    def options(self) -> dict[str, Any]:
        # The name of this option is also that of the method.
        return {"activation": self._activation, "reduction": self.reduction, "out_dtype": self.out_dtype}

    def activation(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z) if self._activation == "sigmoid" else z

    def delta(self, z: Tensor, y: Tensor) -> Tensor:
        y = check_arguments(z, y)
        check_classes(y, z.shape[-1])
        costs = of_sigmoid if self._activation == "sigmoid" else of_linear
        return costs.delta(z, y)
