"""The promises that PyTorch's own losses keep and break, for docs/peers.md, which is about torch 2.14 alone."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vmap
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
WEIGHT = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def backend() -> None:
    """Nothing here runs our costs."""


def unchunked(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(x @ WEIGHT.T, y)


def chunked(x: Tensor, y: Tensor, **options: bool) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2, **options)
    return F.linear_cross_entropy(x, WEIGHT, y, options=options)


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 8, dtype=torch.float64, generator=generator)
    return x, torch.randint(50, (6,), generator=generator)


def second_derivative(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), x)[0]


def gradient_of_a_retained_graph(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    x = x.requires_grad_()
    C = loss(x, y)
    torch.autograd.grad(C, x, retain_graph=True)
    return torch.autograd.grad(C, x)[0]


def directional_derivative(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    return jvp(lambda x: loss(x, y), (x,), (torch.ones_like(x),))[1]


def per_example_gradients(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    return vmap(grad(lambda x, y: loss(x[None], y[None])))(x, y)


def compiled(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    return torch.compile(loss, fullgraph=True, backend="eager")(x.requires_grad_(), y)


RAISE = {
    "second derivative": second_derivative,
    "retained graph": gradient_of_a_retained_graph,
    "per-example gradients": per_example_gradients,
    "jacobian": lambda loss, x, y: jacrev(loss)(x, y),
    "hessian": lambda loss, x, y: hessian(loss)(x, y),
    "compiled": compiled,
}
in_the_table = pytest.mark.skipif(
    not torch.__version__.startswith("2.14."), reason="docs/peers.md is about F.linear_cross_entropy of torch 2.14"
)


@pytest.mark.parametrize("promise", [*RAISE.values(), directional_derivative], ids=[*RAISE, "forward mode"])
def test_f_cross_entropy_keeps_the_promises_of_autograd(promise) -> None:
    assert promise(unchunked, *examples()).abs().sum() > 0


@in_the_table
@pytest.mark.parametrize("promise", RAISE.values(), ids=RAISE)
def test_chunked_linear_cross_entropy_raises(promise) -> None:
    with pytest.raises(RuntimeError):
        promise(chunked, *examples())


@in_the_table
def test_chunked_linear_cross_entropy_has_no_forward_mode_and_does_not_say_so() -> None:
    assert directional_derivative(chunked, *examples()) == 0
    assert directional_derivative(unchunked, *examples()) != 0


@in_the_table
def test_chunked_linear_cross_entropy_that_retains_its_graph_has_wrong_second_derivatives_and_does_not_say_so() -> None:
    def second_derivative_of_square(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
        return second_derivative(lambda x, y: loss(x, y) ** 2, x, y)

    right = second_derivative_of_square(unchunked, *examples())
    wrong = second_derivative_of_square(partial(chunked, allow_retain_graph=True), *examples())
    assert not torch.allclose(wrong, right, rtol=0.1)
