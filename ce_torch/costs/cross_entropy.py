"""The cross-entropy cost of sigmoid neurons: Nielsen, section 3.1, equations (57)-(67) and (71)-(77).

    C = −Σⱼ [yⱼ ln aⱼ + (1 − yⱼ) ln(1 − aⱼ)],    a = σ(z)        δ = a − y

No factor σ′(z) is left in δ: the more wrong a neuron, the faster it learns.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from ce_torch.costs._arguments import check_arguments, check_element_weight, classes_last
from ce_torch.costs._call import loss_function
from ce_torch.costs._desired import desired_outputs
from ce_torch.costs._elements import Reduction, countable, reduced_cost
from ce_torch.costs._function import CostFunction
from ce_torch.costs._module import Cost
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs._product import product
from ce_torch.costs._spec import CostSpec

if TYPE_CHECKING:
    from ce_torch.costs.kernels.gpu_kernels import element_cross_entropy, sigmoid, sigmoid_error

# In the formulas w is `weight`, p is `pos_weight`, None for 1; ln a is ln σ(z), ln(1 − a) is ln σ(−z), 1 − a is σ(−z):
# they keep their digits where a is near 0 or 1.


def cost(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    return product(w, element_cost(z, y, p)).sum(-1)


def element_cost(z: Tensor, y: Tensor, p: Tensor | None) -> Tensor:
    return -product(product(p, y), logsigmoid(z)) - product(1 - y, logsigmoid(-z))


def delta(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    return product(w, (1 - y) * torch.sigmoid(z) - product(p, y) * torch.sigmoid(-z))


def curvature(v: Tensor, z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    return product(w, v * torch.sigmoid(z) * torch.sigmoid(-z) * (1 - y + product(p, y)))


def grad_y(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    return product(w, -z if p is None else logsigmoid(-z) - product(p, logsigmoid(z)))


def grad_weight(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    return element_cost(z, desired_outputs(y, z), p)


def grad_pos_weight(z: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
    z, y = countable(z, y, w)
    return -product(product(w, y), logsigmoid(z))


CPP = """
template <class Real> struct CrossEntropy : Numbers<Real> {
  using Vec = Reals<Real>;
  inlined Vec cost(Vec z, Vec y, Vec p) const {
    Vec log1p = log1p_of_fraction<Real>(u(z));
    return product<Vec>(1 - y, log1p + (z < 0 ? 0 : z)) + product<Vec>(p * y, log1p + (z < 0 ? -z : 0));
  }
  // Without weights it is linear(z, y) + ln(1 + u).
  inlined Vec linear(Vec z, Vec y) const { return linear_part<Real>(z, y); }
  inlined Vec u(Vec z) const { return exp_of_vector<Real>(negative<Real>(z)); }
  inlined Vec delta(Vec z, Vec y, Vec p) const {
    Sigmoid<Real> sigmoid(z);
    return (1 - y) * sigmoid.a - p * y * sigmoid.one_minus_a;
  }
  inlined Vec slope(Vec z, Vec y, Vec p) const {
    Sigmoid<Real> sigmoid(z);
    return sigmoid.a * sigmoid.one_minus_a * (1 - y + p * y);
  }
};
"""


def triton_cost(z, y, p, first, second):
    return element_cross_entropy(z, y, p)


def triton_delta(z, y, p, first, second):
    return sigmoid_error(z, y, p)


def triton_slope(z, y, p, first, second):
    return sigmoid(z) * sigmoid(-z) * (1.0 - y + p * y)


CROSS_ENTROPY = CostFunction(
    CostSpec(
        name="cross_entropy",
        cost=cost,
        delta=delta,
        curvature=curvature,
        other_derivatives={"y": grad_y, "weight": grad_weight, "pos_weight": grad_pos_weight},
        cpp=CPP,
        triton=(triton_cost, triton_delta, triton_slope),
        examples=(
            {},
            {"weight": torch.tensor([0.5, 1.0, 2.0]), "pos_weight": torch.tensor([3.0, 0.1, 1.0])},
            {"mask": torch.tensor([True, False, True])},
        ),
    )
)


def prepare(
    z: Tensor, y: Tensor, weight: Tensor | None, pos_weight: Tensor | None, mask: Tensor | None, dim: int | None
) -> tuple[CostFunction, tuple[Tensor | None, ...]]:
    z, y, weight, pos_weight, mask = classes_last(dim, z, y, weight, pos_weight, mask)
    y = check_arguments(z, y)
    check_element_weight("weight", weight, z)
    check_element_weight("pos_weight", pos_weight, z)
    check_element_weight("mask", mask, z)
    if mask is not None:
        # Of a gradient that is summed where the weight broadcasts the sum is what is rounded.
        weight = mask if weight is None else weight.to(compute_dtype(z)).masked_fill(~mask, 0)
    return CROSS_ENTROPY, (z, y, weight, pos_weight)


@loss_function(binary_cross_entropy_with_logits)
def cross_entropy(
    z: Tensor,
    y: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    mask: Tensor | None = None,
    dim: int | None = None,
    reduction: Reduction = "mean",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The cross-entropy cost of sigmoid neurons: K · `F.binary_cross_entropy_with_logits(z, y)` for K neurons.

    It is not `F.cross_entropy`, which is of a softmax layer: that is `log_likelihood`. Research code may call this one
    `sigmoid_cross_entropy`, the same function.

        C = −Σⱼ wⱼ [pⱼ yⱼ ln aⱼ + (1 − yⱼ) ln(1 − aⱼ)],    a = σ(z),    δ = a − y, written by hand

    It is exact for every z, where the formula in a gives nan or inf; for z = ±inf it is the limit. For y between 0 and
    1 its minimum is the binary entropy of y, equation (64).

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., K). One dimension is one example: n examples
            of one neuron have shape (n, 1).
        y: desired outputs in [0, 1], floating point, shape (..., K); or class indices, int64, shape (...), which
            stand for one-hot vectors.
        weight: w, a factor for each neuron's cost, floating point, of a shape that broadcasts to z's. For 0 the neuron
            costs nothing, whatever its z and y.
        pos_weight: p, a factor for the part of the cost that belongs to y, as `weight`.
        mask: True where an element counts, bool, of a shape that broadcasts to z's. Where it is False, as for a label
            that is missing, the element costs nothing, whatever its z and y, and does not count in a mean. With
            `weight` too, the product of both is kept until the backward pass.
        dim: the dimension of z, and of desired outputs, that holds the neurons; class indices lack it. None for the
            last; 1 for z of shape (N, K, H, W), which PyTorch's losses expect.
        reduction: "mean" for the chapter's C = (1/n) Σₓ Cₓ over examples x, those with an element that counts;
            "element_mean" for the mean over all elements that count, which is the mean of
            `F.binary_cross_entropy_with_logits`; "sum" for Σₓ Cₓ; "none" for every Cₓ, shape (...).
        out_dtype: the dtype of the cost, such as torch.float32 for z in half precision; None for z's.

    Returns:
        The cost, of z's dtype (float32 under autocast) or `out_dtype`. The mean over nothing is nan, the sum 0.

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> z = torch.tensor([[0.0, 1000.0]], requires_grad=True)
        >>> cross_entropy(z, torch.tensor([0])).backward()  # class 0 stands for (1, 0)
        >>> z.grad
        tensor([[-0.5000,  1.0000]])

    Source: Nielsen, section 3.1, equations (57)-(67).
    """
    return reduced_cost(prepare(z, y, weight, pos_weight, mask, dim), z, dim, reduction, out_dtype, mask)


class CrossEntropyCost(Cost):
    """The cross-entropy cost as a module: see `ce_torch.functional.cross_entropy` for its options.

    Example:
        >>> cost = CrossEntropyCost()
        >>> cost.delta(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([[-0.5000,  0.5000]])
    """

    function, prepare = staticmethod(cross_entropy), staticmethod(prepare)
    cost_functions = (CROSS_ENTROPY,)

    def activation(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)
