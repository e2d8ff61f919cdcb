"""The costs and their δ on a GPU, in Triton: z is read once forward, read once and δ written once backward.

The formulas are those of the plain versions, worked out in float32, or in float64 for such z. What is None or constant
is settled when a kernel is compiled: an option that is left out costs nothing.
"""

import triton
import triton.language as tl

from ce_torch.costs.kernels.gpu_tiles import load_tile, place, row_pointers, store_delta, tile_pointers


@triton.jit
def log_likelihood(
    C,
    C_all,
    counted,
    partials,
    m,
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
    lane_columns: tl.constexpr,
):
    """C = T ln(1 + r) − Σⱼ tⱼ xⱼ of each row, with x = c (z − m), m = maxⱼ zⱼ, r = Σⱼ exp xⱼ − 1 and T = Σⱼ tⱼ."""
    real: tl.constexpr = m.memory.dtype.element_ty
    c, smoothing = tl.full((), c, real), (tl.full((), smoothing, real), tl.full((), 1.0 - smoothing, real))
    _, rows, inside = place(sizes, sizes[0], tile_rows)
    counts = inside
    if y.memory.dtype.element_ty.is_int():
        label = tl.load(row_pointers(y, rows), mask=inside, other=ignore_index)
        counts = inside & (label != ignore_index)
    m_row, r, T, tx = row_sums(z, y, w, c, smoothing, rows, counts, smooths, tile_rows, tile_columns, lane_columns)
    if y.memory.dtype.element_ty.is_int():
        w_y = class_weight(w, rows, label, counts, real)
        z_y = tl.load(row_pointers(z, rows) + label * z.strides[0], mask=counts & (w_y == w_y), other=0.0)
        value = smoothing[1] * w_y
        T += value
        tx += product(value, exponent(z_y.to(real), m_row, c))
    r = tl.where(counts, r, 0.0)
    C_row = tl.where(counts, product(T, log1p(r)) - tx, 0.0)
    statistics = row_pointers(m, rows)
    tl.store(statistics, m_row, mask=inside)
    tl.store(statistics + N, r, mask=inside)
    tl.store(statistics + 2 * N, T, mask=inside)
    if C is not None:
        tl.store(row_pointers(C, rows), C_row, mask=inside)
    total, count = tl.sum(C_row, 0), N
    if y.memory.dtype.element_ty.is_int():
        count = tl.sum(tl.where(counts, w_y, 0.0), 0)
    if partials is None:
        store_sum(C_all, counted, total, count, averages, real)
    else:
        tl.store(partials + tl.program_id(0), total)
        if y.memory.dtype.element_ty.is_int():
            tl.store(partials + tl.num_programs(0) + tl.program_id(0), count)


@triton.jit
def row_sums(
    z,
    y,
    w,
    c,
    smoothing,
    rows,
    counts,
    smooths: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    lane_columns: tl.constexpr,
):
    """m and r of each row that counts, and the sums of t and of t x, but for what a class y has beyond the others.

    Every lane has a maximum of its own until the row's end, and counts how many exponentials are 1, the largest. The
    sum of the others keeps its digits beside them. A lane takes some columns at once, and scales its sums once for
    all of them.
    """
    sizes, _, _ = rows
    has_spread: tl.constexpr = smooths or y.memory.dtype.element_ty.is_floating()
    lanes: tl.constexpr = tile_columns // lane_columns
    ones = tl.zeros([tile_rows, lanes], c.dtype)
    others, T, tx, m = ones, ones, ones, ones - float("inf")
    # Where no row counts nothing is read.
    end = tl.where(tl.max(counts.to(tl.int32), 0) > 0, sizes[0], 0).to(tl.int64)
    for start in range(0, end, tile_columns):
        column = start + tl.arange(0, tile_columns)
        mask = counts[:, None] & (column < sizes[0])[None, :]
        z_tile = tl.load(tile_pointers(z, rows, column), mask=mask, other=-float("inf")).to(c.dtype)
        z_tile = tl.reshape(z_tile, [tile_rows, lanes, lane_columns])
        larger = tl.maximum(m, tl.max(z_tile, 2))
        fall = tl.where(larger > m, exponent(m, larger, c), 0.0)
        others = tl.where(larger > m, (ones + others) * tl.exp(fall), others)
        ones = tl.where(larger > m, 0.0, ones)
        x = exponent(z_tile, larger[:, :, None], c)
        ones += tl.sum(tl.where(x == 0, 1.0, 0.0), 2)
        others += tl.sum(tl.where(x == 0, 0.0, tl.exp(x)), 2)
        if has_spread:
            t = tl.reshape(spread_target(y, w, smoothing, rows, column, mask, smooths), z_tile.shape)
            tx += product(T, fall) + tl.sum(product(t, x), 2)
            T += tl.sum(t, 2)
        m = larger
    m_row = tl.max(m, 1)
    x = exponent(m, m_row[:, None], c)
    ones_row = tl.sum(tl.where(x == 0, ones, 0.0), 1)
    r = tl.sum(tl.where(x == 0, others, (ones + others) * tl.exp(x)), 1) + (ones_row - 1.0)
    T_row, tx_row = tl.zeros_like(r), tl.zeros_like(r)
    if has_spread:
        T_row, tx_row = tl.sum(T, 1), tl.sum(tx + product(T, x), 1)
    return m_row, r, T_row, tx_row


