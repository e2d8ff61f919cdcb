"""The specification of a cost: its formula, its derivatives by hand, and its kernels."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

Formula = Callable[..., Tensor]


def all_count(*inputs: Any) -> None:
    """Return None: every example counts in the mean."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CostSpec:
    """The specification of a cost, from which operators, kernels, functions of autograd and tests follow.

    `cost(z, y, *weights, *constants)` returns the cost of each example, shape (...). z has shape (..., K); y holds
    classes (...) or desired outputs (..., K); weights broadcast to z, and each may be None; constants are numbers. A
    derivative takes the same arguments, and returns a term for each element of z, shape (..., K): the derivative of C
    by the element of z, y or a weight that belongs to it. The formulas compute in float64 for z in float64, else in
    float32. Autograd derives further derivatives from the formulas.

    Attributes:
        name: the name of the operators and kernels. The autograd node and the struct in C++ have `class_name`.
        cost, delta: the formula, and δ = ∂C/∂z.
        curvature: a function of v, z, y, ... that returns the change of δ in the direction v, shape (..., K).
        other_derivatives: those by y and by each weight, in the order of the arguments.
        counted: a function that returns how much each example counts in the mean, shape (...), or None for 1.
        family: the family of the kernels: "softmax" for rows of a softmax layer, "elements" for a sum over elements.
        cpp: for "elements", a struct template in C++ with cost(z, y, p), delta(z, y, p), and the
            derivative of that by z, slope(z, y, p): see `elements.h`.
        triton: for "elements", cost, delta and slope in Triton, as functions of z, y, p and two numbers, which are the
            constants of the cost, the first a pair with what is left to 1; then the functions that they call. They see
            the names of `gpu_kernels.py`.
        examples: options of the public function, with which tests and benchmarks call the cost.
    """

    name: str
    cost: Formula
    delta: Formula
    curvature: Formula
    other_derivatives: Mapping[str, Formula]
    counted: Callable[..., Tensor | None] = all_count
    family: Literal["elements", "softmax"] = "elements"
    cpp: str = ""
    triton: tuple[Callable[..., Any], ...] = ()
    examples: Sequence[Mapping[str, Any]] = field(default=({},))

    @cached_property
    def class_name(self) -> str:
        """The name in the form of a class."""
        return "".join(word.capitalize() for word in self.name.split("_"))

    @cached_property
    def derivatives(self) -> tuple[Formula, ...]:
        """The derivatives by z, y and the weights."""
        return self.delta, *self.other_derivatives.values()

    @cached_property
    def tensor_count(self) -> int:
        """The number of z, y and the weights, the arguments that are tensors."""
        return len(self.derivatives)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The types of the formula's arguments, by their names."""
        return {name: p.annotation for name, p in inspect.signature(self.cost).parameters.items()}

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights."""
        return tuple(self.parameters)[2 : len(self.derivatives)]

    def positions(self, kind: type) -> tuple[int, ...]:
        """Return the positions of the arguments of this type, counted from the first after z and y."""
        return tuple(i for i, annotation in enumerate([*self.parameters.values()][2:]) if annotation is kind)
