"""What this machine has, and ways to let costs do without it, for one test."""

import os
import shlex
import shutil

import pytest

from ce_torch.costs._function import CostFunction
from ce_torch.costs.kernels import cpp, installed


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