@triton.jit
def spread_target(y, w, smoothing, rows, column, mask, smooths: tl.constexpr):
    """t of a tile, but for what a class y has beyond the others. smoothing is ε and 1 − ε, each with its digits."""
    sizes, _, _ = rows
    off, on = smoothing
    t = tl.zeros(mask.shape, on.dtype)
    if y.memory.dtype.element_ty.is_floating():
        t += on * load_tile(y, rows, column, mask, on.dtype)
    if smooths:
        t += off / sizes[0]
    return tl.where(mask, t * load_tile(w, rows, column, mask, on.dtype), 0.0)


@triton.jit
def class_weight(w, rows, label, counts, real: tl.constexpr):
    """The weight of each row's class, nan for one that is none."""
    sizes, _, _ = rows
    is_class = (label >= 0) & (label < sizes[0])
    weight = tl.full(label.shape, 1.0, real)
    if w is not None:
        pointers = row_pointers(w, rows) + label * w.strides[0]
        weight = tl.load(pointers, mask=counts & is_class, other=0.0).to(real)
    return tl.where(is_class, weight, float("nan"))


@triton.jit
def log_likelihood_delta(
    delta,
    grad,
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
    """δ = c (exp x (T − t) − t (r + (1 − exp x))) / (1 + r) of a tile, times the gradient of the row's cost."""
    real: tl.constexpr = m.memory.dtype.element_ty
    c, smoothing = tl.full((), c, real), (tl.full((), smoothing, real), tl.full((), 1.0 - smoothing, real))
    first, rows, inside = place(sizes, tile_columns, tile_rows)
    column = first + tl.arange(0, tile_columns)
    g = tl.load(row_pointers(grad, rows), mask=inside, other=0.0).to(real)
    if averages:
        n = tl.load(counted).to(real) if y.memory.dtype.element_ty.is_int() else N
        # Where nothing counts, nothing has a gradient.
        g = tl.where(n == 0, 0.0, g) / tl.where(n == 0, 1.0, n)
    statistics = row_pointers(m, rows)
    m_row = tl.load(statistics, mask=inside, other=0.0)
    r = tl.load(statistics + N, mask=inside, other=0.0)
    T = tl.load(statistics + 2 * N, mask=inside, other=0.0)
    counts = inside & (g != 0) & ((T != 0) | ((m_row != -float("inf")) & (r == r)))
    if y.memory.dtype.element_ty.is_int():
        label = tl.load(row_pointers(y, rows), mask=inside, other=ignore_index)
        counts &= label != ignore_index
    mask = counts[:, None] & (column < sizes[0])[None, :]
    z_tile = tl.load(tile_pointers(z, rows, column), mask=mask, other=-float("inf")).to(real)
    e, T, r = tl.exp(exponent(z_tile, m_row[:, None], c)), T[:, None], r[:, None]
    if smooths or y.memory.dtype.element_ty.is_floating():
        t = spread_target(y, w, smoothing, rows, column, mask, smooths)
        if y.memory.dtype.element_ty.is_int():
            value = smoothing[1] * class_weight(w, rows, label, counts, real)
            t += tl.where(column[None, :] == label[:, None], value[:, None], 0.0)
        error = e * (T - t) - t * (r + (1.0 - e))
    else:
        # All of T is at y.
        error = T * tl.where(column[None, :] == label[:, None], -(r + (1.0 - e)), e)
    error *= c / (1.0 + r)
    store_delta(delta, tl.where(mask, g[:, None] * error, 0.0), rows, column)


@triton.jit
def elements(
    C,
    C_all,
    partials,
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
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """C, the sum of `formula` over the neurons: of each row, or of what a program takes, rows by `part` columns."""
    real: tl.constexpr = tl.float64 if z.memory.dtype.element_ty.is_fp64() else tl.float32
    first = tl.full((), first, real), tl.full((), 1.0 - first, real)
    numbers = first, tl.full((), second, real)
    start, rows, inside = place(sizes, part, tile_rows)
    total = tl.zeros([tile_rows, tile_columns], real)
    for first_column in range(start, tl.minimum(start + part, sizes[0]), tile_columns):
        column = first_column + tl.arange(0, tile_columns)
        mask = inside[:, None] & (column < sizes[0])[None, :]
        total += weighted(formula, z, y, w, p, numbers, rows, column, mask)
    C_row = tl.sum(total, 1)
    if C is not None:
        tl.store(row_pointers(C, rows), C_row, mask=inside)
    if partials is None:
        store_sum(C_all, None, tl.sum(C_row, 0), N, averages, real)
    else:
        tl.store(partials + tl.program_id(0), tl.sum(C_row, 0))


@triton.jit
def elements_delta(
    delta,
    grad,
    z,
    y,
    w,
    p,
    first: tl.float64,
    second: tl.float64,
    N,
    sizes,
    averages: tl.constexpr,
    formula: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """δ of a tile, `formula`, times the gradient of the row's cost."""
    real: tl.constexpr = tl.float64 if z.memory.dtype.element_ty.is_fp64() else tl.float32
    first = tl.full((), first, real), tl.full((), 1.0 - first, real)
    numbers = first, tl.full((), second, real)
    start, rows, inside = place(sizes, tile_columns, tile_rows)
    column = start + tl.arange(0, tile_columns)
    g = tl.load(row_pointers(grad, rows), mask=inside, other=0.0).to(real)
    if averages:
        g /= N
    mask = (g != 0)[:, None] & (column < sizes[0])[None, :]
    value = weighted(formula, z, y, w, p, numbers, rows, column, mask)
    store_delta(delta, tl.where(mask, g[:, None] * value, 0.0), rows, column)


@triton.jit
def weighted(formula: tl.constexpr, z, y, w, p, numbers, rows, column, mask):
    """`formula` of a tile, times its weights: 0 where the weight is 0, and outside of the mask."""
    sizes, _, row = rows
    real: tl.constexpr = numbers[1].dtype
    if y.memory.dtype.element_ty.is_int():
        label = tl.load(row_pointers(y, rows), mask=row < sizes[1], other=0)[:, None]
        y_tile = tl.where(column[None, :] == label, 1.0, tl.zeros(mask.shape, real))
        # A class that is none costs nan.
        y_tile = tl.where((label >= 0) & (label < sizes[0]), y_tile, float("nan"))
    else:
        y_tile = load_tile(y, rows, column, mask, real)
    z_tile, p_tile = load_tile(z, rows, column, mask, real), load_tile(p, rows, column, mask, real)
    value = formula(z_tile, y_tile, p_tile, numbers[0], numbers[1])
    if w is not None:
        value = product(load_tile(w, rows, column, mask, real), value)
    return tl.where(mask, value, 0.0)


@triton.jit
def finish(C, counted, partials, programs, N, averages: tl.constexpr, block: tl.constexpr):
    """C of all rows, the sum of what each program made of its own; and how much rows count, N or the sum of those."""
    total, count = tl.zeros([block], tl.float64), tl.zeros([block], tl.float64)
    for start in range(0, programs, block):
        program = start + tl.arange(0, block)
        total += tl.load(partials + program, mask=program < programs, other=0.0)
        if N is None:
            count += tl.load(partials + programs + program, mask=program < programs, other=0.0)
    n = N
    if N is None:
        n = tl.sum(count, 0)
    store_sum(C, counted, tl.sum(total, 0), n, averages, partials.dtype.element_ty)


@triton.jit
def store_sum(C, counted, total, n, averages: tl.constexpr, real: tl.constexpr):
    """Store C of all rows, and how much they count in the mean, each if it has a place."""
    if counted is not None:
        tl.store(counted, n.to(tl.float64))
    if C is not None:
        if averages:
            total = tl.where(n == 0, float("nan"), total.to(tl.float64) / tl.where(n == 0, 1, n))
        # Triton does not round float64 to half precision.
        tl.store(C, total.to(real).to(C.dtype.element_ty))


@triton.jit
def product(factor, value):
    """factor · value, 0 where the factor is 0, whatever the value."""
    return factor * tl.where(factor == 0, 0.0, value)


@triton.jit
def exponent(z, m, c):
    """c (z − m), 0 where both are equal, ∞ too, but −∞ where both are −∞."""
    finite = tl.where(m == -float("inf"), 0.0, m)
    # The comparison sees rounded numbers, where a difference may take in a product before it is rounded.
    return c * tl.where(z == finite, 0.0, z - finite)


@triton.jit
def log1p(u):
    """ln(1 + u), which keeps its digits however small u is, as u ln(v) / (v − 1)."""
    v = 1.0 + u
    return tl.where(v == 1.0, u, tl.where(v == float("inf"), v, u * tl.log(v) / tl.where(v == 1.0, 1.0, v - 1.0)))


@triton.jit
def sigmoid_error(z, y, p):
    """(1 − y) a − p y (1 − a), which for p = 1 is a − y and loses no digits where y and a are near 1."""
    return (1.0 - y) * sigmoid(z) - p * y * sigmoid(-z)


@triton.jit
def element_cross_entropy(z, y, p):
    """(1 − y) ln(1 + exp z) + p y ln(1 + exp(−z)), to which what has no weight adds nothing."""
    return product(p * y, softplus(-z)) + product(1.0 - y, softplus(z))


@triton.jit
def softplus(z):
    """ln(1 + exp z)."""
    return log1p(tl.exp(-tl.abs(z))) + tl.maximum(z, 0.0)


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(−z)), without an exponential that overflows."""
    u = tl.exp(-tl.abs(z))
    return tl.where(z < 0, u, 1.0) / (1.0 + u)
