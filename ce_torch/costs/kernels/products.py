"""Products of a matrix with one of few columns, and the exponentials of one, by kernels where they can do them."""

import ctypes
import struct
from functools import cache

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs.kernels import compiler, cpp

INNER_OF_SUM = 1024

# The fields of the kernel's Matrix.
MATRIX = struct.Struct("Pqq").pack


def weighted_inputs(weight: Tensor, x: Tensor, bias: Tensor | None, z: Tensor) -> Tensor:
    """Make z = weight x + bias, with a row for each class, and return the largest of each column."""
    if has_kernel_for(weight, x, z) and (bias is None or bias.is_contiguous()):
        m = torch.empty(z.shape[1], dtype=z.dtype, device=z.device)
        matrices = (MATRIX(tensor.data_ptr(), *tensor.stride()) for tensor in (weight, x, z))
        weight_matrix, x_matrix, z_matrix = matrices
        address = None if bias is None else bias.data_ptr()
        sizes = *z.shape, weight.shape[1]
        kernel("weighted_inputs")(
            weight_matrix, x_matrix, address, z_matrix, m.data_ptr(), *sizes, torch.get_num_threads()
        )
        return m
    torch.mm(weight, x, out=z)
    if bias is not None:
        z += bias.unsqueeze(-1)
    return z.amax(0)


def exponentials_(
    z: Tensor, m: Tensor, y: Tensor, c: float, base: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Write exp x, x = c (z − m), to z, whose columns have each an m, not −∞, and a row y.

    Return the sum of each column without its row y and, for base with a number for each row, Σ base x, to which −∞ adds
    nothing for 0.
    """
    plain = z.is_contiguous() and y.is_contiguous() and (base is None or base.is_contiguous())
    if z.is_cpu and z.dtype == torch.float32 and z.shape[1] % 16 == 0 and plain and cpp.has_kernels():
        sums, m = torch.empty_like(m), m.contiguous()
        base_x = None if base is None else torch.empty_like(sums)
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in (base, sums, base_x))
        places = z.data_ptr(), m.data_ptr(), y.data_ptr()
        kernel("exponentials")(*places, c, *addresses, *z.shape, torch.get_num_threads())
        return sums, base_x
    is_infinite = z == torch.inf
    x = z.sub_(m).masked_fill_(is_infinite, 0)
    if c != 1:
        x.mul_(max(c, torch.finfo(z.dtype).tiny))
    base_x = None if base is None else product(base.unsqueeze(-1), x).sum(0)
    return x.scatter_(0, y.unsqueeze(0), -torch.inf).exp_().sum(0), base_x


def add_product(a: Tensor, b: Tensor, out: Tensor, beta: int = 1) -> None:
    """Add the product of a and b to `out`, or for beta = 0 make it `out`."""
    if has_kernel_for(a, b, out):
        matrices = (MATRIX(tensor.data_ptr(), *tensor.stride()) for tensor in (a, b, out))
        kernel("product")(*matrices, *out.shape, a.shape[1], beta == 1, torch.get_num_threads())
    else:
        if beta == 0:
            out.zero_()
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
        and cpp.has_kernels()
    )


# The arguments of the kernels.
MATRICES, SIZES = (ctypes.c_char_p,) * 3, (ctypes.c_int64,) * 3
ARGUMENTS = {
    "product": (*MATRICES, *SIZES, ctypes.c_bool, ctypes.c_int),
    "weighted_inputs": (*MATRICES[:2], ctypes.c_void_p, MATRICES[2], ctypes.c_void_p, *SIZES, ctypes.c_int),
    "exponentials": (
        *(ctypes.c_void_p,) * 3,
        ctypes.c_float,
        *(ctypes.c_void_p,) * 3,
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int),
    ),
}


@cache
def kernel(name: str) -> ctypes._CFuncPtr:
    function = compiler.library()[name]
    function.argtypes, function.restype = ARGUMENTS[name], None
    return function
