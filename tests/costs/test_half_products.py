"""The kernels of a layer in bfloat16 agree with float64, on processors with and without instructions for pairs."""

import pytest
import torch
from heads import fused, layer, unfused
from torch.nn import functional as F

from ce_torch.costs.kernels import compiler, half_products
from ce_torch.costs.kernels.half_products import GRADIENT_ARGUMENTS, SUMS_ARGUMENTS
from ce_torch.functional import linear_log_likelihood

pytestmark = pytest.mark.usefixtures("needs_kernels")


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernels."""


@pytest.fixture(scope="module")
def portable_library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portable")
    command = [*compiler.compiler_command(), "-DCE_TORCH_PORTABLE"]
    return compiler.load(compiler.compile(command, folder), tmp_path_factory.mktemp("loaded"))


@pytest.fixture(params=["native", "portable"])
def kernels(request, monkeypatch):
    if request.param == "portable":
        request.getfixturevalue("needs_a_compiler")
        library = request.getfixturevalue("portable_library")
        library.half_sums.argtypes, library.half_gradient.argtypes = SUMS_ARGUMENTS, GRADIENT_ARGUMENTS
        monkeypatch.setattr(half_products, "kernel", lambda name, _: getattr(library, name))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [(1, 16, 5), (97, 64, 333), (500, 32, 131)])
def test_cost_and_gradients_are_float64s_rounded_once(sizes, label_smoothing, kernels):
    N, D, K = sizes
    generator = torch.Generator().manual_seed(N)
    shapes = (N, D), (K, D), (K,)
    x, weight, bias = (torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes)
    y = torch.arange(N) % K
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    right = F.cross_entropy(F.linear(*exact), y, label_smoothing=label_smoothing)
    options = {"label_smoothing": label_smoothing, "out_dtype": torch.float32}
    C = linear_log_likelihood(x, weight, y, bias, **options)
    torch.testing.assert_close(C.double(), right, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(C, (x, weight, bias)), torch.autograd.grad(right, exact)
    for found, gradient in zip(*gradients, strict=True):
        assert found.dtype == torch.bfloat16
        # δ and the gradient are each rounded to 8 bits.
        assert (found - gradient).norm() < 2**-8 * gradient.norm()


def test_the_cost_of_bfloat16_takes_a_small_part_of_z(peak_memory):
    x, weight = (torch.randn(rows, 64).bfloat16().requires_grad_() for rows in (2048, 20_000))
    y = torch.arange(2048)
    linear_log_likelihood(x[:1], weight, y[:1]).backward()

    def step():
        return torch.autograd.grad(linear_log_likelihood(x, weight, y), (x, weight))

    assert peak_memory(step) - x.nbytes - weight.nbytes < 0.05 * 2048 * 20_000 * 2


def test_z_loss_in_bfloat16_is_that_of_float64():
    inputs = [tensor.detach().requires_grad_() for tensor in layer(16, 16, 40, torch.bfloat16)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y = torch.arange(16)
    found = fused(*inputs, y, z_loss=0.1, out_dtype=torch.float32), unfused(*exact, y, z_loss=0.1)
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(C, tensors) for C, tensors in zip(found, (inputs, exact), strict=True)]
    torch.testing.assert_close(gradients[0], [g.bfloat16() for g in gradients[1]], rtol=0.01, atol=1e-4)
