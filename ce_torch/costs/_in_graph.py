"""A cost as one operator in the graph of `torch.compile`, which the compiler takes apart once Dynamo has traced.

At each step Dynamo checks every function, module and constant that it read while it traced, which takes as long as a
small cost. Of an operator it reads nothing. AOTAutograd calls that with tensors that have no numbers, and sees what it
calls: the kernels, or, of a small z, formulas, which the compiler makes into code of its own.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._backend import Selection, use_backend
from ce_torch.costs._operators import LIBRARY
from ce_torch.costs._spec import CostSpec
from ce_torch.costs._torch_private import (
    count_numbers,
    is_exporting,
    is_forward_mode,
    is_transformed,
    settled_by_compiler,
)
from ce_torch.costs.kernels import Implementation

# How many numbers z has at most where a call of a kernel takes longer than code that the compiler makes of formulas.
SMALL = 8192
# What `torch.compile` calls without looking inside, by name.
IN_GRAPH: dict[str, Callable[..., Any]] = {}


def define_in_graph(name: str, inputs: str, outputs: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Define the operator of a function of these inputs and outputs, as in a schema, and return it."""
    IN_GRAPH[name] = function
    operator = f"{name}_in_graph"
    LIBRARY.define(f"{operator}(str version, str backend, {inputs}) -> {outputs}", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(operator, partial(call, name), "CompositeImplicitAutograd")
    return getattr(torch.ops.ce_torch, operator).default


def call(name: str, version: str, backend: str, *arguments: Any) -> Any:
    """Return what this function does with the backend that was prescribed where Dynamo traced."""
    with use_backend(backend):
        return IN_GRAPH[name](*arguments)


def takes_formulas(z: Tensor) -> bool:
    """Return True if the compiler is to see formulas: asked for, or of z known to be small, with all of its batch."""
    count = count_numbers(z)
    is_small = isinstance(count, int) and count <= SMALL
    return Selection.backend == "formulas" or (Selection.backend == "auto" and is_small)


def after(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor, such that the compiler computes what follows from it in the pass in which this gradient comes.

    It has no second backward pass, and says so where the first reads inputs that need a gradient. Of one that reads
    what the forward pass made of them it drops the derivatives, silently.
    """
    fits = gradient.ndim == 0 or gradient.shape in (tensor.shape, tensor.shape[:-1])
    is_zero = (gradient if fits else gradient.sum()) == 0
    is_zero = is_zero.unsqueeze(-1) if gradient.shape == tensor.shape[:-1] else is_zero
    return torch.where(is_zero, tensor, tensor)


def after_gradient(gradient: Tensor, inputs: Sequence[Any]) -> list[Any]:
    """Return the inputs, those that may need a gradient like this."""
    return [after(gradient, x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]


class Tied(torch.autograd.Function):
    """What is made of these inputs, with a backward pass that reads them."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        ctx.save_for_backward(*inputs)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        for tensor in ctx.saved_tensors:
            numbers = after(gradient, tensor)
            numbers = numbers if numbers.shape == gradient.shape else numbers.sum()
            # A compiler leaves out what its result does not need.
            gradient = torch.where(numbers == 0, gradient, gradient)
        return gradient, None


TIE = define_in_graph("tied", "Tensor output, Tensor[] inputs", "Tensor", Tied.apply)


def tied(output: Tensor, *inputs: Any) -> Tensor:
    """Return the output, such that what the compiler makes of its backward pass reads the inputs that it is made of.

    The compiler has no second backward pass, and says so only if the first reads inputs of what is compiled.
    """
    if not torch.compiler.is_compiling() or is_exporting() or is_transformed() or is_forward_mode():
        return output
    moving = [tensor for tensor in inputs if isinstance(tensor, Tensor) and tensor.requires_grad]
    return TIE(version(), Selection.backend, output, moving) if moving and torch.is_grad_enabled() else output


def checked(z: Tensor, y: Tensor, *ignore_index: int) -> Tensor:
    """Return y, such that what the compiler makes of it raises an error at a class that z does not have.

    It compares classes with numbers, and one that is none goes unseen. Where it reads z at a place it checks that.
    """
    if y.is_floating_point():
        return y
    place = torch.where(y < 0, z.shape[-1], y)
    for ignored in ignore_index:
        place = place.masked_fill(y == ignored, 0)
    z_y = z.detach().gather(-1, place.unsqueeze(-1)).squeeze(-1)
    return torch.where(z_y == 0, y, y)


def compilable(spec: CostSpec, formulas: Implementation) -> Implementation:
    """Return the formulas as the compiler is to see them."""

    def check(z: Tensor, y: Tensor, *inputs: Any) -> tuple[Any, ...]:
        return z, checked(z, y, *(inputs[i] for i in spec.positions(int))), *inputs

    def cost(dtype: torch.dtype, reduction: str, *inputs: Any) -> tuple[Tensor, None]:
        C, _ = formulas.cost(dtype, reduction, *check(*inputs))
        return C, None

    def delta(grad_output: Tensor, statistics: None, reduction: str, *inputs: Any) -> Tensor:
        return formulas.delta(grad_output, statistics, reduction, *after_gradient(grad_output, check(*inputs)))

    def change(
        v: Tensor, grad_output: Tensor | None, statistics: None, reduction: str, *inputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        return formulas.change(v, grad_output, statistics, reduction, *after_gradient(v, check(*inputs)))

    return formulas._replace(cost=cost, delta=delta, change=change)


@settled_by_compiler
def version() -> str:
    """Return what the compiler's caches are to know of an operator that is taken apart."""
    return f"{digest()}, {SMALL}"


@cache
def digest() -> str:
    """Return a digest of the code of the costs."""
    folders = files("ce_torch.costs"), files("ce_torch.costs.kernels")
    code = [(file.name, file.read_bytes()) for folder in folders for file in folder.iterdir() if is_code(file.name)]
    return hashlib.sha256(repr(sorted(code)).encode()).hexdigest()[:16]


def is_code(name: str) -> bool:
    return name.endswith(".py")
