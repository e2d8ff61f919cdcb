"""What happens on a GPU to a block of a layer's weighted inputs, in Triton, between two products in half precision.

z comes in float32 from a product that sums in float32; what goes into the next product is rounded to half precision.
"""

import triton
import triton.language as tl

from ce_torch.costs.kernels.gpu_kernels import exponent, log1p, product
from ce_torch.costs.kernels.gpu_statistics_kernels import cap, cap_slope


@triton.jit
def block_exponentials(
    e,
    m_of_block,
    total,
    m,
    others,
    z_y,
    z,
    bias,
    y,
    c,
    start,
    classes,
    examples,
    stride,
    inputs,
    tile: tl.constexpr,
    tile_classes: tl.constexpr,
    tile_inputs: tl.constexpr,
):
    """Write exp(c (z − m)), and 0 at y, for the largest m so far; scale what was summed before down to it.

    A program takes a tile of examples, and of them all classes, a row of z each.
    """
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = row < examples
    m_before, before = tl.load(m + row, mask=inside, other=0.0), tl.load(others + row, mask=inside, other=0.0)
    largest = tl.full([tile_classes, tile], -float("inf"), tl.float32)
    for first in range(0, classes, tile_classes):
        z_tile, _, _ = class_rows(z, bias, row, inside, first, start, classes, examples, tile_classes)
        largest = tl.maximum(largest, z_tile)
    m_row = tl.maximum(m_before, tl.max(largest, 0))
    label = tl.load(y + row, mask=inside, other=-1) - start
    total_e, z_label = tl.zeros([tile_classes, tile], tl.float32), tl.zeros([tile_classes, tile], tl.float32)
    for first in range(0, classes, tile_classes):
        z_tile, column, mask = class_rows(z, bias, row, inside, first, start, classes, examples, tile_classes)
        is_label = column[:, None] == label[None, :]
        e_tile = tl.where(mask & ~is_label, tl.exp(exponent(z_tile, m_row[None, :], c)), 0.0)
        total_e += e_tile
        z_label += tl.where(is_label, z_tile, 0.0)
        if e is not None:
            pointers = e + column.to(tl.int64)[:, None] * stride + row[None, :]
            tl.store(pointers, e_tile.to(e.dtype.element_ty), mask=mask)
    fall = tl.exp(exponent(m_before, m_row, c))
    tl.store(m + row, m_row, mask=inside)
    if m_of_block is not None:
        tl.store(m_of_block + row, m_row, mask=inside)
    tl.store(others + row, product(before, fall) + tl.sum(total_e, 0), mask=inside)
    tl.store(z_y + row, tl.sum(z_label, 0), mask=inside & (label >= 0) & (label < classes))
    if total is not None:
        shrinks = inside & (fall != 1)
        if tl.max(shrinks.to(tl.int32), 0) > 0:
            for first in range(0, inputs, tile_inputs):
                i = first + tl.arange(0, tile_inputs)
                pointers, mask = total + row[:, None] * inputs + i[None, :], shrinks[:, None] & (i < inputs)[None, :]
                value = tl.load(pointers, mask=mask, other=0.0)
                tl.store(pointers, product(value, fall[:, None]), mask=mask)


@triton.jit
def class_rows(z, bias, row, inside, first, start, classes, examples, tile_classes: tl.constexpr):
    """A tile of z, whose rows are classes, with the bias; −∞ outside."""
    column = first + tl.arange(0, tile_classes)
    is_class = column < classes
    mask = is_class[:, None] & inside[None, :]
    z_tile = tl.load(z + column.to(tl.int64)[:, None] * examples + row[None, :], mask=mask, other=-float("inf"))
    if bias is not None:
        z_tile += tl.load(bias + start + column, mask=is_class, other=0.0).to(tl.float32)[:, None]
    return z_tile, column, mask


