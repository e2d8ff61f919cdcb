"""The benchmark of the layer compares like with like: by ours and by PyTorch, each use has the same gradient."""

import pytest
import torch

from benchmarks.linear import DERIVATIVES, examples, forward_and_backward, pytorch_head, uses
from ce_torch.functional import linear_log_likelihood

X, WEIGHT, CLASSES = examples((40, 5, 9), "cpu", torch.float64)
torch.manual_seed(0)
USES = [pytest.param(*use, id=name) for name, *use in uses(X, WEIGHT, CLASSES)]


@pytest.mark.parametrize(("y", "ours", "peer"), USES)
def test_a_use_and_its_peer_have_the_same_gradient(y, ours, peer):
    gradient, expected = (forward_and_backward(head, WEIGHT)(X, y) for head in (ours, peer))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("derivative", [derivative for _, derivative, _ in DERIVATIVES])
def test_a_derivative_is_the_same_of_ours_and_of_its_peer(derivative):
    direction = X.flip(0), WEIGHT.flip(0)
    found, expected = (
        derivative(head, WEIGHT, direction)(X, CLASSES) for head in (linear_log_likelihood, pytorch_head)
    )
    torch.testing.assert_close(found, expected)
