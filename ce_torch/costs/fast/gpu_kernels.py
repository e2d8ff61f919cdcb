"""The costs and their δ on a GPU, in Triton: z is read once forward, read once and δ written once backward.

The formulas are those of the plain versions, worked out in float32. A program works on one row of z, or on one block of
a row, and a row's number is an int64: z may have more than 2³¹ elements.
"""

import triton
import triton.language as tl


@triton.jit
def log_likelihood(C, m, s, z, y, c, z_row, z_column, y_row, columns, block: tl.constexpr):
    """C = ln s + c (m − z_y) of a row, with m = maxⱼ zⱼ and s = Σⱼ exp(c (zⱼ − m)), in one pass over z."""
    row = tl.program_id(0).to(tl.int64)
    z += row * z_row
    # Every lane has a maximum and a sum of its own, until the row's end.
    m_lane = tl.full([block], -float("inf"), tl.float32)
    s_lane = tl.zeros([block], tl.float32)
    for start in range(0, columns, block):
        column = start + tl.arange(0, block).to(tl.int64)
        x = tl.load(z + column * z_column, mask=column < columns, other=-float("inf")).to(tl.float32)
        larger = tl.maximum(m_lane, x)
        s_lane = s_lane * tl.exp(c * (m_lane - finite(larger))) + tl.exp(c * (x - finite(larger)))
        m_lane = larger
    m_row = tl.max(m_lane, 0)
    s_row = tl.sum(s_lane * tl.exp(c * (m_lane - finite(m_row))), 0)
    y_row_class = tl.load(y + row * y_row)
    names_a_class = (y_row_class >= 0) & (y_row_class < columns)
    z_y = tl.load(z + y_row_class * z_column, mask=names_a_class, other=float("nan")).to(tl.float32)
    tl.store(C + row, tl.log(s_row) + c * (m_row - z_y))
    tl.store(m + row, m_row)
    tl.store(s + row, s_row)


@triton.jit
def finite(m):
    """m, or 0 where every x so far was −∞ and x − m would be nan."""
    return tl.where(m == -float("inf"), 0.0, m)


@triton.jit
def log_likelihood_delta(
    delta, of_example, of_row, m, s, z, y, c, z_row, z_column, y_row, columns, block: tl.constexpr
):
    """δ = c (exp(c (z − m)) / s − y) of a block of a row, times the gradient of the row's cost."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block).to(tl.int64)
    x = tl.load(z + row * z_row + column * z_column, mask=column < columns, other=-float("inf")).to(tl.float32)
    a = tl.exp(c * (x - tl.load(m + row))) / tl.load(s + row)
    error = tl.where(column == tl.load(y + row * y_row), a - 1, a)
    factor = c * tl.load(of_example + row * of_row).to(tl.float32)
    tl.store(delta + row * columns + column, (factor * error).to(delta.dtype.element_ty), mask=column < columns)


@triton.jit
def neurons(C, z, y, z_row, z_column, y_row, y_column, columns, formula: tl.constexpr, block: tl.constexpr):
    """C of a row, the sum of `formula(z, y)` over its neurons."""
    row = tl.program_id(0).to(tl.int64)
    sum_lane = tl.zeros([block], tl.float32)
    for start in range(0, columns, block):
        column = start + tl.arange(0, block).to(tl.int64)
        inside = column < columns
        z_block = tl.load(z + row * z_row + column * z_column, mask=inside, other=0.0).to(tl.float32)
        y_block = tl.load(y + row * y_row + column * y_column, mask=inside, other=0.0).to(tl.float32)
        sum_lane += tl.where(inside, formula(z_block, y_block), 0.0)
    tl.store(C + row, tl.sum(sum_lane, 0))


@triton.jit
def neurons_delta(
    delta,
    of_example,
    of_row,
    z,
    y,
    z_row,
    z_column,
    y_row,
    y_column,
    columns,
    formula: tl.constexpr,
    block: tl.constexpr,
):
    """δ of a block of a row, `formula(z, y)`, times the gradient of the row's cost."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block).to(tl.int64)
    inside = column < columns
    z_block = tl.load(z + row * z_row + column * z_column, mask=inside, other=0.0).to(tl.float32)
    y_block = tl.load(y + row * y_row + column * y_column, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(of_example + row * of_row).to(tl.float32) * formula(z_block, y_block)
    tl.store(delta + row * columns + column, value.to(delta.dtype.element_ty), mask=inside)


@triton.jit
def cross_entropy(z, y):
    """ln(1 + exp(−|z|)) + max(z, 0) − y z; ln(1 + u) keeps its digits, however small u, as u ln(v) / (v − 1)."""
    u = tl.exp(-tl.abs(z))
    v = 1.0 + u
    log1p = tl.where(v == 1.0, u, u * tl.log(v) / tl.where(v == 1.0, 1.0, v - 1.0))
    return log1p + tl.maximum(z, 0.0) - y * z


@triton.jit
def cross_entropy_delta(z, y):
    return sigmoid(z) - y


@triton.jit
def quadratic(z, y):
    return linear(sigmoid(z), y)


@triton.jit
def quadratic_delta(z, y):
    a = sigmoid(z)
    return (a - y) * a * sigmoid(-z)


@triton.jit
def linear(z, y):
    return 0.5 * (z - y) * (z - y)


@triton.jit
def linear_delta(z, y):
    return z - y


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(−z)), of which no exponential overflows."""
    u = tl.exp(-tl.abs(z))
    return tl.where(z < 0, u, 1.0) / (1.0 + u)
