"""The CPU's kernel for divergences has float64's values and gradients, however near or far both layers are."""

import pytest
import torch

from ce_torch.costs._softmax import exponentials
from ce_torch.costs.kernels import divergences
from ce_torch.costs.linear.divergences import DIVERGENCES, Divergence

pytestmark = pytest.mark.usefixtures("needs_kernels")

C = 0.7, 1.3
FACTOR = torch.tensor([1.0, -0.5, 0.0])


def scores(K, distance, scale):
    generator = torch.Generator().manual_seed(K)
    teacher_z = scale * torch.randn(3, K, generator=generator)
    return teacher_z * C[1] / C[0] + distance * torch.randn(3, K, generator=generator), teacher_z


def in_float64(name, beta, z, teacher_z):
    """Return D and both gradients of Σ factor D, by formulas that do not cancel."""
    z, teacher_z = (tensor.double().requires_grad_() for tensor in (z, teacher_z))
    D = Divergence(name, beta).value(exponentials(z, C[0]), exponentials(teacher_z, C[1]))
    return D, *torch.autograd.grad((FACTOR * D).sum(), (z, teacher_z))


def assert_close_to(found, right, tolerance):
    """Compare rows by their largest numbers."""
    size = right.abs().amax(-1, keepdim=True)
    assert ((found - right).abs() <= tolerance * size + 1e-37).all(), ((found - right).abs() / size).max()


@pytest.mark.parametrize(("distance", "scale"), [(1.0, 1.0), (0.05, 3.0), (10.0, 20.0), (100.0, 1.0)])
@pytest.mark.parametrize("K", [1, 5, 16, 700])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_values_and_gradients_are_float64s(name, K, distance, scale):
    for beta in (0.5, 0.1):
        z, teacher_z = scores(K, distance, scale)
        right = in_float64(name, beta, z, teacher_z)
        D = divergences.write_divergences(name, beta, z, teacher_z, C, FACTOR, (True, True))
        # What a float32 of this size is rounded by, in a logarithm of probabilities.
        tolerance = 4e-6 * (1 + scale + distance) / min(distance, 1) ** 2
        for found, exact in zip((D.unsqueeze(-1), z, teacher_z), (right[0].unsqueeze(-1), *right[1:]), strict=True):
            assert_close_to(found, exact, tolerance)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_only_what_is_needed_is_written(name):
    z, teacher_z = scores(40, 1.0, 1.0)
    before = z.clone(), teacher_z.clone()
    D = divergences.write_divergences(name, 0.5, z, teacher_z, C, None, (False, False))
    assert torch.equal(z, before[0])
    assert torch.equal(teacher_z, before[1])
    again = divergences.write_divergences(name, 0.5, z, teacher_z, C, FACTOR, (True, False))
    assert torch.equal(D, again)
    assert not torch.equal(z, before[0])
    assert torch.equal(teacher_z, before[1])


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_left_to_the_formulas(value, side):
    pair = scores(40, 1.0, 1.0)
    pair[side][1, 37] = value
    before = [tensor.clone() for tensor in pair]
    assert divergences.write_divergences("forward_kl", 0.5, *pair, C, FACTOR, (True, True)) is None
    torch.testing.assert_close(list(pair), before, rtol=0, atol=0, equal_nan=True)
