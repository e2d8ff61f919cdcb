"""Functions with rules for autograd, forward mode and `torch.func`, found without PyTorch's detours.

`torch.func` keeps a stack of transforms: each hands a call to the next. For a `torch.autograd.Function`
PyTorch makes a class at every call and walks through trees of arguments, several times the time of a small cost. Here a
class is made once, forward mode needs none, and arguments are a tuple.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ce_torch.costs._autograd import is_number
from ce_torch.costs._torch_private import (
    SingleLevelFunction,
    Transform,
    add_batch_dim,
    apply_at_level,
    current_transform,
    enable_forward_mode,
    is_batched,
    is_legacy_batched,
    make_dual,
    may_be_dual,
    unpack_dual,
    unwrap,
    unwrap_batched,
    unwrap_if_dead,
    wrap,
)


class Transformable(ABC):
    """A function of tensors and constants that has derivatives by the arguments at `differentiable`.

    Where another argument has a derivative too, autograd differentiates `formulas`.
    """

    differentiable: frozenset[int]
    # False leaves forward mode to the formulas.
    has_change = True

    def __init__(self, name: str) -> None:
        self.eager = derivative_form(name, Function, self)
        self.of_level = derivative_form(name, SingleLevelFunction, self)

    @abstractmethod
    def values(self, *arguments: Any) -> Any:
        """Return the function of tensors that have no derivatives and that no transform sees."""

    @abstractmethod
    def formulas(self, *arguments: Any) -> Any:
        """Return the function in operations that have derivatives."""

    @abstractmethod
    def gradients(self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None) -> Iterable[Any]:
        """Return the gradients by the arguments where they are needed, None elsewhere."""

    def gradients_of_formulas(
        self, arguments: Sequence[Any], needed: Sequence[bool], *grads: Tensor | None
    ) -> list[Tensor | None]:
        """Return the gradients that autograd derives from the formulas."""
        moving = [i for i, is_needed in enumerate(needed) if is_needed]
        reached = [i for i, grad in enumerate(grads) if grad is not None]
        if not reached:
            return [None for _ in needed]

        def formulas(*moved: Tensor) -> list[Any]:
            changed = list(arguments)
            for i, argument in zip(moving, moved, strict=True):
                changed[i] = argument
            results = self.formulas(*changed)
            results = (results,) if isinstance(results, Tensor) else results
            return [results[i] for i in reached]

        _, pull_back, *_ = torch.func.vjp(formulas, *(arguments[i] for i in moving))
        found = dict(zip(moving, pull_back([grads[i] for i in reached]), strict=True))
        return [found.get(i) for i in range(len(needed))]

    def change(self, primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> Tensor:
        """Return the derivative in the direction of the tangents."""
        raise NotImplementedError

    def value_and_change(self, primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> tuple[Any, Any]:
        """Return the function, and its derivative in the direction of the tangents."""
        return self(*primals), self.change(primals, tangents)

    @abstractmethod
    def batch(self, size: int, arguments: Sequence[Any], dims: Sequence[int | None]) -> Any:
        """Return the function of each of the batch, of arguments that have it in these dimensions, in dimension 0."""

    def __call__(self, *arguments: Any) -> Any:
        transform = current_transform()
        if transform is None:
            return self.without_transform(*arguments)
        if transform.is_vmap:
            return self.of_batch(transform, map_tensors(unwrap_if_dead, arguments))
        if transform.is_jvp:
            return self.of_duals(transform, map_tensors(transform.lift, arguments))
        if not transform.is_grad:
            return self.formulas(*map_tensors(unwrap_if_dead, arguments))
        arguments = map_tensors(transform.lift, arguments)
        if not self.has_rules_for(tracked(arguments)):
            return self.formulas(*arguments)
        return apply_at_level(self.of_level, partial(self.lowered, transform), *arguments)

    def without_transform(self, *arguments: Any) -> Any:
        if may_be_dual():
            return self.in_forward_mode(arguments)
        differentiated = tracked(arguments) if torch.is_grad_enabled() else set()
        if not differentiated:
            return self.values(*arguments)
        # A Function has no place in the graph of what `is_grads_batched` makes a batch.
        if not self.has_rules_for(differentiated) or any(map(is_batch_of_grads, arguments)):
            return self.formulas(*arguments)
        return self.eager.apply(self.values, *arguments)

    def has_rules_for(self, places: set[int]) -> bool:
        return places <= self.differentiable

    def of_batch(self, transform: Transform, arguments: Sequence[Any]) -> Any:
        """Return the function under vmap."""
        level = transform.level
        pairs = [unwrap_batched(a, level) if isinstance(a, Tensor) else (a, None) for a in arguments]
        values, dims = zip(*pairs, strict=True)
        sizes = [value.shape[dim] for value, dim in zip(values, dims, strict=True) if dim is not None]
        with transform:
            if not sizes:
                return self(*arguments)
            results = self.batch(sizes[0], values, dims)
        return map_results(lambda result: add_batch_dim(result, 0, level), results)

    def in_forward_mode(self, arguments: Sequence[Any]) -> Any:
        """Return the function within `torch.autograd.forward_ad`."""
        primals, tangents = unpack(arguments)
        moved = places(tangents)
        if (torch.is_grad_enabled() and tracked(arguments)) or not all(map(is_number, tangents)):
            return self.formulas(*arguments)
        if not moved:
            return self.values(*arguments)
        if not (self.has_change and self.has_rules_for(moved)):
            return self.formulas(*arguments)
        return make_dual(self.values(*primals), self.change(primals, tangents))

    def of_duals(self, transform: Transform, arguments: Sequence[Any]) -> Any:
        """Return the function under jvp."""
        level = transform.level
        primals, tangents = unpack(arguments)
        moved = places(tangents)
        if not moved:
            return self.lowered(transform, *arguments)
        if not (self.has_change and self.has_rules_for(moved)):
            return self.formulas(*arguments)
        primals, tangents = (map_tensors(lambda tensor: unwrap(tensor, level), part) for part in (primals, tangents))
        with transform:
            result, change = self.value_and_change(primals, tangents)
        return make_dual(wrap(result, level), wrap(change, level))

    def lowered(self, transform: Transform, *arguments: Any) -> Any:
        """Return the function as the next transform sees it."""
        level = transform.level
        arguments = map_tensors(lambda tensor: unwrap(tensor, level), arguments)
        with transform:
            results = self(*arguments)
        return map_results(lambda result: wrap(result, level), results)


def derivative_form(name: str, base: type, function: Transformable) -> type:
    """Return a Function of how the results are computed and the arguments."""

    class Derivative(base):
        @staticmethod
        def forward(ctx: Any, compute: Callable[..., Any], *arguments: Any) -> Any:
            ctx.constants = [None if isinstance(a, Tensor) else a for a in arguments]
            ctx.save_for_backward(*(a if isinstance(a, Tensor) else None for a in arguments))
            ctx.set_materialize_grads(False)
            if base is Function:
                return compute(*arguments)
            # The transforms below have derivatives of their own.
            with torch.enable_grad(), enable_forward_mode():
                return compute(*arguments)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
            pairs = zip(ctx.saved_tensors, ctx.constants, strict=True)
            arguments = [constant if tensor is None else tensor for tensor, constant in pairs]
            return None, *function.gradients(arguments, ctx.needs_input_grad[1:], *grads)

    return type(name, (Derivative,), {})


def tracked(arguments: Sequence[Any]) -> set[int]:
    """Return the places of what autograd tracks."""
    return {i for i, argument in enumerate(arguments) if isinstance(argument, Tensor) and argument.requires_grad}


def is_batch_of_grads(argument: Any) -> bool:
    return isinstance(argument, Tensor) and is_legacy_batched(argument)


def places(arguments: Sequence[Any]) -> set[int]:
    """Return the places of what is not None."""
    return {i for i, argument in enumerate(arguments) if argument is not None}


def unpack(arguments: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Tensor | None, ...]]:
    """Return the primals and the tangents; vmap has no rule for them, nor its tensors a tangent."""
    pairs = [unpack_dual(a) if may_have_tangent(a) else (a, None) for a in arguments]
    primals, tangents = zip(*pairs, strict=True)
    return primals, tangents


def may_have_tangent(argument: Any) -> bool:
    if not isinstance(argument, Tensor) or not argument.is_floating_point():
        return False
    return not is_batched(argument) and not is_legacy_batched(argument)


def map_tensors(f: Callable[[Tensor], Tensor], arguments: Iterable[Any]) -> tuple[Any, ...]:
    return tuple([f(argument) if isinstance(argument, Tensor) else argument for argument in arguments])


def map_results(f: Callable[[Tensor], Tensor], results: Any) -> Any:
    return f(results) if isinstance(results, Tensor) else map_tensors(f, results)