@triton.jit
def block_delta(
    delta,
    source,
    m_of_block,
    m,
    scale,
    delta_y,
    g,
    off_value,
    bias,
    y,
    c,
    start,
    classes,
    examples,
    source_stride,
    stride,
    tile: tl.constexpr,
    tile_classes: tl.constexpr,
):
    """Write scale exp(c (z − m)) − g off_value, and delta_y − g off_value at y.

    Rows are classes. The source is z, or exp(c (z − m)) for the m of its block.
    """
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    column = tl.program_id(1) * tile_classes + tl.arange(0, tile_classes)
    inside, is_class = row < examples, column < classes
    mask = is_class[:, None] & inside[None, :]
    value = tl.load(source + column.to(tl.int64)[:, None] * source_stride + row[None, :], mask=mask, other=0.0)
    value = value.to(tl.float32)
    factor, m_row = tl.load(scale + row, mask=inside, other=0.0), tl.load(m + row, mask=inside, other=0.0)
    if m_of_block is not None:
        m_before = tl.load(m_of_block + row, mask=inside, other=0.0)
        factor = product(factor, tl.exp(exponent(m_before, m_row, c)))
    else:
        if bias is not None:
            value += tl.load(bias + start + column, mask=is_class, other=0.0).to(tl.float32)[:, None]
        value = tl.exp(exponent(value, m_row[None, :], c))
    label, value_y = tl.load(y + row, mask=inside, other=-1) - start, tl.load(delta_y + row, mask=inside, other=0.0)
    value = tl.where(column[:, None] == label[None, :], value_y[None, :], product(factor[None, :], value))
    if off_value is not None:
        off = tl.load(off_value + start + column, mask=is_class, other=0.0)
        value -= tl.load(g + row, mask=inside, other=0.0)[None, :] * off[:, None]
    pointers = delta + column.to(tl.int64)[:, None] * stride + row[None, :]
    tl.store(pointers, value.to(delta.dtype.element_ty), mask=mask)


@triton.jit
def x_gradient(gradient, total, scale, delta_y, g, weight, y, off_weight, inputs, tile: tl.constexpr):
    """Write Σⱼ δⱼ Wⱼ = scale · total + delta_y W_y − g off_weight."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * tile + tl.arange(0, tile)
    mask = i < inputs
    value = product(tl.load(scale + row), tl.load(total + row * inputs + i, mask=mask, other=0.0))
    weight_y = tl.load(weight + tl.load(y + row) * inputs + i, mask=mask, other=0.0).to(tl.float32)
    value += product(tl.load(delta_y + row), weight_y)
    if off_weight is not None:
        value -= tl.load(g + row) * tl.load(off_weight + i, mask=mask, other=0.0)
    tl.store(gradient + row * inputs + i, value.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def multiply_by(tensor, factor, size, tile: tl.constexpr):
    """Multiply a tensor in place, without a look at it where the factor is 1."""
    g = tl.load(factor).to(tl.float32)
    if g != 1:
        i = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
        value = tl.load(tensor + i, mask=i < size, other=0.0)
        tl.store(tensor + i, (value.to(tl.float32) * g).to(tensor.dtype.element_ty), mask=i < size)


@triton.jit
def weighted_inputs(z, bias, row, start, column, mask, stride):
    z_row = tl.load(z + row * stride + column, mask=mask, other=-float("inf"))
    if bias is not None:
        z_row += tl.load(bias + start + column, mask=mask, other=0.0).to(tl.float32)
    return z_row


@triton.jit
def block_numbers(
    sums,
    prediction,
    z,
    bias,
    y,
    t,
    c,
    softcap,
    N,
    start,
    classes,
    stride,
    t_stride,
    caps: tl.constexpr,
    entropy: tl.constexpr,
    tile: tl.constexpr,
):
    """Add a block of classes to the sums of each row.

    They are, with x = s − max s, the largest z, how many exp x are 1, Σ of the others, Σ x exp x, Σ t x, Σ t, and φ of
    the largest z and of z_y, as the kernels round them.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, tile)
    mask = column < classes
    z_row = weighted_inputs(z, bias, row, start, column, mask, stride)
    sum = sums + row
    m_before, ones, others = tl.load(sum), tl.load(sum + N), tl.load(sum + 2 * N)
    m = tl.maximum(m_before, tl.max(z_row, 0))
    if (m > m_before) & (others == others):
        tl.store(prediction + row, start + tl.min(tl.where(z_row == m, column, tile), 0))
    phi = cap(m, softcap, caps)
    fall = exponent(cap(m_before, softcap, caps), phi, c)
    shrink = tl.exp(fall)
    x = tl.where(mask, exponent(cap(z_row, softcap, caps), phi, c), -float("inf"))
    e = tl.exp(x)
    tl.store(sum, m)
    tl.store(sum + 6 * N, phi)
    grows = m > m_before
    tl.store(sum + N, tl.where(grows, 0.0, ones) + tl.sum(tl.where(x == 0, 1.0, 0.0), 0))
    all_others = tl.where(grows, (ones + others) * shrink, others) + tl.sum(tl.where(x == 0, 0.0, e), 0)
    tl.store(sum + 2 * N, all_others)
    if (all_others != all_others) & (others == others):
        # PyTorch takes nan to be the largest.
        tl.store(prediction + row, start + tl.min(tl.where(z_row != z_row, column, tile), 0))
    if entropy:
        before = product(shrink, tl.load(sum + 3 * N) + product(ones + others, fall))
        tl.store(sum + 3 * N, before + tl.sum(product(e, x), 0))
    if t is not None:
        t_row = tl.load(t + row * t_stride + start + column, mask=mask, other=0.0).to(tl.float32)
        T = tl.load(sum + 5 * N)
        tl.store(sum + 4 * N, tl.load(sum + 4 * N) + product(T, fall) + tl.sum(product(t_row, x), 0))
        tl.store(sum + 5 * N, T + tl.sum(t_row, 0))
    if y is not None:
        label = tl.load(y + row) - start
        if (label >= 0) & (label < classes):
            z_y = tl.sum(tl.where(column == label, z_row, 0.0), 0)
            tl.store(sum + 7 * N, cap(z_y, softcap, caps))


