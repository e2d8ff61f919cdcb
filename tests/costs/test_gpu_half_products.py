"""The kernels of a GPU for a layer in half precision agree with float64. Without a GPU, Triton's interpreter runs."""

import pytest
import torch
from torch.nn import functional as F

from ce_torch.costs.kernels import cpp, gpu, gpu_half_products
from ce_torch.functional import linear_log_likelihood

triton = pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for GPUs")
interprets = torch.cuda.is_available() or not triton.__version__.startswith("3.6.")
pytestmark = pytest.mark.skipif(not interprets, reason="the interpreter of Triton 3.6 fails with NumPy 2.4")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N, D, K = 12, 16, 37


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take stripes and blocks so small that there are several; let tensors on the CPU pass for some on a GPU."""
    sizes = {"STRIPE_EXAMPLES": 5, "STRIPE_CLASSES": 16, "BLOCK_EXAMPLES": 7, "BLOCK_CLASSES": 8, "TILE": 4}
    for name, size in sizes.items():
        monkeypatch.setattr(gpu_half_products, name, size)
    if DEVICE == "cpu":  # where PyTorch has no product of half precision in float32
        monkeypatch.setattr(cpp, "has_kernels", lambda: False)
        monkeypatch.setattr(gpu, "is_on_gpu", lambda z: True)
        monkeypatch.setattr(gpu, "multiply", multiply)


def multiply(left, right, out, adds=False):
    product = left.float() @ right.float()
    out.add_(product) if adds else out.copy_(product)


@pytest.fixture
def launches(monkeypatch):
    names, run = [], gpu.run
    monkeypatch.setattr(gpu, "run", lambda name, *more, **options: names.append(name) or run(name, *more, **options))
    return names


def draw(dtype, *shapes):
    generator = torch.Generator().manual_seed(0)
    tensors = (torch.randn(shape, generator=generator) for shape in shapes)
    return [tensor.to(DEVICE, dtype).requires_grad_() for tensor in tensors]


def exact(inputs, y, class_weight=None, temperature=1.0, upstream=1.0, **options):
    """Return C and its gradients in float64."""
    inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    weight = None if class_weight is None else class_weight.double()
    C = F.cross_entropy(F.linear(*inputs) / temperature, y, weight=weight, **options)
    return C, torch.autograd.grad(C, inputs, torch.full_like(C, upstream))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"ignore_index": 3, "class_weight": torch.linspace(0, 2, K, device=DEVICE)},
        {"reduction": "none"},
        {"reduction": "sum", "temperature": 0.5, "label_smoothing": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("shapes", [((N, D), (K, D)), ((N, D), (K, D), (K,))], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_cost_and_gradients_are_float64s_but_for_two_roundings(dtype, shapes, options, launches):
    inputs, y = draw(dtype, *shapes), (torch.arange(N, device=DEVICE) * 3) % K
    x, weight, *bias = inputs
    C = linear_log_likelihood(x, weight, y, *bias, out_dtype=torch.float32, **options)
    found = torch.autograd.grad(C, inputs, torch.full_like(C, 2.0))
    right, gradients = exact(inputs, y, upstream=2.0, **options)
    assert {"block_exponentials", "x_gradient", "block_delta"} <= {*launches}
    torch.testing.assert_close(C.double(), right, rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(found, gradients, strict=True):
        assert gradient.dtype == dtype
        assert (gradient - expected).norm() < torch.finfo(dtype).eps * expected.norm()


def test_gradients_in_float16_take_the_loss_scale_before_they_are_rounded():
    inputs, y = draw(torch.float16, (N, D), (K, D)), torch.arange(N, device=DEVICE)
    scale, options = 2.0**-20, {"reduction": "sum", "out_dtype": torch.float32}
    C = linear_log_likelihood(*inputs, y, token_weight=torch.full((N,), scale, device=DEVICE), **options)
    found = torch.autograd.grad(C, inputs, torch.tensor(1 / scale, device=DEVICE))
    _, gradients = exact(inputs, y, reduction="sum")
    for gradient, expected in zip(found, gradients, strict=True):
        assert (gradient - expected).norm() < torch.finfo(torch.float16).eps * expected.norm()


# The interpreter's NumPy warns of ∞ − ∞, which is computed and not used.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.inf, -torch.inf], ids=str)
def test_an_infinite_bias_decides(value):
    x, weight, bias = draw(torch.bfloat16, (N, D), (K, D), (K,))
    with torch.no_grad():
        bias[5] = value
    y = torch.full((N,), 5 if value > 0 else 6, device=DEVICE)
    C = linear_log_likelihood(x, weight, y, bias, out_dtype=torch.float32)
    (by_bias,) = torch.autograd.grad(C, bias)
    kept = [i for i in range(K) if i != 5]
    expected = 0 if value > 0 else F.cross_entropy((x.double() @ weight.double().mT + bias)[:, kept], y - 1)
    torch.testing.assert_close(C.double(), torch.as_tensor(expected, device=DEVICE).double(), rtol=1e-5, atol=1e-6)
    assert by_bias.isfinite().all()
    assert by_bias[5] == 0
