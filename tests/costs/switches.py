"""Ways to let costs do without what this machine has, for one test."""

import pytest

from ce_torch.costs._function import CostFunction
from ce_torch.costs.kernels import cpp


def turn_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let costs do without the kernels for the CPU."""
    monkeypatch.setattr(cpp, "has_kernels", lambda: False)
    turn_node_off(monkeypatch)


def turn_node_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let costs do without the node of autograd, which runs the kernels unseen, if the user has built it."""
    monkeypatch.setattr(CostFunction, "node", property(lambda self: None))
