"""A cost and its derivatives, all written by hand, made one function that keeps every promise of autograd.

What is saved for the backward pass is the weighted input, never an activation. Operations on saved *inputs* can be
differentiated again and are right; an activation saved by the forward pass would count as a constant in the second
derivative. σ and softmax are cheap to work out again, and nothing of z's size lives between forward and backward.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Formula = Callable[..., Tensor]


def hand_written(cost: Formula, *derivatives: Formula | None) -> Callable[..., Tensor]:
    """Return `cost`, differentiated by `derivatives` and not by autograd.

    `cost(*tensors, *constants)` is the cost of each example, shape (...), of z (..., C) and of tensors that broadcast
    to z. There is one derivative for each of the tensors, called with the same arguments; the first is δ = ∂C/∂z. It
    gives the terms, shape (..., C) or (..., 1), by which the tensor's elements change C, and is None where there is no
    derivative. The formulas work in float32 where z has half precision. Second derivatives are autograd's, of the
    formulas.
    """

    class HandWritten(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> Tensor:
            return cost(*widen(inputs))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            tensors, ctx.constants = inputs[: len(derivatives)], inputs[len(derivatives) :]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
            tensors = ctx.saved_tensors
            arguments = *widen(tensors), *ctx.constants
            gradients = [None] * len(ctx.needs_input_grad)
            for i, derivative in enumerate(derivatives):
                if ctx.needs_input_grad[i] and grad is not None:
                    gradients[i] = summed_like(tensors[i], grad.unsqueeze(-1) * derivative(*arguments))
            return tuple(gradients)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
            arguments = *widen(ctx.saved_tensors), *ctx.constants
            return sum(
                (derivative(*arguments) * tangent).sum(-1)
                for derivative, tangent in zip(derivatives, tangents, strict=False)
                if tangent is not None
            )

    # Dynamo counts forward's arguments, and PyTorch binds them faster from a signature at hand.
    HandWritten.forward.__signature__ = inspect.signature(cost)
    return in_every_form(HandWritten)


def in_every_form(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    """Return `function.apply` in the form that suits its caller; `function` has the form that `torch.func` takes."""

    class Compiled(function):
        # torch.compile(fullgraph=True) refuses every Function that defines jvp.
        jvp = staticmethod(torch.autograd.Function.jvp)

    class Eager(function):
        # With setup_context PyTorch binds forward's signature at every call, a third of a small batch's time.
        setup_context = staticmethod(torch.autograd.Function.setup_context)

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            output = function.forward(*inputs)
            function.setup_context(ctx, inputs, output)
            return output

    def apply(*inputs: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return Compiled.apply(*inputs)
        if torch._C._are_functorch_transforms_active():
            return function.apply(*inputs)
        return Eager.apply(*inputs)

    return apply


def widen(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return `inputs` with the floating tensors in float32 if z, the first, has half precision."""
    if inputs[0].dtype not in (torch.float16, torch.bfloat16):
        return inputs
    return tuple(
        input.float() if isinstance(input, Tensor) and input.is_floating_point() else input for input in inputs
    )


def summed_like(tensor: Tensor, gradient: Tensor) -> Tensor:
    """Return `gradient` as the gradient of `tensor`: summed where it was broadcast, of its dtype."""
    if gradient.shape != tensor.shape:
        gradient = gradient.sum_to_size(tensor.shape)
    return gradient.to(tensor.dtype)
