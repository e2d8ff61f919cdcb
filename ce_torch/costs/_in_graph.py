"""A cost as one operator in the graph of `torch.compile`, which the compiler takes apart once Dynamo has traced.

At each step Dynamo checks every function, module and constant that it read while it traced, which takes as long as a
small cost. Of an operator it reads nothing. AOTAutograd calls that with tensors that have no numbers, and sees what it
calls: the kernels, or, of a small z, formulas, which the compiler makes into code of its own.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._backend import Selection
from ce_torch.costs._operators import LIBRARY
from ce_torch.costs._torch_private import count_numbers, settled_by_compiler
from ce_torch.costs.kernels import Implementation

# How many numbers z has at most where a call of a kernel takes longer than code that the compiler makes of formulas.
SMALL = 8192
# What `torch.compile` calls without looking inside, by name.
IN_GRAPH: dict[str, Callable[..., Any]] = {}


def define_in_graph(name: str, schema: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Define the operator of a function of these inputs and outputs, and return it."""
    IN_GRAPH[name] = function
    operator = f"{name}_in_graph"
    LIBRARY.define(f"{operator}(str version, {schema}", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(operator, lambda version, *arguments: function(*arguments), "CompositeImplicitAutograd")
    return getattr(torch.ops.ce_torch, operator).default


def takes_formulas(z: Tensor) -> bool:
    """Return True if the compiler is to see formulas: of a z that is known to be small, with all of its batch."""
    count = count_numbers(z)
    is_small = isinstance(count, int) and count <= SMALL
    return Selection.backend == "formulas" or (Selection.backend == "auto" and is_small)


def after(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor, such that the compiler computes what follows from it in the pass in which this gradient comes.

    It has no second backward pass, and says so where the first reads tensors that need a gradient. Of one that reads
    what an earlier pass made of them it drops the derivatives, silently.
    """
    fits = gradient.ndim == 0 or gradient.shape in (tensor.shape, tensor.shape[:-1])
    is_zero = (gradient if fits else gradient.sum()) == 0
    is_zero = is_zero.unsqueeze(-1) if gradient.shape == tensor.shape[:-1] else is_zero
    return torch.where(is_zero, tensor, tensor)


def after_gradient(gradient: Tensor, inputs: Sequence[Any]) -> list[Any]:
    """Return the inputs, those that may need a gradient like this."""
    return [after(gradient, x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]


def compilable(formulas: Implementation) -> Implementation:
    """Return the formulas as the compiler is to see them."""

    def delta(grad_output: Tensor, statistics: None, reduction: str, *inputs: Any) -> Tensor:
        return formulas.delta(grad_output, statistics, reduction, *after_gradient(grad_output, inputs))

    def change(
        v: Tensor, grad_output: Tensor | None, statistics: None, reduction: str, *inputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        return formulas.change(v, grad_output, statistics, reduction, *after_gradient(v, inputs))

    return formulas._replace(delta=delta, change=change)


@settled_by_compiler
def version(backend: str) -> str:
    """Return what the compiler's caches are to know of an operator that is taken apart, and Dynamo is to guard."""
    return f"{digest()}, {SMALL}, {backend}"


@cache
def digest() -> str:
    """Return a digest of the code of the costs."""
    folders = files("ce_torch.costs"), files("ce_torch.costs.kernels")
    code = [(file.name, file.read_bytes()) for folder in folders for file in folder.iterdir() if is_code(file.name)]
    return hashlib.sha256(repr(sorted(code)).encode()).hexdigest()[:16]


def is_code(name: str) -> bool:
    return name.endswith(".py")
