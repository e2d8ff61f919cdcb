"""Test that the three ways to δ agree wherever autograd is finite."""

import pytest
import torch

from ce_torch.chapter.deltas import SUBJECTS, compute_deltas

Z = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
Y = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_three_deltas_agree(name):
    found = compute_deltas(SUBJECTS[name], Z, Y)
    torch.testing.assert_close(found.autograd, found.manual)
    torch.testing.assert_close(found.differences, found.manual, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["cross-entropy, sigmoid neurons", "log-likelihood, softmax"])
def test_the_hand_written_delta_is_right_where_autograd_is_not_finite(name):
    found = compute_deltas(SUBJECTS[name], torch.tensor([800.0, 0.0, 0.0], dtype=torch.float64), Y)
    assert not found.autograd.isfinite().all()
    torch.testing.assert_close(found.differences, found.manual, rtol=1e-6, atol=1e-6)
