"""Products of a matrix with one of few columns, by the kernel in `products.cpp` where it can do them."""

import ctypes
import struct
from functools import cache

import torch
from torch import Tensor

from ce_torch.costs.fast import compiler, cpu

INNER_OF_SUM = 1024

# The fields of the kernel's Matrix.
MATRIX = struct.Struct("Pqq").pack


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Make `out` the product of a and b."""
    if has_kernel_for(a, b, out):
        run(a, b, out, add=False)
    else:
        torch.mm(a, b, out=out)


def add_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Add the product of a and b to `out`."""
    if has_kernel_for(a, b, out):
        run(a, b, out, add=True)
    else:
        # A library may add one number after the other to a sum, and round every time.
        for left, right in zip(a.split(INNER_OF_SUM, 1), b.split(INNER_OF_SUM), strict=True):
            out += left @ right


def has_kernel_for(a: Tensor, b: Tensor, out: Tensor) -> bool:
    return (
        out.is_cpu
        and out.dtype == a.dtype == b.dtype == torch.float32
        and out.shape[1] % 16 == 0
        and a.numel() > 0
        and out.numel() > 0
        and b.stride(1) == out.stride(1) == 1
        and cpu.has_kernels()
    )


def run(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    matrices = (MATRIX(tensor.data_ptr(), *tensor.stride()) for tensor in (a, b, out))
    kernel()(*matrices, *out.shape, a.shape[1], add, torch.get_num_threads())


@cache
def kernel() -> ctypes._CFuncPtr:
    product = compiler.library().product
    product.argtypes = (*(ctypes.c_char_p,) * 3, *(ctypes.c_int64,) * 3, ctypes.c_bool, ctypes.c_int)
    product.restype = None
    return product
