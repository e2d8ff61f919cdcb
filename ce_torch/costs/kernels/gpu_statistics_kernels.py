"""The numbers of a softmax layer, and δ of their gradients, on a GPU, in Triton: z is read once in each pass.

The formulas are those of `softmax_statistics.py`, for classes y or none. m is the largest z.
"""

import triton
import triton.language as tl

from ce_torch.costs.kernels.gpu_kernels import exponent, log1p, product
from ce_torch.costs.kernels.gpu_tiles import load_tile, place, row_offsets, row_pointers, store_delta, tile_pointers


@triton.jit
def softmax_statistics(
    log_prob,
    logsumexp,
    H,
    prediction,
    statistics,
    z,
    y,
    c: tl.float64,
    softcap: tl.float64,
    ignore_index,
    N,
    sizes,
    caps: tl.constexpr,
    entropy: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    lane_columns: tl.constexpr,
):
    """p, ℓ, H and ĵ of each row, and for δ m, r and H."""
    real: tl.constexpr = statistics.memory.dtype.element_ty
    c, softcap = tl.full((), c, real), tl.full((), softcap, real)
    _, rows, inside = place(sizes, sizes[0], tile_rows)
    counts = inside
    if y is not None:
        label = tl.load(row_pointers(y, rows), mask=inside, other=ignore_index)
        counts = inside & (label != ignore_index)
    m, r, ex, group = row_sums(z, c, softcap, rows, counts, caps, entropy, tile_rows, tile_columns, lane_columns)
    r = tl.where(counts, r, 0.0)
    ln = log1p(r)
    row = row_offsets(statistics, rows)
    if y is not None:
        # A class that is none costs nan.
        is_class = (label >= 0) & (label < sizes[0])
        z_y = tl.load(row_pointers(z, rows) + label * z.strides[0], mask=counts & is_class, other=float("nan"))
        x_y = exponent(cap(z_y.to(real), softcap, caps), cap(m, softcap, caps), c)
        tl.store(log_prob + row, tl.where(counts, x_y - ln, 0.0), mask=inside)
    tl.store(logsumexp + row, tl.where(counts, c * cap(m, softcap, caps) + ln, 0.0), mask=inside)
    memory = statistics.memory + row
    tl.store(memory, m, mask=inside)
    tl.store(memory + N, r, mask=inside)
    if entropy:
        H_row = tl.where(counts, ln - ex / (1.0 + r), 0.0)
        tl.store(H + row, H_row, mask=inside)
        tl.store(memory + 2 * N, H_row, mask=inside)
    best = first_largest(z, rows, counts, m, r, group, tile_rows, tile_columns, lane_columns)
    tl.store(prediction + row, tl.where(counts, best, ignore_index), mask=inside)


@triton.jit
def row_sums(
    z,
    c,
    softcap,
    rows,
    counts,
    caps: tl.constexpr,
    entropy: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    lane_columns: tl.constexpr,
):
    """m, r and Σ x exp x of each row that counts, and the first column of the lane that has the largest z.

    As in `gpu_kernels.py` a lane has a maximum of its own until the row's end, and counts exponentials of 1.
    """
    sizes, _, _ = rows
    lanes: tl.constexpr = tile_columns // lane_columns
    ones = tl.zeros([tile_rows, lanes], c.dtype)
    others, ex, m = ones, ones, ones - float("inf")
    first = tl.zeros([tile_rows, lanes], tl.int64)
    end = tl.where(tl.max(counts.to(tl.int32), 0) > 0, sizes[0], 0).to(tl.int64)
    for start in range(0, end, tile_columns):
        column = start + tl.arange(0, tile_columns)
        mask = counts[:, None] & (column < sizes[0])[None, :]
        z_tile = tl.load(tile_pointers(z, rows, column), mask=mask, other=-float("inf")).to(c.dtype)
        z_tile = tl.reshape(z_tile, [tile_rows, lanes, lane_columns])
        larger = tl.maximum(m, tl.max(z_tile, 2))
        phi = cap(larger, softcap, caps)
        fall = tl.where(larger > m, exponent(cap(m, softcap, caps), phi, c), 0.0)
        first = tl.where(larger > m, start, first)
        shrink = tl.exp(fall)
        if entropy:
            ex = product(shrink, ex + product(ones + others, fall))
        others = tl.where(larger > m, (ones + others) * shrink, others)
        ones = tl.where(larger > m, 0.0, ones)
        x = exponent(cap(z_tile, softcap, caps), phi[:, :, None], c)
        if caps:
            # φ(−∞) is finite.
            x = tl.where(tl.reshape(mask, x.shape), x, -float("inf"))
        e = tl.where(x == 0, 0.0, tl.exp(x))
        ones += tl.sum(tl.where(x == 0, 1.0, 0.0), 2)
        others += tl.sum(e, 2)
        if entropy:
            ex += tl.sum(product(e, x), 2)
        m = larger
    m_row = tl.max(m, 1)
    x = exponent(cap(m, softcap, caps), cap(m_row, softcap, caps)[:, None], c)
    shrink = tl.exp(x)
    ones_row = tl.sum(tl.where(x == 0, ones, 0.0), 1)
    r = tl.sum(tl.where(x == 0, others, (ones + others) * shrink), 1) + (ones_row - 1.0)
    ex_row = tl.zeros_like(r)
    if entropy:
        ex_row = tl.sum(product(shrink, ex + product(ones + others, x)), 1)
    lane_start = first + (tl.arange(0, lanes) * lane_columns)[None, :]
    return m_row, r, ex_row, tl.min(tl.where(m == m_row[:, None], lane_start, sizes[0]), 1)


