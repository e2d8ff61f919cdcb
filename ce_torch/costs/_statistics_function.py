"""The function of a softmax layer's numbers: it joins the formulas by hand, and keeps every promise of autograd.

As in `_function.py` inputs are saved, never activations. What may be differentiated further goes by the formulas.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ce_torch.costs._arguments import check_classes
from ce_torch.costs._autograd import is_number, is_visible
from ce_torch.costs._backend import Selection, choose, record
from ce_torch.costs._derivatives import batched
from ce_torch.costs._in_graph import after_gradient, checked, define_in_graph, takes_formulas, version
from ce_torch.costs._precision import compute_dtype, to_compute_dtype
from ce_torch.costs._statistics_operators import ALL_INPUTS, OUTPUTS, Found, asked_for, define, without_none
from ce_torch.costs._torch_private import (
    count_dispatch_modes,
    has_saved_tensor_hooks,
    is_exporting,
    is_forward_mode,
    is_seen_by_compiler,
    is_transformed,
    may_be_dual,
    tracing_state,
)
from ce_torch.costs._transforms import Transformable, tracked
from ce_torch.costs.kernels.formulas import follow
from ce_torch.costs.kernels.gpu_statistics import statistics_on_gpu
from ce_torch.costs.kernels.statistics import StatisticsImplementation, statistics_kernels


class Numbers(NamedTuple):
    """The formulas: the numbers, δ, and the gradient by desired outputs."""

    numbers: Callable[..., Found]
    delta: Callable[..., Tensor]
    by_y: Callable[..., Tensor]


class StatisticsFunction:
    """The numbers p, ℓ, H and ĵ as a function of z, y, c, κ, ignore_index and whether H is asked for."""

    def __init__(self, name: str, formulas: Numbers) -> None:
        self.formulas = formulas
        in_formulas = by_formulas(formulas)
        on_cpu, on_gpu = statistics_kernels(), statistics_on_gpu()
        self.implementations = on_cpu, on_gpu, in_formulas
        choices = {"CPU": (on_cpu, in_formulas), "CUDA": (on_gpu, in_formulas)}
        self.operator = define(name, {**choices, "CompositeExplicitAutograd": (in_formulas,)})
        self.delta_of = DeltaOf(self)
        self.numbers_of = NumbersOf(self)
        self.name = name
        self.graph_operator = define_in_graph(name, ALL_INPUTS, OUTPUTS, self.tensors_in_graph)
        self.compiled = compiled_form(self.operator, self.delta_of, formulas.by_y)
        self.inlined = compilable(in_formulas)
        self.compiled_inline = compiled_form(self.inlined, self.delta_of, formulas.by_y)

    def __call__(self, *inputs: Any) -> Found:
        """Return the numbers; raise `ValueError` if y names a class that z does not have."""
        try:
            if torch.compiler.is_compiling():
                return self.compile(*inputs)
            return self.numbers_of.formulas(*inputs) if tracing_state() is not None else self.numbers_of(*inputs)
        except (IndexError, RuntimeError):
            z, y, _, _, ignore_index, _ = inputs
            if y is not None:
                check_classes(y, z.shape[-1], ignore_index)
            raise

    def compile(self, *inputs: Any) -> Found:
        """Return the numbers where Dynamo traces."""
        if is_transformed() and not is_exporting():
            from ce_torch.costs._compiled import call_in_graph

            return asked_for(call_in_graph(self.name, version(), Selection.backend, *inputs), *inputs)
        if is_exporting() or is_forward_mode():
            return self.numbers_of.formulas(*inputs)
        return asked_for(self.graph_operator(version(), Selection.backend, *inputs), *inputs)

    def in_graph(self, *inputs: Any) -> Found:
        """Return the numbers where AOTAutograd traces."""
        if is_transformed():
            return self.numbers_of(*inputs)
        return (self.compiled_inline if takes_formulas(inputs[0]) else self.compiled).apply(*inputs)

    def tensors_in_graph(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Return the numbers as an operator does, which returns tensors."""
        return without_none(self.in_graph(*inputs), inputs[0])

    def choose(self, inputs: Sequence[Any]) -> StatisticsImplementation:
        """Return the implementation for tensors whose derivatives nobody asks for."""
        if count_dispatch_modes() and all(map(is_visible, inputs)):
            if is_seen_by_compiler() and takes_formulas(inputs[0]):
                return self.inlined
            if Selection.backend != "formulas":
                record("operator", "a dispatch mode is active, such as a tracer, which sees an operator")
                return self.operator
        return choose(self.implementations, inputs)


