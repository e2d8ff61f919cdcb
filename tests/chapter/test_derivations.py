"""The section's derivations, symbol by symbol: what test_chapter.py checks for numbers, sympy shows for all of them."""

import pytest
import sympy
from sympy import Function, Symbol, diff, exp, integrate, limit, log, oo, simplify, symbols

z, b, x = symbols("z b x", real=True)
a, y = symbols("a y", positive=True)
sigma = 1 / (1 + exp(-z))
sigma_prime = diff(sigma, z)
cross_entropy = -(y * log(a) + (1 - y) * log(1 - a))
quadratic = (a - y) ** 2 / 2


def is_zero(expression):
    return simplify(expression) == 0


def by_weighted_input(cost, activation):
    """∂C/∂z of a neuron with a = activation."""
    return diff(cost.subs(a, activation), z)


def test_sigma_prime_is_sigma_times_1_minus_sigma():
    assert is_zero(sigma_prime - sigma * (1 - sigma))


def test_eq_64_the_cross_entropy_is_least_where_a_is_y_and_there_it_is_the_binary_entropy():
    slope = diff(cross_entropy, a)
    assert is_zero(slope.subs(a, y))
    curvature_at_y = simplify(diff(slope, a).subs(a, y))
    assert is_zero(curvature_at_y - 1 / (y * (1 - y)))  # above 0 for every y between 0 and 1
    assert is_zero(cross_entropy.subs(a, y) + y * log(y) + (1 - y) * log(1 - y))


@pytest.mark.parametrize(
    ("cost", "activation", "delta"),
    [
        (quadratic, sigma, (sigma - y) * sigma_prime),  # (65)
        (cross_entropy, sigma, sigma - y),  # (66)
        (quadratic, z, z - y),  # (68)
    ],
    ids=["eq_65_quadratic", "eq_66_cross_entropy", "eq_68_quadratic_of_linear_neurons"],
)
def test_delta_of_an_output_neuron(cost, activation, delta):
    assert is_zero(by_weighted_input(cost, activation) - delta)


@pytest.mark.parametrize(("parameter", "factor"), [(Symbol("w"), x), (b, 1)], ids=["w", "b"])
@pytest.mark.parametrize(("cost", "activation"), [(cross_entropy, sigma), (quadratic, z)], ids=["eq_67", "eq_69_70"])
def test_the_slope_in_w_has_a_factor_x_and_in_b_none(cost, activation, parameter, factor):
    weighted_input = Symbol("w") * x + b
    slope = diff(cost.subs(a, activation).subs(z, weighted_input), parameter)
    assert is_zero(slope - (activation.subs(z, weighted_input) - y) * factor)


def test_eq_71_to_75_a_slope_in_b_of_a_minus_y_asks_for_this_slope_in_a():
    # ∂C/∂b = ∂C/∂a σ′, (73), with σ′ = a (1 − a), (74).
    of_a = Symbol("C'")
    (found,) = sympy.solve(sympy.Eq(of_a * a * (1 - a), a - y), of_a)
    assert is_zero(found - (a - y) / (a * (1 - a)))


def test_eq_76_and_77_its_integral_is_the_cross_entropy():
    found = integrate(sympy.apart((a - y) / (a * (1 - a)), a), a)
    assert is_zero(diff(found - cross_entropy, a))


def outputs(n, factor=1):
    zs = symbols(f"z:{n}", real=True)
    total = sum(exp(factor * z) for z in zs)
    return zs, [exp(factor * z) / total for z in zs]


@pytest.mark.parametrize("j", range(3))
@pytest.mark.parametrize("k", range(3))
def test_softmax_is_monotonic_and_not_local(j, k):
    zs, a = outputs(3)
    assert is_zero(diff(a[j], zs[k]) - a[j] * (int(j == k) - a[k]))  # above 0 for j = k, below for all others


def test_the_weighted_inputs_are_the_logarithms_of_the_outputs_and_a_constant():
    zs, a = outputs(3)
    constants = [simplify(sympy.expand_log(log(a_j), force=True) - z_j) for a_j, z_j in zip(a, zs, strict=True)]
    assert len(set(constants)) == 1


@pytest.mark.parametrize("j", range(3))
def test_eq_81_82_and_84_delta_of_the_log_likelihood_is_a_minus_y(j):
    zs, a = outputs(3)
    of_class = 1
    assert is_zero(diff(-log(a[of_class]), zs[j]) - (a[j] - int(j == of_class)))


def test_eq_83_the_largest_output_takes_all_as_c_grows():
    positive = Symbol("c", positive=True)
    a = 1 / (1 + exp(-positive) + exp(-3 * positive))  # of weighted inputs 3, 2 and 0
    assert limit(a, positive, oo) == 1
    assert limit(exp(-positive) * a, positive, oo) == 0
    assert a.subs(positive, 0) == sympy.Rational(1, 3)


def test_the_roles_of_y_and_a_swapped_are_infinite_where_y_is_0_or_1():
    swapped = -(a * log(y) + (1 - a) * log(1 - y))
    assert limit(swapped, y, 0, "+") == oo
    assert limit(swapped, y, 1, "-").subs(a, sympy.Rational(1, 2)) == oo


def test_no_cost_of_the_output_alone_can_remove_the_x_of_the_slope():
    # Whatever C is, ∂C/∂w = C′(a) σ′(z) x: where x = 0 the weight does not learn.
    w, of = Symbol("w"), Function("C")
    slope = diff(of(sigma.subs(z, w * x + b)), w)
    assert slope.subs(x, 0).doit() == 0
