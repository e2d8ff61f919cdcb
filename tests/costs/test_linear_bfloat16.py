"""The kernels of a layer in bfloat16 agree with float64, on processors with and without instructions for pairs."""

import pytest
import torch
from heads import fused, unfused
from torch.nn import functional as F

from ce_torch.costs.kernels import compiler, layer_numbers, products
from ce_torch.functional import linear_log_likelihood, linear_softmax_statistics

pytestmark = pytest.mark.usefixtures("needs_kernels")


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernels."""


@pytest.fixture(scope="module")
def portable_library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portable")
    command = [*compiler.compiler_command(), "-DCE_TORCH_PORTABLE"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "LIMIT", 600)  # beside other work a compiler takes long
        compiled = compiler.compile(command, folder)
    return compiler.load(compiled, tmp_path_factory.mktemp("loaded"))


@pytest.fixture(params=["native", "portable"])
def kernels(request, monkeypatch):
    if request.param == "portable":
        request.getfixturevalue("needs_a_compiler")
        library = request.getfixturevalue("portable_library")

        def kernel(name, arguments=None):
            function = library[name]
            function.argtypes = products.ARGUMENTS[name] if arguments is None else arguments
            return function

        for module in (products, layer_numbers):
            monkeypatch.setattr(module, "kernel", kernel)


SIZES = [(1, 2, 5), (97, 64, 333), (500, 38, 131), (20, 33, 40)]


def examples(N, D, K):
    """Return x, weight and bias in bfloat16 and the same in float64."""
    generator = torch.Generator().manual_seed(N)
    shapes = (N, D), (K, D), (K,)
    inputs = [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]
    return inputs, [tensor.detach().double().requires_grad_() for tensor in inputs]


def assert_rounded_twice(found, exact):
    """δ and the gradient are each rounded to 8 bits, and terms of δ W may cancel."""
    for gradient, right in zip(found, exact, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient - right).norm() < 2**-7 * right.norm()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 3.0}, {"z_loss": 0.1}], ids=str)
@pytest.mark.parametrize("sizes", SIZES)
def test_cost_and_gradients_are_float64s(sizes, options):
    (x, weight, bias), exact = examples(*sizes)
    y = torch.arange(sizes[0]) % sizes[2]
    C = linear_log_likelihood(x, weight, y, bias, **options, out_dtype=torch.float32)
    right = unfused(*exact, y, **options)
    torch.testing.assert_close(C.double(), right, rtol=1e-6, atol=1e-6)
    assert_rounded_twice(torch.autograd.grad(C, (x, weight, bias)), torch.autograd.grad(right, exact))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sizes", SIZES)
def test_statistics_and_desired_outputs_have_float64s_gradients(sizes):
    (x, weight, bias), exact = examples(*sizes)
    y = torch.rand(sizes[0], sizes[2], generator=torch.Generator().manual_seed(0)).softmax(-1).bfloat16()
    numbers = linear_softmax_statistics(x, weight, y, bias, entropy=True)
    ln_a = F.linear(*exact).log_softmax(-1)
    expected = (y.double() * ln_a).sum(-1), -(ln_a.exp() * ln_a).sum(-1)
    torch.testing.assert_close((numbers.log_prob, numbers.entropy), [e.float() for e in expected], rtol=2e-6, atol=2e-6)
    upstream = [torch.linspace(0.1, 1, sizes[0]) * sign for sign in (-1, 0.3)]
    found = torch.autograd.grad((numbers.log_prob, numbers.entropy), (x, weight, bias), upstream)
    assert_rounded_twice(found, torch.autograd.grad(expected, exact, [g.double() for g in upstream]))


def test_what_is_ruled_out_next_to_odd_numbers_of_inputs_classes_and_examples_adds_nothing():
    (x, weight, bias), exact = examples(3, 6, 5)
    with torch.no_grad():
        bias[4], exact[2][4] = -torch.inf, -torch.inf
    y = torch.tensor([0, 1, 2])
    found, right = (torch.autograd.grad(fused(*t, y), t) for t in ((x, weight, bias), exact))
    assert_rounded_twice(found, right)


def test_the_cost_of_bfloat16_takes_a_small_part_of_z(peak_memory):
    x, weight = (torch.randn(rows, 64).bfloat16().requires_grad_() for rows in (2048, 20_000))
    y = torch.arange(2048)
    linear_log_likelihood(x[:1], weight, y[:1]).backward()

    def step():
        return torch.autograd.grad(linear_log_likelihood(x, weight, y), (x, weight))

    assert peak_memory(step) - x.nbytes - weight.nbytes < 0.05 * 2048 * 20_000 * 2
