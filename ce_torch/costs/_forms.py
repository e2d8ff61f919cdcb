"""The forms of a cost as functions of autograd: for eager calls, for `torch.compile`, and of the formulas.

What is saved for the backward pass is the weighted input, never an activation. Operations on saved *inputs* can be
differentiated again and are right; an activation saved by the forward pass would count as a constant in the second
derivative. σ and softmax are cheap to compute again, and nothing of z's size lives between forward and backward.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from ce_torch.costs._autograd import may_be_differentiated
from ce_torch.costs._derivatives import DeltaOf, gradients_by_formulas
from ce_torch.costs._in_graph import after_gradient
from ce_torch.costs._precision import compute_dtype, to_compute_dtype, to_dtype
from ce_torch.costs._reduction import reduce
from ce_torch.costs._spec import CostSpec, Formula
from ce_torch.costs._torch_private import count_dispatch_modes, has_saved_tensor_hooks, is_forward_mode, primal
from ce_torch.costs.kernels import Implementation

if TYPE_CHECKING:
    from ce_torch.costs._function import CostFunction

Gradients = tuple[Tensor | None, ...]
# How an eager call computes C: the reduction, the dtype of C, the implementation, and the constants of the formula.
Plan = tuple[str, torch.dtype, Implementation, tuple[Any, ...]]


def eager_form(spec: CostSpec, function: "CostFunction") -> type[Function]:
    """Return the form for eager calls; autograd shows it by the cost's name.

    At small sizes each step of it counts: PyTorch's own loss takes 30 µs forward and backward.
    """

    class Eager(Function):
        # With setup_context PyTorch binds forward's signature at every call, a third of a small batch's time.
        @staticmethod
        def forward(ctx: Any, plan: Plan, *tensors: Any) -> Tensor:
            ctx.save_for_backward(*tensors)
            ctx.reduction, dtype, implementation, ctx.constants = plan
            if is_forward_mode():
                ctx.save_for_forward(*tensors)
                ctx.dtype = dtype
                ctx.set_materialize_grads(False)
            C, statistics = implementation.cost(dtype, ctx.reduction, *tensors, *ctx.constants)
            ctx.computed = implementation, statistics, has_saved_tensor_hooks()
            return C

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor) -> Gradients:
            (grad_output,) = grad_outputs
            implementation, statistics, is_hooked = ctx.computed
            is_watched = count_dispatch_modes() and implementation is not function.operator
            if is_watched:
                return gradients(ctx, spec.derivatives, spec.counted, grad_output)
            inputs = *ctx.saved_tensors, *ctx.constants
            if may_be_differentiated(grad_output):
                return function.differentiable_gradients(ctx, grad_output, inputs)
            if is_hooked:
                # Hooks may give back other tensors than were saved.
                implementation = function.choose(inputs)
                _, statistics = implementation.cost(compute_dtype(inputs[0]), "none", *inputs)
            _, z_needs_grad, *others_need_grad = ctx.needs_input_grad
            delta = implementation.delta(grad_output, statistics, ctx.reduction, *inputs) if z_needs_grad else None
            if True not in others_need_grad:
                return None, delta, *[None] * len(others_need_grad)
            return gradients(ctx, spec.derivatives, spec.counted, grad_output, delta)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
            primals = [None if tensor is None else primal(tensor) for tensor in ctx.saved_tensors]
            return to_dtype(function.cost_of.change((ctx.reduction, *primals, *ctx.constants), tangents), ctx.dtype)

    return type(spec.class_name, (Eager,), {})


def compiled_form(spec: CostSpec, operator: Implementation, delta_of: DeltaOf) -> type[Function]:
    """Return the form for `torch.compile`, which keeps the operators as they are."""
    # Dynamo of torch 2.11 reads functions and numbers from around a Function, no other objects.
    count, derivatives, counted = spec.tensor_count, spec.derivatives, spec.counted
    operator_cost, operator_delta = operator.cost, operator.delta

    class Compiled(Function):
        @staticmethod
        def forward(ctx: Any, reduction: str, *inputs: Any) -> Tensor:
            C, statistics = operator_cost(compute_dtype(inputs[0]), reduction, *inputs)
            save(ctx, count, reduction, inputs, statistics)
            return C

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor | None) -> Gradients:
            (grad_output,) = grad_outputs
            *tensors, statistics = ctx.saved_tensors
            _, z_needs_grad, *others_need_grad = ctx.needs_input_grad
            arguments = grad_output, statistics, ctx.reduction, *tensors, *ctx.constants
            delta = None
            if z_needs_grad and not torch.is_grad_enabled():
                delta = operator_delta(*arguments)
            elif z_needs_grad and True not in others_need_grad:
                delta = delta_of.eager.apply(operator_delta, *arguments)
            return gradients(ctx, derivatives, counted, grad_output, delta, is_compiled=True)

    return type(spec.class_name, (Compiled,), {})


def traced_form(spec: CostSpec) -> type[Function]:
    """Return the form over the formulas, for compilers that differentiate them."""
    count, cost, derivatives, counted = spec.tensor_count, spec.cost, spec.derivatives, spec.counted

    class Traced(Function):
        @staticmethod
        def forward(reduction: str, *inputs: Any) -> Tensor:
            return reduce(reduction, cost(*to_compute_dtype(inputs)), counted(*inputs))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            save(ctx, count, inputs[0], inputs[1:])

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor | None) -> Gradients:
            return gradients(ctx, derivatives, counted, *grad_outputs, is_compiled=True)

    # Dynamo counts forward's arguments, and PyTorch binds them faster from a signature at hand.
    reduction = inspect.Parameter("reduction", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    Traced.forward.__signature__ = inspect.Signature([reduction, *inspect.signature(spec.cost).parameters.values()])
    return type(spec.class_name, (Traced,), {})


def save(ctx: Any, count: int, reduction: str, inputs: Sequence[Any], *more: Tensor | None) -> None:
    """Save z, y and the weights, the first `count` of the inputs, and more tensors, for the backward pass."""
    ctx.reduction, ctx.constants = reduction, inputs[count:]
    ctx.save_for_backward(*inputs[:count], *more)
    ctx.set_materialize_grads(False)


def gradients(
    ctx: Any,
    derivatives: Sequence[Formula],
    counted: Callable[..., Tensor | None],
    grad_output: Tensor | None,
    delta: Tensor | None = None,
    *,
    is_compiled: bool = False,
) -> Gradients:
    """Return the gradients by the inputs that need one: `delta`, if it is there, and the others by the formulas."""
    _, z_needs_grad, *others_need_grad = ctx.needs_input_grad
    needed = [z_needs_grad and delta is None, *others_need_grad]
    if grad_output is None or not any(needed):
        return None, delta, *(None for _ in others_need_grad)
    tensors = ctx.saved_tensors[: len(derivatives)]
    inputs = *(after_gradient(grad_output, tensors) if is_compiled else tensors), *ctx.constants
    by_z, *by_others = gradients_by_formulas(derivatives, counted, needed, grad_output, ctx.reduction, inputs)
    return None, by_z if delta is None else delta, *by_others
