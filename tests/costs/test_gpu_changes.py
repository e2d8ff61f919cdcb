"""How costs and their δ change in a direction, by the GPU's kernels. Without a GPU, Triton's interpreter runs them."""

import math
from collections.abc import Callable

import pytest
import torch
from directions import MODES, along, backward_over_backward, check, example, forward_over_backward, transformed, twice
from switches import DEVICE, needs_gpu_kernels, pretend_gpu

from ce_torch.costs.kernels import gpu
from ce_torch.functional import log_likelihood, quadratic

pytestmark = needs_gpu_kernels


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the kernels for a GPU."""
    pretend_gpu(monkeypatch)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_every_mode_gives_the_derivative_of_the_formula_on_a_gpu(mode, seed):
    check(mode, example(seed).to(DEVICE))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize(
    ("cost", "kernel"),
    [(quadratic, "elements_change"), (log_likelihood, "log_likelihood_change")],
    ids=["quadratic", "log_likelihood"],
)
def test_the_kernels_of_the_gpu_compute_it(cost, kernel, mode, monkeypatch):
    names, launch = [], gpu.launch
    monkeypatch.setattr(
        gpu, "launch", lambda name, *more, **options: names.append(name) or launch(name, *more, **options)
    )
    z = torch.randn(4, 3, device=DEVICE)
    mode(lambda z: cost(z, torch.zeros(4, 3, device=DEVICE)), z, torch.ones(4, 3, device=DEVICE))
    assert kernel in names


@pytest.mark.parametrize("z", [9.0, 37.0])
@pytest.mark.parametrize("y", [0, [1.0, 0.0]], ids=["class", "outputs"])
def test_where_a_layer_is_sure_and_right_the_gpu_loses_no_digits(z, y):
    z, y = torch.tensor([[z, 0.0]], device=DEVICE), torch.tensor([y], device=DEVICE)
    a = 1 / (1 + math.exp(z[0, 0].item()))  # of the other class
    for v in ([1.0, 0.0], [0.0, 1.0], [5.0, 2.0]):
        slope, (_, curvature) = (mode(lambda z: log_likelihood(z, y), z, z.new_tensor([v])) for mode in (along, twice))
        difference = v[0] - v[1]
        assert slope.item() == pytest.approx(-a * difference, rel=1e-6)
        second = a * (1 - a) * difference
        assert curvature[0].tolist() == pytest.approx([second, -second], rel=1e-6)


@pytest.mark.parametrize("row", [[-torch.inf] * 3, [torch.nan] * 3, [torch.inf] * 3], ids=str)
@pytest.mark.parametrize("mode", [along, transformed, forward_over_backward, backward_over_backward])
# The interpreter's NumPy warns of ∞ − ∞, which is computed and not used.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_an_example_that_is_ignored_changes_nothing_on_a_gpu(row: list[float], mode: Callable[..., torch.Tensor]):
    z, v = torch.tensor([[1.0, 2, 3], row], device=DEVICE), torch.ones(2, 3, device=DEVICE)
    v[0], y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, -100], device=DEVICE)
    found, alone = (mode(lambda z, n=n: log_likelihood(z, y[:n]), z[:n], v[:n]) for n in (2, 1))
    torch.testing.assert_close(found if found.ndim == 0 else found[:1], alone)
    assert found.ndim == 0 or not found[1].any()


def test_the_mean_of_nothing_does_not_change_on_a_gpu():
    z, y = torch.randn(3, 5, device=DEVICE), torch.full((3,), -100, device=DEVICE)
    assert along(lambda z: log_likelihood(z, y), z, torch.ones_like(z)) == 0
    assert not any(part.any() for part in twice(lambda z: log_likelihood(z, y), z, torch.ones_like(z)))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_many_programs_add_up_to_the_change(monkeypatch, reduction):
    z, v = torch.randn(7, 1100, device=DEVICE), torch.randn(7, 1100, device=DEVICE)
    y = torch.tensor([0, 9, 5, -100, 4, 3, 2], device=DEVICE)

    def changes():
        costs = log_likelihood, lambda z, y, **options: quadratic(z, y.clamp(min=0), **options)
        return [along(lambda z, cost=cost: cost(z, y, reduction=reduction), z, v) for cost in costs]

    at_once = changes()
    monkeypatch.setattr(gpu, "FINISH_BLOCK", 2)
    monkeypatch.setattr(gpu, "PART_TILES", 1)
    torch.testing.assert_close(changes(), at_once)


def test_a_direction_that_is_no_number_in_memory_is_one():
    z, y = torch.randn(4, 3, device=DEVICE), torch.tensor([0, 2, 1, 0], device=DEVICE)
    v = torch.randn(4, 3, device=DEVICE)
    negative = torch._neg_view(v)
    torch.testing.assert_close(
        along(lambda z: log_likelihood(z, y), z, negative), -along(lambda z: log_likelihood(z, y), z, v)
    )
