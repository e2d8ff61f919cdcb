"""What this machine has, and ways to let costs do without it, for one test."""

import importlib.util
import os
import shlex
import shutil

import pytest
import torch

from ce_torch.costs._function import CostFunction
from ce_torch.costs.kernels import cpp, gpu, installed

# Where the kernels for a GPU run: without one, Triton's interpreter runs them on the CPU.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def has_compiler() -> bool:
    name, *_ = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    return shutil.which(name) is not None


def can_have_kernels() -> bool:
    """Return True if a wheel brought kernels for the CPU, or a compiler can make them."""
    return has_compiler() or installed.kernels() is not None


def turn_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let costs do without the kernels for the CPU."""
    monkeypatch.setattr(cpp, "has_kernels", lambda: False)
    turn_node_off(monkeypatch)


def turn_node_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let costs do without the node of autograd, which runs the kernels unseen, if the user has built it."""
    monkeypatch.setattr(CostFunction, "node", property(lambda self: None))


def reason_without_gpu_kernels() -> str:
    """Return why the kernels for a GPU do not run; nothing if they do."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it comes with torch for GPUs"
    import triton

    interprets = torch.cuda.is_available() or not triton.__version__.startswith("3.6.")
    return "" if interprets else "the interpreter of Triton 3.6 fails with NumPy 2.4"


WITHOUT_GPU_KERNELS = reason_without_gpu_kernels()
needs_gpu_kernels = pytest.mark.skipif(bool(WITHOUT_GPU_KERNELS), reason=WITHOUT_GPU_KERNELS)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors on the CPU pass for tensors on a GPU."""
    turn_kernels_off(monkeypatch)
    monkeypatch.setattr(gpu, "is_on_gpu", lambda z: True)
