"""The costs on a GPU by the kernels of `gpu_kernels.py`, which need Triton; where it is missing the formulas run."""

import importlib.util
import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype, to_dtype
from ce_torch.costs.kernels import (
    NOT_PLAIN,
    OFF,
    is_plain,
    kernels_are_on,
    new_cost,
    new_statistics,
)
from ce_torch.costs.kernels.gpu_layout import LARGEST_TILE, Layout, lay_out

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

# How many tiles of columns a program adds up where rows are parts of a sum.
PART_TILES = 4
# How many parts of a sum the last program holds at once.
FINISH_BLOCK = 1024


def refusal(*inputs: Any) -> str | None:
    """Return why the kernels do not support z, the first of the inputs, and the others."""
    z = inputs[0]
    if not is_on_gpu(z):
        return "z is not on a GPU"
    if not all(is_plain(input) for input in inputs if isinstance(input, Tensor)):
        return NOT_PLAIN
    if z.numel() == 0:
        return "z is empty"
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


def softmax_cost(
    dtype: torch.dtype,
    reduction: str,
    z: Tensor,
    y: Tensor,
    weight: Tensor | None,
    c: float,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Return C, and the statistics: m, r and T of each row, and how much all classes y count in the mean."""
    real, N = compute_dtype(z), count_examples(z)
    C, statistics = new_cost(reduction, z, kernel_dtype(z, dtype)), new_statistics(z, y, real, on_gpu=True)
    C_of_rows = per_example(C) if reduction == "none" else None
    layout = lay_out(z, as_outputs(y), weight, maxima(z, statistics), C_of_rows)
    z_rows, y_rows, weights, m, C_rows = layout.tensors
    C_all = None if reduction == "none" else C
    # How many examples count in the mean is to be found where y holds classes.
    count, known = (None, N) if y.is_floating_point() else (counted(statistics), None)
    part = layout.sizes[0]
    partials = new_partials(2, layout.programs(part), real, C_all, count)
    inputs = z_rows, y_rows, weights, normal(c, real), label_smoothing, ignore_index, N
    constants = {"averages": reduction == "mean", "smooths": label_smoothing != 0, "lane_columns": layout.lane_columns}
    launch("log_likelihood", layout, part, C_rows, C_all, count, partials, m, *inputs, **constants)
    if partials is not None:
        finish(reduction, C_all, partials, known, count)
    return to_dtype(C, dtype), statistics


def softmax_delta(
    grad_output: Tensor,
    statistics: Tensor | None,
    reduction: str,
    z: Tensor,
    y: Tensor,
    weight: Tensor | None,
    c: float,
    ignore_index: int,
    label_smoothing: float,
    in_place: bool = False,
) -> Tensor:
    """Return δ times what reached C, shaped like z and of its dtype."""
    if statistics is None:
        _, statistics = softmax_cost(compute_dtype(z), "none", z, y, weight, c, ignore_index, label_smoothing)
    delta = z if in_place else torch.empty_like(z)
    layout = lay_out(z, as_outputs(y), weight, maxima(z, statistics), row_grads(grad_output), delta)
    z_rows, y_rows, weights, m, grads, delta_rows = layout.tensors
    inputs = z_rows, y_rows, weights, normal(c, statistics.dtype), label_smoothing, ignore_index, count_examples(z)
    outputs = delta_rows, grads, m, counted(statistics)
    constants = {"averages": reduction == "mean", "smooths": label_smoothing != 0}
    launch("log_likelihood_delta", layout, layout.tile_columns, *outputs, *inputs, **constants)
    return delta


def maxima(z: Tensor, statistics: Tensor) -> Tensor:
    """Return m of each row; r and T follow in memory."""
    return statistics[2 : 2 + count_examples(z)].view(*z.shape[:-1], 1)


def counted(statistics: Tensor) -> Tensor:
    return statistics.view(torch.float64)


def normal(c: float, dtype: torch.dtype) -> float:
    """Return c, or the smallest normal number of the dtype for one below, so that c · ∞ is ∞."""
    return max(c, torch.finfo(dtype).tiny)


def elements(spec: "CostSpec") -> tuple[Callable[..., Any], ...]:
    """Return refusal, cost and δ of a cost that is a sum over neurons."""

    def elements_refusal(*inputs: Any) -> str | None:
        return refusal(*inputs) if spec.triton else "the cost has none"

    def cost(dtype: torch.dtype, reduction: str, z: Tensor, y: Tensor, *inputs: Any) -> tuple[Tensor, None]:
        weights, numbers = sort(spec, inputs)
        C = new_cost(reduction, z, kernel_dtype(z, dtype))
        C_of_rows = per_example(C) if reduction == "none" else None
        layout = lay_out(z, as_outputs(y), *weights, C_of_rows, merges_columns=rows_may_merge(reduction, y))
        *tensors, C_rows = layout.tensors
        C_all, N = None if reduction == "none" else C, count_examples(z)
        part = part_of_sum(layout, C_all)
        partials = new_partials(1, layout.programs(part), compute_dtype(z), C_all)
        formula, *_ = formulas(spec)
        inputs, constants = (*tensors, *numbers, N), {"averages": reduction == "mean", "formula": formula}
        launch("elements", layout, part, C_rows, C_all, partials, *inputs, part=part, **constants)
        if partials is not None:
            finish(reduction, C_all, partials, N)
        return to_dtype(C, dtype), None

    def delta(
        grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, y: Tensor, *inputs: Any
    ) -> Tensor:
        delta, (weights, numbers) = torch.empty_like(z), sort(spec, inputs)
        others = as_outputs(y), *weights, row_grads(grad_output), delta
        layout = lay_out(z, *others, merges_columns=rows_may_merge(reduction, y))
        *tensors, grads, delta_rows = layout.tensors
        _, formula, _ = formulas(spec)
        constants = {"averages": reduction == "mean", "formula": formula}
        arguments = delta_rows, grads, *tensors, *numbers, count_examples(z)
        launch("elements_delta", layout, layout.tile_columns, *arguments, **constants)
        return delta

    return elements_refusal, cost, delta


def sort(spec: "CostSpec", inputs: tuple[Any, ...]) -> tuple[tuple[Tensor | None, ...], tuple[float, ...]]:
    """Return the weight and pos_weight among inputs after y, and the two numbers, where they are missing too."""
    weights = *inputs[: len(spec.weights)], None, None
    numbers = *(inputs[i] for i in spec.positions(float)), 0.0, 0.0
    return weights[:2], numbers[:2]


def part_of_sum(layout: Layout, C: Tensor | None) -> int:
    """Return how many columns of its rows a program adds up: all, but for one sum C over all rows."""
    return layout.sizes[0] if C is None else PART_TILES * layout.tile_columns


def rows_may_merge(reduction: str, y: Tensor) -> bool:
    """Return True if rows can be joined: no row has a C or a class of its own."""
    return reduction != "none" and y.is_floating_point()


@cache
def formulas(spec: "CostSpec") -> tuple[Any, Any, Any]:
    """Return C, δ and its slope in Triton, which see each other and the names of `gpu_kernels.py`, by their names."""
    import triton

    from ce_torch.costs.kernels import gpu_kernels

    names = {**vars(gpu_kernels)}
    for function in spec.triton:
        names[function.__name__] = triton.jit(FunctionType(function.__code__, names, function.__name__))
    cost, delta, slope, *_ = (names[function.__name__] for function in spec.triton)
    return cost, delta, slope


def product_in_float32(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of matrices in half precision, summed and given in float32."""
    return torch.mm(left, right, out_dtype=torch.float32)


def multiply(left: Tensor, right: Tensor, out: Tensor, adds: bool = False) -> None:
    """Write that product to `out`, or add it."""
    if adds:
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left, right, out_dtype=torch.float32, out=out)


