"""The costs on the CPU by the kernels of `cpu_kernels.cpp`; where no compiler is, the formulas serve, by blocks.

The kernels take plain tensors of float32 or bfloat16 whose numbers follow one another in memory.
"""

import ctypes
import struct
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs.fast import Fast, compiler, is_plain, memory_is_all

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

# The fields of the kernels' Task.
TASK = struct.Struct("PPPPPPqqqif").pack


def has_kernels_for(z: Tensor, y: Tensor, *_: Any) -> bool:
    return (
        z.is_cpu
        and z.dtype in DTYPES
        and (y.shape == z.shape if y.dtype == z.dtype else y.dtype == torch.int64 and y.shape == z.shape[:-1])
        and is_plain(z)
        and is_plain(y)
        and z.is_contiguous()
        and y.is_contiguous()
        and z.numel() > 0
        and z.data_ptr() != 0  # as that of memory which was given back
        and y.data_ptr() != 0
        and memory_is_all()
        and has_kernels()
    )


def has_kernels() -> bool:
    return compiler.library() is not None


def cost(name: str, reduction: str, z: Tensor, y: Tensor, c: float = 1.0) -> tuple[Tensor, Tensor]:
    """Run the kernel of a cost; return C, and what it says of each row."""
    of_rows = torch.empty(3 * (z.numel() // z.shape[-1]), dtype=torch.float32, device=z.device)
    C = torch.empty(z.shape[:-1] if reduction == "none" else (), dtype=torch.float32, device=z.device)
    if not run(name, reduction, z, y, c, of_rows, C.data_ptr(), 0, 0):
        highest = z.shape[-1] - 1
        raise IndexError(f"y must hold class indices from 0 to {highest}, got {y.min().item()} to {y.max().item()}")
    return C, of_rows


def delta(name: str, grad: Tensor, of_rows: Tensor, reduction: str, z: Tensor, y: Tensor, c: float = 1.0) -> Tensor:
    """Run the kernel of a cost's δ; return δ times what reached C."""
    delta, grad = torch.empty_like(z), grad.contiguous()
    run(name + "_delta", reduction, z, y, c, of_rows, 0, grad.data_ptr(), delta.data_ptr())
    return delta


def run(name: str, reduction: str, z: Tensor, y: Tensor, c: float, of_rows: Tensor, *outputs: int) -> bool:
    """Run a kernel on a Task with these addresses of C, grad and delta; return whether y was such as it takes."""
    columns = z.shape[-1]
    rows = z.numel() // columns
    divisor = rows if reduction == "mean" else int(reduction == "sum")
    sizes = rows, columns, divisor, torch.get_num_threads()
    return kernel(name, z.dtype)(TASK(z.data_ptr(), y.data_ptr(), of_rows.data_ptr(), *outputs, *sizes, c))


@cache
def kernel(name: str, dtype: torch.dtype) -> Callable[[bytes], bool]:
    """Return a function of `cpu_kernels.cpp`."""
    function = compiler.library()[f"{name}_{DTYPES[dtype]}"]
    function.argtypes, function.restype = (ctypes.c_char_p,), ctypes.c_bool
    return function


of_class = Fast(has_kernels_for, partial(cost, "log_likelihood"), partial(delta, "log_likelihood"))


def of_neurons(name: str) -> Fast:
    """Return the cost that `cpu_kernels.cpp` has by this name, a sum over neurons, and its δ; there are no weights."""
    return Fast(
        has_kernels_for,
        lambda reduction, z, y, *_: cost(name, reduction, z, y),
        lambda grad, of_rows, reduction, z, y, *_: delta(name, grad, of_rows, reduction, z, y),
    )
