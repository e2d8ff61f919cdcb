"""The costs on a GPU by the kernels of `gpu_kernels.py`, which need Triton; where it is missing the formulas run.

Float64 is left to the formulas: it is there for checks of gradients, and kernels that work in float32 are no help.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._desired import desired_outputs
from ce_torch.costs._precision import compute_dtype, to_dtype
from ce_torch.costs._reduction import example_grad, reduce
from ce_torch.costs.kernels import (
    NOT_PLAIN,
    OFF,
    Implementation,
    is_plain,
    kernels_are_on,
    new_cost,
    new_statistics,
)
from ce_torch.costs.kernels import formulas as whole_tensors

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

# Elements that a program holds at once: enough loads under way to keep the memory busy, few enough for the registers.
LARGEST_BLOCK = 4096


def refusal(*inputs: Any) -> str | None:
    """Return why the kernels do not support z, the first of the inputs, and the others."""
    z = inputs[0]
    if not is_on_gpu(z):
        return "z is not on a GPU"
    if not all(is_plain(input) for input in inputs if isinstance(input, Tensor)):
        return NOT_PLAIN
    if z.numel() == 0:
        return "z is empty"
    if compute_dtype(z) != torch.float32:
        return "z is float64"
    if not has_triton():
        return "Triton is not installed"
    if not kernels_are_on():
        return OFF
    return None


def is_on_gpu(z: Tensor) -> bool:
    return z.is_cuda


@cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def triton(spec: "CostSpec") -> Implementation:
    """Return the cost's kernels for a GPU as an implementation; how it changes is left to its formulas."""
    kernels = (softmax_refusal, softmax_cost, softmax_delta) if spec.family == "softmax" else elements(spec)
    return Implementation("triton", *kernels, whole_tensors.formulas(spec).change)


def softmax_refusal(
    z: Tensor, y: Tensor, weight: Tensor | None, c: float, ignore_index: int, label_smoothing: float
) -> str | None:
    if weight is not None or label_smoothing != 0 or y.is_floating_point():
        return refusal(z) or "they support neither weights, nor label smoothing, nor desired outputs"
    return refusal(z, y)


