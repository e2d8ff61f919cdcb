"""What a cost is: its formula, its derivatives by hand, and what its kernels are."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

Formula = Callable[..., Tensor]


def all_count(*inputs: Any) -> None:
    """Say that every example counts in the mean."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CostSpec:
    """A cost: operators, kernels, functions of autograd and tests follow from it.

    `cost(z, y, *weights, *constants)` is the cost of each example, shape (...), of z (..., K), of y, classes (...) or
    desired outputs (..., K), and of weights that broadcast to z, each of which may be None. Constants are numbers. The
    derivatives take the same arguments, and return the terms, shape (..., K), by which an element of z, of y or of a
    weight changes C. The formulas compute in float64 where z has it, else in float32. Second derivatives are
    autograd's, of the formulas.

    Attributes:
        name: of the operators and kernels; `class_name` is that of the autograd node and of the struct in C++.
        cost, delta: the formula, and δ = ∂C/∂z.
        other_derivatives: by y and by each of the weights, in the order of the arguments.
        counted: how much each example counts in the mean, shape (...), or None for 1.
        family: of the kernels: rows of a softmax layer, or a sum over elements.
        cpp: of a sum over elements a struct template with cost(z, y, p) and delta(z, y, p): see `elements.h`.
        triton: of a sum over elements cost and delta in Triton, of z, y and two numbers, the constants that the cost
            takes; and functions that they call. They see the names of `gpu_kernels.py`.
        examples: options of the public function, with which tests and benchmarks try the cost.
    """

    name: str
    cost: Formula
    delta: Formula
    other_derivatives: Mapping[str, Formula]
    counted: Callable[..., Tensor | None] = all_count
    family: Literal["elements", "softmax"] = "elements"
    cpp: str = ""
    triton: tuple[Callable[..., Any], ...] = ()
    examples: Sequence[Mapping[str, Any]] = field(default=({},))

    @cached_property
    def class_name(self) -> str:
        return "".join(word.capitalize() for word in self.name.split("_"))

    @cached_property
    def derivatives(self) -> tuple[Formula, ...]:
        """The derivatives by z, y and the weights."""
        return self.delta, *self.other_derivatives.values()

    @cached_property
    def tensor_count(self) -> int:
        """How many arguments are tensors, or None: z, y and the weights."""
        return len(self.derivatives)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The types of the formula's arguments, by their names."""
        return {name: p.annotation for name, p in inspect.signature(self.cost).parameters.items()}

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of the arguments that are tensors, or None, beside z and y."""
        return tuple(self.parameters)[2 : len(self.derivatives)]

    def positions(self, kind: type) -> tuple[int, ...]:
        """Return where arguments of this type are among those after z and y."""
        return tuple(i for i, annotation in enumerate([*self.parameters.values()][2:]) if annotation is kind)
