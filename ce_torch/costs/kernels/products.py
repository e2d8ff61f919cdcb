"""Products with a matrix of few columns, and exponentials of one, by kernels where they support the inputs."""

import ctypes
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._torch_private import read_address
from ce_torch.costs.kernels import compiler, cpp

# PyTorch's own products are computed in sums of this length, and for so many numbers of the result at a time.
SUM_LENGTH = 1024
PRODUCT_ELEMENTS = 1 << 16
# PyTorch's operations take so many numbers of z at a time, or a sixteenth of z if that is more.
PART_ELEMENTS = 1 << 16
# The fields of the kernel's Matrix.
MATRIX = struct.Struct("Pqq").pack


def weighted_inputs(weight: Tensor, x: Tensor, bias: Tensor | None, z: Tensor) -> Tensor:
    """Write weight x + bias to z, a row for each class, and return the maximum of each column."""
    if supports(weight, x, z) and (bias is None or bias.is_contiguous()):
        m = torch.empty(z.shape[1], dtype=z.dtype, device=z.device)
        kernel("weighted_inputs")(
            matrix(weight),
            matrix(x),
            address(bias),
            matrix(z),
            m.data_ptr(),
            *z.shape,
            weight.shape[1],
            torch.get_num_threads(),
        )
        return m
    torch.mm(weight, x, out=z)
    if bias is not None:
        z += bias.unsqueeze(-1)
    return z.amax(0)


