"""Promises of the kernels for a GPU alone. Without a GPU, Triton's interpreter runs them on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation import cost_and_delta
from switches import DEVICE, needs_gpu_kernels, pretend_gpu
from torch.func import vmap

from ce_torch.costs.cross_entropy import CROSS_ENTROPY
from ce_torch.costs.kernels import gpu
from ce_torch.costs.kernels.gpu_layout import lay_out
from ce_torch.functional import cross_entropy, log_likelihood

pytestmark = needs_gpu_kernels


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the kernels for a GPU."""
    pretend_gpu(monkeypatch)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, torch.ones(4, device=DEVICE)], ids=["plain", "weighted"])
def test_a_class_out_of_range_costs_nan(weight, smoothing):
    z, y = torch.zeros(3, 4, device=DEVICE), torch.tensor([-1, 4, 3], device=DEVICE)
    C, _ = gpu.softmax_cost(
        torch.float32, "none", z, y, weight=weight, c=1.0, ignore_index=-100, label_smoothing=smoothing
    )
    assert C.isnan().tolist() == [True, True, False]


def test_a_class_that_no_neuron_stands_for_costs_nan():
    z, y = torch.zeros(3, 4, device=DEVICE), torch.tensor([-1, 4, 3], device=DEVICE)
    C, _ = CROSS_ENTROPY.implementations[1].cost(torch.float32, "none", z, y, None, None)
    assert C.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "weight": torch.ones(4, device=DEVICE)}], ids=str)
def test_what_is_ignored_costs_nothing_whatever_its_z(options):
    z, y = torch.full((3, 4), torch.nan, device=DEVICE), torch.tensor([7, 2, 7], device=DEVICE)
    z[1] = 0
    C, delta = cost_and_delta(log_likelihood, z, y, ignore_index=7, reduction="none", **options)
    torch.testing.assert_close(C, torch.tensor([0, 4, 0], device=DEVICE).log().clamp(min=0))
    assert not delta[::2].any()


def test_where_all_is_ignored_the_mean_is_nan_and_has_no_gradient():
    z, y = torch.zeros(3, 4, device=DEVICE), torch.full((3,), -100, device=DEVICE)
    C, delta = cost_and_delta(log_likelihood, z, y)
    assert C.isnan()
    assert not delta.any()


def test_examples_are_added_up_however_many_programs_there_are(monkeypatch):
    z, y = torch.randn(7, 1100, device=DEVICE), torch.tensor([0, 9, 5, -100, 4, 3, 2], device=DEVICE)
    at_once = cost_and_delta(log_likelihood, z, y), cost_and_delta(cross_entropy, z, y.clamp(min=0))
    monkeypatch.setattr(gpu, "FINISH_BLOCK", 2)
    torch.testing.assert_close(
        (cost_and_delta(log_likelihood, z, y), cost_and_delta(cross_entropy, z, y.clamp(min=0))), at_once
    )


def test_a_mean_finds_how_many_count_after_a_pass_that_reduced_nothing():
    z, y = torch.randn(4, 5, device=DEVICE), torch.tensor([0, -100, 3, 2], device=DEVICE)
    _, delta = cost_and_delta(log_likelihood, z, y)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        _, hooked = cost_and_delta(log_likelihood, z, y)
    torch.testing.assert_close(hooked, delta)


def test_class_weights_may_vary_from_example_to_example():
    z, y = torch.randn(3, 4, 5, device=DEVICE), torch.randint(5, (3, 4), device=DEVICE)
    weights = torch.rand(3, 5, device=DEVICE)
    one_by_one = [log_likelihood(*each, weight=w, reduction="sum") for *each, w in zip(z, y, weights, strict=True)]
    together = vmap(lambda z, y, w: log_likelihood(z, y, weight=w, reduction="sum"))(z, y, weights)
    torch.testing.assert_close(together, torch.stack(one_by_one))


@pytest.mark.parametrize(
    "z",
    [
        torch.randn(2, 40, 9, 10).movedim(1, -1),  # classes before pixels
        torch.randn(3, 2, 5, 4).permute(2, 0, 3, 1)[:, ::2],  # more strides than merge
        torch.randn(5, 1, 7).expand(5, 3, 7),
        torch.randn(6, 4)[:, :3].t(),
    ],
    ids=lambda z: str((*z.shape, *z.stride())),
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_delta_is_laid_out_as_z_is_whatever_its_strides(z, reduction):
    z, y = z.to(DEVICE), torch.randint(z.shape[-1], z.shape[:-1]).to(DEVICE)
    for cost in (log_likelihood, cross_entropy):
        C, delta = cost_and_delta(cost, z, y, reduction=reduction)
        torch.testing.assert_close((C, delta), cost_and_delta(cost, z.contiguous(), y, reduction=reduction))
        assert delta.stride() == torch.empty_like(z).stride()


def test_what_has_the_same_layout_is_one_row_where_rows_do_not_matter():
    z = torch.randn(2, 3, 4, 5).movedim(1, -1)
    sizes = {merges: lay_out(z, z.clone(), merges_columns=merges).sizes for merges in (True, False)}
    assert sizes == {True: (120, 1), False: (3, 20, 2)}


def test_float16_is_worked_out_in_float32():
    z = torch.tensor([[60000.0, -60000.0, 3.0], [0.1, 0.2, 0.3]], dtype=torch.float16, device=DEVICE)
    y = torch.tensor([0, 1], device=DEVICE)
    torch.testing.assert_close(log_likelihood(z, y), log_likelihood(z.float(), y).half(), rtol=0, atol=0)


@pytest.mark.slow
def test_elements_past_2_to_the_31st_are_found():
    # Only the pages that are touched exist.
    memory = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=DEVICE)
    far = memory.as_strided((3, 10), (2**30, 1))
    near = torch.randn(3, 10).to(DEVICE, torch.bfloat16)
    y = torch.tensor([0, 9, 5], device=DEVICE)
    far.copy_(near)
    torch.testing.assert_close(cost_and_delta(log_likelihood, far, y), cost_and_delta(log_likelihood, near, y))


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_and_move_128_bits_at_once():
    script = Path(__file__).with_name("compile_gpu_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
