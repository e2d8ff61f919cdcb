"""A cost and its derivatives, all written by hand, made one function that keeps every promise of autograd.

What is saved for the backward pass is the weighted input, never an activation. Operations on saved *inputs* can be
differentiated again and are right; an activation saved by the forward pass would count as a constant in the second
derivative. σ and softmax are cheap to work out again, and nothing of z's size lives between forward and backward.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ce_torch.costs._backend import choose, tell
from ce_torch.costs._precision import wide, widen
from ce_torch.costs._product import product
from ce_torch.costs._reduction import reduce, unreduce
from ce_torch.costs.kernels import Fast, is_plain, memory_is_all
from ce_torch.costs.kernels.blocks import by_blocks

Formula = Callable[..., Tensor]


def all_count(*inputs: Any) -> None:
    """Say that every example counts in the mean."""


def hand_written(
    cost: Formula, *derivatives: Formula, counts: Callable[..., Tensor | None] = all_count, fast: Sequence[Fast] = ()
) -> Callable[..., Tensor]:
    """Return `cost` and its reduction, differentiated by `derivatives` and not by autograd.

    `cost(*tensors, *constants)` is the cost of each example, shape (...), of z (..., K), of y, classes (...) or desired
    outputs, and of tensors that broadcast to z, each of which may be None. There is one derivative for each of the
    tensors, called with the same arguments; the first is δ = ∂C/∂z. It gives the terms, shape (..., K), by which the
    tensor's elements change C. The formulas work in float64 where z has it, else in float32. Second derivatives are
    autograd's, of the formulas. The function returned takes the reduction first, and returns what the formulas return,
    reduced; its `delta` takes the inputs and returns δ of each example. `counts` says which examples count in the
    mean: 1 or 0 for each, shape (...), or None for all.

    Where C and δ are only worked out, and not differentiated again, the first way in `fast` that takes the inputs does
    it, or else, for large z on the CPU, the formulas by blocks.
    """

    class HandWritten(torch.autograd.Function):
        @staticmethod
        def forward(reduction: str, *inputs: Any) -> Tensor:
            return reduce(reduction, cost(*widen(inputs)), counts(*inputs))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.reduction, *inputs = inputs
            tensors, ctx.constants = inputs[: len(derivatives)], inputs[len(derivatives) :]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
            gradients = [None] * len(ctx.needs_input_grad)
            if grad is None:
                return tuple(gradients)
            tensors = ctx.saved_tensors
            of_example = unreduce(grad, ctx.reduction, tensors[0], counts(*tensors, *ctx.constants))
            # Once for all derivatives: of the gradients of tensors in half precision the sum is what is rounded.
            arguments = *widen(tensors), *ctx.constants
            for i, (tensor, derivative) in enumerate(zip(tensors, derivatives, strict=True), start=1):
                if ctx.needs_input_grad[i]:
                    gradients[i] = summed_like(tensor, product(of_example, derivative(*arguments)))
            return tuple(gradients)

        @staticmethod
        @nested
        def jvp(ctx: Any, tensors: list[Tensor | None], _: None, *tangents: Tensor | None) -> Tensor:
            arguments = *widen(tensors), *ctx.constants
            changes = (
                product(tangent, derivative(*arguments)).sum(-1)
                for derivative, tangent in zip(derivatives, tangents, strict=False)
                if tangent is not None
            )
            return reduce(ctx.reduction, sum(changes), counts(*tensors, *ctx.constants))

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], reduction: str, *inputs: Any) -> tuple[Tensor, int]:
            # A batch of costs is one cost of more examples, which takes the same ways as any other.
            z, z_dim = inputs[0], in_dims[1]
            shape = info.batch_size, *(z.shape if z_dim is None else z.movedim(z_dim, 0).shape[1:])
            inputs = [batched(*input, shape) for input in zip(inputs, in_dims[1:], strict=True)]
            C, n = apply("none", *inputs), counts(*inputs)
            return torch.vmap(partial(reduce, reduction), in_dims=(0, None if n is None else 0))(C, n), 0

    # Dynamo counts forward's arguments, and PyTorch binds them faster from a signature at hand.
    reduction = inspect.Parameter("reduction", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    HandWritten.forward.__signature__ = inspect.Signature([reduction, *inspect.signature(cost).parameters.values()])
    ways = *fast, by_blocks(cost, derivatives[0], counts)
    apply = in_every_form(HandWritten, ways)
    apply.delta = partial(delta_of_examples, derivatives[0], ways)
    return apply


def nested(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Let jvp(ctx, saved tensors, *tangents) be differentiated in forward mode, as when jacfwd goes over jacfwd.

    PyTorch calls jvp with forward mode off, so that there, silently, its derivatives would be 0.
    """

    @wraps(jvp)
    def differentiable(ctx: Any, *tangents: Any) -> Any:
        # The tangents of the mode that calls are not to count again.
        saved = [None if tensor is None else primal(tensor) for tensor in ctx.saved_tensors]
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(ctx, saved, *tangents)

    return differentiable


