"""Questions about what a caller asks of autograd: numbers alone, or derivatives of what follows too."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._torch_private import (
    FakeTensor,
    FunctionalTensor,
    count_dispatch_modes,
    enable_forward_mode,
    is_batched,
    is_forward_mode,
    is_legacy_batched,
    is_transformed,
    primal,
    tracing_state,
)
from ce_torch.costs.kernels import is_plain
from ce_torch.costs.kernels.cpp import is_readable


def carry_tangents(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Let jvp(ctx, saved tensors, *tangents) be differentiated in forward mode, as when jacfwd goes over jacfwd.

    PyTorch calls jvp with forward mode off, so that there, silently, its derivatives would be 0.
    """

    @wraps(jvp)
    def differentiable(ctx: Any, *tangents: Any) -> Any:
        # The tangents of the mode that calls are not to count again.
        saved = [None if tensor is None else primal(tensor) for tensor in ctx.saved_tensors]
        with enable_forward_mode():
            return jvp(ctx, saved, *tangents)

    return differentiable


def only_values_matter(inputs: Sequence[Any]) -> bool:
    """Return True if no derivative, no trace and no transform of what follows from the inputs can be asked for."""
    tensors = (input for input in inputs if isinstance(input, Tensor))
    return not (
        torch.compiler.is_compiling()
        or tracing_state() is not None
        or is_transformed()
        or is_forward_mode()
        or count_dispatch_modes()
        or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def distinct(inputs: Sequence[Any]) -> Sequence[Any]:
    """Return the inputs, as `torch.compile` takes them: it refuses a tensor twice, but not a view of it."""
    if not torch.compiler.is_compiling():
        return inputs
    found: list[Any] = []
    for input in inputs:
        is_repeated = isinstance(input, Tensor) and any(input is other for other in found)
        found.append(input.view_as(input) if is_repeated else input)
    return found


def may_be_differentiated(grad_output: Tensor) -> bool:
    """Return True if more than the numbers of the gradient that follows from `grad_output` is asked for."""
    return (
        torch.is_grad_enabled()
        or is_forward_mode()
        or torch.compiler.is_compiling()  # compiled autograd traces a backward pass
        or is_transformed()
        or not (is_readable(grad_output) or (is_visible(grad_output) and not is_legacy_batched(grad_output)))
    )


def is_visible(input: Any) -> bool:
    """Return True for what operators support: plain tensors, fake ones, and what is no tensor."""
    return not isinstance(input, Tensor) or is_plain(input) or isinstance(input, (FakeTensor, FunctionalTensor))


def is_number(tensor: Tensor | None) -> bool:
    """Return True for a tensor, or None, that implementations take beside the inputs that they support."""
    if tensor is None or is_readable(tensor):
        return True
    return is_visible(tensor) and not is_legacy_batched(tensor) and not is_batched(tensor)
