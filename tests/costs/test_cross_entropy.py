"""The cross-entropy cost beyond the promises that all costs share."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from ce_torch import CrossEntropyCost
from ce_torch.functional import cross_entropy

pytestmark = pytest.mark.every_backend

weighted_inputs = st.floats(-1e4, 1e4, width=32)
desired_outputs = st.floats(0, 1, width=32)


def value_and_delta(z, y, dtype=torch.float32):
    z = torch.tensor([z], dtype=dtype, requires_grad=True)
    C = cross_entropy(z, torch.tensor([y], dtype=dtype))
    (delta,) = torch.autograd.grad(C, z)
    return C.item(), delta.item()


@pytest.mark.parametrize(
    ("z", "y", "C", "delta"),
    [(1000.0, 1.0, 0.0, 0.0), (1000.0, 0.0, 1000.0, 1.0), (-1000.0, 1.0, 1000.0, -1.0), (-1000.0, 0.0, 0.0, 0.0)],
)
def test_it_is_exact_where_the_formula_in_a_is_nan_or_infinite(z, y, C, delta):
    assert value_and_delta(z, y) == (C, delta)


@pytest.mark.parametrize(("z", "y"), [(20.0, 1.0), (-20.0, 0.0), (80.0, 1.0), (-80.0, 0.0)])
def test_a_nearly_right_neuron_costs_something_to_the_last_bits(z, y):
    C, _ = value_and_delta(z, y)
    assert pytest.approx(math.log1p(math.exp(-abs(z))), rel=3e-7, abs=0) == C


@given(weighted_inputs, desired_outputs)
def test_float32_is_as_good_as_float64_rounded(z, y):
    C, delta = value_and_delta(z, y)
    exact_C, exact_delta = value_and_delta(z, y, torch.float64)
    assert pytest.approx(exact_C, rel=1e-6, abs=1e-37) == C
    assert delta == pytest.approx(exact_delta, rel=1e-6, abs=1e-7)


@given(weighted_inputs, desired_outputs)
def test_it_is_never_below_the_binary_entropy_of_y(z, y):
    entropy = -sum(p * math.log(p) for p in (y, 1 - y) if p > 0)
    assert value_and_delta(z, y, torch.float64)[0] >= entropy - 1e-12


@given(weighted_inputs, desired_outputs)
def test_delta_is_an_error_between_minus_1_and_1(z, y):
    assert -1 <= value_and_delta(z, y)[1] <= 1


WEIGHTS = [None, torch.rand(5), torch.rand(6, 1), torch.rand(6, 5), torch.tensor(2.0)]


@pytest.mark.parametrize(("reduction", "their_reduction"), [("mean", "mean"), ("sum", "sum"), ("element_mean", "mean")])
@pytest.mark.parametrize("pos_weight", WEIGHTS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_it_is_pytorchs_own_but_its_mean_is_over_examples_not_neurons(weight, pos_weight, reduction, their_reduction):
    z, y = torch.randn(6, 5, requires_grad=True), torch.rand(6, 5)
    ours = cross_entropy(z, y, weight=weight, pos_weight=pos_weight, reduction=reduction)
    theirs = binary_cross_entropy_with_logits(z, y, weight=weight, pos_weight=pos_weight, reduction=their_reduction)
    theirs = theirs * (5 if reduction == "mean" else 1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z))


@pytest.mark.parametrize("weight", [torch.rand(5), torch.rand(6, 1)])
def test_weights_and_a_mask_go_together(weight):
    z, y, mask = torch.randn(6, 5, requires_grad=True), torch.rand(6, 5), torch.rand(6, 5) < 0.5
    mask.view(-1)[0] = True
    theirs_weight = weight.expand(6, 5)[mask]
    ours = cross_entropy(z, y, mask=mask, weight=weight, pos_weight=weight, reduction="element_mean")
    theirs = binary_cross_entropy_with_logits(z[mask], y[mask], theirs_weight, pos_weight=theirs_weight)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z))


def test_an_infinite_weight_of_a_masked_element_adds_nothing():
    z, mask = torch.tensor([[0.0, math.nan]], requires_grad=True), torch.tensor([True, False])
    C = cross_entropy(z, torch.zeros(1, 2), mask=mask, weight=torch.tensor([1.0, math.inf]))
    C.backward()
    assert C.item() == pytest.approx(math.log(2))
    assert z.grad[0, 1] == 0


@pytest.mark.parametrize(
    ("z", "pos_weight", "C"), [(math.nan, 0.0, 0.0), (-math.inf, math.inf, math.inf), (-200.0, 2.0, 400.0)]
)
def test_the_limits_of_a_neuron_that_should_fire_are_those_of_its_pos_weight(z, pos_weight, C):
    assert cross_entropy(torch.tensor([[z]]), torch.ones(1, 1), pos_weight=torch.tensor([pos_weight])) == C


def test_weights_get_their_gradients():
    z, y = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)
    weights = torch.rand(5, dtype=torch.float64, requires_grad=True), torch.rand(6, 1, dtype=torch.float64)
    weights[1].requires_grad_()
    assert torch.autograd.gradcheck(lambda w, p: cross_entropy(z, y, weight=w, pos_weight=p), weights)


def test_class_indices_stand_for_one_hot_vectors():
    z, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(cross_entropy(z, y), cross_entropy(z, one_hot(y, 5).float()))


def test_activation_is_the_sigmoid():
    assert CrossEntropyCost().activation(torch.zeros(1)).item() == 0.5


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (1, 6, 5), (7, 1)])
def test_a_weight_that_does_not_broadcast_is_refused_by_name(name, shape):
    with pytest.raises(
        ValueError, match=rf"{name} must have a shape that broadcasts to z's, \(6, 5\), got \({shape[0]},"
    ):
        cross_entropy(
            torch.zeros(6, 5),
            torch.zeros(6, 5),
            **{name: torch.ones(shape)},
        )


@pytest.mark.parametrize("pos_weight", [None, torch.tensor([2.0, 3.0], dtype=torch.float64)])
def test_a_neuron_of_weight_0_adds_nothing_to_second_derivatives_whatever_its_z(pos_weight):
    z = torch.tensor([[math.nan, 1.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0.3, 0.6]], dtype=torch.float64, requires_grad=True)
    if pos_weight is not None:
        pos_weight.requires_grad_()
    inputs = [y] if pos_weight is None else [y, pos_weight]
    C = cross_entropy(z, y, weight=torch.tensor([0.0, 1.0]), pos_weight=pos_weight)
    first = torch.autograd.grad(C, inputs, create_graph=True)
    (second,) = torch.autograd.grad(sum(gradient.sum() for gradient in first), z)
    assert second[0, 0] == 0
    assert second[0, 1].isfinite()
