"""The quadratic cost: Nielsen, section 3.1, equations (54)-(56), (65) and (68)-(70).

    C = ½ Σⱼ (aⱼ − yⱼ)²        δ = (a − y) σ′(z) for sigmoid neurons, δ = a − y for linear ones

σ′(z) is nearly 0 where a neuron is saturated, right or wrong: the learning slowdown.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ce_torch.costs._arguments import check_arguments, check_element_weight, classes_last
from ce_torch.costs._call import loss_function
from ce_torch.costs._desired import desired_outputs
from ce_torch.costs._elements import Reduction, countable, reduced_cost
from ce_torch.costs._function import CostFunction
from ce_torch.costs._module import Cost
from ce_torch.costs._product import product
from ce_torch.costs._spec import CostSpec

if TYPE_CHECKING:
    from ce_torch.costs.kernels.gpu_kernels import sigmoid, sigmoid_error


# In the formulas w is the mask, None for 1.


def cost(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    return product(w, element_cost(*countable(z, y, w), w)).sum(-1)


def element_cost(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    """Return the cost of each neuron, which is the derivative by w."""
    return 0.5 * error(z, desired_outputs(y, z)).square()


def error(z: Tensor, y: Tensor) -> Tensor:
    """Return a − y as (1 − y) σ(z) − y σ(−z), which loses no digits where y and a are near 1."""
    return (1 - y) * torch.sigmoid(z) - y * torch.sigmoid(-z)


def delta(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    # σ′(z) as σ(z) σ(−z): 1 − σ(z) has lost its digits where a neuron is saturated.
    return product(w, error(z, y) * torch.sigmoid(z) * torch.sigmoid(-z))


def curvature(v: Tensor, z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    a, b = torch.sigmoid(z), torch.sigmoid(-z)
    return product(w, v * a * b * (a * b + error(z, y) * (b - a)))


def grad_y(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    return -product(w, error(*countable(z, y, w)))


CPP = """
template <class Real> struct Quadratic : Numbers<Real> {
  using Vec = Reals<Real>;
  inlined Vec cost(Vec z, Vec y, Vec) const {
    Vec error = Sigmoid<Real>(z).error(y);
    return Real(0.5) * error * error;
  }
  inlined Vec delta(Vec z, Vec y, Vec) const {
    Sigmoid<Real> sigmoid(z);
    return sigmoid.error(y) * sigmoid.slope();
  }
  inlined Vec slope(Vec z, Vec y, Vec) const {
    Sigmoid<Real> sigmoid(z);
    Vec slope = sigmoid.slope();
    return slope * (slope + sigmoid.error(y) * (sigmoid.one_minus_a - sigmoid.a));
  }
};
"""


def triton_cost(z, y, p, first, second):
    return 0.5 * sigmoid_error(z, y, p) * sigmoid_error(z, y, p)


def triton_delta(z, y, p, first, second):
    return sigmoid_error(z, y, p) * sigmoid(z) * sigmoid(-z)


def triton_slope(z, y, p, first, second):
    slope = sigmoid(z) * sigmoid(-z)
    return slope * (slope + sigmoid_error(z, y, p) * (sigmoid(-z) - sigmoid(z)))


def linear_cost(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    return product(w, linear_element_cost(*countable(z, y, w), w)).sum(-1)


def linear_element_cost(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    return 0.5 * (z - desired_outputs(y, z)).square()


def linear_error(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    return product(w, z - y)


def linear_curvature(v: Tensor, z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    return product(w, v)


def linear_grad_y(z: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    return -linear_error(z, y, w)


LINEAR_CPP = """
template <class Real> struct LinearQuadratic : Numbers<Real> {
  using Vec = Reals<Real>;
  inlined Vec cost(Vec z, Vec y, Vec) const { return Real(0.5) * (z - y) * (z - y); }
  inlined Vec delta(Vec z, Vec y, Vec) const { return z - y; }
  inlined Vec slope(Vec, Vec, Vec) const { return Vec{} + 1; }
};
"""


def triton_linear_cost(z, y, p, first, second):
    return 0.5 * (z - y) * (z - y)


def triton_linear_delta(z, y, p, first, second):
    return z - y


def triton_linear_slope(z, y, p, first, second):
    return 1.0


SIGMOID = CostFunction(
    CostSpec(
        name="quadratic",
        cost=cost,
        delta=delta,
        curvature=curvature,
        other_derivatives={"y": grad_y, "mask": element_cost},
        cpp=CPP,
        triton=(triton_cost, triton_delta, triton_slope),
        examples=({}, {"mask": torch.tensor([True, False, True])}),
    )
)
LINEAR = CostFunction(
    CostSpec(
        name="linear_quadratic",
        cost=linear_cost,
        delta=linear_error,
        curvature=linear_curvature,
        other_derivatives={"y": linear_grad_y, "mask": linear_element_cost},
        cpp=LINEAR_CPP,
        triton=(triton_linear_cost, triton_linear_delta, triton_linear_slope),
        examples=({"activation": "linear"},),
    )
)


def prepare(
    z: Tensor, y: Tensor, activation: str, mask: Tensor | None, dim: int | None
) -> tuple[CostFunction, tuple[Tensor | None, ...]]:
    z, y, mask = classes_last(dim, z, y, mask)
    y = check_arguments(z, y)
    check_element_weight("mask", mask, z)
    return (SIGMOID if activation == "sigmoid" else LINEAR), (z, y, mask)


@loss_function(mse_loss)
def quadratic(
    z: Tensor,
    y: Tensor,
    *,
    activation: str = "sigmoid",
    mask: Tensor | None = None,
    dim: int | None = None,
    reduction: Reduction = "mean",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The quadratic cost: K / 2 · `F.mse_loss(torch.sigmoid(z), y)`, or K / 2 · `F.mse_loss(z, y)`, for K neurons.

        C = ½ Σⱼ (aⱼ − yⱼ)²,    a = σ(z) or a = z,    δ = (a − y) σ′(z) or δ = a − y, written by hand

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., K).
        y: desired outputs, floating point, shape (..., K); or class indices, int64, shape (...), which stand for
            one-hot vectors.
        activation: "sigmoid" for a = σ(z), "linear" for a = z.
        mask: True where an element counts, bool, of a shape that broadcasts to z's. Where it is False, as for a label
            that is missing, the element costs nothing, whatever its z and y, and does not count in a mean.
        dim: the dimension of z, and of desired outputs, that holds the neurons; class indices lack it. None for the
            last; 1 for z of shape (N, K, H, W), which PyTorch's losses expect.
        reduction: "mean" for the chapter's C = (1/n) Σₓ Cₓ over examples x, those with an element that counts;
            "element_mean" for the mean over all elements that count, which is half of `F.mse_loss`; "sum" for Σₓ Cₓ;
            "none" for every Cₓ, shape (...).
        out_dtype: the dtype of the cost, such as torch.float32 for z in half precision; None for z's.

    Returns:
        The cost, of z's dtype (float32 under autocast) or `out_dtype`. The mean over nothing is nan, the sum 0.

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> z = torch.tensor([[0.0, 0.0]], requires_grad=True)
        >>> quadratic(z, torch.tensor([0])).backward()  # class 0 stands for (1, 0)
        >>> z.grad
        tensor([[-0.1250,  0.1250]])

    Source: Nielsen, section 3.1, equations (54)-(56) and (65) for "sigmoid", (68)-(70) for "linear".
    """
    return reduced_cost(prepare(z, y, activation, mask, dim), z, dim, reduction, out_dtype, mask)


class QuadraticCost(Cost):
    """The quadratic cost as a module: see `ce_torch.functional.quadratic` for its options.

    Example:
        >>> cost = QuadraticCost(activation="linear")
        >>> cost(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
        tensor(2.)
    """

    function, prepare = staticmethod(quadratic), staticmethod(prepare)
    cost_functions = SIGMOID, LINEAR

    def activation(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z) if self.fixed["activation"] == "sigmoid" else z
