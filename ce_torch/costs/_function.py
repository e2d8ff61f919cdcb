"""The function of a cost: it joins the formula and the derivatives by hand, and keeps every promise of autograd.

What is saved for the backward pass is the weighted input, never an activation. Operations on saved *inputs* can be
differentiated again and are right; an activation saved by the forward pass would count as a constant in the second
derivative. σ and softmax are cheap to compute again, and nothing of z's size lives between forward and backward.

A call takes the form that suits its caller: eager calls a thin `torch.autograd.Function` over an implementation;
`torch.compile` one over the operators; an exported program one over the formulas; `torch.func`, as far as the node does
not compute it, the rules of `_derivatives.py`.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ce_torch.costs._arguments import check_classes
from ce_torch.costs._autograd import distinct, is_visible, may_be_differentiated, only_values_matter
from ce_torch.costs._backend import Selection, choose, is_open, record
from ce_torch.costs._derivatives import ChangeOf, CostOf, DeltaOf, gradients_by_formulas, is_all_that_moves
from ce_torch.costs._operators import FUNCTIONS, define
from ce_torch.costs._precision import compute_dtype, to_compute_dtype, to_dtype
from ce_torch.costs._reduction import reduce
from ce_torch.costs._spec import CostSpec, Formula
from ce_torch.costs._torch_private import (
    count_dispatch_modes,
    has_saved_tensor_hooks,
    is_exporting,
    is_forward_mode,
    is_transformed,
    make_dual,
    primal,
    traces_autograd,
    tracing_state,
    unpack_dual,
)
from ce_torch.costs.kernels import Implementation
from ce_torch.costs.kernels.blocks import blocks
from ce_torch.costs.kernels.cpp import cpp, is_readable
from ce_torch.costs.kernels.formulas import formulas
from ce_torch.costs.kernels.gpu import triton
from ce_torch.costs.kernels.node import node

Gradients = tuple[Tensor | None, ...]


class CostFunction:
    """A cost as a function of the reduction, z, y and what else its formula takes, and δ of each example."""

    def __init__(self, spec: CostSpec) -> None:
        self.spec, self.count = spec, spec.tensor_count
        on_cpu, on_gpu, in_blocks, in_formulas = cpp(spec), triton(spec), blocks(spec), formulas(spec)
        self.implementations = on_cpu, on_gpu, in_blocks, in_formulas
        self.operator = define(
            spec,
            {
                "CPU": (on_cpu, in_blocks, in_formulas),
                "CUDA": (on_gpu, in_formulas),
                "CompositeExplicitAutograd": (in_formulas,),
            },
        )
        self.cost_of, self.delta_of, self.change_of = CostOf(self), DeltaOf(self), ChangeOf(self)
        self.traced = traced_form(spec)
        self.compiled = compiled_form(spec, self.operator, self.delta_of)
        self.eager = eager_form(spec, self)
        FUNCTIONS[spec.name] = self

    def __call__(self, dtype: torch.dtype, reduction: str, *inputs: Any) -> Tensor:
        """Return C in this dtype; raise `ValueError` if y names a class that z does not have."""
        try:
            if torch.compiler.is_compiling() or tracing_state() is not None:
                return to_dtype(self.form()(reduction, *distinct(inputs)), dtype)
            if is_open() and inputs[0].is_cpu and self.node is not None:
                C = self.node(dtype, reduction, *inputs)
                if C is not None:
                    return C
            if is_transformed():
                return to_dtype(self.cost_of(reduction, *inputs), dtype)
            if is_forward_mode():
                return self.in_forward_mode(dtype, reduction, *inputs)
            return self.run(dtype, reduction, *inputs)
        except (IndexError, RuntimeError):
            # To look at the classes before takes a tenth of the time of a small cost.
            self.check_classes(*inputs)
            raise

    def in_forward_mode(self, dtype: torch.dtype, reduction: str, z: Tensor, *inputs: Any) -> Tensor:
        """Return C with its tangent, which an implementation computes if z is all that moves."""
        tensors = [tensor for tensor in inputs[: self.count - 1] if tensor is not None and tensor.is_floating_point()]
        primal, tangent = unpack_dual(z)
        if not is_all_that_moves(tangent, [unpack_dual(tensor)[1] for tensor in tensors], (z, *tensors)):
            return self.run(dtype, reduction, z, *inputs)
        return make_dual(*self.value_and_change(dtype, tangent, reduction, primal, *inputs))

    def value_and_change(self, dtype: torch.dtype, v: Tensor, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Return C and how it changes with z in the direction v, in this dtype, as numbers."""
        implementation = self.choose(inputs)
        C, statistics = implementation.cost(dtype, reduction, *inputs)
        C_change, _ = implementation.change(v, None, statistics, reduction, *inputs)
        return C, to_dtype(C_change, dtype)

    def run(self, dtype: torch.dtype, reduction: str, *inputs: Any) -> Tensor:
        """Return C of an eager call."""
        count, implementation = self.count, self.choose(inputs)
        if not torch.is_grad_enabled() and not is_forward_mode():
            return implementation.cost(dtype, reduction, *inputs)[0]
        return self.eager.apply((reduction, dtype, implementation, inputs[count:]), *inputs[:count])

    @cached_property
    def node(self) -> Callable[..., Tensor | None] | None:
        """The node of autograd, where it was built: it computes plain calls on the CPU, and some under transforms."""
        return node(self.spec, self.gradient, self.change)

    def gradient(self, grad_output: Tensor, statistics: Tensor | None, reduction: str, *inputs: Any) -> Tensor:
        """Return ∂C/∂z for the node, where somebody sees how it is computed, or may differentiate it."""
        if is_transformed():
            return self.delta_of(grad_output, statistics, reduction, *inputs)
        if not count_dispatch_modes():
            return self.differentiable_delta(self.choose(inputs), grad_output, statistics, reduction, *inputs)
        needed = [i == 0 for i in range(self.count)]
        spec = self.spec
        gradient, *_ = gradients_by_formulas(spec.derivatives, spec.counted, needed, grad_output, reduction, inputs)
        assert gradient is not None
        return gradient

    def change(self, v: Tensor, grad_output: Tensor, *arguments: Any) -> Gradients:
        """Return the gradients of ∂C/∂z by that of C and by z for the node, where more than their numbers matters."""
        needed = [grad_output.requires_grad]
        by_grad, _, _, by_z, *_ = self.delta_of.gradients((grad_output, *arguments), needed, v)
        return by_grad, by_z

    def check_classes(self, z: Tensor, y: Tensor, *inputs: Any) -> None:
        """Raise `ValueError` if y names a class that z does not have, and its values are free to read."""
        check_classes(y, z.shape[-1], *(inputs[i] for i in self.spec.positions(int)))

    def form(self) -> Callable[..., Tensor]:
        """Return the function that suits a compiler or a trace."""
        if not torch.compiler.is_compiling():
            # A trace holds operations, not functions of Python; autograd differentiates them.
            return self.traced.forward
        if is_exporting() or Selection.backend == "formulas":
            # An exported program runs without ce_torch.
            return self.traced.forward if traces_autograd() else self.traced.apply
        if not (is_transformed() or traces_autograd()):
            return self.compiled.apply
        from ce_torch.costs._compiled import call_in_graph

        return partial(call_in_graph, self.spec.name)

    def in_graph(self, *arguments: Any) -> Tensor:
        """Return C of the reduction, z, y and what else the formula takes, called by `call_in_graph`."""
        return self.cost_of(*arguments) if is_transformed() else self.compiled.apply(*arguments)

    def choose(self, inputs: Sequence[Any]) -> Implementation:
        """Return the implementation for tensors whose derivatives nobody asks for."""
        if count_dispatch_modes() and Selection.backend != "formulas" and all(map(is_visible, inputs)):
            record("operator", "a dispatch mode is active, such as a tracer, which sees an operator")
            return self.operator
        return choose(self.implementations, inputs)

    def differentiable_gradients(self, ctx: Any, grad_output: Tensor, inputs: Sequence[Any]) -> Gradients:
        """Return the gradients of a backward pass that may be differentiated itself."""
        _, z_needs_grad, *others_need_grad = ctx.needs_input_grad
        if True in others_need_grad or torch.compiler.is_compiling():
            return gradients(ctx, self.spec.derivatives, self.spec.counted, grad_output)
        if not z_needs_grad:
            return (None,) * len(ctx.needs_input_grad)
        implementation, statistics, is_hooked = ctx.computed
        statistics = None if is_hooked else statistics
        arguments = grad_output, statistics, ctx.reduction, *inputs
        if is_hooked or count_dispatch_modes():
            delta = self.delta_of(*arguments)
        else:
            delta = self.differentiable_delta(implementation, *arguments)
        return None, delta, *[None] * len(others_need_grad)

    def differentiable_delta(self, implementation: Implementation, *arguments: Any) -> Tensor:
        """Return ∂C/∂z of an eager call, which may be differentiated by z and by the gradient of C."""
        is_plain = is_readable(arguments[0]) and not (is_transformed() or is_forward_mode())
        if is_plain and torch.is_grad_enabled():
            return self.delta_of.eager.apply(implementation.delta, *arguments)
        return self.delta_of(*arguments)

    def delta(self, *inputs: Any) -> Tensor:
        """Return δ of each example, shaped like z and of its dtype."""
        z = inputs[0]
        if not only_values_matter(inputs):
            return self.spec.delta(*to_compute_dtype(inputs)).to(z.dtype)
        ones = torch.ones(z.shape[:-1], dtype=compute_dtype(z), device=z.device)
        return choose(self.implementations, inputs).delta(ones, None, "none", *inputs)


# How an eager call computes C: the reduction, the dtype of C, the implementation, and the constants of the formula.
Plan = tuple[str, torch.dtype, Implementation, tuple[Any, ...]]


def eager_form(spec: CostSpec, function: CostFunction) -> type[Function]:
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
            return gradients(ctx, derivatives, counted, grad_output, delta)

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
            return gradients(ctx, derivatives, counted, *grad_outputs)

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
) -> Gradients:
    """Return the gradients by the inputs that need one: `delta`, if it is there, and the others by the formulas."""
    _, z_needs_grad, *others_need_grad = ctx.needs_input_grad
    needed = [z_needs_grad and delta is None, *others_need_grad]
    if grad_output is None or not any(needed):
        return None, delta, *(None for _ in others_need_grad)
    inputs = *ctx.saved_tensors[: len(derivatives)], *ctx.constants
    by_z, *by_others = gradients_by_formulas(derivatives, counted, needed, grad_output, ctx.reduction, inputs)
    return None, by_z if delta is None else delta, *by_others