def exponentials_(
    z: Tensor, m: Tensor, y: Tensor, c: float, off_value: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Write exp x, x = c (z − m), to z. Each column of z has an m, which is not −∞, and a class y.

    Return the sum of each column without its row y. For off_value, a number for each row, also return Σ off_value x,
    in which an x of −∞ adds nothing if its off_value is 0.
    """
    if supports_exponentials(z, y, off_value):
        sums, m = torch.empty_like(m), m.contiguous()
        off_value_x = None if off_value is None else torch.empty_like(sums)
        inputs = z.data_ptr(), address(m), address(y), c, address(off_value)
        outputs = sums.data_ptr(), None if off_value_x is None else off_value_x.data_ptr()
        kernel("exponentials")(*inputs, *outputs, *z.shape, torch.get_num_threads())
        return sums, off_value_x
    sums, off_value_x = torch.zeros_like(m), None if off_value is None else torch.zeros_like(m)
    for rows, own in parts(z, y):
        is_infinite = z[rows] == torch.inf
        x = z[rows].sub_(m).masked_fill_(is_infinite, 0)
        if c != 1:
            x.mul_(max(c, torch.finfo(z.dtype).tiny))
        if off_value is not None and off_value_x is not None:
            off_value_x += product(off_value[rows].unsqueeze(-1), x).sum(0)
        sums += x.masked_fill_(own, -torch.inf).exp_().sum(0)
    return sums, off_value_x


def softcap_exponentials_(
    z: Tensor, m: Tensor, y: Tensor, c: float, softcap: float, off_value: Tensor | None = None, T: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Do what `exponentials_` does for x = c (φ(z) − φ(m)), φ(z) = softcap · tanh(z / softcap).

    Write φ′(z) exp x to z, φ′ = 1 − (φ / softcap)². With off_value, and T of each column, write
    φ′(z) (exp x − off_value s / T), where s is the sum of exp x over all rows. So the gradients by z are in both cases
    c factor T / s times what z holds, except in row y, which the caller writes: φ′ is not the same in a column, and
    off_value cannot follow after the products. The sums are those of exp x and off_value x, without φ′.
    """
    if supports_exponentials(z, y, off_value) and z.shape[0] > 0:
        sums, m = torch.empty_like(m), m.contiguous()
        T = None if T is None else T.contiguous()
        off_value_x = None if off_value is None else torch.empty_like(sums)
        inputs = z.data_ptr(), address(m), address(y), c, softcap, address(off_value), address(T)
        outputs = sums.data_ptr(), None if off_value_x is None else off_value_x.data_ptr()
        kernel("softcap_exponentials")(*inputs, *outputs, *z.shape, torch.get_num_threads())
        return sums, off_value_x
    c, phi_m = max(c, torch.finfo(z.dtype).tiny), softcap * torch.tanh(m / softcap)
    s, sums, off_value_x = (torch.zeros_like(m) for _ in range(3))
    for rows, own in parts(z, y):
        x = c * (softcap * torch.tanh(z[rows] / softcap) - phi_m)
        if off_value is not None:
            off_value_x += product(off_value[rows].unsqueeze(-1), x).sum(0)
        e = x.exp_()
        s += e.sum(0)
        sums += e.masked_fill_(own, 0).sum(0)
    for rows, _ in parts(z, y):
        tanh = torch.tanh(z[rows] / softcap)
        e = (c * (softcap * tanh - phi_m)).exp_()
        if off_value is not None and T is not None:
            e -= off_value[rows].unsqueeze(-1) * (s / T)
        z[rows] = e * (1 - tanh.square())
    return sums, None if off_value is None else off_value_x


def parts(z: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows of z at a time, and which of their elements are those in the rows y."""
    length = max(PART_ELEMENTS, z.numel() // 16) // max(z.shape[1], 1)
    for start in range(0, len(z), max(length, 1)):
        rows = slice(start, min(start + max(length, 1), len(z)))
        yield rows, torch.arange(rows.start, rows.stop, device=z.device).unsqueeze(-1) == y


def supports_exponentials(z: Tensor, y: Tensor, off_value: Tensor | None) -> bool:
    """Return True if the kernels support exponentials of z."""
    contiguous = z.is_contiguous() and y.is_contiguous() and (off_value is None or off_value.is_contiguous())
    return z.is_cpu and z.dtype == torch.float32 and z.shape[1] % 16 == 0 and contiguous and cpp.has_kernels()


def add_product(a: Tensor, b: Tensor, out: Tensor, beta: int = 1) -> None:
    """Add the product of a and b to `out`; for beta = 0 write it there."""
    if supports(a, b, out):
        kernel("float_product")(
            matrix(a), matrix(b), matrix(out), *out.shape, a.shape[1], beta == 1, torch.get_num_threads()
        )
    else:
        if beta == 0:
            out.zero_()
        # PyTorch may add one number after the other to a sum, and round every time.
        rows = max(PRODUCT_ELEMENTS // max(out.shape[1], 1), 1)
        for left, right in zip(a.split(SUM_LENGTH, 1), b.split(SUM_LENGTH), strict=True):
            for out_part, left_part in zip(out.split(rows), left.split(rows), strict=True):
                out_part += left_part @ right


def transpose_rows(rows: Tensor, out: Tensor) -> None:
    """Write rows of float32 numbers, or of pairs, to the columns of `out`; what is missing is 0."""
    inputs = read_address(rows), rows.stride(0), *rows.shape
    kernel("transpose_rows")(*inputs, out.data_ptr(), out.stride(0), out.shape[1], torch.get_num_threads())


def add_to_sums(terms: Tensor, rounded: Tensor, rest: Tensor) -> None:
    """Add terms, whose rows may be longer, to sums in 24 bits: bfloat16, rounded, and 8 bits more."""
    memory = rounded.data_ptr(), rest.data_ptr()
    kernel("add_to_sums")(address(terms), terms.stride(0), *memory, *rounded.shape, torch.get_num_threads())


def supports(a: Tensor, b: Tensor, out: Tensor) -> bool:
    """Return True if the kernel supports this product of a and b."""
    return (
        out.is_cpu
        and a.dtype == b.dtype == out.dtype == torch.float32
        and out.shape[1] % 16 == 0
        and a.numel() > 0
        and out.numel() > 0
        and b.stride(1) == out.stride(1) == 1
        and cpp.has_kernels()
    )


def matrix(tensor: Tensor) -> bytes:
    """Return the kernel's Matrix for a tensor. The kernels write to outputs only, which the caller has made."""
    return MATRIX(read_address(tensor), *tensor.stride())


def address(tensor: Tensor | None) -> int | None:
    """Return the address of an input, or None if there is none."""
    return None if tensor is None else read_address(tensor)


# The types of the kernels' arguments.
MATRICES, SIZES = (ctypes.c_char_p,) * 3, (ctypes.c_int64,) * 3
ARGUMENTS = {
    "float_product": (*MATRICES, *SIZES, ctypes.c_bool, ctypes.c_int),
    "weighted_inputs": (*MATRICES[:2], ctypes.c_void_p, MATRICES[2], ctypes.c_void_p, *SIZES, ctypes.c_int),
    "transpose_rows": (ctypes.c_void_p, *SIZES, ctypes.c_void_p, *SIZES[:2], ctypes.c_int),
    "add_to_sums": (ctypes.c_void_p, ctypes.c_int64, *(ctypes.c_void_p,) * 2, *SIZES[:2], ctypes.c_int),
    "softcap_exponentials": (
        *(ctypes.c_void_p,) * 3,
        *(ctypes.c_float, ctypes.c_float),
        *(ctypes.c_void_p,) * 4,
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int),
    ),
    "exponentials": (
        *(ctypes.c_void_p,) * 3,
        ctypes.c_float,
        *(ctypes.c_void_p,) * 3,
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int),
    ),
}


@cache
def kernel(name: str, arguments: tuple[Any, ...] | None = None) -> Callable[..., None]:
    """Return a function of the library, with arguments of these types."""
    return compiler.function(name, ARGUMENTS[name] if arguments is None else arguments, None)
