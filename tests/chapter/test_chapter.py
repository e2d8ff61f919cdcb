"""Test the library on the equations (54)-(77), the exercises and the examples of Nielsen's section 3.1."""

from functools import partial

import pytest
import torch
from torch.autograd import grad
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from ce_torch import CrossEntropyCost, QuadraticCost
from ce_torch.functional import cross_entropy, quadratic

quadratic_of_linear = partial(quadratic, activation="linear")


def sigma(z):
    return 1 / (1 + torch.exp(-z))


def outer(error, a):
    """Return error_j a_k for each example, with the shape (n, j, k)."""
    return error[:, :, None] * a[:, None, :]


def entropy(y, a):
    return -(y * torch.log(a) + (1 - y) * torch.log(1 - a))


def cross_entropy_of_output(a, y):
    return cross_entropy(torch.logit(a), y, reduction="none").unsqueeze(-1)


def integral_of_eq_75(z, y):
    """Return ∫ (a − y) / (a (1 − a)) da from a = σ(0) to σ(z)."""
    a = sigma(z * torch.linspace(0, 1, 100_001, dtype=torch.float64).view(-1, 1, 1))
    return torch.trapezoid((a - y) / (a * (1 - a)), a, dim=0).squeeze(-1)


def outputs_while_learning(w, b):
    """Return the output before and after each of 300 epochs in which a neuron learns to take 1 to 0."""
    cost, eta = QuadraticCost(), 0.15
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    w, b = (torch.full((1, 1), start, dtype=torch.float64, requires_grad=True) for start in (w, b))
    outputs = []
    for _ in range(301):
        z = x @ w.T + b
        outputs.append(cost.activation(z).item())
        for parameter, gradient in zip((w, b), grad(cost(z, y), (w, b)), strict=True):
            parameter.data -= eta * gradient
    return outputs


@pytest.mark.parametrize(("w", "b", "first", "last"), [(0.6, 0.9, 0.82, 0.09), (2.0, 2.0, 0.98, 0.20)])
def test_the_single_neuron_learns_from_its_first_output_to_its_last(w, b, first, last):
    a = outputs_while_learning(w, b)
    assert (round(a[0], 2), round(a[-1], 2)) == (first, last)


def test_a_badly_wrong_neuron_hardly_learns_for_150_epochs():
    a = outputs_while_learning(2.0, 2.0)
    assert a[0] - a[150] < 0.1 * (a[150] - a[300])


def test_eq_54_quadratic_cost(neuron):
    assert_close(quadratic(neuron.z, neuron.y, reduction="none"), ((neuron.y - neuron.a) ** 2 / 2).squeeze(-1))


def test_eq_55_quadratic_cost_by_w(neuron):
    assert_close(neuron.gradient_in_w(quadratic, "none"), outer((neuron.a - neuron.y) * neuron.sigma_prime, neuron.x))


def test_eq_56_quadratic_cost_by_b_where_y_is_0(neuron):
    assert_close(neuron.gradient_in_b(quadratic, "none", 0 * neuron.y), neuron.a * neuron.sigma_prime)


def test_eq_57_cross_entropy(neuron):
    assert_close(cross_entropy(neuron.z, neuron.y), entropy(neuron.y, neuron.a).sum() / 6)


def test_eq_58_cross_entropy_by_w_from_sigma_by_w(neuron):
    w, b = neuron.network[0].weight, neuron.network[0].bias
    da_dw = jacobian(lambda w: sigma(neuron.x @ w.T + b), w).squeeze(1)
    terms = (neuron.y / neuron.a - (1 - neuron.y) / (1 - neuron.a))[:, :, None] * da_dw
    assert_close(neuron.gradient_in_w(cross_entropy), -terms.mean(0))


def test_eq_59_cross_entropy_by_w_from_sigma_prime(neuron):
    factor = neuron.y / neuron.a - (1 - neuron.y) / (1 - neuron.a)
    assert_close(neuron.gradient_in_w(cross_entropy), -outer(factor * neuron.sigma_prime, neuron.x).mean(0))


def test_eq_60_cross_entropy_by_w_over_a_common_denominator(neuron):
    factor = neuron.sigma_prime / (neuron.a * (1 - neuron.a))
    assert_close(neuron.gradient_in_w(cross_entropy), outer(factor * (neuron.a - neuron.y), neuron.x).mean(0))


def test_eq_61_cross_entropy_by_w_without_sigma_prime(neuron):
    assert_close(neuron.gradient_in_w(cross_entropy), outer(neuron.a - neuron.y, neuron.x).mean(0))


def test_eq_62_cross_entropy_by_b_without_sigma_prime(neuron):
    assert_close(neuron.gradient_in_b(cross_entropy), (neuron.a - neuron.y).mean(0))


def test_exercise_sigma_prime(network):
    y_one_below_a = network.a - 1
    assert_close(QuadraticCost().delta(network.z, y_one_below_a), network.a * (1 - network.a))


def test_only_the_cross_entropy_learns_faster_the_more_wrong_the_neuron_is():
    z = torch.linspace(-4, 12, 100, dtype=torch.float64).unsqueeze(-1)
    assert (CrossEntropyCost().delta(z, 0 * z).diff(dim=0) > 0).all()
    assert QuadraticCost().delta(z, 0 * z)[-1] < QuadraticCost().delta(z, 0 * z)[0]


