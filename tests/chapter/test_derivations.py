"""Test the section's derivations by symbols: sympy shows for all numbers what test_chapter.py checks for some."""

import pytest
import sympy
from sympy import Function, Rational, Symbol, diff, exp, integrate, limit, log, oo, simplify, symbols

z, b, x = symbols("z b x", real=True)
a, y, c = symbols("a y c", positive=True)
sigma = 1 / (1 + exp(-z))
sigma_prime = diff(sigma, z)
cross_entropy = -(y * log(a) + (1 - y) * log(1 - a))
quadratic = (a - y) ** 2 / 2


def is_zero(expression):
    return simplify(expression) == 0


def slope_in_z(cost, activation):
    """Return ∂C/∂z of a neuron with a = activation."""
    return diff(cost.subs(a, activation), z)


def test_sigma_prime_is_sigma_times_1_minus_sigma():
    assert is_zero(sigma_prime - sigma * (1 - sigma))


def test_eq_64_the_least_cross_entropy_is_the_binary_entropy():
    slope = diff(cross_entropy, a)
    assert is_zero(slope.subs(a, y))
    curvature_at_y = simplify(diff(slope, a).subs(a, y))
    assert is_zero(curvature_at_y - 1 / (y * (1 - y)))  # above 0 for every y between 0 and 1
    assert is_zero(cross_entropy.subs(a, y) + y * log(y) + (1 - y) * log(1 - y))


DELTAS = {
    "quadratic": (quadratic, sigma, (sigma - y) * sigma_prime),  # (65)
    "cross-entropy": (cross_entropy, sigma, sigma - y),  # (66)
    "quadratic of linear neurons": (quadratic, z, z - y),  # (68)
}


@pytest.mark.parametrize(("cost", "activation", "delta"), DELTAS.values(), ids=DELTAS)
def test_delta_of_an_output_neuron(cost, activation, delta):
    assert is_zero(slope_in_z(cost, activation) - delta)


@pytest.mark.parametrize(("cost", "activation", "delta"), DELTAS.values(), ids=DELTAS)
def test_the_slopes_in_a_network_are_means_over_the_examples(cost, activation, delta):
    # (65), (67), (69), (70) with n = 2 examples. Each has its own y, its own outputs of the layer before (before,
    # others), and so its own z.
    w, other_w = symbols("w_jk w_jl", real=True)
    examples = list(zip(symbols("y:2", positive=True), symbols("before:2"), symbols("others:2"), strict=True))
    zs = [w * before + other_w * others + b for _, before, others in examples]
    substitutions = [{z: own_z, y: own_y} for own_z, (own_y, _, _) in zip(zs, examples, strict=True)]
    C = sum(cost.subs(a, activation).subs(example) for example in substitutions) / 2
    deltas = [delta.subs(example) for example in substitutions]
    dC_dw = sum(before * found for (_, before, _), found in zip(examples, deltas, strict=True)) / 2
    assert is_zero(diff(C, w) - dC_dw)
    assert is_zero(diff(C, b) - sum(deltas) / 2)


def test_eq_71_to_75_the_slope_in_b_determines_the_slope_in_a():
    # ∂C/∂b = ∂C/∂a σ′, (73), with σ′ = a (1 − a), (74).
    dC_da = Symbol("C'")
    (found,) = sympy.solve(sympy.Eq(dC_da * a * (1 - a), a - y), dC_da)
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


def test_the_weighted_inputs_are_the_logarithms_of_the_outputs_plus_a_constant():
    zs, a = outputs(3)
    constants = [simplify(sympy.expand_log(log(a_j), force=True) - z_j) for a_j, z_j in zip(a, zs, strict=True)]
    assert len(set(constants)) == 1


@pytest.mark.parametrize("j", range(3))
def test_eq_81_82_and_84_delta_of_the_log_likelihood_is_a_minus_y(j):
    zs, a = outputs(3)
    label = 1
    assert is_zero(diff(-log(a[label]), zs[j]) - (a[j] - int(j == label)))


def test_the_sigmoid_outputs_of_the_example_sum_to_2_2():
    outputs = [sigma.subs(z, log(odds)) for odds in (9, 4, 1)]
    assert outputs == [Rational(9, 10), Rational(4, 5), Rational(1, 2)]
    assert sum(outputs) == Rational(22, 10)


def test_eq_83_the_outputs_form_a_distribution_for_every_c():
    _, a = outputs(3, factor=c)
    assert all(output.is_positive for output in a)
    assert is_zero(sum(a) - 1)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_eq_83_the_largest_outputs_share_all_as_c_grows(r):
    zs, a = outputs(r + 2, factor=c)
    # The first r weighted inputs are the largest; the others are smaller by 1 and by 3.
    below = dict(zip(zs, [*[z] * r, z - 1, z - 3], strict=True))
    limits = [limit(simplify(output.subs(below)), c, oo) for output in a]
    assert limits == [Rational(1, r)] * r + [0, 0]


def test_eq_83_all_outputs_are_equal_as_c_vanishes():
    _, a = outputs(3, factor=c)
    assert [limit(output, c, 0) for output in a] == [Rational(1, 3)] * 3


def test_with_y_and_a_swapped_the_cost_is_infinite_where_y_is_0_or_1():
    swapped = -(a * log(y) + (1 - a) * log(1 - y))
    assert limit(swapped, y, 0, "+") == oo
    assert limit(swapped, y, 1, "-").subs(a, sympy.Rational(1, 2)) == oo


def test_no_cost_of_the_output_can_remove_x_from_the_slope():
    # Whatever C is, ∂C/∂w = C′(a) σ′(z) x: where x = 0 the weight does not learn.
    w, C = Symbol("w"), Function("C")
    slope = diff(C(sigma.subs(z, w * x + b)), w)
    assert slope.subs(x, 0).doit() == 0
