"""What happens on a GPU to a block of a layer's weighted inputs, in Triton, between two products in half precision.

z comes in float32 from a product that sums in float32; what goes into the next product is rounded to half precision.
A program takes a row.
"""

import triton
import triton.language as tl

from ce_torch.costs.kernels.gpu_kernels import exponent, product


@triton.jit
def block_exponentials(
    e, fall, m, others, z_y, z, bias, y, c, start, classes, stride, writes: tl.constexpr, tile: tl.constexpr
):
    """Write exp(c (z − m)), and 0 at y, for the largest m so far; and by how much what was summed before must fall."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, tile)
    mask, label = column < classes, tl.load(y + row) - start
    z_row = weighted_inputs(z, bias, row, start, column, mask, stride)
    m_before, sum_before = tl.load(m + row), tl.load(others + row)
    m_row = tl.maximum(m_before, tl.max(z_row, 0))
    x = exponent(z_row, m_row, c)
    e_row = tl.where(mask & (column != label), tl.exp(x), 0.0)
    fall_row = tl.exp(exponent(m_before, m_row, c))
    tl.store(m + row, m_row)
    tl.store(fall + row, fall_row)
    tl.store(others + row, product(sum_before, fall_row) + tl.sum(e_row, 0))
    if (label >= 0) & (label < classes):
        tl.store(z_y + row, tl.sum(tl.where(column == label, z_row, 0.0), 0))
    if writes:
        tl.store(e + row * stride + column, e_row.to(e.dtype.element_ty), mask=mask)


@triton.jit
def block_delta(delta, m, scale, delta_y, g, off_value, z, bias, y, c, start, classes, stride, tile: tl.constexpr):
    """Write scale exp(c (z − m)) − g off_value, and delta_y − g off_value at y."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * tile + tl.arange(0, tile)
    mask, label = column < classes, tl.load(y + row) - start
    z_row = weighted_inputs(z, bias, row, start, column, mask, stride)
    e = tl.exp(exponent(z_row, tl.load(m + row), c))
    value = tl.where(column == label, tl.load(delta_y + row), product(tl.load(scale + row), e))
    if off_value is not None:
        value -= tl.load(g + row) * tl.load(off_value + start + column, mask=mask, other=0.0)
    tl.store(delta + row * stride + column, value.to(delta.dtype.element_ty), mask=mask)


@triton.jit
def weighted_inputs(z, bias, row, start, column, mask, stride):
    z_row = tl.load(z + row * stride + column, mask=mask, other=-float("inf"))
    if bias is not None:
        z_row += tl.load(bias + start + column, mask=mask, other=0.0).to(tl.float32)
    return z_row
