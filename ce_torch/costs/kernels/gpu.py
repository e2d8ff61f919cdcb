"""The costs on a GPU by the kernels of `gpu_kernels.py`, which need Triton; where it is missing the formulas serve.

Float64 is left to the formulas: it is there for checks of gradients, and kernels that work in float32 are no help.
"""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._desired import desired_outputs
from ce_torch.costs._precision import wide
from ce_torch.costs._reduction import reduce, unreduce
from ce_torch.costs.kernels import NOT_PLAIN, OFF, WATCHED, Fast, is_plain, kernels_are_on, memory_is_all

# Elements that a program holds at once: enough loads under way to keep the memory busy, few enough for the registers.
LARGEST_BLOCK = 4096


def refusal(*inputs: Any) -> str | None:
    """Return why the kernels do not take z, the first of the inputs, and the others; None where they do."""
    z = inputs[0]
    if not is_on_gpu(z):
        return "z is not on a GPU"
    if not all(is_plain(input) for input in inputs if isinstance(input, Tensor)):
        return NOT_PLAIN
    if z.numel() == 0:
        return "z is empty"
    if wide(z) != torch.float32:
        return "z is float64"
    if not memory_is_all():
        return WATCHED
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


def refusal_of_softmax(
    z: Tensor, y: Tensor, weight: Tensor | None, c: float, ignore_index: int, label_smoothing: float
) -> str | None:
    if weight is not None or label_smoothing != 0 or y.is_floating_point():
        return refusal(z) or "they take neither weights, nor label smoothing, nor desired outputs"
    return refusal(z, y)


def cost_of_classes(
    reduction: str, z: Tensor, y: Tensor, weight: None, c: float, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return C, and m and r of each row, shape (2, rows)."""
    rows, classes, C = rows_of(z), y.reshape(-1), new_cost(z)
    sums = torch.empty(2, len(rows), dtype=torch.float32, device=z.device)
    inputs = rows, classes, normal(c), ignore_index
    launch("log_likelihood", rows, (len(rows),), C, *sums, *inputs, *rows.stride(), *classes.stride())
    return reduce(reduction, C, y != ignore_index), sums


def delta_of_classes(
    grad: Tensor,
    sums: Tensor | None,
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
    if sums is None:
        _, sums = cost_of_classes("none", z, y, weight, c, ignore_index, label_smoothing)
    delta = z if in_place else new_delta(z)
    rows, classes, of_row = rows_of(z), y.reshape(-1), of_every_row(grad, reduction, z, y != ignore_index)
    output, inputs = (delta, of_row, *of_row.stride()), (*sums, rows, classes, normal(c), ignore_index)
    launch("log_likelihood_delta", rows, blocks_of(rows), *output, *inputs, *rows.stride(), *classes.stride())
    return delta


of_softmax = Fast("triton", refusal_of_softmax, cost_of_classes, delta_of_classes)


def normal(c: float) -> float:
    """Return c, or the smallest normal number of float32 for one below, so that c · ∞ is ∞."""
    return max(c, torch.finfo(torch.float32).tiny)


def of_neurons(formula: str) -> Fast:
    """Return the cost that `gpu_kernels.py` has by this name, a sum over neurons, and its δ; there are no weights."""

    def refusal_of_neurons(z: Tensor, y: Tensor, *weights: Tensor | None) -> str | None:
        if any(weight is not None for weight in weights):
            return refusal(z) or "they take no weights"
        return refusal(z, y)

    def cost(reduction: str, z: Tensor, y: Tensor, *_: None) -> tuple[Tensor, None]:
        rows, y, C = rows_of(z), rows_of(desired_outputs(y, z).expand(z.shape)), new_cost(z)
        launch("neurons", rows, (len(rows),), C, rows, y, *rows.stride(), *y.stride(), formula=formula)
        return reduce(reduction, C), None

    def delta(grad: Tensor, sums: None, reduction: str, z: Tensor, y: Tensor, *_: None) -> Tensor:
        rows, y = rows_of(z), rows_of(desired_outputs(y, z).expand(z.shape))
        of_row, delta = of_every_row(grad, reduction, z), new_delta(z)
        inputs = of_row, *of_row.stride(), rows, y, *rows.stride(), *y.stride()
        launch("neurons_delta", rows, blocks_of(rows), delta, *inputs, formula=formula + "_delta")
        return delta

    return Fast("triton", refusal_of_neurons, cost, delta)


def product_in_float32(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of matrices in half precision, summed and given in float32."""
    return torch.mm(left, right, out_dtype=torch.float32)


def launch(name: str, rows: Tensor, grid: tuple[int, ...], *arguments: Any, formula: str | None = None) -> None:
    """Run the kernel of this name, for each row or for each of its blocks."""
    # Here, because the import takes as long as a thousand costs, and needs Triton.
    from ce_torch.costs.kernels import gpu_kernels

    block = block_for(rows)
    constants = {} if formula is None else {"formula": getattr(gpu_kernels, formula)}
    with torch.cuda.device_of(rows):
        getattr(gpu_kernels, name)[grid](
            *arguments, columns=rows.shape[1], block=block, num_warps=min(max(block // 256, 1), 8), **constants
        )


def block_for(rows: Tensor) -> int:
    """Return how many elements of a row a program holds at once, a power of two."""
    return min(1 << (rows.shape[1] - 1).bit_length(), LARGEST_BLOCK)


def blocks_of(rows: Tensor) -> tuple[int, int]:
    return len(rows), -(-rows.shape[1] // block_for(rows))


def rows_of(tensor: Tensor) -> Tensor:
    """Return the examples as rows: a view, unless the strides of the leading dimensions don't admit one."""
    return tensor.reshape(-1, tensor.shape[-1])


def of_every_row(grad: Tensor, reduction: str, z: Tensor, counts: Tensor | None = None) -> Tensor:
    return unreduce(grad, reduction, z, counts).expand(*z.shape[:-1], 1).reshape(-1)


def new_cost(z: Tensor) -> Tensor:
    return torch.empty(z.shape[:-1], dtype=torch.float32, device=z.device)


def new_delta(z: Tensor) -> Tensor:
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)
