"""The focal loss is torchvision's, and the cross-entropy where gamma is 0."""

import pytest
import torch

from ce_torch.functional import cross_entropy, focal

pytestmark = pytest.mark.every_backend

Z = torch.tensor([[-4.0, 0.5, 3.0], [2.0, -1.0, 0.0]])
HARD, SOFT = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]), torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.0, 1.0]])


@pytest.mark.parametrize("y", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (None, 1.5), (0.1, 0.5), (0.5, 0.0)])
@pytest.mark.parametrize(("reduction", "of_torchvision"), [("sum", "sum"), ("element_mean", "mean")])
def test_sum_and_mean_over_elements_are_torchvisions(y, alpha, gamma, reduction, of_torchvision, case_dtype):
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    z, y = Z.to(case_dtype).requires_grad_(), y.to(case_dtype)
    ours = focal(z, y, alpha=alpha, gamma=gamma, reduction=reduction)
    theirs = ops.sigmoid_focal_loss(z, y, -1 if alpha is None else alpha, gamma, of_torchvision)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z))


def test_without_alpha_and_gamma_it_is_the_cross_entropy():
    torch.testing.assert_close(focal(Z, SOFT, alpha=None, gamma=0), cross_entropy(Z, SOFT))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(
    ("z", "y", "delta"), [(200.0, 1.0, 0.0), (-200.0, 0.0, 0.0), (-200.0, 1.0, -1.0), (200.0, 0.0, 1.0)]
)
def test_the_delta_of_a_saturated_neuron_is_its_limit(z, y, delta, gamma, case_dtype):
    z = torch.tensor([[float(z)]], dtype=case_dtype, requires_grad=True)
    focal(z, torch.full_like(z, y), alpha=None, gamma=gamma).backward()
    assert z.grad.item() == pytest.approx(delta, abs=1e-30)


def test_a_second_derivative_by_z_and_y_is_there_for_y_of_0_and_1():
    z, y = Z.double().requires_grad_(), HARD.double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z, y: focal(z, y, reduction="sum"), (z, y))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("z", "y"), [(200.0, 1.0), (-200.0, 0.0)])
def test_the_second_derivative_of_a_saturated_neuron_is_0(z, y, gamma):
    z = torch.tensor([[z]], requires_grad=True)
    (delta,) = torch.autograd.grad(focal(z, torch.full_like(z, y), gamma=gamma), z, create_graph=True)
    assert torch.autograd.grad(delta, z)[0] == 0


@pytest.mark.every_backend
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_gradient_by_y_is_finite_where_m_underflows_and_H_does_not(gamma):
    z, y = torch.tensor([[95.0]]), torch.tensor([[1.0]], requires_grad=True)
    focal(z, y, gamma=gamma).backward()
    assert abs(y.grad) < 1e-30
