"""The kernel for products with few columns computes the product, for matrices of any layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from switches import turn_kernels_off

from ce_torch.costs.kernels import products

pytestmark = pytest.mark.usefixtures("needs_kernels")


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernel."""


def matrix(rows, columns, transposed=False):
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    values = torch.randn(rows, columns, generator=generator)
    return values.mT.contiguous().mT if transposed else values


@given(
    rows=st.integers(1, 40),
    inner=st.integers(1, 1100),
    columns=st.sampled_from([16, 32, 48, 64, 80, 96, 112]),
    transposed=st.booleans(),
)
def test_a_product_is_that_in_float64(rows, inner, columns, transposed):
    a, b = matrix(rows, inner, transposed), matrix(inner, columns)
    out, right = matrix(rows, columns), a.double() @ b.double()
    assert products.supports(a, b, out)
    sum_of_both = (out.double() + right).float()
    products.add_product(a, b, out)
    torch.testing.assert_close(out, sum_of_both, rtol=1e-5, atol=1e-4)
    bias = matrix(rows, 1).squeeze(-1)
    largest = products.weighted_inputs(a, b, bias, out)
    torch.testing.assert_close(out, (right + bias.unsqueeze(-1)).float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(largest, out.amax(0), rtol=0, atol=0)


@pytest.mark.parametrize("columns", [0, 1, 17, 40])
def test_other_numbers_of_columns_are_left_to_the_library(columns):
    a, b, out = matrix(9, 5), matrix(5, columns), torch.zeros(9, columns)
    assert not products.supports(a, b, out)
    products.weighted_inputs(a, b, None, out)
    torch.testing.assert_close(out, a @ b)


@pytest.mark.parametrize("columns", [16, 64, 17])
@pytest.mark.parametrize("rows", [1, 9, 1000])
@pytest.mark.parametrize("c", [1.0, 0.3, 1e-46])
def test_exponentials_and_their_sums_are_those_in_float64(rows, columns, c):
    z = matrix(rows, columns)
    m = z.amax(0)
    right = (c * (z.double() - m)).exp()
    off_value = torch.linspace(0, 1, rows)
    right_off_value_x = off_value.double() @ (c * (z.double() - m))
    y = torch.arange(columns) % rows
    sums, off_value_x = products.exponentials_(z, m, y, c, off_value)
    others = torch.arange(rows).unsqueeze(-1) != y
    torch.testing.assert_close(z[others], right[others].float(), rtol=1e-6, atol=1e-37)
    torch.testing.assert_close(sums, (right * others).sum(0).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(off_value_x, right_off_value_x.float(), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("with_off_value", [False, True])
@pytest.mark.parametrize("columns", [16, 64, 17])
@pytest.mark.parametrize("rows", [1, 9, 1000])
@pytest.mark.parametrize("size", [1e-2, 1.0, 60.0])
def test_exponentials_of_a_softcap_are_those_in_float64(rows, columns, size, with_off_value):
    z, c, softcap = matrix(rows, columns) * size, 0.5, 30.0
    m, y, T = z.amax(0), torch.arange(columns) % rows, torch.linspace(1, 2, columns)
    off_value = torch.linspace(0, 1, rows) / rows if with_off_value else None
    tanh = (z.double() / softcap).tanh()
    x = c * softcap * (tanh - (m.double() / softcap).tanh())
    e = x.exp()
    off_part = off_value.double().unsqueeze(-1) * (e.sum(0) / T) if with_off_value else 0
    right = (e - off_part) * (1 - tanh.square())
    others = torch.arange(rows).unsqueeze(-1) != y
    sums, off_value_x = products.softcap_exponentials_(z, m, y, c, softcap, off_value, T)
    torch.testing.assert_close(z, right.float(), rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(sums, (e * others).sum(0).float(), rtol=5e-6, atol=0)
    if with_off_value:
        torch.testing.assert_close(off_value_x, (off_value.double() @ x).float(), rtol=1e-5, atol=1e-6)


def test_without_kernels_the_library_serves(monkeypatch):
    turn_kernels_off(monkeypatch)
    a, b, out = matrix(9, 5), matrix(5, 16), torch.ones(9, 16)
    products.add_product(a, b, out)
    torch.testing.assert_close(out, 1 + a @ b)


@pytest.mark.parametrize("columns", [1, 15, 32, 70])
def test_a_sum_in_24_bits_is_rounded_as_float64s(columns):
    rows, width = 37, columns + -columns % 16
    total, exact = torch.zeros(rows, columns, dtype=torch.bfloat16), torch.zeros(rows, columns, dtype=torch.float64)
    rest = torch.zeros(rows, columns, dtype=torch.int8)
    for i in range(100):
        terms = matrix(rows, width + i)[:, :width].contiguous() * 10.0 ** (i % 3)
        products.add_to_sums(terms, total, rest)
        exact += terms[:, :columns]
    error, least = (total - exact).norm(), (exact.bfloat16() - exact).norm()
    assert error < 1.01 * least
