"""Costs with random options, and how they and their δ change in a direction, in every mode of autograd."""

import random
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp

from ce_torch.costs._reduction import reduce
from ce_torch.costs._registry import COSTS

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(3,), (4, 1), (5, 37), (2, 3, 2, 8), (3, 2100), (40, 7)]


class Example(NamedTuple):
    """A cost with random options, its arguments, and a direction."""

    name: str
    z: Tensor
    y: Tensor
    v: Tensor
    options: dict[str, Any]

    def to(self, device: str) -> Self:
        """Return the same on a device."""
        options = {k: option.to(device) if isinstance(option, Tensor) else option for k, option in self.options.items()}
        return type(self)(self.name, *(tensor.to(device) for tensor in self[1:4]), options)

    def __call__(self, z: Tensor) -> Tensor:
        return COSTS[self.name].function(z, self.y, **self.options)

    def exactly(self, z: Tensor) -> Tensor:
        """The cost by its formula, which autograd differentiates."""
        options = {**COSTS[self.name].defaults, **self.options}
        reduction = options.pop("reduction")
        options.pop("out_dtype")
        options = {k: o.double() if isinstance(o, Tensor) else o for k, o in options.items()}
        function, inputs = COSTS[self.name].prepare(z, in_float64(self.y), **options)
        return reduce(reduction, function.spec.cost(*inputs), function.spec.counted(*inputs))


def in_float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def example(seed: int) -> Example:
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape, dtype, name = choose.choice(SHAPES), choose.choice(DTYPES), choose.choice([*COSTS])
    steps = choose.choice([torch.Tensor.contiguous, lambda tensor: tensor.mT.contiguous().mT])
    z, v = (
        steps(torch.randn(1, *shape, generator=generator, dtype=torch.float64).mul(2).to(dtype))[0] for _ in range(2)
    )
    y = torch.rand(shape, generator=generator).to(choose.choice([dtype, torch.float32]))
    has_classes = choose.random() < 0.5
    y = y.argmax(-1) if has_classes else y
    factors = torch.rand(shape[-1], generator=generator).to(dtype)
    options = {
        "quadratic": {"activation": choose.choice(["sigmoid", "linear"])},
        "cross_entropy": {"weight": factors, "pos_weight": 3 - factors},
        "focal": {"alpha": choose.choice([None, 0.25]), "gamma": choose.choice([0.0, 0.5, 2.0])},
        "log_likelihood": {
            "weight": factors,
            "temperature": choose.choice([1.0, 0.5, 3.0]),
            "label_smoothing": choose.choice([0.0, 0.2]),
            **({"ignore_index": 1} if has_classes and y.ne(1).any() else {}),
        },
    }[name]
    kept = {option: value for option, value in options.items() if choose.random() < 0.6}
    return Example(name, z, y, v, {"reduction": choose.choice(["mean", "sum", "none"]), **kept})


def along(cost: Any, z: Tensor, v: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(cost(forward_ad.make_dual(z, v))).tangent


def upstream(C: Tensor) -> Tensor:
    return torch.linspace(1, 2, C.numel(), dtype=C.dtype).view(C.shape)


def twice(cost: Any, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of v · ∂C/∂z, by what reaches C and by z."""
    z = z.detach().requires_grad_()
    C = cost(z)
    g = upstream(C).requires_grad_()
    (delta,) = torch.autograd.grad(C, z, g, create_graph=True)
    return torch.autograd.grad(delta, (g, z), v, materialize_grads=True)


def forward_over_backward(cost: Any, z: Tensor, v: Tensor) -> Tensor:
    return jvp(grad(lambda z: (C := cost(z)).mul(upstream(C)).sum()), (z,), (v,))[1]


def backward_over_backward(cost: Any, z: Tensor, v: Tensor) -> Tensor:
    first = grad(lambda z: (C := cost(z)).mul(upstream(C)).sum())
    return grad(lambda z: (first(z) * v).sum())(z)


def transformed(cost: Any, z: Tensor, v: Tensor) -> Tensor:
    return jvp(cost, (z,), (v,))[1]


MODES = along, transformed, twice, forward_over_backward, backward_over_backward


def check(mode: Any, case: Example) -> None:
    """Assert that a mode finds what it finds in float64 for the cost's formula."""
    found = mode(case, case.z, case.v)
    right = mode(case.exactly, case.z.double(), case.v.double())
    for one, exact in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, right)), strict=True):
        rounding = max(torch.finfo(one.dtype).eps, torch.finfo(case.z.dtype).eps if one.ndim else 0)
        size = exact.abs().max().item() + case.v.double().abs().max().item() / 8
        torch.testing.assert_close(one.double(), exact, rtol=0, atol=32 * rounding * size)
