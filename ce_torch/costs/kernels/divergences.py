"""Divergences of two softmax layers and their gradients by their scores, by a kernel for finite scores in float32."""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs.kernels import compiler, cpp
from ce_torch.costs.kernels.products import address

# The kernel's numbers of them.
KINDS = {"forward_kl": 0, "reverse_kl": 1, "jensen_shannon": 2}


def supports(z: Tensor, teacher_z: Tensor) -> bool:
    """Return True if the kernel supports these scores, unless one of them is not finite."""
    is_float = z.dtype == teacher_z.dtype == torch.float32
    return z.is_cpu and is_float and z.is_contiguous() and teacher_z.is_contiguous() and cpp.has_kernels()


def write_divergences(
    name: str,
    beta: float,
    z: Tensor,
    teacher_z: Tensor,
    c: tuple[float, float],
    factor: Tensor | None,
    needs: tuple[bool, bool],
) -> Tensor | None:
    """Return D of each row, and write the needed ones of factor ∂D/∂z over z and `teacher_z`.

    Return None, and write nothing, if a score is not finite. c and `needs` are those of the student and the teacher.
    """
    D = torch.empty_like(z[:, 0])
    factor = None if factor is None else factor.contiguous()
    scores = z.data_ptr(), teacher_z.data_ptr(), *c
    is_finite = kernel()(
        KINDS[name], beta, *scores, address(factor), *needs, D.data_ptr(), *z.shape, torch.get_num_threads()
    )
    return D if is_finite else None


@cache
def kernel() -> Any:
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    scores = ctypes.c_int, ctypes.c_float, pointer, pointer, ctypes.c_float, ctypes.c_float
    outputs = pointer, ctypes.c_bool, ctypes.c_bool, pointer, size, size, ctypes.c_int
    return compiler.function("divergences", (*scores, *outputs), ctypes.c_bool)