def multiply_by(tensor: Tensor, factor: Tensor) -> None:
    """Multiply a contiguous tensor in place by a number on the GPU. One that is 1 takes no time."""
    grid = (-(-tensor.numel() // LARGEST_TILE),)
    run("multiply_by", tensor, grid, tensor, factor, tensor.numel(), tile=LARGEST_TILE, num_warps=8)


def launch(name: str, layout: Layout, columns: int, *arguments: Any, **constants: Any) -> None:
    """Run the kernel of this name, in programs that take this many columns of their rows."""
    tile = {"tile_rows": layout.tile_rows, "tile_columns": layout.tile_columns}
    warps = min(max(layout.tile_rows * layout.tile_columns // 256, 1), 8)
    run(
        name,
        layout.z,
        (layout.programs(columns),),
        *arguments,
        sizes=layout.sizes,
        num_warps=warps,
        **tile,
        **constants,
    )


def new_partials(sums: int, programs: int, dtype: torch.dtype, *results: Tensor | None) -> Tensor | None:
    """Return memory for the sums of each program, or None where no result needs them, or one program makes it alone."""
    first = next((result for result in results if result is not None), None)
    return None if programs == 1 or first is None else first.new_empty((sums, programs), dtype=dtype)


def finish(reduction: str, C: Tensor | None, partials: Tensor, N: int | None, counted: Tensor | None = None) -> None:
    """Add up C, and how much all rows count in the mean: N, or the sum over programs."""
    constants = {"averages": reduction == "mean", "block": FINISH_BLOCK}
    run("finish", partials, (1,), C, counted, partials, partials.shape[-1], N, **constants)


def run(name: str, tensor: Tensor, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run the kernel of this name, in a grid of programs, where this tensor is."""
    launch = kernel(name)[grid]
    if has_one_gpu():
        launch(*arguments, **constants)
        return
    with torch.cuda.device_of(tensor):
        launch(*arguments, **constants)


@cache
def has_one_gpu() -> bool:
    """Return True if there is no other GPU to choose, which takes as long as a launch."""
    return torch.cuda.device_count() < 2


@cache
def kernel(name: str) -> Any:
    """Return the kernel of this name."""
    # Here, because the import takes as long as a thousand costs, and needs Triton.
    from ce_torch.costs.kernels import gpu_change_kernels, gpu_half_kernels, gpu_kernels, gpu_statistics_kernels

    modules = gpu_kernels, gpu_change_kernels, gpu_half_kernels, gpu_statistics_kernels
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def kernel_dtype(z: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which the kernels give C: they do not round float64 to another."""
    return torch.float64 if z.dtype == torch.float64 else dtype


def count_examples(z: Tensor) -> int:
    return math.prod(z.shape[:-1])


def per_example(tensor: Tensor) -> Tensor:
    """Return numbers of each example such that they broadcast to z."""
    return tensor.unsqueeze(-1)


def as_outputs(y: Tensor) -> Tensor:
    return y if y.is_floating_point() else per_example(y)


def row_grads(grad_output: Tensor) -> Tensor:
    """Return what reached C, in memory."""
    return per_example(grad_output if is_plain(grad_output) else torch.empty_like(grad_output).copy_(grad_output))
