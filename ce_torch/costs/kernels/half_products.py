"""A layer in bfloat16, the sums of its cost, and the gradients, by kernels that sum in float32."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents
from ce_torch.costs.kernels import cpp
from ce_torch.costs.kernels.products import address, kernel

# Rows of the layer's parameters are read 16 numbers at a time.
LANES = 16


class Sums(NamedTuple):
    """m = maxⱼ zⱼ, Σ exp(c (zⱼ − m)) without class y, and z_y, of each example."""

    m: Tensor
    others: Tensor
    z_y: Tensor


def delta_factors(
    sums: Sums, c: float, factor: Tensor, on_value: Tensor, off_total: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return g T / s, δ of class y without the part of its off_value, and g, for g = c factor."""
    g, e_y, T = c * factor, exponents(sums.z_y, sums.m, c).exp(), on_value + off_total
    s = sums.others + e_y
    return product(g, T / s), product(g, (off_total * e_y - on_value * sums.others) / s), g


def supports(x: Tensor, weight: Tensor) -> bool:
    """Return True if the kernels support this layer."""
    is_half = x.dtype == weight.dtype == torch.bfloat16
    return x.is_cpu and is_half and x.shape[1] % LANES == 0 and x.numel() > 0 and cpp.has_kernels()


def half_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    c: float,
    target: tuple[Tensor, Tensor, Tensor | float, Tensor | None],
    x_gradient: Tensor | None,
) -> Sums:
    """Return the sums. Write the gradient of Σ factor · C to x_gradient, if that is there.

    The target is (factor, on_value, off_total, off_weight): factor and on_value of each example, Σ off_value, and
    Σⱼ off_valueⱼ Wⱼ or None; all tensors are float32 and contiguous, as are the layer's.
    """
    factor, on_value, off_total, off_weight = target
    sums = Sums(*(torch.empty_like(factor) for _ in range(3)))
    parameters = address(x), address(weight), address(bias), address(y), *x.shape, len(weight), c
    target_addresses = address(factor), address(on_value), float(off_total), address(off_weight)
    outputs = *(tensor.data_ptr() for tensor in sums), None if x_gradient is None else x_gradient.data_ptr()
    kernel("half_sums", SUMS_ARGUMENTS)(*parameters, *target_addresses, *outputs, torch.get_num_threads())
    return sums


def half_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    c: float,
    delta: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
) -> None:
    """Write δᵀ x and Σ δ, for delta (m, scale, delta_y, g, off_value): δⱼ = scale exp(c (zⱼ − m)) − off_valueⱼ g.

    At y, δ is delta_y − off_value_y g. All tensors of delta are float32 and contiguous.
    """
    parameters = address(x), address(weight), address(bias), address(y), *x.shape, len(weight), c
    outputs = (None if tensor is None else tensor.data_ptr() for tensor in (weight_gradient, bias_gradient))
    kernel("half_gradient", GRADIENT_ARGUMENTS)(*parameters, *map(address, delta), *outputs, torch.get_num_threads())


LAYER = *(ctypes.c_void_p,) * 4, *(ctypes.c_int64,) * 3, ctypes.c_float
SUMS_ARGUMENTS = (*LAYER, *(ctypes.c_void_p,) * 2, ctypes.c_float, *(ctypes.c_void_p,) * 5, ctypes.c_int)
GRADIENT_ARGUMENTS = (*LAYER, *(ctypes.c_void_p,) * 7, ctypes.c_int)
