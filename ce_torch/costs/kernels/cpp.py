"""The kernels for the CPU: `softmax.h` and `elements.h`, with the formulas in C++ that the costs bring along.

They take plain tensors whose numbers follow one another in memory, with y and weights of any dtype.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype
from ce_torch.costs._torch_private import read_address
from ce_torch.costs.kernels import NOT_PLAIN, Implementation, compiler, is_plain, new_cost, new_statistics

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

DTYPES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float64: "float64",
}

# The fields of the kernels' Task.
TASK = struct.Struct("8P7q2d3i")
CLASSES, OUTPUTS, WIDE_OUTPUTS = range(3)  # what y holds: classes, or outputs of z's dtype, or of the one to compute in
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}


def cpp(spec: "CostSpec") -> Implementation:
    """Return the cost's kernels for the CPU as an implementation."""
    options = task_options(spec)
    count = len(spec.weights)

    def spec_refusal(z: Tensor, y: Tensor, *inputs: Any) -> str | None:
        if spec.family == "softmax" and inputs[0] is not None and inputs[0].ndim != 1:
            return "the weights of the classes vary from example to example"
        return refusal(z, y, *inputs[:count])

    def cost(reduction: str, z: Tensor, y: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
        statistics = new_statistics(z, compute_dtype(z))
        C = new_cost(reduction, z, statistics.dtype)
        if not run(spec.name, reduction, z, y, options((*inputs, *MISSING)), statistics, C.data_ptr(), 0, 0):
            highest = z.shape[-1] - 1
            raise IndexError(f"y must hold class indices from 0 to {highest}, got {y.min().item()} to {y.max().item()}")
        return C, statistics

    def delta(
        grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, y: Tensor, *inputs: Any
    ) -> Tensor:
        if statistics is None and spec.family == "softmax":
            _, statistics = cost("none", z, y, *inputs)
        elif statistics is None:
            statistics = new_statistics(z, compute_dtype(z))
        delta, grad_output = torch.empty_like(z), grad_output.to(statistics.dtype).contiguous()
        addresses = 0, read_address(grad_output), delta.data_ptr()
        run(spec.name + "_delta", reduction, z, y, options((*inputs, *MISSING)), statistics, *addresses)
        return delta

    return Implementation("cpp", spec_refusal, cost, delta)


# weight, pos_weight, ignore_index and two numbers.
Options = tuple[Tensor | None, Tensor | None, int, float, float]


def task_options(spec: "CostSpec") -> Callable[[Sequence[Any]], Options]:
    """Return a function that sorts a cost's inputs after y, with `MISSING` at their end."""
    count = len(spec.weights)
    no_weight, no_integer, no_number = range(len(spec.parameters) - 2, len(spec.parameters) + 1)
    weights = *range(count), no_weight, no_weight
    integers, numbers = (*spec.positions(int), no_integer), (*spec.positions(float), no_number, no_number)
    return itemgetter(*weights[:2], integers[0], *numbers[:2])


MISSING = None, 0, 0.0


def refusal(z: Tensor, y: Tensor, *weights: Tensor | None) -> str | None:
    """Return why the kernels do not support these inputs."""
    if not z.is_cpu:
        return "z is not on the CPU"
    if z.dtype not in DTYPES:
        return "z is of a dtype that they do not support"
    if y.shape != (z.shape if y.is_floating_point() else z.shape[:-1]):
        return "y broadcasts to z"
    if not (is_plain(z) and is_plain(y)):
        return NOT_PLAIN
    if not (z.is_contiguous() and y.is_contiguous()):
        return "the numbers of z or y do not follow one another in memory; .contiguous() makes them"
    # Memory may have been given back.
    if z.numel() == 0 or read_address(z) == 0 or read_address(y) == 0:
        return "z or y has no memory"
    for weight in weights:
        if weight is not None and not is_plain(weight):
            return NOT_PLAIN
        if weight is not None and strides(weight, z.shape) is None:
            return "a weight is neither the same for all examples nor given for each of them"
    if not has_kernels():
        return str(compiler.library())
    return None


def has_kernels() -> bool:
    return isinstance(compiler.library(), ctypes.CDLL)


def strides(weight: Tensor, shape: Sequence[int]) -> tuple[int, int] | None:
    """Return from one row and one column of z, of this shape, to the next of a weight, or None if they vary."""
    columns = weight.shape[-1] if weight.ndim > 0 else 1
    column = int(columns > 1)
    if weight.numel() == columns:
        return 0, column
    return (columns, column) if weight.shape[:-1] == shape[:-1] else None


def locate(weight: Tensor | None, z: Tensor, dtype: torch.dtype) -> tuple[int, tuple[int, int], Tensor | None]:
    """Return the address of a weight in this dtype, its steps, and the tensor, which must outlive the address."""
    if weight is None:
        return 0, (0, 0), None
    weight = weight.to(dtype).contiguous()
    return read_address(weight), strides(weight, z.shape) or (0, 0), weight


def run(name: str, reduction: str, z: Tensor, y: Tensor, options: Options, statistics: Tensor, *outputs: int) -> bool:
    """Run a kernel on a Task with these addresses of C, grad_output and delta; return whether it takes these y."""
    target = CLASSES
    if y.is_floating_point():
        target = OUTPUTS if y.dtype == z.dtype else WIDE_OUTPUTS
        y = y if target == OUTPUTS else y.to(statistics.dtype)
    weight, pos_weight, ignore_index, first, second = options
    weight_address, weight_steps, weight = locate(weight, z, statistics.dtype)
    pos_weight_address, pos_weight_steps, pos_weight = locate(pos_weight, z, statistics.dtype)
    steps = *weight_steps, *pos_weight_steps
    columns = z.shape[-1]
    addresses = read_address(z), read_address(y), weight_address, pos_weight_address, statistics.data_ptr()
    sizes = z.numel() // columns, columns
    last = first, second, target, REDUCTIONS[reduction], torch.get_num_threads()
    return kernel(name, z.dtype)(TASK.pack(*addresses, *outputs, *sizes, *steps, ignore_index, *last))


@cache
def kernel(name: str, dtype: torch.dtype) -> Callable[[bytes], bool]:
    """Return a function of the library."""
    return compiler.function(f"{name}_{DTYPES[dtype]}", (ctypes.c_char_p,), ctypes.c_bool)
