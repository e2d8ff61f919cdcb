"""How the costs and their δ change with z in a direction v, on a GPU, in Triton."""

import triton
import triton.language as tl

from ce_torch.costs.kernels.gpu_kernels import class_weight, exponent, product, spread_target, store_sum, weighted
from ce_torch.costs.kernels.gpu_tiles import load_tile, place, row_pointers, store_delta, tile_pointers


@triton.jit
def log_likelihood_change(
    C,
    C_all,
    partials,
    turns,
    v,
    m,
    counted,
    z,
    y,
    w,
    c: tl.float64,
    smoothing: tl.float64,
    ignore_index,
    N,
    sizes,
    averages: tl.constexpr,
    smooths: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """c (T Σⱼ aⱼ vⱼ − Σⱼ tⱼ vⱼ) of each row, and what v takes of it: the sums of v where exp x is 1, and of others.

    With ones + others = (1 + r) Σⱼ aⱼ vⱼ no digits are lost where a is near 1.
    """
    real: tl.constexpr = m.memory.dtype.element_ty
    c, smoothing = tl.full((), c, real), (tl.full((), smoothing, real), tl.full((), 1.0 - smoothing, real))
    _, rows, inside = place(sizes, sizes[0], tile_rows)
    m_row, r, T, counts = row_statistics(m, y, ignore_index, N, rows, inside)
    ones = tl.zeros([tile_rows, tile_columns], real)
    others, tv = ones, ones
    for start in range(0, sizes[0], tile_columns):
        column = start + tl.arange(0, tile_columns)
        mask = counts[:, None] & (column < sizes[0])[None, :]
        z_tile = tl.load(tile_pointers(z, rows, column), mask=mask, other=-float("inf")).to(real)
        v_tile = tl.where(mask, load_tile(v, rows, column, mask, real), 0.0)
        x = exponent(z_tile, m_row[:, None], c)
        ones += tl.where(x == 0, v_tile, 0.0)
        others += tl.where(x == 0, 0.0, product(v_tile, tl.exp(x)))
        if smooths or y.memory.dtype.element_ty.is_floating():
            tv += product(spread_target(y, w, smoothing, rows, column, mask, smooths), v_tile)
    ones_row, others_row, tv_row = tl.sum(ones, 1), tl.sum(others, 1), tl.sum(tv, 1)
    if y.memory.dtype.element_ty.is_int():
        label = tl.load(row_pointers(y, rows), mask=counts, other=0)
        w_y = class_weight(w, rows, label, counts, real)
        v_y = tl.load(row_pointers(v, rows) + label * v.strides[0], mask=counts & (w_y == w_y), other=0.0)
        tv_row += product(smoothing[1] * w_y, v_y.to(real))
    change = (product(T, ones_row) - tv_row) + (product(T, others_row) - product(tv_row, r))
    C_row = share(tl.where(counts, c * product(change, 1.0 / (1.0 + r)), 0.0), counted, y, N, averages)
    if turns is not None:
        tl.store(row_pointers(turns, rows), ones_row, mask=inside)
        tl.store(row_pointers(turns, rows) + N, others_row, mask=inside)
    if C is not None:
        tl.store(row_pointers(C, rows), C_row, mask=inside)
    if partials is None:
        store_sum(C_all, None, tl.sum(C_row, 0), N, False, real)
    else:
        tl.store(partials + tl.program_id(0), tl.sum(C_row, 0))


@triton.jit
def log_likelihood_delta_change(
    delta,
    grad,
    turns,
    v,
    m,
    counted,
    z,
    y,
    c: tl.float64,
    ignore_index,
    N,
    sizes,
    averages: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """c² T a ∘ (v − Σⱼ aⱼ vⱼ) of a tile, times the gradient of the row's cost."""
    real: tl.constexpr = m.memory.dtype.element_ty
    c = tl.full((), c, real)
    first, rows, inside = place(sizes, tile_columns, tile_rows)
    column = first + tl.arange(0, tile_columns)
    m_row, r, T, counts = row_statistics(m, y, ignore_index, N, rows, inside)
    ones = tl.load(row_pointers(turns, rows), mask=inside, other=0.0)[:, None]
    others = tl.load(row_pointers(turns, rows) + N, mask=inside, other=0.0)[:, None]
    g = share(tl.load(row_pointers(grad, rows), mask=inside, other=0.0).to(real), counted, y, N, averages)
    factor = product(g, T / ((1.0 + r) * (1.0 + r)))[:, None]
    mask = counts[:, None] & (column < sizes[0])[None, :]
    z_tile = tl.load(tile_pointers(z, rows, column), mask=mask, other=-float("inf")).to(real)
    v_tile = load_tile(v, rows, column, mask, real)
    difference = v_tile * r[:, None] + (v_tile - ones) - others
    change = c * (c * (tl.exp(exponent(z_tile, m_row[:, None], c)) * difference))
    store_delta(delta, tl.where(mask, product(factor, change), 0.0), rows, column)


@triton.jit
def row_statistics(m, y, ignore_index, N, rows, inside):
    """m, r and T of each row, and which rows count: those that are not ignored, and have a largest z or a T."""
    statistics = row_pointers(m, rows)
    m_row = tl.load(statistics, mask=inside, other=0.0)
    r = tl.load(statistics + N, mask=inside, other=0.0)
    T = tl.load(statistics + 2 * N, mask=inside, other=0.0)
    counts = inside & ((T != 0) | ((m_row != -float("inf")) & (r == r)))
    if y.memory.dtype.element_ty.is_int():
        counts &= tl.load(row_pointers(y, rows), mask=inside, other=ignore_index) != ignore_index
    return m_row, r, T, counts


@triton.jit
def share(value, counted, y, N, averages: tl.constexpr):
    """What a row's number is in the mean of all, if that is asked for; 0 in the mean of nothing."""
    if averages:
        n = tl.load(counted).to(value.dtype) if y.memory.dtype.element_ty.is_int() else N
        value = tl.where(n == 0, 0.0, value) / tl.where(n == 0, 1.0, n)
    return value


@triton.jit
def elements_change(
    C,
    C_all,
    partials,
    change,
    grad,
    v,
    z,
    y,
    w,
    p,
    first: tl.float64,
    second: tl.float64,
    N,
    sizes,
    part,
    averages: tl.constexpr,
    formula: tl.constexpr,
    slope: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """The sum of v times `formula`, which is δ, as `elements` sums C; v times `slope`, and the gradient of the cost."""
    real: tl.constexpr = tl.float64 if z.memory.dtype.element_ty.is_fp64() else tl.float32
    first = tl.full((), first, real), tl.full((), 1.0 - first, real)
    numbers = first, tl.full((), second, real)
    start, rows, inside = place(sizes, part, tile_rows)
    total = tl.zeros([tile_rows, tile_columns], real)
    if change is not None:
        g = tl.load(row_pointers(grad, rows), mask=inside, other=0.0).to(real)
        if averages:
            g /= N
    for first_column in range(start, tl.minimum(start + part, sizes[0]), tile_columns):
        column = first_column + tl.arange(0, tile_columns)
        mask = inside[:, None] & (column < sizes[0])[None, :]
        v_tile = tl.where(mask, load_tile(v, rows, column, mask, real), 0.0)
        total += product(v_tile, weighted(formula, z, y, w, p, numbers, rows, column, mask))
        if change is not None:
            value = product(g[:, None], v_tile * weighted(slope, z, y, w, p, numbers, rows, column, mask))
            store_delta(change, value, rows, column)
    C_row = tl.sum(total, 1)
    if C is not None:
        tl.store(row_pointers(C, rows), C_row, mask=inside)
    if partials is None:
        store_sum(C_all, None, tl.sum(C_row, 0), N, averages, real)
    else:
        tl.store(partials + tl.program_id(0), tl.sum(C_row, 0))