class NumbersOf(Transformable):
    """p, ℓ, H and ĵ."""

    differentiable = frozenset({0, 1})
    has_change = False

    def __init__(self, function: StatisticsFunction) -> None:
        super().__init__("SoftmaxStatistics")
        self.function = function
        self.thin = eager_form(function)

    def without_transform(self, *arguments: Any) -> Found:
        if may_be_dual() or not (torch.is_grad_enabled() and tracked(arguments)):
            return super().without_transform(*arguments)
        return self.thin.apply(self.function.choose(arguments), *arguments)

    def values(self, *arguments: Any) -> Found:
        found, _ = self.function.choose(arguments).numbers(*arguments)
        return found

    def formulas(self, *arguments: Any) -> Found:
        return self.function.formulas.numbers(*to_compute_dtype(arguments))

    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        *inputs, _ = arguments
        return gradients(self.function, inputs, needed, None, *grads)

    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Found:
        return self(*batch_examples(size, arguments, dims))


class DeltaOf(Transformable):
    """δ of the gradients of p, ℓ and H, statistics, and what the numbers take but for the last."""

    differentiable = frozenset({0, 1, 2, 4, 5})
    has_change = False

    def __init__(self, function: StatisticsFunction) -> None:
        super().__init__("SoftmaxStatisticsDelta")
        self.function = function

    def has_rules_for(self, places: set[int]) -> bool:
        # A tracer sees the formulas of what has derivatives, but for a compiler, which asks for all of them itself.
        return super().has_rules_for(places) and (is_seen_by_compiler() or not count_dispatch_modes())

    def values(self, *arguments: Any) -> Tensor:
        *grads, _, z, y, c, softcap, ignore_index = arguments
        if not all(map(is_number, grads)):
            return self.formulas(*arguments)
        return self.function.choose((z, y, c, softcap, ignore_index, False)).delta(*arguments)

    def formulas(self, *arguments: Any) -> Tensor:
        *grads, _, z, y, c, softcap, ignore_index = arguments
        numbers = *(None if g is None else g.to(compute_dtype(z)) for g in grads), *to_compute_dtype((z, y))
        return self.function.formulas.delta(*numbers, c, softcap, ignore_index).to(z.dtype)

    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        return self.gradients_of_formulas(arguments, needed, *grads)

    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Tensor:
        # The statistics are worked out again.
        return self(*batch_examples(size, [*arguments[:3], None, *arguments[4:]], dims))


