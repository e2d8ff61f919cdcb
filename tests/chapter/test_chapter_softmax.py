"""Test the library on the equations (78)-(84) of Nielsen's section 3.1 and the exercises on softmax layers."""

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from ce_torch import CrossEntropyCost, LogLikelihoodCost
from ce_torch.functional import log_likelihood

sigmoid_layer, softmax_layer = CrossEntropyCost().activation, LogLikelihoodCost().activation


def outer(error, a):
    """Return error_j a_k for each example, with the shape (n, j, k)."""
    return error[:, :, None] * a[:, None, :]


def test_eq_78_softmax(network):
    assert_close(softmax_layer(network.z), torch.exp(network.z) / torch.exp(network.z).sum(-1, keepdim=True))


def test_eq_79_softmax_outputs_are_positive_and_sum_to_1(network):
    a = softmax_layer(10 * network.z)
    assert (a > 0).all()
    assert_close(a.sum(-1), torch.ones(6, dtype=torch.float64))


def test_exercise_sigmoid_outputs_need_not_sum_to_1(network):
    layer = network.network[-1]
    layer.weight.data.zero_()
    layer.bias.data = torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64).log()
    a = sigmoid_layer(network.network(network.x)).detach()
    assert_close(a, torch.tensor([0.9, 0.8, 0.5], dtype=torch.float64).expand(6, 3))


def test_exercise_monotonicity_of_softmax(network):
    for z in network.z:
        assert_close(jacobian(softmax_layer, z).sign(), 2 * torch.eye(3, dtype=torch.float64) - 1)


def test_exercise_non_locality_of_softmax(network):
    shifted = network.z + torch.tensor([0, 0, 1])
    assert (softmax_layer(shifted) != softmax_layer(network.z)).all()
    assert ((sigmoid_layer(shifted) != sigmoid_layer(network.z)) == torch.tensor([False, False, True])).all()


def test_exercise_inverting_the_softmax_layer(network):
    constant = network.z - softmax_layer(network.z).log()
    assert_close(constant, constant[:, :1].expand(6, 3))


def test_eq_80_log_likelihood(network):
    a_y = network.softmax[torch.arange(6), network.classes]
    assert_close(log_likelihood(network.z, network.classes, reduction="none"), -torch.log(a_y))


@pytest.mark.parametrize("y", ["classes", "one_hot"])
def test_eq_81_log_likelihood_by_b(y, network):
    error = network.softmax - network.one_hot
    assert_close(network.gradient_in_b(log_likelihood, "none", getattr(network, y)), error)


@pytest.mark.parametrize("y", ["classes", "one_hot"])
def test_eq_82_log_likelihood_by_w(y, network):
    error = network.softmax - network.one_hot
    assert_close(network.gradient_in_w(log_likelihood, "none", getattr(network, y)), outer(error, network.a_before))


def test_exercise_deriving_equations_81_and_82(network):
    a = network.softmax
    dC_da, da_dz = -network.one_hot / a, torch.diag_embed(a) - outer(a, a)
    assert_close(
        network.gradient_in_b(log_likelihood, "none", network.classes), torch.einsum("xk,xkj->xj", dC_da, da_dz)
    )


@pytest.mark.parametrize("c", [0.2, 1, 3])
def test_eq_83_softmax_with_a_constant_c(c, network):
    a = LogLikelihoodCost(temperature=1 / c).activation(network.z)
    assert_close(a, torch.exp(c * network.z) / torch.exp(c * network.z).sum(-1, keepdim=True))


@pytest.mark.parametrize("c", [1e-3, 0.2, 1, 3, 20])
def test_exercise_softmax_outputs_with_a_constant_c_form_a_distribution(c, network):
    a = LogLikelihoodCost(temperature=1 / c).activation(network.z)
    assert (a > 0).all()
    assert_close(a.sum(-1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("z", "limit"),
    [((1, 3, 2), (0, 1, 0)), ((3, 3, 2), (1 / 2, 1 / 2, 0)), ((2, 2, 2), (1 / 3, 1 / 3, 1 / 3))],
    ids=["one greatest z", "two", "three"],
)
def test_exercise_where_the_name_softmax_comes_from(z, limit):
    z, limit = (torch.tensor(values, dtype=torch.float64) for values in (z, limit))
    distances = [(LogLikelihoodCost(temperature=1 / c).activation(z) - limit).abs().max() for c in (1, 10, 1e6)]
    assert distances[0] >= distances[1] >= distances[2]
    assert distances[2] < 1e-15


def test_exercise_all_outputs_of_softmax_are_equal_as_c_vanishes(network):
    distances = [(LogLikelihoodCost(temperature=1 / c).activation(network.z) - 1 / 3).abs() for c in (1, 1e-3, 1e-9)]
    assert (distances[0] > distances[1]).all()
    assert (distances[1] > distances[2]).all()
    assert distances[2].max() < 1e-8


def test_eq_84_log_likelihood_error(network):
    assert_close(LogLikelihoodCost().delta(network.z, network.classes), network.softmax - network.one_hot)


def test_exercise_backpropagation_with_softmax_and_log_likelihood(network):
    hidden, _, output = network.network
    log_likelihood(network.network(network.x), network.classes).backward()
    delta = (network.softmax - network.one_hot) @ output.weight * network.a_before * (1 - network.a_before)
    assert_close(hidden.weight.grad, outer(delta.detach(), network.x).mean(0))
