"""The focal loss of sigmoid neurons: Lin et al., "Focal Loss for Dense Object Detection", 2017, equation (5).

    C = Σⱼ αⱼ mⱼ^γ Hⱼ        H = −[y ln a + (1 − y) ln(1 − a)],    a = σ(z)
                             m = a (1 − y) + (1 − a) y,    αⱼ = α y + (1 − α) (1 − y)
    δ = αⱼ m^γ [a − y + γ H (1 − 2y) a (1 − a) / m]

H is the chapter's cross-entropy, and m how wrong a neuron is: γ takes from the neurons that are nearly right.
"""

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ce_torch.costs._arguments import OPTIONS, check_arguments, check_element_weight, check_number, classes_last
from ce_torch.costs._call import loss_function
from ce_torch.costs._desired import desired_outputs
from ce_torch.costs._elements import Reduction, countable, reduced_cost
from ce_torch.costs._function import CostFunction
from ce_torch.costs._module import Cost
from ce_torch.costs._product import product
from ce_torch.costs._spec import CostSpec

if TYPE_CHECKING:
    import triton.language as tl

    from ce_torch.costs.kernels.gpu_kernels import element_cross_entropy, sigmoid, sigmoid_error, softplus

# In the formulas w is the mask, None for 1, and alpha is −1 for None.


def cost(z: Tensor, y: Tensor, w: Tensor | None, alpha: float, gamma: float) -> Tensor:
    return product(w, element_cost(*countable(z, y, w), w, alpha, gamma)).sum(-1)


def element_cost(z: Tensor, y: Tensor, w: Tensor | None, alpha: float, gamma: float) -> Tensor:
    """Return the cost of each neuron, which is the derivative by w."""
    y = desired_outputs(y, z)
    return product(balance(y, alpha) * power(wrongness(z, y), gamma), cross_entropy(z, y))


def delta(z: Tensor, y: Tensor, w: Tensor | None, alpha: float, gamma: float) -> Tensor:
    z, y = countable(z, y, w)
    factor = balance(y, alpha) * power(wrongness(z, y), gamma)
    slope = gamma * (1 - 2 * y) * product(ratio(z, y), cross_entropy(z, y))
    return product(w, factor * (error(z, y) + slope))


def curvature(v: Tensor, z: Tensor, y: Tensor, w: Tensor | None, alpha: float, gamma: float) -> Tensor:
    z, y = countable(z, y, w)
    a, b = torch.sigmoid(z), torch.sigmoid(-z)
    slope = (1 - 2 * y) * ratio(z, y)
    factor = balance(y, alpha) * power(wrongness(z, y), gamma)
    of_H = product(slope * (b - a) + (gamma - 1) * slope.square(), cross_entropy(z, y))
    return product(w, v * factor * (a * b + 2 * gamma * slope * error(z, y) + gamma * of_H))


def grad_y(z: Tensor, y: Tensor, w: Tensor | None, alpha: float, gamma: float) -> Tensor:
    z, y = countable(z, y, w)
    m, H = wrongness(z, y), cross_entropy(z, y)
    slope = 2 * alpha - 1 if alpha >= 0 else 0.0
    m_slope = product(gamma, torch.tanh(-z / 2) * product(H, power(m, gamma - 1)))
    by_balance, by_rest = product(slope, product(power(m, gamma), H)), m_slope - product(power(m, gamma), z)
    return product(w, by_balance + balance(y, alpha) * by_rest)


def balance(y: Tensor, alpha: float) -> Tensor:
    """Return α for desired outputs 1, 1 − α for 0."""
    return alpha * y + (1 - alpha) * (1 - y) if alpha >= 0 else torch.ones_like(y)


def wrongness(z: Tensor, y: Tensor) -> Tensor:
    """Return m."""
    return (1 - y) * torch.sigmoid(z) + y * torch.sigmoid(-z)


def power(m: Tensor, gamma: float) -> Tensor:
    """Return m^γ; where m underflows, 0 without a derivative, which would be infinite for γ < 1."""
    return m.pow(gamma) if gamma == 0 else m.masked_fill(m == 0, 1).pow(gamma).masked_fill(m == 0, 0)


def ratio(z: Tensor, y: Tensor) -> Tensor:
    """Return a (1 − a) / m: 1 − a for y = 0, and a for y = 1, also where m underflows."""
    a, b, m = torch.sigmoid(z), torch.sigmoid(-z), wrongness(z, y)
    vanishes = m == 0
    return torch.where(vanishes, torch.where(y == 0, b, a), a * b / m.masked_fill(vanishes, 1))


