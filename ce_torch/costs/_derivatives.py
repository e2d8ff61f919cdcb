"""A cost, its δ, and how both change in a direction: three functions, each a derivative of the one before.

    C(z)    Δ(g, z) = g δ    (Ċ, Δ̇)(v, g, z) = (Σⱼ vⱼ δⱼ, g H v),    H = ∂δ/∂z, symmetric

Δ gives C its gradient by z, and (Ċ, Δ̇) gives Δ its gradients by g and z; in forward mode Ċ is the tangent of C, and
Δ̇ + ġ δ that of Δ. Kernels compute all three. What is differentiated by y or by a weight as well, or once more, goes by
the formulas.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from ce_torch.costs._autograd import is_number
from ce_torch.costs._precision import compute_dtype, to_compute_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import count, example_grad, quotient, reduce
from ce_torch.costs._spec import CostSpec, Formula
from ce_torch.costs._torch_private import count_dispatch_modes, current_transform, is_seen_by_compiler, may_be_dual
from ce_torch.costs._transforms import Transformable, places, tracked
from ce_torch.costs.kernels import Implementation
from ce_torch.costs.kernels.formulas import change_by_formulas

Change = tuple[Tensor, Tensor | None]


class Function(Protocol):
    """A cost as a function: see `_function.py`."""

    spec: CostSpec
    delta_of: "DeltaOf"
    change_of: "ChangeOf"

    def __call__(self, dtype: torch.dtype, reduction: str, *inputs: Any) -> Tensor: ...
    def choose(self, inputs: Sequence[Any]) -> Implementation: ...
    def value_and_change(
        self, dtype: torch.dtype, v: Tensor, reduction: str, *inputs: Any
    ) -> tuple[Tensor, Tensor]: ...


class CostOf(Transformable):
    """C, of the reduction, z, y and what else the formula takes."""

    def __init__(self, cost: Function) -> None:
        super().__init__(cost.spec.class_name)
        self.cost, self.spec = cost, cost.spec
        self.differentiable = frozenset(range(1, 1 + self.spec.tensor_count))

    def without_transform(self, *arguments: Any) -> Tensor:
        reduction, *inputs = arguments
        if may_be_dual() or (torch.is_grad_enabled() and tracked(inputs)):
            return self.cost(compute_dtype(inputs[0]), reduction, *inputs)
        return self.values(*arguments)

    def values(self, *arguments: Any) -> Tensor:
        reduction, *inputs = arguments
        C, _ = self.cost.choose(inputs).cost(compute_dtype(inputs[0]), reduction, *inputs)
        return C

    def formulas(self, *arguments: Any) -> Tensor:
        reduction, *inputs = arguments
        return reduce(reduction, self.spec.cost(*to_compute_dtype(inputs)), self.spec.counted(*inputs))

    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        (grad_output,), (reduction, *inputs), (_, needs_z, *others) = grads, arguments, needed
        if grad_output is None:
            return [None for _ in needed]
        if not any(others):
            return None, self.cost.delta_of(grad_output, None, reduction, *inputs), *(None for _ in others)
        return None, *gradients_by_formulas(
            self.spec.derivatives, self.spec.counted, [needs_z, *others], grad_output, reduction, inputs
        )

    def change(self, primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> Tensor:
        (reduction, *inputs), (_, z_tangent, *others) = primals, tangents
        changes: list[Tensor] = []
        if z_tangent is not None:
            changes.append(self.cost.change_of(z_tangent, None, None, reduction, *inputs)[0])
        for derivative, tangent in zip(self.spec.derivatives[1:], others, strict=False):
            if tangent is not None:
                terms = derivative(*to_compute_dtype(inputs))
                C_change = product(tangent.to(terms.dtype), terms).sum(-1)
                changes.append(reduce(reduction, C_change, self.spec.counted(*inputs), empty=0))
        return sum(changes[1:], start=changes[0])

    def value_and_change(self, primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        (reduction, *inputs), (_, v, *others) = primals, tangents
        is_last = current_transform() is None and not may_be_dual()
        if not is_last or not is_all_that_moves(v, others, (v, *inputs)):
            return super().value_and_change(primals, tangents)
        return self.cost.value_and_change(compute_dtype(inputs[0]), v, reduction, *inputs)

    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Tensor:
        reduction, *inputs = arguments
        inputs = batch_inputs(size, inputs, dims[1:])
        return reduce(reduction, self("none", *inputs), self.spec.counted(*inputs), batch_dims=1)


class DeltaOf(Transformable):
    """∂C/∂z, of the gradient of C, statistics, and what C takes."""

    differentiable = frozenset({0, 3})

    def __init__(self, cost: Function) -> None:
        super().__init__(f"{cost.spec.class_name}Delta")
        self.cost, self.spec = cost, cost.spec

    def has_rules_for(self, places: set[int]) -> bool:
        # A tracer sees the formulas of what has derivatives, but for a compiler, which asks for all of them itself.
        return super().has_rules_for(places) and (is_seen_by_compiler() or not count_dispatch_modes())

    def values(self, *arguments: Any) -> Tensor:
        grad_output, _, _, *inputs = arguments
        if not is_number(grad_output):
            return self.formulas(*arguments)
        return self.cost.choose(inputs).delta(*arguments)

    def formulas(self, *arguments: Any) -> Tensor:
        grad_output, _, reduction, *inputs = arguments
        z, counted = inputs[0], self.spec.counted(*inputs)
        delta = self.spec.delta(*to_compute_dtype(inputs))
        return product(example_grad(grad_output, reduction, z, counted), delta).to(z.dtype)

    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        (v,), (grad_output, statistics, reduction, *inputs) = grads, arguments
        if v is None:
            return [None for _ in needed]
        C_change, delta_change = self.cost.change_of(v, grad_output, statistics, reduction, *inputs)
        by_grad = None
        if needed[0]:
            # As of `product`, the derivative by a gradient of 0 is finite.
            hollow = (grad_output == 0) & ~C_change.isfinite()
            by_grad = C_change.masked_fill(hollow, 0).to(grad_output.dtype)
        return by_grad, None, None, delta_change, *[None] * (len(inputs) - 1)

    def change(self, primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> Tensor:
        grad_output, *rest = primals
        g_tangent, _, _, z_tangent, *_ = tangents
        changes = []
        if g_tangent is not None:
            changes.append(self(g_tangent, *rest))
        if z_tangent is not None:
            changes.append(self.cost.change_of(z_tangent, grad_output, *rest)[1])
        return sum(changes[1:], start=changes[0])

    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Tensor:
        grad_output, _, reduction, *inputs = arguments
        inputs = batch_inputs(size, inputs, dims[3:])
        g = batch_grads(self.spec, batched(grad_output, dims[0], size), reduction, inputs)
        return self(g, None, "none", *inputs)


class ChangeOf(Transformable):
    """The derivatives of C and ∂C/∂z in a direction, of that, and of what ∂C/∂z takes; see `Implementation`."""

    differentiable = frozenset({0, 1, 4})
    has_change = False

    def __init__(self, cost: Function) -> None:
        super().__init__(f"{cost.spec.class_name}Change")
        self.cost, self.spec = cost, cost.spec

    def values(self, *arguments: Any) -> Change:
        v, grad_output, _, _, *inputs = arguments
        if not (is_number(v) and is_number(grad_output)):
            return self.formulas(*arguments)
        return self.cost.choose(inputs).change(*arguments)

    def formulas(self, *arguments: Any) -> Change:
        v, grad_output, _, reduction, *inputs = arguments
        C_change, delta_change = change_by_formulas(self.spec, v, grad_output, reduction, *inputs)
        return C_change, None if delta_change is None else delta_change.to(inputs[0].dtype)

    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        return self.gradients_of_formulas(arguments, needed, *grads)

    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Change:
        v, grad_output, _, reduction, *inputs = arguments
        inputs = batch_inputs(size, inputs, dims[4:])
        g = None
        if grad_output is not None:
            g = batch_grads(self.spec, batched(grad_output, dims[1], size), reduction, inputs)
        C_change, delta_change = self(batched(v, dims[0], size), g, None, "none", *inputs)
        return reduce(reduction, C_change, self.spec.counted(*inputs), batch_dims=1, empty=0), delta_change


def is_all_that_moves(v: Tensor | None, others: Sequence[Tensor | None], tensors: Sequence[Any]) -> TypeGuard[Tensor]:
    """Return True if v is the only tangent, and numbers are all that is asked for of it and of these tensors."""
    is_tracked = torch.is_grad_enabled() and tracked(tensors)
    return v is not None and is_number(v) and not is_tracked and not places(others)


def gradients_by_formulas(
    derivatives: Sequence[Formula],
    counted: Callable[..., Tensor | None],
    needed: Sequence[bool],
    grad_output: Tensor,
    reduction: str,
    inputs: Sequence[Any],
) -> list[Tensor | None]:
    """Return the gradients by the inputs that need one, by the formulas of a cost's derivatives."""
    g = example_grad(grad_output, reduction, inputs[0], counted(*inputs))
    # Once for all derivatives: of the gradients of tensors in half precision the sum is what is rounded.
    arguments = to_compute_dtype(inputs)
    found: list[Tensor | None] = [None for _ in needed]
    for i, derivative in enumerate(derivatives):
        if needed[i]:
            found[i] = sum_to_shape(product(g, derivative(*arguments)), inputs[i])
    return found


