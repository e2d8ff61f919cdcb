"""The costs on the CPU by the kernels of `costs.cpp`; where no compiler is, the formulas serve, by blocks.

The kernels take plain tensors whose numbers follow one another in memory, with y and weights of any dtype.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._precision import wide
from ce_torch.costs.kernels import NOT_PLAIN, WATCHED, Fast, compiler, is_plain, memory_is_all

DTYPES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float64: "float64",
}

# The fields of the kernels' Task.
TASK = struct.Struct("8P7q2d3i").pack
CLASSES, OF_Z, OF_WORK = range(3)  # what y is: classes, or outputs of the dtype of z, or of the one to compute in
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}


class Options(NamedTuple):
    """What a kernel takes besides z and y."""

    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    c: float = 1.0
    ignore_index: int = 0
    label_smoothing: float = 0.0


def refusal(z: Tensor, y: Tensor, *weights: Tensor | None) -> str | None:
    """Return why the kernels do not take these inputs, None where they do."""
    if not z.is_cpu:
        return "z is not on the CPU"
    if z.dtype not in DTYPES:
        return "z is of a dtype that they do not take"
    if y.shape != (z.shape if y.is_floating_point() else z.shape[:-1]):
        return "y broadcasts to z"
    if not (is_plain(z) and is_plain(y)):
        return NOT_PLAIN
    if not (z.is_contiguous() and y.is_contiguous()):
        return "the numbers of z or y do not follow one another in memory; .contiguous() makes them"
    # As of memory which was given back.
    if z.numel() == 0 or z.data_ptr() == 0 or y.data_ptr() == 0:
        return "z or y has no memory"
    for weight in weights:
        if weight is not None and not is_plain(weight):
            return NOT_PLAIN
        if weight is not None and strides(weight, z.shape) is None:
            return "a weight is neither the same for all examples nor given for each of them"
    if not memory_is_all():
        return WATCHED
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


def run(name: str, reduction: str, z: Tensor, y: Tensor, options: Options, of_rows: Tensor, *outputs: int) -> bool:
    """Run a kernel on a Task with these addresses of C, grad and delta; return whether y was such as it takes."""
    target = CLASSES
    if y.is_floating_point():
        target = OF_Z if y.dtype == z.dtype else OF_WORK
        y = y if target == OF_Z else y.to(of_rows.dtype)
    weight, pos_weight, c, ignore_index, label_smoothing = options
    weight_address, pos_weight_address, *steps = 0, 0, 0, 0, 0, 0
    if weight is not None:
        weight = weight.to(of_rows.dtype).contiguous()
        weight_address, steps[:2] = weight.data_ptr(), strides(weight, z.shape)
    if pos_weight is not None:
        pos_weight = pos_weight.to(of_rows.dtype).contiguous()
        pos_weight_address, steps[2:] = pos_weight.data_ptr(), strides(pos_weight, z.shape)
    columns = z.shape[-1]
    addresses = z.data_ptr(), y.data_ptr(), weight_address, pos_weight_address, of_rows.data_ptr()
    sizes = z.numel() // columns, columns
    last = c, label_smoothing, target, REDUCTIONS[reduction], torch.get_num_threads()
    return kernel(name, z.dtype)(TASK(*addresses, *outputs, *sizes, *steps, ignore_index, *last))


@cache
def kernel(name: str, dtype: torch.dtype) -> Callable[[bytes], bool]:
    """Return a function of `costs.cpp`."""
    function = compiler.library()[f"{name}_{DTYPES[dtype]}"]
    function.argtypes, function.restype = (ctypes.c_char_p,), ctypes.c_bool
    return function


def fast(name: str, refusal: Callable[..., str | None], options: Callable[..., Options], has_sums: bool) -> Fast:
    """Return the cost that `costs.cpp` has by this name, and its δ; `options(*inputs)` are its options.

    `has_sums` says whether δ needs what the cost has found of each row.
    """

    def cost(reduction: str, z: Tensor, y: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
        of_rows = torch.empty(2 + 4 * (z.numel() // z.shape[-1]), dtype=wide(z), device=z.device)
        C = torch.empty(z.shape[:-1] if reduction == "none" else (), dtype=wide(z), device=z.device)
        if not run(name, reduction, z, y, options(*inputs), of_rows, C.data_ptr(), 0, 0):
            highest = z.shape[-1] - 1
            raise IndexError(f"y must hold class indices from 0 to {highest}, got {y.min().item()} to {y.max().item()}")
        return C, of_rows

    def delta(grad: Tensor, of_rows: Tensor | None, reduction: str, z: Tensor, y: Tensor, *inputs: Any) -> Tensor:
        if of_rows is None:
            of_rows = cost("none", z, y, *inputs)[1] if has_sums else torch.empty(2, dtype=wide(z), device=z.device)
        delta, grad = torch.empty_like(z), grad.to(of_rows.dtype).contiguous()
        run(name + "_delta", reduction, z, y, options(*inputs), of_rows, 0, grad.data_ptr(), delta.data_ptr())
        return delta

    return Fast("cpp", refusal, cost, delta)


def refusal_of_softmax(z: Tensor, y: Tensor, weight: Tensor | None, *_: Any) -> str | None:
    if weight is not None and weight.ndim != 1:
        return "the weights of the classes vary from example to example"
    return refusal(z, y, weight)


of_softmax = fast(
    "log_likelihood",
    refusal_of_softmax,
    lambda weight, c, ignore_index, label_smoothing: Options(weight, None, c, ignore_index, label_smoothing),
    has_sums=True,
)


def of_neurons(name: str) -> Fast:
    """Return the cost that `costs.cpp` has by this name, a sum over neurons, and its δ."""
    return fast(name, refusal, lambda *weights: Options(*weights), has_sums=False)