def error(z: Tensor, y: Tensor) -> Tensor:
    """Return a − y."""
    return (1 - y) * torch.sigmoid(z) - y * torch.sigmoid(-z)


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Return H of each neuron."""
    return -product(y, logsigmoid(z)) - product(1 - y, logsigmoid(-z))


CPP = """
template <class Real> struct Focal : Numbers<Real> {
  using Vec = Reals<Real>;
  struct Terms {
    Vec factor, H, ratio, error;
  };
  inlined Terms terms(Vec z, Vec y) const {
    Real alpha = Real(this->first), rest = Real(1 - this->first);
    Sigmoid<Real> sigmoid(z);
    Vec a = sigmoid.a, b = sigmoid.one_minus_a, m = (1 - y) * a + y * b, balance = Vec{} + 1;
    if (alpha >= 0) balance = alpha * y + rest * (1 - y);
    Vec log1p = log1p_of_fraction<Real>(exp_of_vector<Real>(negative<Real>(z)));
    Vec H = log1p + linear_part<Real>(z, y), ratio = y == 0 ? b : a;
    if (are_soft(y)) ratio = y == 0 ? b : y == 1 ? a : a * b / m;
    return {balance * power(m, z, y, log1p), H, ratio, sigmoid.error(y)};
  }
  // m^γ. Where y is 0 or 1, ln m is ln a or ln(1 − a), and keeps its digits.
  inlined Vec power(Vec m, Vec z, Vec y, Vec log1p) const {
    Real gamma = Real(this->second);
    if (gamma == 2) return m * m;
    if (gamma == 0) return Vec{} + 1;
    Vec minus_z = y == 1 ? z : -z, ln_m = -(log1p + (minus_z < 0 ? 0 : minus_z));
    if (are_soft(y)) ln_m = y == 0 || y == 1 ? ln_m : log_of_positive<Real>(m);
    return exp_of_vector<Real>(gamma * ln_m);
  }
  // True if any is neither 0 nor 1.
  inlined static bool are_soft(Vec y) { return bits<Real>((y != 0) & (y != 1)); }
  inlined Vec cost(Vec z, Vec y, Vec) const {
    Terms of = terms(z, y);
    return product<Vec>(of.factor, of.H);
  }
  inlined Vec delta(Vec z, Vec y, Vec) const {
    Terms of = terms(z, y);
    return of.factor * (of.error + Real(this->second) * (1 - 2 * y) * product<Vec>(of.ratio, of.H));
  }
  inlined Vec slope(Vec z, Vec y, Vec) const {
    Real gamma = Real(this->second);
    Sigmoid<Real> sigmoid(z);
    Terms of = terms(z, y);
    Vec a = sigmoid.a, b = sigmoid.one_minus_a, slope = (1 - 2 * y) * of.ratio;
    Vec of_H = product<Vec>(slope * (b - a) + (gamma - 1) * slope * slope, of.H);
    return of.factor * (a * b + 2 * gamma * slope * of.error + gamma * of_H);
  }
};
"""


def triton_factor(z, y, alpha, gamma):
    m = (1.0 - y) * sigmoid(z) + y * sigmoid(-z)
    ln_m = tl.where(y == 1, -softplus(z), tl.where(y == 0, -softplus(-z), tl.log(m)))
    alpha, rest = alpha
    balance = tl.where(alpha >= 0, alpha * y + rest * (1.0 - y), 1.0)
    return balance * tl.where(gamma == 0, 1.0, tl.exp(gamma * ln_m))


def triton_cost(z, y, p, alpha, gamma):
    return product(triton_factor(z, y, alpha, gamma), element_cross_entropy(z, y, p))


def triton_ratio(z, y):
    a = sigmoid(z)
    b = sigmoid(-z)
    m = (1.0 - y) * a + y * b
    return (1.0 - 2.0 * y) * tl.where(y == 0, b, tl.where(y == 1, a, a * b / tl.where(m == 0, 1.0, m)))


def triton_delta(z, y, p, alpha, gamma):
    of_H = product(triton_ratio(z, y), element_cross_entropy(z, y, p))
    return triton_factor(z, y, alpha, gamma) * (sigmoid_error(z, y, p) + gamma * of_H)


def triton_slope(z, y, p, alpha, gamma):
    ratio = triton_ratio(z, y)
    of_H = ratio * (sigmoid(-z) - sigmoid(z)) + (gamma - 1.0) * ratio * ratio
    of_m = 2.0 * ratio * sigmoid_error(z, y, p) + product(of_H, element_cross_entropy(z, y, p))
    return triton_factor(z, y, alpha, gamma) * (sigmoid(z) * sigmoid(-z) + gamma * of_m)


FOCAL = CostFunction(
    CostSpec(
        name="focal",
        cost=cost,
        delta=delta,
        curvature=curvature,
        other_derivatives={"y": grad_y, "mask": element_cost},
        cpp=CPP,
        triton=(triton_cost, triton_delta, triton_slope, triton_factor, triton_ratio),
        examples=({}, {"alpha": None, "gamma": 1.5}, {"mask": torch.tensor([True, False, True])}),
    )
)


def check_alpha(alpha: float | None) -> float | None:
    return None if alpha is None else check_number("alpha", (float, int), 0, 1, "a number from 0 to 1, or None", alpha)


OPTIONS.update(
    alpha=check_alpha,
    gamma=partial(check_number, "gamma", (float, int), 0, sys.float_info.max, "a finite number of at least 0"),
)


def prepare(
    z: Tensor, y: Tensor, alpha: float | None, gamma: float, mask: Tensor | None, dim: int | None
) -> tuple[CostFunction, tuple[Any, ...]]:
    z, y, mask = classes_last(dim, z, y, mask)
    y = check_arguments(z, y)
    check_element_weight("mask", mask, z)
    return FOCAL, (z, y, mask, -1.0 if alpha is None else float(alpha), float(gamma))


@loss_function()
def focal(
    z: Tensor,
    y: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    mask: Tensor | None = None,
    dim: int | None = None,
    reduction: Reduction = "mean",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The focal loss of sigmoid neurons: K · `torchvision.ops.sigmoid_focal_loss`, its mean, for K neurons.

    It is the cross-entropy, with less of neurons that are nearly right. Where alpha is None here it is −1 there.
    Research code may call this one `sigmoid_focal_loss`, the same function.

        C = Σⱼ αⱼ mⱼ^γ Hⱼ,    m = |a − y| for y of 0 or 1,    H the cross-entropy of a neuron,    a = σ(z)

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., K).
        y: desired outputs in [0, 1], floating point, shape (..., K); or class indices, int64, shape (...), which
            stand for one-hot vectors.
        alpha: the weight of neurons with y = 1, from 0 to 1; those with y = 0 have 1 − alpha. None for no weights.
        gamma: at least 0, how much less neurons count that are nearly right. For 0 it is the cross-entropy.
        mask: True where an element counts, bool, of a shape that broadcasts to z's. Where it is False, as for an anchor
            that matches nothing, the element costs nothing, whatever its z and y, and does not count in a mean.
        dim: the dimension of z, and of desired outputs, that holds the neurons; class indices lack it. None for the
            last; 1 for z of shape (N, K, H, W), which PyTorch's losses expect.
        reduction: "mean" for the chapter's C = (1/n) Σₓ Cₓ over examples x, those with an element that counts;
            "element_mean" for the mean over all elements that count, which is torchvision's; "sum" for Σₓ Cₓ; "none"
            for every Cₓ, shape (...).
        out_dtype: the dtype of the cost, such as torch.float32 for z in half precision; None for z's.

    Returns:
        The cost, of z's dtype (float32 under autocast) or `out_dtype`. The mean over nothing is nan, the sum 0.

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> z = torch.tensor([[0.0, 4.0]], requires_grad=True)
        >>> focal(z, torch.tensor([[0.0, 1.0]]), alpha=None).backward()  # the second neuron is nearly right
        >>> z.grad
        tensor([[ 2.9829e-01, -1.7351e-05]])

    Source: Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", 2017.
    """
    return reduced_cost(prepare(z, y, alpha, gamma, mask, dim), z, dim, reduction, out_dtype, mask)


class FocalCost(Cost):
    """The focal loss as a module: see `ce_torch.functional.focal` for its options.

    Example:
        >>> cost = FocalCost(gamma=0, alpha=None)
        >>> cost(torch.tensor([[0.0]]), torch.tensor([[1.0]]))  # ln 2
        tensor(0.6931)
    """

    function, prepare = staticmethod(focal), staticmethod(prepare)
    cost_functions = (FOCAL,)

    def activation(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)