def sum_to_shape(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Return `gradient` as the gradient of `tensor`: summed where it was broadcast, of its dtype."""
    if gradient.shape != tensor.shape:
        gradient = gradient.sum_to_size(tensor.shape)
    return gradient.to(tensor.dtype)


def batch_inputs(size: int, inputs: Sequence[Any], dims: Sequence[int | None]) -> tuple[Any, ...]:
    """Return z, y and the others as those of one cost of more examples: the batch, in these dimensions, comes first."""
    (z, y, *others), (z_dim, y_dim, *other_dims) = inputs, dims
    z = batched(z, z_dim, size)
    pairs = zip(others, other_dims, strict=True)
    # Without the batch a weight broadcasts as it is.
    weights = [other if dim is None else before(batched(other, dim, size), z.ndim) for other, dim in pairs]
    return z, batched(y, y_dim, size), *weights


def batched(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Return the tensor with its batch first."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor if dim == 0 else tensor.movedim(dim, 0)


def before(weight: Tensor, ndim: int) -> Tensor:
    """Return a weight with as many dimensions as z, the batch first."""
    return weight.reshape(len(weight), *(1,) * (ndim - weight.ndim), *weight.shape[1:])


def batch_grads(spec: CostSpec, grad_output: Tensor, reduction: str, inputs: Sequence[Any]) -> Tensor:
    """Return the gradient that reaches the cost of each example of a batch of costs."""
    if reduction == "none":
        return grad_output
    z = inputs[0]
    if reduction == "mean":
        counted = spec.counted(*inputs)
        grad_output = grad_output.to(compute_dtype(z))
        if counted is None:
            grad_output = grad_output / count(grad_output, z.shape[1:-1])
        else:
            grad_output = quotient(grad_output, reduce("sum", counted, batch_dims=1), empty=0)
    return grad_output if z.ndim == 2 else grad_output.view(-1, *(1,) * (z.ndim - 2)).expand(z.shape[:-1])