def test_eq_63_cross_entropy_of_many_neurons(network):
    assert_close(cross_entropy(network.z, network.y), entropy(network.y, network.a).sum() / 6)


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_exercise_roles_of_y_and_a(y, neuron):
    a, y = neuron.a, torch.full_like(neuron.a, y)
    assert entropy(a, y).isinf().all()
    assert_close(cross_entropy_of_output(a, y), -torch.log(1 - (a - y).abs()))


@pytest.mark.parametrize("step", [-1, -0.01, 0.01, 1])
def test_exercise_the_cross_entropy_is_still_minimised_where_a_is_y(step, neuron):
    z, y = torch.logit(neuron.y), neuron.y
    assert (cross_entropy(z + step, y, reduction="none") > cross_entropy(z, y, reduction="none")).all()


def test_eq_64_cross_entropy_where_a_is_y(neuron):
    assert_close(cross_entropy(torch.logit(neuron.y), neuron.y), entropy(neuron.y, neuron.y).sum() / 6)


def test_eq_65_quadratic_cost_by_w_in_a_network(network):
    error = (network.a - network.y) * network.sigma_prime
    assert_close(network.gradient_in_w(quadratic), outer(error, network.a_before).mean(0))


def test_eq_66_cross_entropy_error(network):
    assert_close(CrossEntropyCost().delta(network.z, network.y), network.a - network.y)


def test_eq_67_cross_entropy_by_w_in_a_network(network):
    assert_close(network.gradient_in_w(cross_entropy), outer(network.a - network.y, network.a_before).mean(0))


def test_exercise_cross_entropy_by_b_in_a_network(network):
    assert_close(network.gradient_in_b(cross_entropy), (network.a - network.y).mean(0))


def test_eq_68_quadratic_error_of_linear_neurons(network):
    cost = QuadraticCost(activation="linear")
    assert_close(cost.delta(network.z, network.y), cost.activation(network.z) - network.y)


def test_eq_69_quadratic_cost_of_linear_neurons_by_w(network):
    assert_close(network.gradient_in_w(quadratic_of_linear), outer(network.z - network.y, network.a_before).mean(0))


def test_eq_70_quadratic_cost_of_linear_neurons_by_b(network):
    assert_close(network.gradient_in_b(quadratic_of_linear), (network.z - network.y).mean(0))


def test_the_quadratic_cost_learns_six_times_slower_on_average():
    a = torch.linspace(0, 1, 10_001, dtype=torch.float64)[1:-1].unsqueeze(-1)
    z = torch.logit(a)
    slowdown = QuadraticCost().delta(z, 0 * z) / CrossEntropyCost().delta(z, 0 * z)
    assert torch.trapezoid(slowdown, a, dim=0).item() == pytest.approx(1 / 6)


def test_eq_71_cross_entropy_of_one_example_by_w(neuron):
    assert_close(neuron.gradient_in_w(cross_entropy, "none"), outer(neuron.a - neuron.y, neuron.x))


def test_eq_72_cross_entropy_of_one_example_by_b(neuron):
    assert_close(neuron.gradient_in_b(cross_entropy, "none"), neuron.a - neuron.y)


@pytest.mark.parametrize(("cost", "formula"), [(quadratic, lambda y, a: (a - y) ** 2 / 2), (cross_entropy, entropy)])
def test_eq_73_cost_by_b_is_cost_by_a_times_sigma_prime(cost, formula, neuron):
    a = neuron.a.requires_grad_()
    (dC_da,) = grad(formula(neuron.y, a).sum(), a)
    assert_close(neuron.gradient_in_b(cost, "none"), dC_da * neuron.sigma_prime)


def test_eq_74_cross_entropy_by_b_is_its_slope_in_a_times_a_and_1_minus_a(neuron):
    y, a, h = neuron.y, neuron.a, 1e-5 * neuron.a * (1 - neuron.a)
    slope = (cross_entropy_of_output(a + h, y) - cross_entropy_of_output(a - h, y)) / (2 * h)
    assert_close(neuron.gradient_in_b(cross_entropy, "none"), slope * a * (1 - a), rtol=1e-6, atol=1e-8)


def test_eq_75_cross_entropy_by_a(neuron):
    y, a = neuron.y, neuron.a.requires_grad_()
    assert_close(grad(cross_entropy_of_output(a, y).sum(), a)[0], ((a - y) / (a * (1 - a))).detach())


def test_eq_76_the_integral_of_eq_75_is_the_cross_entropy_of_one_example(neuron):
    C, C_at_start = (cross_entropy(z, neuron.y, reduction="none") for z in (neuron.z, 0 * neuron.z))
    assert_close(C - C_at_start, integral_of_eq_75(neuron.z, neuron.y))


def test_eq_77_the_mean_integral_of_eq_75_is_the_cross_entropy(neuron):
    C, C_at_start = (cross_entropy(z, neuron.y) for z in (neuron.z, 0 * neuron.z))
    assert_close(C - C_at_start, integral_of_eq_75(neuron.z, neuron.y).mean())


@pytest.mark.parametrize("cost", [quadratic, quadratic_of_linear, cross_entropy])
def test_exercise_the_x_j_term_cannot_be_removed(cost, neuron):
    neuron.x[:, 0] = 0
    assert_close(neuron.gradient_in_w(cost, "none"), outer(neuron.gradient_in_b(cost, "none"), neuron.x))
