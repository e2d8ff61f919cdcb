"""What the benchmarks measure follows the signatures of the public functions."""

import inspect

import pytest
import torch

import ce_torch
from benchmarks.cases import cases
from ce_torch.costs._registry import COSTS

# How costs are averaged and stored is no matter of their formulas.
NOT_MEASURED = {"reduction", "out_dtype"}
NAMES = [cost.function.__name__ for cost in COSTS.values()]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_cost_is_measured(name):
    parameters = inspect.signature(getattr(ce_torch, name)).parameters.values()
    options = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY} - NOT_MEASURED
    measured = [case for case in cases(4, 3, torch.float32) if case.cost == name]
    assert measured
    assert options == set().union(*(case.options for case in measured))


@pytest.mark.parametrize("case", cases(4, 3, torch.float64), ids=lambda case: f"{case.cost}-{case.name}")
def test_a_cost_and_its_peer_have_gradients_of_one_direction(case):
    ours, peer = (
        torch.autograd.grad(loss(z := case.z.clone().requires_grad_(), case.y), z)[0] for loss in (case.ours, case.peer)
    )
    torch.testing.assert_close(ours / ours.norm(), peer / peer.norm())
