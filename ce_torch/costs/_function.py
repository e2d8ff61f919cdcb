"""The function of a cost: it joins the formula and the derivatives by hand, and keeps every promise of autograd.

A call takes the form that suits its caller: eager calls a thin `torch.autograd.Function` over an implementation;
`torch.compile` one over the operators; an exported program one over the formulas; `torch.func`, as far as the node does
not compute it, the rules of `_derivatives.py`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_classes
from ce_torch.costs._autograd import distinct, is_visible, only_values_matter
from ce_torch.costs._backend import Selection, choose, is_open, record
from ce_torch.costs._derivatives import ChangeOf, CostOf, DeltaOf, gradients_by_formulas, is_all_that_moves
from ce_torch.costs._forms import Gradients, compiled_form, eager_form, gradients, traced_form
from ce_torch.costs._in_graph import compilable, define_in_graph, takes_formulas, version
from ce_torch.costs._operators import define, input_schema
from ce_torch.costs._precision import compute_dtype, to_compute_dtype, to_dtype
from ce_torch.costs._spec import CostSpec
from ce_torch.costs._torch_private import (
    count_dispatch_modes,
    is_exporting,
    is_forward_mode,
    is_seen_by_compiler,
    is_transformed,
    make_dual,
    tracing_state,
    unpack_dual,
)
from ce_torch.costs.kernels import Implementation
from ce_torch.costs.kernels.blocks import blocks
from ce_torch.costs.kernels.cpp import cpp, is_readable
from ce_torch.costs.kernels.formulas import formulas
from ce_torch.costs.kernels.gpu_changes import triton
from ce_torch.costs.kernels.node import node


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
        self.inlined = compilable(spec, in_formulas)
        self.compiled_inline = compiled_form(spec, self.inlined, self.delta_of)
        self.eager = eager_form(spec, self)
        self.graph_operator = define_in_graph(spec.name, input_schema(spec), "Tensor", self.in_graph)

    def __call__(self, dtype: torch.dtype, reduction: str, *inputs: Any) -> Tensor:
        """Return C in this dtype; raise `ValueError` if y names a class that z does not have."""
        try:
            if torch.compiler.is_compiling():
                return to_dtype(self.compile(reduction, *inputs), dtype)
            if tracing_state() is not None:
                # A trace holds operations, not functions of Python; autograd differentiates them.
                return to_dtype(self.traced.forward(reduction, *inputs), dtype)
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
        return self.choose(inputs).value_and_change(dtype, v, reduction, *inputs)

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

    def compile(self, *arguments: Any) -> Tensor:
        """Return C of the reduction, z, y and what else the formula takes, where Dynamo traces."""
        if is_exporting():
            # An exported program runs without ce_torch.
            return self.traced.apply(*distinct(arguments))
        if is_transformed():
            from ce_torch.costs._compiled import call_in_graph

            return call_in_graph(self.spec.name, version(), Selection.backend, *arguments)
        if is_forward_mode():
            # What the compiler makes of a Function has no tangents.
            return self.traced.forward(*arguments)
        return self.graph_operator(version(), Selection.backend, *arguments)

    def in_graph(self, *arguments: Any) -> Tensor:
        """Return C of the same, where AOTAutograd traces."""
        if is_transformed():
            return self.cost_of(*arguments)
        return (self.compiled_inline if takes_formulas(arguments[1]) else self.compiled).apply(*arguments)

    def choose(self, inputs: Sequence[Any]) -> Implementation:
        """Return the implementation for tensors whose derivatives nobody asks for."""
        if count_dispatch_modes() and all(map(is_visible, inputs)):
            if is_seen_by_compiler() and takes_formulas(inputs[0]):
                return self.inlined
            if Selection.backend != "formulas":
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