@triton.jit
def first_largest(
    z,
    rows,
    counts,
    m,
    r,
    group,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    lane_columns: tl.constexpr,
):
    """The first column of the largest z of each row, among the columns from `group` on; PyTorch takes nan for it."""
    sizes, _, _ = rows
    group_column = group[:, None] + tl.arange(0, lane_columns)[None, :]
    pointers = row_pointers(z, rows)[:, None] + group_column * z.strides[0]
    z_group = tl.load(pointers, mask=counts[:, None] & (group_column < sizes[0]), other=-float("inf")).to(m.dtype)
    best = tl.min(tl.where(z_group == m[:, None], group_column, sizes[0]), 1)
    is_nan = counts & (r != r)
    end = tl.where(tl.max(is_nan.to(tl.int32), 0) > 0, sizes[0], 0).to(tl.int64)
    first_nan = tl.zeros(best.shape, tl.int64) + sizes[0]
    for start in range(0, end, tile_columns):
        column = start + tl.arange(0, tile_columns)
        mask = counts[:, None] & (column < sizes[0])[None, :]
        z_tile = load_tile(z, rows, column, mask, m.dtype)
        first_nan = tl.minimum(first_nan, tl.min(tl.where(mask & (z_tile != z_tile), column[None, :], sizes[0]), 1))
    return tl.where(first_nan < sizes[0], first_nan, best)


@triton.jit
def softmax_statistics_delta(
    delta,
    statistics,
    g_p,
    g_l,
    g_H,
    z,
    y,
    c: tl.float64,
    softcap: tl.float64,
    ignore_index,
    N,
    sizes,
    caps: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """δ = c φ′ [g_p (t − a) + g_ℓ a − g_H a (ln a + H)] of a tile."""
    real: tl.constexpr = statistics.memory.dtype.element_ty
    c, softcap = tl.full((), c, real), tl.full((), softcap, real)
    first, rows, inside = place(sizes, tile_columns, tile_rows)
    column = first + tl.arange(0, tile_columns)
    by_p, by_l, by_H = (
        row_grad(g_p, rows, inside, real),
        row_grad(g_l, rows, inside, real),
        row_grad(g_H, rows, inside, real),
    )
    counts = inside & ((by_p != 0) | (by_l != 0) | (by_H != 0))
    if y is not None:
        label = tl.load(row_pointers(y, rows), mask=inside, other=ignore_index)
        counts &= label != ignore_index
    mask = counts[:, None] & (column < sizes[0])[None, :]
    memory = row_pointers(statistics, rows)
    m, r = tl.load(memory, mask=inside, other=0.0), tl.load(memory + N, mask=inside, other=0.0)
    z_tile = tl.load(tile_pointers(z, rows, column), mask=mask, other=-float("inf")).to(real)
    x = exponent(cap(z_tile, softcap, caps), cap(m, softcap, caps)[:, None], c)
    e, s = tl.exp(x), (1.0 + r)[:, None]
    a = e / s
    by_s = product(by_l[:, None], a)
    if g_p is not None:
        error = tl.where(column[None, :] == label[:, None], (r[:, None] + (1.0 - e)) / s, -a)
        by_s += product(by_p[:, None], error)
    if g_H is not None:
        H = tl.load(memory + 2 * N, mask=inside, other=0.0)
        by_s -= product(by_H[:, None], product(a, x + (H - log1p(r))[:, None]))
    store_delta(delta, tl.where(mask, c * (by_s * cap_slope(z_tile, softcap, caps)), 0.0), rows, column)


@triton.jit
def row_grad(grad, rows, inside, real: tl.constexpr):
    g = tl.zeros(inside.shape, real)
    if grad is not None:
        g = tl.load(row_pointers(grad, rows), mask=inside, other=0.0).to(real)
    return g


@triton.jit
def cap(z, softcap, caps: tl.constexpr):
    """φ(z) = κ tanh(z / κ), as (1 − u) / (1 + u) for u = exp(−2 |z| / κ); z itself without a softcap."""
    phi = z
    if caps:
        y = tl.abs(z) * (2.0 / softcap)
        u = tl.exp(-y)
        # Where u is near 1, the series of 1 − exp(−y) keeps its digits.
        series = tl.full(z.shape, 1.0, z.dtype)
        for term in tl.static_range(15, 1, -1):
            series = 1.0 - y / term * series
        size = softcap * (tl.where(y < 0.34, y * series, 1.0 - u) / (1.0 + u))
        phi = tl.where(z < 0, -size, size)
    return phi


@triton.jit
def cap_slope(z, softcap, caps: tl.constexpr):
    """φ′(z) = 1 / cosh²(z / κ), with all its digits where tanh is near 1."""
    slope = tl.full(z.shape, 1.0, z.dtype)
    if caps:
        u = tl.exp(-tl.abs(z) * (2.0 / softcap))
        slope = 4.0 * u / ((1.0 + u) * (1.0 + u))
    return slope
