"""The quadratic cost beyond the promises that all costs share."""

import pytest
import torch
from torch.nn.functional import mse_loss, one_hot

from ce_torch import QuadraticCost
from ce_torch.functional import quadratic

pytestmark = pytest.mark.every_backend


@pytest.mark.parametrize(("reduction", "theirs"), [("mean", "mean"), ("sum", "sum"), ("element_mean", "mean")])
def test_it_is_half_of_mse_loss_and_its_mean_is_over_examples_not_neurons(reduction, theirs):
    z, y = torch.randn(6, 5), torch.rand(6, 5)
    expected = mse_loss(z, y, reduction=theirs) * (5 if reduction == "mean" else 1)
    torch.testing.assert_close(quadratic(z, y, activation="linear", reduction=reduction), expected / 2)


@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
def test_class_indices_stand_for_one_hot_vectors(activation):
    z, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    by_index, by_vector = (quadratic(z, target, activation=activation) for target in (y, one_hot(y, 5).float()))
    torch.testing.assert_close(by_index, by_vector)


def test_a_saturated_neuron_keeps_the_digits_of_its_slope():
    z = torch.tensor([[30.0]], requires_grad=True)
    quadratic(z, torch.tensor([[0.0]])).backward()
    exact = torch.sigmoid(torch.tensor([[-30.0]], dtype=torch.float64))
    torch.testing.assert_close(z.grad.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("activation", "a"), [("sigmoid", 0.5), ("linear", 0.0)])
def test_activation_is_the_output_of_the_neurons(activation, a):
    assert QuadraticCost(activation=activation).activation(torch.zeros(1)).item() == a


def test_an_unknown_activation_is_refused_by_name():
    with pytest.raises(ValueError, match='activation must be "sigmoid" or "linear", got \'tanh\''):
        quadratic(torch.zeros(1, 3), torch.zeros(1, 3), activation="tanh")
