"""The costs and their δ on a GPU, in Triton: z is read once forward, read once and δ written once backward.

The formulas are those of the plain versions, worked out in float32. A program works on one row of z, or on one block of
a row, and a row's number is an int64: z may have more than 2³¹ elements.
"""

import triton
import triton.language as tl


@triton.jit
def log_likelihood(C, m, r, z, y, c, ignore_index, z_row, z_column, y_row, columns, block: tl.constexpr):
    """C = ln(1 + r) − x_y of a row, with x = c (z − m), m = maxⱼ zⱼ, r = Σⱼ exp xⱼ − 1, in one pass over z.

    Every lane has a maximum of its own until the row's end, and counts how many exponentials are 1, the largest. The
    sum of the others keeps its digits beside them.
    """
    row = tl.program_id(0).to(tl.int64)
    z += row * z_row
    m_lane = tl.full([block], -float("inf"), tl.float32)
    ones_lane = tl.zeros([block], tl.float32)
    others_lane = tl.zeros([block], tl.float32)
    for start in range(0, columns, block):
        column = start + tl.arange(0, block).to(tl.int64)
        z_lane = tl.load(z + column * z_column, mask=column < columns, other=-float("inf")).to(tl.float32)
        larger = tl.maximum(m_lane, z_lane)
        others_lane = tl.where(
            larger > m_lane, (ones_lane + others_lane) * tl.exp(exponent(m_lane, larger, c)), others_lane
        )
        ones_lane = tl.where(larger > m_lane, 0.0, ones_lane)
        x = exponent(z_lane, larger, c)
        ones_lane += tl.where(x == 0, 1.0, 0.0)
        others_lane += tl.where(x == 0, 0.0, tl.exp(x))
        m_lane = larger
    m_row = tl.max(m_lane, 0)
    x = exponent(m_lane, m_row, c)
    ones = tl.sum(tl.where(x == 0, ones_lane, 0.0), 0)
    others = tl.sum(tl.where(x == 0, others_lane, (ones_lane + others_lane) * tl.exp(x)), 0)
    y_of_row = tl.load(y + row * y_row)
    names_a_class = (y_of_row >= 0) & (y_of_row < columns)
    z_y = tl.load(z + y_of_row * z_column, mask=names_a_class, other=float("nan")).to(tl.float32)
    r_row = others + (ones - 1.0)
    C_row = log1p(r_row) - exponent(z_y, m_row, c)
    tl.store(C + row, tl.where(y_of_row == ignore_index, 0.0, C_row))
    tl.store(m + row, m_row)
    tl.store(r + row, r_row)


@triton.jit
def exponent(z, m, c):
    """c (z − m), 0 where both are ∞ and −∞ where both are −∞."""
    difference = z - tl.where(m == -float("inf"), 0.0, m)
    return c * tl.where(z == float("inf"), 0.0, difference)


@triton.jit
def log1p(u):
    """ln(1 + u), which keeps its digits however small u is, as u ln(v) / (v − 1)."""
    v = 1.0 + u
    return tl.where(v == 1.0, u, tl.where(v == float("inf"), v, u * tl.log(v) / tl.where(v == 1.0, 1.0, v - 1.0)))


@triton.jit
def log_likelihood_delta(
    delta, g, g_row, m, r, z, y, c, ignore_index, z_row, z_column, y_row, columns, block: tl.constexpr
):
    """δ of a block of a row, c exp(x) / (1 + r), or −c (r + (1 − exp x)) / (1 + r) at y, times the row's gradient."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block).to(tl.int64)
    z_block = tl.load(z + row * z_row + column * z_column, mask=column < columns, other=-float("inf")).to(tl.float32)
    r_row = tl.load(r + row)
    e = tl.exp(exponent(z_block, tl.load(m + row), c))
    y_of_row = tl.load(y + row * y_row)
    error = tl.where(column == y_of_row, -(r_row + (1.0 - e)), e) / (1.0 + r_row)
    grad = tl.load(g + row * g_row).to(tl.float32)
    counts = (grad != 0) & (y_of_row != ignore_index)
    value = tl.where(counts, c * grad * error, 0.0)
    tl.store(delta + row * columns + column, value.to(delta.dtype.element_ty), mask=column < columns)


@triton.jit
def elements(
    C, z, y, z_row, z_column, y_row, y_column, first, second, columns, formula: tl.constexpr, block: tl.constexpr
):
    """C of a row, the sum of `formula` over its neurons."""
    row = tl.program_id(0).to(tl.int64)
    sum_lane = tl.zeros([block], tl.float32)
    for start in range(0, columns, block):
        column = start + tl.arange(0, block).to(tl.int64)
        inside = column < columns
        z_block = tl.load(z + row * z_row + column * z_column, mask=inside, other=0.0).to(tl.float32)
        y_block = tl.load(y + row * y_row + column * y_column, mask=inside, other=0.0).to(tl.float32)
        sum_lane += tl.where(inside, formula(z_block, y_block, first, second), 0.0)
    tl.store(C + row, tl.sum(sum_lane, 0))


@triton.jit
def elements_delta(
    delta,
    g,
    g_row,
    z,
    y,
    z_row,
    z_column,
    y_row,
    y_column,
    first,
    second,
    columns,
    formula: tl.constexpr,
    block: tl.constexpr,
):
    """δ of a block of a row, `formula`, times the gradient of the row's cost."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block).to(tl.int64)
    inside = column < columns
    z_block = tl.load(z + row * z_row + column * z_column, mask=inside, other=0.0).to(tl.float32)
    y_block = tl.load(y + row * y_row + column * y_column, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(g + row * g_row).to(tl.float32)
    value = tl.where(grad == 0, 0.0, grad * formula(z_block, y_block, first, second))
    tl.store(delta + row * columns + column, value.to(delta.dtype.element_ty), mask=inside)


@triton.jit
def sigmoid_error(z, y):
    """a − y, which loses no digits where y and a are near 1."""
    return (1.0 - y) * sigmoid(z) - y * sigmoid(-z)


@triton.jit
def element_cross_entropy(z, y):
    """(1 − y) ln(1 + exp z) + y ln(1 + exp(−z)), to which what has no weight adds nothing."""
    y_term = tl.where(y == 0, 0.0, y * softplus(-z))
    return y_term + tl.where(y == 1, 0.0, (1.0 - y) * softplus(z))


@triton.jit
def softplus(z):
    """ln(1 + exp z)."""
    return log1p(tl.exp(-tl.abs(z))) + tl.maximum(z, 0.0)


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(−z)), of which no exponential overflows."""
    u = tl.exp(-tl.abs(z))
    return tl.where(z < 0, u, 1.0) / (1.0 + u)