@triton.jit
def block_gradient(
    gradient,
    g,
    statistics,
    z,
    bias,
    y,
    on_value,
    t,
    c,
    softcap,
    start,
    classes,
    examples,
    N,
    stride,
    t_stride,
    caps: tl.constexpr,
    logsumexp: tl.constexpr,
    entropy: tl.constexpr,
    tile: tl.constexpr,
    tile_classes: tl.constexpr,
):
    """Write c φ′ [g_C (T a − t) + g_ℓ a − g_H a (ln a + H)], a row for each class."""
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = row < examples
    first = tl.program_id(1) * tile_classes
    z_tile, column, mask = class_rows(z, bias, row, inside, first, start, classes, examples, tile_classes)
    m, r = tl.load(statistics + row, mask=inside, other=0.0), tl.load(statistics + N + row, mask=inside, other=0.0)
    T = tl.load(statistics + 2 * N + row, mask=inside, other=0.0)[None, :]
    x = exponent(cap(z_tile, softcap, caps), m[None, :], c)
    e, s = tl.exp(x), (1.0 + r)[None, :]
    t_tile = tl.zeros(e.shape, tl.float32)
    if t is not None:
        pointers = t + (start + column)[:, None] + row[None, :] * t_stride
        t_tile += tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    if y is not None:
        label, value = tl.load(y + row, mask=inside, other=-1) - start, tl.load(on_value + row, mask=inside, other=0.0)
        t_tile += tl.where(column[:, None] == label[None, :], value[None, :], 0.0)
    g_C = tl.load(g + row, mask=inside, other=0.0)[None, :]
    by_s = product(g_C, (e * (T - t_tile) - t_tile * (r[None, :] + (1.0 - e))) / s)
    if logsumexp:
        by_s += product(tl.load(g + N + row, mask=inside, other=0.0)[None, :], e / s)
    if entropy:
        H = tl.load(statistics + 3 * N + row, mask=inside, other=0.0)
        g_H = tl.load(g + 2 * N + row, mask=inside, other=0.0)
        by_s -= product(g_H[None, :], product(e / s, x + (H - log1p(r))[None, :]))
    value = product(by_s, c * cap_slope(z_tile, softcap, caps))
    pointers = gradient + column.to(tl.int64)[:, None] * stride + row[None, :]
    tl.store(pointers, value.to(gradient.dtype.element_ty), mask=mask)
