"""The numbers of a layer's examples and their gradients by zᵀ, of which each column is an example, on the CPU."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs.kernels import cpp
from ce_torch.costs.kernels.products import address, kernel

# How the kernels name dtypes of desired outputs.
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
# The kernels take examples in multiples of this number.
LANES = 16


class Targets(NamedTuple):
    """Of a tile, desired outputs (N, K) or None, and off_value (K,) or None; c, and the softcap or None.

    Examples that the outputs lack have none. The rows of the outputs are contiguous.
    """

    outputs: Tensor | None
    off_value: Tensor | None
    c: float
    softcap: float | None

    @property
    def arguments(self) -> tuple[int | float | None, ...]:
        options = address(self.off_value), self.c, self.softcap or 0.0
        if self.outputs is None:
            return None, 0, 0, 0, *options
        return address(self.outputs), TYPES[self.outputs.dtype], len(self.outputs), self.outputs.stride(0), *options


class ColumnSums(NamedTuple):
    """Of each column, with x = c (φ(z) − φ(m)) for the largest z, m: how many x are 0, Σ exp x of the others,
    Σ x exp x, Σ t x and Σ t; φ(m), and φ(z) of class y, as the kernels round them."""

    m: Tensor
    ones: Tensor
    others: Tensor
    e_x: Tensor
    t_x: Tensor
    T: Tensor
    phi: Tensor
    phi_y: Tensor


def supports(x: Tensor, weight: Tensor) -> bool:
    """Return True if the kernels support this layer."""
    has_dtype = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return x.is_cpu and has_dtype and x.numel() > 0 and weight.numel() > 0 and cpp.has_kernels()


def add_numbers(
    z: Tensor, m: Tensor, y: Tensor, targets: Targets, sums: Tensor, prediction: Tensor, start: int
) -> None:
    """Add a tile of zᵀ, whose rows are classes from `start` on and whose largest numbers are m, to `ColumnSums`."""
    inputs, outputs = (z.data_ptr(), m.data_ptr(), address(y)), (sums.data_ptr(), prediction.data_ptr())
    last = sums.stride(0), start, *z.shape, torch.get_num_threads()
    kernel("layer_numbers", NUMBERS_ARGUMENTS)(*inputs, *targets.arguments, *outputs, *last)


def write_gradient(
    z: Tensor, half: tuple[Tensor, Tensor] | None, y: Tensor, numbers: Tensor, targets: Targets, start: int
) -> None:
    """Write the gradient by zᵀ to it; in bfloat16, and in pairs of its rows, too, where there is room for these.

    The numbers (8, N) are on_value, φ(m), r, T, H, g_C, g_ℓ and g_H.
    """
    last = numbers.stride(0), start, *z.shape, torch.get_num_threads()
    outputs = (None, None) if half is None else (tensor.data_ptr() for tensor in half)
    inputs = address(y), numbers.data_ptr()
    kernel("layer_gradient", GRADIENT_ARGUMENTS)(z.data_ptr(), *outputs, *inputs, *targets.arguments, *last)


POINTER, SIZE = ctypes.c_void_p, ctypes.c_int64
TARGETS = POINTER, ctypes.c_int, SIZE, SIZE, POINTER, ctypes.c_float, ctypes.c_float
NUMBERS_ARGUMENTS = *(POINTER,) * 3, *TARGETS, *(POINTER,) * 2, *(SIZE,) * 4, ctypes.c_int
GRADIENT_ARGUMENTS = *(POINTER,) * 5, *TARGETS, *(SIZE,) * 4, ctypes.c_int
