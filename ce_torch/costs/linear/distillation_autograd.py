"""The divergence of a student from its teacher as a function that keeps every promise of autograd.

Its gradients come with it, by blocks. What else is to be differentiated takes whole z, and is autograd's.
"""

from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._autograd import may_be_differentiated
from ce_torch.costs._backend import record
from ce_torch.costs._product import product
from ce_torch.costs._reduction import quotient
from ce_torch.costs._torch_private import (
    count_dispatch_modes,
    has_saved_tensor_hooks,
    is_forward_mode,
    is_transformed,
    tracing_state,
)
from ce_torch.costs.kernels import NOT_PLAIN, is_plain
from ce_torch.costs.linear.distillation_blocks import Distillation, Inputs, value_and_gradients, whole_value


def reduced_cost(inputs: Inputs, how: Distillation, factor: Tensor, reduction: str) -> Tensor:
    """Return the mean, sum, or factor · D of each example, shape (N,)."""
    n = factor.sum()
    reason = refusal(inputs)
    if reason is None and reduction != "none" and not factor.requires_grad and not has_saved_tensor_hooks():
        record("blocks", "the gradients are worked out with the cost")
        C = LinearDivergence.apply(how, factor / n if reduction == "mean" else factor, *inputs)
        return torch.where(n == 0, torch.nan, C) if reduction == "mean" else C
    if reason is None:
        record("blocks", "the gradients are not worked out with the cost")
        D = LinearDivergence.apply(how, None, *inputs)
    else:
        if not torch.compiler.is_compiling():
            record("formulas", f"blocks: {reason}")
        D = whole_value(inputs, how)
    C = product(factor, D)
    if reduction == "none":
        return C
    return quotient(C.sum(), n) if reduction == "mean" else C.sum()


def refusal(inputs: Inputs) -> str | None:
    """Return why the cost is not computed by blocks, or None if it is."""
    if torch.compiler.is_compiling() or tracing_state() is not None:
        return "a compiler or tracer records operations"
    if is_transformed() or is_forward_mode():
        return "torch.func or forward mode differentiates the cost"
    if count_dispatch_modes():
        return "a dispatch mode is active"
    return None if all(is_plain(tensor) for tensor in inputs if tensor is not None) else NOT_PLAIN


class LinearDivergence(torch.autograd.Function):
    """Σ factor · D over the examples, whose gradients come with it; without a factor, D of each example."""

    @staticmethod
    def forward(ctx: Any, how: Distillation, factor: Tensor | None, *inputs: Any) -> Tensor:
        ctx.save_for_backward(factor, *inputs)
        ctx.how, ctx.needs = how, ctx.needs_input_grad[2:]
        D, ctx.gradients = value_and_gradients(Inputs(*inputs), factor, how, ctx.needs)
        return D if factor is None else product(factor, D).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (g,), (factor, *tensors) = grad_outputs, ctx.saved_tensors
        inputs, found, ctx.gradients = Inputs(*tensors), ctx.gradients, None
        if may_be_differentiated(g):
            return (
                None,
                None,
                *differentiable_gradients(g if factor is None else g * factor, inputs, ctx.how, ctx.needs),
            )
        if factor is None:
            return None, None, *value_and_gradients(inputs, g, ctx.how, ctx.needs)[1]
        if found is None:
            # Another backward pass over the graph: what the first one returned is not ours any more.
            found = value_and_gradients(inputs, factor, ctx.how, ctx.needs)[1]
        if not g.is_cpu or g.item() != 1:
            found = [None if gradient is None else gradient.mul_(g) for gradient in found]
        return None, None, *found


def differentiable_gradients(
    g: Tensor, inputs: Inputs, how: Distillation, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of Σ g D as autograd derives them from whole z, so that they can be differentiated."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, since a weight may depend on another input: only what the layer itself does is to be differentiated.
        inputs = Inputs(*(tensor.view_as(tensor) if tensor is not None else None for tensor in inputs))  # pyright: ignore[reportArgumentType]
        needed = [tensor for tensor, is_needed in zip(inputs, needs, strict=True) if is_needed and tensor is not None]
        found = iter(torch.autograd.grad(whole_value(inputs, how), needed, g, create_graph=create_graph))
    return tuple(next(found) if is_needed else None for is_needed in needs)
