"""How the benchmarks differentiate a loss: forward and backward, twice, forward mode, and by example; and compiled."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor], object]


def eager(loss: Loss) -> Step:
    def step(z: Tensor, y: Tensor) -> None:
        # A copy: Liger writes the gradient into the weighted inputs.
        z = (z.clone() if getattr(loss, "__module__", "").startswith("liger") else z).detach().requires_grad_()
        loss(z, y).backward()

    return step


def compiled(loss: Loss) -> Step:
    return eager(compile_afresh(loss))


def compile_afresh(step: Callable[..., Any]) -> Callable[..., Any]:
    torch.compiler.reset()  # Dynamo compiles a function for a few options only.
    return torch.compile(step, dynamic=False)


def second(loss: Loss) -> Step:
    """Differentiate the gradient's product with a tensor once more."""

    def step(z: Tensor, y: Tensor) -> None:
        z = z.detach().requires_grad_()
        (delta,) = torch.autograd.grad(loss(z, y), z, create_graph=True)
        torch.autograd.grad(delta, z, torch.ones_like(delta))

    return step


def forward(loss: Loss, wrapper: Callable[[Any], Any] = lambda step: step) -> Step:
    """Follow a direction that is there before, as that of a layer before the loss is."""
    along = wrapper(lambda z, y, v: torch.func.jvp(lambda z: loss(z, y), (z,), (v,)))
    v = torch.empty(0)

    def step(z: Tensor, y: Tensor) -> None:
        nonlocal v
        if v.shape != z.shape or v.dtype != z.dtype:
            v = torch.ones_like(z)
        along(z, y, v)

    return step


def vmap(loss: Loss) -> Step:
    """Give each example a gradient of its own."""
    return torch.func.vmap(torch.func.grad(lambda z, y: loss(z[None], y[None])))


def second_by_func(loss: Loss) -> Step:
    """Do what `second` does, as it can be compiled."""
    return lambda z, y: torch.func.grad(lambda z: torch.func.grad(loss)(z, y).sum())(z)


MODES: dict[str, Callable[[Loss], Step]] = {
    "eager": eager,
    "compiled": compiled,
    "second": second,
    "forward": forward,
    "vmap": vmap,
    "compiled_second": lambda loss: compile_afresh(second_by_func(loss)),
    "compiled_forward": lambda loss: forward(loss, compile_afresh),
    "compiled_vmap": lambda loss: compile_afresh(vmap(loss)),
}
