"""The numbers of a layer's examples and their gradients, by tiles of zᵀ with a column for each example, on the CPU."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._torch_private import read_address
from ce_torch.costs.kernels import cpp
from ce_torch.costs.kernels.products import kernel

# How the kernels name dtypes of desired outputs.
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
# How they name what waits of a tile for the backward pass: z, or in 16 bits exponentials or φ(z).
Z, EXPONENTIALS, CAPPED = range(3)
# The kernels take examples in multiples of this number.
LANES = 16

POINTER, SIZE, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class Targets(ctypes.Structure):
    """Desired outputs and off_value, or none, from a class on. Examples that the outputs lack have none."""

    _fields_ = (
        *((name, POINTER) for name in ("outputs", "off_value")),
        *((name, SIZE) for name in ("examples", "example_step", "class_step")),
        ("type", INT),
    )


class TiledLayer(ctypes.Structure):
    """Some classes of a layer, and all its examples, as the kernels take them; addresses of tensors and their sizes."""

    _fields_ = (
        *((name, POINTER) for name in ("weight", "x", "bias", "y")),
        ("targets", Targets),
        *((name, POINTER) for name in ("z", "m", "kept", "kept_phi")),
        *((name, SIZE) for name in ("inner", "first_class", "classes", "examples", "tile_examples", "kept_tiles")),
        *((name, FLOAT) for name in ("c", "softcap")),
        *((name, INT) for name in ("has_pairs", "has_kept", "threads", "kept_kind")),
    )


class TiledGradients(ctypes.Structure):
    """The gradients of a layer to which the kernels add, and what they come from."""

    _fields_ = (
        *((name, POINTER) for name in ("x", "weight", "bias", "numbers", "rows")),
        *((name, POINTER) for name in ("narrowed", "pairs", "weight_pairs")),
        *((name, SIZE) for name in ("inputs", "width", "examples")),
        ("has_weight", INT),
    )


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


def add_numbers(layer: TiledLayer, sums: Tensor, prediction: Tensor) -> None:
    """Add the layer's classes to the `ColumnSums` and the prediction of each example."""
    kernel("layer_numbers", (ctypes.POINTER(TiledLayer), POINTER, POINTER))(
        layer, sums.data_ptr(), prediction.data_ptr()
    )


def add_gradients(layer: TiledLayer, gradients: TiledGradients) -> None:
    """Add what the layer's classes contribute to the gradient by x; write, or add to, those by their weight and bias.

    The numbers (8, N) of the gradients are on_value, φ(m), r, T, H, g_C, g_ℓ and g_H.
    """
    kernel("layer_gradients", (ctypes.POINTER(TiledLayer), ctypes.POINTER(TiledGradients)))(layer, gradients)


def add_changes(layer: TiledLayer, tangent: TiledLayer, numbers: Tensor, sums: Tensor) -> None:
    """Add what the layer's classes contribute to how C, ℓ and H of each example change, sums (3, N).

    The tangent holds the changes of weight, x and bias, or none. The numbers are the first five of gradients.
    """
    types = ctypes.POINTER(TiledLayer), ctypes.POINTER(TiledLayer), POINTER, POINTER
    kernel("layer_changes", types)(layer, tangent, numbers.data_ptr(), sums.data_ptr())


def add_gradient_changes(
    layer: TiledLayer, tangent: TiledLayer, gradients: TiledGradients, crossed: TiledGradients
) -> None:
    """Add, or write, what the layer's classes contribute to how the gradients change along a tangent.

    The numbers are those of `add_gradients`, and the changes of ℓ, H, g_C, g_ℓ and g_H. Products with ẋ and Ẇ go to
    `crossed`, which are the same gradients, or none.
    """
    types = *(ctypes.POINTER(TiledLayer),) * 2, *(ctypes.POINTER(TiledGradients),) * 2
    kernel("layer_gradient_changes", types)(layer, tangent, gradients, crossed)


def write_rows(layer: TiledLayer, z: Tensor) -> None:
    """Write the weighted inputs of the layer's classes to their columns of z (N, K)."""
    kernel("layer_rows", (ctypes.POINTER(TiledLayer), POINTER, SIZE, SIZE))(layer, z.data_ptr(), z.stride(0), len(z))


def add_products(layer: TiledLayer, gradients: TiledGradients, delta: Tensor) -> None:
    """Do the same for the gradients by x and weight alone, from δ (N, K)."""
    kernel("layer_products", (ctypes.POINTER(TiledLayer), ctypes.POINTER(TiledGradients), POINTER, SIZE))(
        layer, gradients, read_address(delta), delta.stride(0)
    )
