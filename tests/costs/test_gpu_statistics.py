"""A GPU's kernels find the numbers of a softmax layer as the formulas do. Without a GPU, Triton's interpreter runs."""

import pytest
import torch
from switches import DEVICE, needs_gpu_kernels, pretend_gpu

from ce_torch import use_backend
from ce_torch.costs.kernels import gpu_statistics
from ce_torch.functional import softmax_statistics

pytestmark = [
    needs_gpu_kernels,
    # The interpreter's NumPy warns of ∞ − ∞ and nan, which are computed and not used.
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
]

SHAPES = [(3, 37), (2, 3, 5), (4,), (3, 1)]
LAYOUTS = {"rows": lambda z: z, "columns": lambda z: z.mT.contiguous().mT if z.ndim > 1 else z}


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the kernels for a GPU."""
    pretend_gpu(monkeypatch)


def numbers_and_delta(z, y, **options):
    leaf = z.detach().requires_grad_()
    numbers = softmax_statistics(leaf, y, **options)
    upstream = [None if n is None else torch.linspace(0.5, 2, n.numel(), device=DEVICE).view(n.shape) for n in numbers]
    total = sum((g * n).sum() for g, n in zip(upstream[:3], numbers[:3], strict=True) if n is not None)
    return numbers, torch.autograd.grad(total, leaf)[0]


def assert_kernels_are_formulas(z, y, **options):
    found, delta = numbers_and_delta(z, y, **options)
    with use_backend("formulas"):
        expected, right_delta = numbers_and_delta(z, y, **options)
    for number, right in zip(found, expected, strict=True):
        torch.testing.assert_close(number, right, rtol=2e-5, atol=2e-5)
    assert delta.dtype == z.dtype
    assert delta.stride() == torch.empty_like(z).stride()
    tolerance = 1e-5 if z.dtype.itemsize > 2 else 1e-2
    torch.testing.assert_close(delta, right_delta, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize("has_classes", [True, False], ids=["classes", "no y"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_and_delta_are_the_formulas(shape, layout, has_classes, entropy, softcap):
    generator = torch.Generator().manual_seed(0)
    z = LAYOUTS[layout]((3 * torch.randn(shape, generator=generator)).to(DEVICE))
    y = torch.randint(shape[-1], shape[:-1], generator=generator).to(DEVICE) if has_classes else None
    assert_kernels_are_formulas(z, y, entropy=entropy, softcap=softcap, temperature=0.5)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_row_may_be_longer_than_a_tile(softcap):
    z, y = torch.randn(2, 9001).to(DEVICE), torch.tensor([9000, 5], device=DEVICE)
    assert_kernels_are_formulas(z, y, entropy=True, softcap=softcap)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_is_supported(dtype):
    z, y = torch.randn(4, 40).to(DEVICE, dtype), torch.arange(4, device=DEVICE)
    assert_kernels_are_formulas(z, y, entropy=True, softcap=1.5)


def test_of_an_ignored_example_nothing_is_read():
    z, y = torch.randn(3, 5, device=DEVICE), torch.tensor([1, 7, 4], device=DEVICE)
    z[1] = torch.nan
    numbers, delta = numbers_and_delta(z, y, ignore_index=7, entropy=True)
    assert [number[1].item() for number in numbers] == [0, 0, 0, 7, False]
    assert not delta[1].any()


@pytest.mark.parametrize(
    ("row", "prediction"),
    [
        ([2.0, 2.0, 2.0], 0),
        ([1.0, torch.nan, torch.nan], 1),
        ([0.0, torch.inf, 1.0], 1),
        ([-torch.inf, -torch.inf, 0.0], 2),
        ([0.0] * 5000 + [1.0] * 2 + [0.0] * 5000, 5000),
    ],
)
def test_the_prediction_is_the_first_largest_output_or_nan(row, prediction):
    z = torch.tensor([row], device=DEVICE)
    assert softmax_statistics(z).prediction.item() == prediction


def test_a_class_that_is_none_costs_nan():
    z, y = torch.zeros(3, 4, device=DEVICE), torch.tensor([-1, 4, 3], device=DEVICE)
    (log_prob, *_), _ = gpu_statistics.numbers(z, y, 1.0, None, -100, False)
    assert log_prob.isnan().tolist() == [True, True, False]