def primal(tensor: Tensor) -> Tensor:
    """Return the tensor without its tangent; `vmap` has no rule for that."""
    functorch = torch._C._functorch
    if functorch.is_batchedtensor(tensor):
        dim, level = functorch.maybe_get_bdim(tensor), functorch.maybe_get_level(tensor)
        return functorch._add_batch_dim(primal(functorch.get_unwrapped(tensor)), dim, level)
    return forward_ad.unpack_dual(tensor).primal


def delta_of_examples(formula: Formula, fast: Sequence[Fast], *inputs: Any) -> Tensor:
    """Return δ of each example, shaped like z and of its dtype: by a faster way, where only its numbers count."""
    z = inputs[0]
    way = choose(fast, inputs, more_gradients=False) if numbers_suffice(inputs) else None
    if way is None:
        return formula(*widen(inputs)).to(z.dtype)
    return way.delta(torch.ones(z.shape[:-1], dtype=wide(z), device=z.device), None, "none", *inputs)


def numbers_suffice(inputs: Sequence[Any]) -> bool:
    """Whether of what follows from the inputs only the numbers can be asked for."""
    tensors = (input for input in inputs if isinstance(input, Tensor))
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def in_every_form(function: type[torch.autograd.Function], fast: Sequence[Fast]) -> Callable[..., Tensor]:
    """Return `function.apply` in the form that suits its caller; `function` has the form that `torch.func` takes."""

    class Compiled(function):
        # torch.compile(fullgraph=True) refuses every Function that defines jvp.
        jvp = staticmethod(torch.autograd.Function.jvp)

    class Eager(function):
        # With setup_context PyTorch binds forward's signature at every call, a third of a small batch's time.
        setup_context = staticmethod(torch.autograd.Function.setup_context)

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            function.setup_context(ctx, inputs, None)
            ctx.way = way = choose(fast, inputs[1:], any(ctx.needs_input_grad[2:]))
            if way is None:
                return function.forward(*inputs)
            C, ctx.sums = way.cost(*inputs)
            # Hooks may give back other tensors than were saved.
            ctx.hooked = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
            return C

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
            if ctx.way is None or grad is None or may_be_differentiated(grad):
                return function.backward(ctx, grad)
            inputs = *ctx.saved_tensors, *ctx.constants
            if ctx.hooked:
                if ctx.way.refusal(*inputs) is not None:
                    return function.backward(ctx, grad)
                _, ctx.sums = ctx.way.cost("none", *inputs)
            delta = ctx.way.delta(grad, ctx.sums, ctx.reduction, *inputs)
            return None, delta, *(None,) * (len(inputs) - 1)

    def apply(*inputs: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return Compiled.apply(*inputs)
        if torch._C._get_tracing_state() is not None:
            # A trace holds operations, not functions of Python; autograd differentiates them.
            return function.forward(*inputs)
        if torch._C._are_functorch_transforms_active():
            tell("formulas", "torch.func transforms the cost")
            return function.apply(*inputs)
        return Eager.apply(*inputs)

    return apply


def batched(input: Any, dim: int | None, shape: tuple[int, ...]) -> Any:
    """Return `input` with the batch, its dimension `dim`, first, such that it still broadcasts to z, now of `shape`."""
    if not isinstance(input, Tensor):
        return input
    input = input.expand(shape[0], *input.shape) if dim is None else input.movedim(dim, 0)
    if not input.is_floating_point():
        return input
    return input.reshape(shape[0], *(1,) * (len(shape) - input.ndim), *input.shape[1:])


def may_be_differentiated(grad: Tensor) -> bool:
    """Whether more than the numbers of the gradient that follows from `grad` is asked for."""
    return (
        torch.is_grad_enabled()
        or forward_ad._current_level >= 0
        or not is_plain(grad)
        or not memory_is_all()
        or torch.compiler.is_compiling()  # a backward pass that compiled autograd traces
        or torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(grad)  # torch.autograd.grad(is_grads_batched=True)
    )


def summed_like(tensor: Tensor, gradient: Tensor) -> Tensor:
    """Return `gradient` as the gradient of `tensor`: summed where it was broadcast, of its dtype."""
    if gradient.shape != tensor.shape:
        gradient = gradient.sum_to_size(tensor.shape)
    return gradient.to(tensor.dtype)