def batch_examples(size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> tuple[Any, ...]:
    """Return the arguments as those of more examples."""
    pairs = zip(arguments, dims, strict=True)
    return tuple(batched(a, dim, size) if isinstance(a, Tensor) else a for a, dim in pairs)


def gradients(
    function: StatisticsFunction,
    inputs: Sequence[Any],
    needed: Sequence[bool],
    statistics: Tensor | None,
    *grads: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients by z, y and the constants, of those of p, ℓ, H and ĵ."""
    g_p, g_l, g_H, _ = grads
    z, y, *constants = inputs
    by_z = by_y = None
    if needed[0] and not (g_p is g_l is g_H is None):
        by_z = function.delta_of(g_p, g_l, g_H, statistics, *inputs)
    if needed[1] and g_p is not None:
        by_y = function.formulas.by_y(g_p, *to_compute_dtype((z, y)), *constants).to(y.dtype)
    return by_z, by_y, *[None] * (len(constants) + 1)


def eager_form(function: StatisticsFunction) -> type[Function]:
    """Return the form for eager calls, which keeps the statistics of the pass over z."""

    class Eager(Function):
        @staticmethod
        def forward(ctx: Any, implementation: StatisticsImplementation, z: Tensor, y: Tensor | None, *more: Any) -> Any:
            ctx.save_for_backward(z, y)
            ctx.set_materialize_grads(False)
            *ctx.constants, _ = more
            found, statistics = implementation.numbers(z, y, *more)
            # Hooks may give back other tensors than were saved.
            ctx.statistics = None if has_saved_tensor_hooks() else statistics
            return found

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            inputs = *ctx.saved_tensors, *ctx.constants
            return None, *gradients(function, inputs, ctx.needs_input_grad[1:], ctx.statistics, *grads)

    return type("SoftmaxStatistics", (Eager,), {})


def compiled_form(operator: StatisticsImplementation, delta_of: DeltaOf, by_y: Callable[..., Tensor]) -> type[Function]:
    """Return the form for `torch.compile`, which keeps the operators as they are."""
    # Dynamo of torch 2.11 reads functions from around a Function, no other objects.
    operator_numbers, operator_delta = operator.numbers, operator.delta

    class Compiled(Function):
        @staticmethod
        def forward(
            ctx: Any, z: Tensor, y: Tensor | None, c: float, softcap: Any, ignore_index: int, entropy: bool
        ) -> Any:
            found, statistics = operator_numbers(z, y, c, softcap, ignore_index, entropy)
            ctx.save_for_backward(z, y, statistics)
            ctx.constants = c, softcap, ignore_index
            ctx.set_materialize_grads(False)
            return found

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            g_p, g_l, g_H, _ = grads
            z, y, statistics = ctx.saved_tensors
            found = found_y = None
            if ctx.needs_input_grad[0]:
                arguments = g_p, g_l, g_H, statistics, z, y, *ctx.constants
                if torch.is_grad_enabled():
                    found = delta_of.eager.apply(operator_delta, *arguments)
                else:
                    found = operator_delta(*arguments)
            if ctx.needs_input_grad[1] and g_p is not None:
                numbers = to_compute_dtype(after_gradient(g_p, (z, y)))
                found_y = by_y(g_p, *numbers, *ctx.constants).to(y.dtype)
            return found, found_y, None, None, None, None

    return Compiled


def by_formulas(formulas: Numbers) -> StatisticsImplementation:
    """Return the formulas as an implementation, without statistics."""

    def numbers(*inputs: Any) -> tuple[Found, None]:
        return formulas.numbers(*to_compute_dtype(inputs)), None

    def delta(*arguments: Any) -> Tensor:
        *grads, _, z, y, c, softcap, ignore_index = arguments
        dtype = compute_dtype(z)
        converted = (None if g is None else g.to(dtype) for g in grads)
        return follow(z, formulas.delta(*converted, *to_compute_dtype((z, y)), c, softcap, ignore_index))

    return StatisticsImplementation("formulas", lambda *inputs: None, numbers, delta)


def compilable(formulas: StatisticsImplementation) -> StatisticsImplementation:
    """Return the formulas as the compiler is to see them."""

    def check(z: Tensor, y: Tensor | None, ignore_index: int) -> Tensor | None:
        return None if y is None else checked(z, y, ignore_index)

    def numbers(z: Tensor, y: Tensor | None, c: float, softcap: Any, ignore_index: int, entropy: bool) -> Any:
        return formulas.numbers(z, check(z, y, ignore_index), c, softcap, ignore_index, entropy)

    def delta(*arguments: Any) -> Tensor:
        *grads, statistics, z, y, c, softcap, ignore_index = arguments
        gradient = next(grad for grad in grads if grad is not None)
        tensors = after_gradient(gradient, (z, check(z, y, ignore_index)))
        return formulas.delta(*grads, statistics, *tensors, c, softcap, ignore_index)

    return formulas._replace(numbers=numbers, delta=delta)