def softmax_cost(
    dtype: torch.dtype,
    reduction: str,
    z: Tensor,
    y: Tensor,
    weight: None,
    c: float,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Return C, and the statistics m and r of each row."""
    rows, classes, C = as_rows(z), y.reshape(-1), new_cost("none", z, torch.float32)
    statistics = new_statistics(z, torch.float32)
    inputs = rows, classes, normal(c), ignore_index
    launch("log_likelihood", rows, (len(rows),), C, *split(statistics), *inputs, *rows.stride(), *classes.stride())
    return to_dtype(reduce(reduction, C, y != ignore_index), dtype), statistics


def softmax_delta(
    grad_output: Tensor,
    statistics: Tensor | None,
    reduction: str,
    z: Tensor,
    y: Tensor,
    weight: None,
    c: float,
    ignore_index: int,
    label_smoothing: float,
    in_place: bool = False,
) -> Tensor:
    """Return δ times what reached C, shaped like z and of its dtype."""
    if statistics is None:
        _, statistics = softmax_cost(torch.float32, "none", z, y, weight, c, ignore_index, label_smoothing)
    delta = z if in_place else new_delta(z)
    rows, classes, g = as_rows(z), y.reshape(-1), row_grads(grad_output, reduction, z, y != ignore_index)
    inputs = *split(statistics), rows, classes, normal(c), ignore_index
    strides = *rows.stride(), *classes.stride()
    launch("log_likelihood_delta", rows, row_blocks(rows), delta, g, *g.stride(), *inputs, *strides)
    return follow(z, delta)


def split(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Return m and r of each row."""
    m, r, _, _ = statistics[2:].chunk(4)
    return m, r


def normal(c: float) -> float:
    """Return c, or the smallest normal number of float32 for one below, so that c · ∞ is ∞."""
    return max(c, torch.finfo(torch.float32).tiny)


def elements(spec: "CostSpec") -> tuple[Callable[..., Any], ...]:
    """Return refusal, cost and δ of a cost that is a sum over neurons, without weights."""
    count, positions = len(spec.weights), spec.positions(float)

    def elements_refusal(z: Tensor, y: Tensor, *inputs: Any) -> str | None:
        if not spec.triton:
            return "the cost has none"
        if any(weight is not None for weight in inputs[:count]):
            return refusal(z) or "they support no weights"
        return refusal(z, y)

    def prepare(z: Tensor, y: Tensor, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        rows, y = as_rows(z), as_rows(desired_outputs(y, z).expand(z.shape))
        first, second, *_ = *(inputs[i] for i in positions), 0.0, 0.0
        return rows, y, *rows.stride(), *y.stride(), first, second

    def cost(dtype: torch.dtype, reduction: str, z: Tensor, y: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
        C = new_cost("none", z, torch.float32)
        rows, *rest = prepare(z, y, inputs)
        formula, _ = formulas(spec)
        launch("elements", rows, (len(rows),), C, rows, *rest, formula=formula)
        return to_dtype(reduce(reduction, C), dtype), new_statistics(z, torch.float32)

    def delta(
        grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, y: Tensor, *inputs: Any
    ) -> Tensor:
        g, delta = row_grads(grad_output, reduction, z), new_delta(z)
        rows, *rest = prepare(z, y, inputs)
        _, formula = formulas(spec)
        launch("elements_delta", rows, row_blocks(rows), delta, g, *g.stride(), rows, *rest, formula=formula)
        return follow(z, delta)

    return elements_refusal, cost, delta


@cache
def formulas(spec: "CostSpec") -> tuple[Any, Any]:
    """Return the cost's C and δ in Triton, which see each other and the names of `gpu_kernels.py`, by their names."""
    import triton

    from ce_torch.costs.kernels import gpu_kernels

    names = {**vars(gpu_kernels)}
    for function in spec.triton:
        names[function.__name__] = triton.jit(FunctionType(function.__code__, names, function.__name__))
    cost, delta, *_ = spec.triton
    return names[cost.__name__], names[delta.__name__]


def product_in_float32(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of matrices in half precision, summed and given in float32."""
    return torch.mm(left, right, out_dtype=torch.float32)


def launch(name: str, rows: Tensor, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run the kernel of this name, for each row or for each of its blocks."""
    # Here, because the import takes as long as a thousand costs, and needs Triton.
    from ce_torch.costs.kernels import gpu_kernels

    block = row_block(rows)
    with torch.cuda.device_of(rows):
        getattr(gpu_kernels, name)[grid](
            *arguments, columns=rows.shape[1], block=block, num_warps=min(max(block // 256, 1), 8), **constants
        )


def row_block(rows: Tensor) -> int:
    """Return how many elements of a row a program holds at once, a power of two."""
    return min(1 << (rows.shape[1] - 1).bit_length(), LARGEST_BLOCK)


def row_blocks(rows: Tensor) -> tuple[int, int]:
    return len(rows), -(-rows.shape[1] // row_block(rows))


def as_rows(tensor: Tensor) -> Tensor:
    """Return the examples as rows: a view, unless the strides of the leading dimensions don't admit one."""
    return tensor.reshape(-1, tensor.shape[-1])


def row_grads(grad_output: Tensor, reduction: str, z: Tensor, counted: Tensor | None = None) -> Tensor:
    return example_grad(grad_output, reduction, z, counted).expand(*z.shape[:-1], 1).reshape(-1)


def follow(z: Tensor, delta: Tensor) -> Tensor:
    """Return δ in the memory format of z."""
    return delta if z.is_contiguous() else torch.empty_like(z).copy_(delta)


def new_delta(z: Tensor) -> Tensor:
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)
