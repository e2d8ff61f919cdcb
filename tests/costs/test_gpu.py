"""Promises of the kernels for a GPU alone. Without a GPU, Triton's interpreter runs them on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation import cost_and_delta

from ce_torch.costs.kernels import cpp, gpu
from ce_torch.functional import log_likelihood

triton = pytest.importorskip("triton", reason="Triton is not installed; it comes with torch for GPUs")
interprets = torch.cuda.is_available() or not triton.__version__.startswith("3.6.")
pytestmark = pytest.mark.skipif(not interprets, reason="the interpreter of Triton 3.6 fails with NumPy 2.4")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors on the CPU pass for tensors on a GPU."""
    monkeypatch.setattr(cpp, "has_kernels", lambda: False)
    monkeypatch.setattr(gpu, "is_on_gpu", lambda z: True)


def test_a_class_out_of_range_costs_nan():
    z, y = torch.zeros(3, 4, device=DEVICE), torch.tensor([-1, 4, 3], device=DEVICE)
    C, _ = gpu.softmax_cost("none", z, y, weight=None, c=1.0, ignore_index=-100, label_smoothing=0.0)
    assert C.isnan().tolist() == [True, True, False]


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
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
