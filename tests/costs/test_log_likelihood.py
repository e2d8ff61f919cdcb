"""The log-likelihood cost beyond the promises that all costs share: it is F.cross_entropy, and more exact than σ."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ce_torch import LogLikelihoodCost
from ce_torch.costs.log_likelihood import may_change
from ce_torch.functional import log_likelihood

pytestmark = pytest.mark.every_backend

CLASSES = torch.tensor([0, 3, -100, 4, 1, 1])
PROBABILITIES = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
WEIGHT = torch.tensor([0.1, 1.0, 2.0, 0.0, 3.0])


def value_and_gradient(cost, y, **options):
    z = (3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(1))).requires_grad_()
    C = cost(z, y, **options)
    return C, *torch.autograd.grad(C.sum(), z)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize(
    ("y", "ignore_index"),
    [(CLASSES, -100), (CLASSES.clamp(min=0), -100), (CLASSES.clamp(min=0), 1), (PROBABILITIES, -100)],
    ids=["ignored", "all", "ignored-class", "probabilities"],
)
def test_it_is_f_cross_entropy_whatever_the_options(y, ignore_index, weight, label_smoothing, reduction):
    options = {
        "weight": weight,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
    }
    ours, theirs = (value_and_gradient(cost, y, **options) for cost in (log_likelihood, F.cross_entropy))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_classes_are_the_last_dimension_for_any_number_of_leading_ones(shape):
    z, y = torch.randn(shape), torch.randint(0, 5, shape[:-1])
    torch.testing.assert_close(log_likelihood(z, y), F.cross_entropy(z.reshape(-1, 5), y.reshape(-1)))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_where_all_examples_are_ignored_the_mean_is_nan_and_the_sum_0(reduction, label_smoothing):
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    y = torch.full((6,), -100)
    C, gradient = value_and_gradient(log_likelihood, y, **options)
    assert C.isnan() if reduction == "mean" else (C == 0).all()
    torch.testing.assert_close(gradient, value_and_gradient(F.cross_entropy, y, **options)[1], equal_nan=True)


@pytest.mark.parametrize("y", [torch.empty(0, dtype=torch.int64), torch.empty(0, 5)], ids=["classes", "outputs"])
def test_the_mean_over_no_examples_is_nan_and_their_sum_0(y):
    z = torch.empty(0, 5)
    assert log_likelihood(z, y).isnan()
    assert log_likelihood(z, y, reduction="sum") == 0


def test_an_ignored_example_costs_nothing_even_where_its_class_0_is_ruled_out():
    z = torch.tensor([[-torch.inf, 0.0], [0.0, 0.0]], requires_grad=True)
    C = log_likelihood(z, torch.tensor([-100, 1]))
    C.backward()
    torch.testing.assert_close(C.item(), math.log(2))
    torch.testing.assert_close(z.grad, torch.tensor([[0.0, 0.0], [0.5, -0.5]]))


@pytest.mark.parametrize(
    ("z", "C", "delta"),
    [([1000.0, -1000.0], 0.0, [0.0, 0.0]), ([-1000.0, 1000.0], 2000.0, [-1.0, 1.0])],
)
@pytest.mark.parametrize("y", [torch.tensor(0), torch.tensor([1.0, 0.0])], ids=["class", "outputs"])
def test_it_is_exact_where_the_formula_in_a_is_nan_or_infinite(z, C, delta, y):
    z = torch.tensor(z, requires_grad=True)
    value = log_likelihood(z, y)
    value.backward()
    assert (value.item(), z.grad.tolist()) == (C, delta)


rows = st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6)


@given(rows, st.data())
def test_float32_is_as_good_as_float64_rounded(row, data):
    y = torch.tensor(data.draw(st.integers(0, len(row) - 1)))
    z, exact_z = (torch.tensor(row, dtype=dtype, requires_grad=True) for dtype in (torch.float32, torch.float64))
    C, exact = log_likelihood(z, y), log_likelihood(exact_z, y)
    C.backward()
    exact.backward()
    assert C.item() == pytest.approx(exact.item(), rel=1e-6, abs=1e-6)
    assert z.grad.tolist() == pytest.approx(exact_z.grad.tolist(), rel=2e-6, abs=1e-6)


@given(rows, st.floats(0.1, 10))
def test_delta_sums_to_0_over_the_classes(row, temperature):
    delta = LogLikelihoodCost(temperature=temperature).delta(torch.tensor(row), torch.tensor(0))
    assert abs(delta.sum().item()) < 1e-5


def test_temperature_divides_z():
    z, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(log_likelihood(z, y, temperature=2.5), log_likelihood(z / 2.5, y))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("y", [CLASSES, PROBABILITIES.double()], ids=["classes", "outputs"])
def test_class_weights_get_their_gradient(y, label_smoothing):
    z = torch.randn(6, 5, dtype=torch.float64)
    weight = torch.rand(5, dtype=torch.float64, requires_grad=True)
    options = {"label_smoothing": label_smoothing, "temperature": 2.0}
    assert torch.autograd.gradcheck(lambda weight: log_likelihood(z, y, weight=weight, **options), (weight,))


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("y", [CLASSES, PROBABILITIES], ids=["classes", "outputs"])
def test_delta_heeds_every_option(y, weight):
    z = torch.randn(6, 5, requires_grad=True)
    cost = LogLikelihoodCost(weight=weight, label_smoothing=0.1, temperature=0.5, reduction="sum")
    torch.testing.assert_close(cost.delta(z, y), torch.autograd.grad(cost(z, y), z)[0])


REFUSED = [
    ({"temperature": 1e-39}, "temperature must be a finite number of at least 1e-38, got 1e-39"),
    ({"temperature": 0}, "temperature must be a finite number of at least 1e-38, got 0"),
    ({"temperature": math.inf}, "temperature must be a finite number of at least 1e-38, got inf"),
    ({"label_smoothing": 1.5}, "label_smoothing must be a number from 0 to 1, got 1.5"),
    ({"weight": torch.ones(4)}, r"weight must have shape \(5,\), one factor a class, got \(4,\)"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
def test_bad_options_are_refused_by_name(options, text):
    with pytest.raises(ValueError, match=text):
        log_likelihood(torch.zeros(6, 5), CLASSES, **options)


def test_ignore_index_does_not_go_with_desired_outputs():
    with pytest.raises(ValueError, match="ignore_index=1 goes with class indices, but y holds desired outputs"):
        log_likelihood(torch.zeros(6, 5), PROBABILITIES, ignore_index=1)


@pytest.mark.parametrize("wrong", [5, -1, -99])
def test_an_index_that_names_no_class_is_refused(wrong):
    with pytest.raises(ValueError, match=f"y must hold class indices from 0 to 4, or ignore_index=-100, got {wrong}"):
        log_likelihood(torch.zeros(2, 5), torch.tensor([0, wrong]))


def test_the_gradient_of_a_weight_in_half_precision_is_rounded_once():
    weight = torch.tensor([1.5, 0.7, 2.0], dtype=torch.float16)
    z, y = torch.tensor([[1.0, 1.01, 1.02], [1.0, 1.01, 1.03]]), torch.tensor([0, 1])

    def gradient(weight):
        weight = weight.detach().requires_grad_()
        return torch.autograd.grad(log_likelihood(z, y, weight=weight), weight)[0]

    torch.testing.assert_close(gradient(weight), gradient(weight.double()).half(), rtol=1e-3, atol=1e-6)


def test_under_vmap_too_a_batch_of_which_nothing_counts_has_no_gradient():
    z, y = torch.randn(2, 3, 5, requires_grad=True), torch.tensor([[0, 1, 2], [-100, -100, -100]])
    C = torch.vmap(log_likelihood)(z, y)
    assert C.isnan().tolist() == [False, True]
    (gradient,) = torch.autograd.grad(C.sum(), z)
    assert gradient[0].any()
    assert gradient[1].eq(0).all()


def test_vmap_of_the_gradient_by_class_weights_takes_single_examples():
    z, y, weight = torch.randn(3, 5), torch.tensor([0, 1, 4]), torch.rand(5)
    gradient = torch.func.grad(lambda weight, z, y: log_likelihood(z, y, weight=weight))
    each = [gradient(weight, *example) for example in zip(z, y, strict=True)]
    torch.testing.assert_close(torch.vmap(gradient, (None, 0, 0))(weight, z, y), torch.stack(each))


@pytest.mark.parametrize(
    ("transform", "may"),
    [
        (lambda asks, z, w: asks(z, w), False),
        (lambda asks, z, w: asks(z, w.requires_grad_()), True),
        (lambda asks, z, w: torch.func.grad(lambda z: asks(z, w))(z), False),
        (lambda asks, z, w: torch.func.grad(asks, argnums=1)(z, w), True),
        (lambda asks, z, w: torch.func.jvp(lambda z: asks(z, w), (z,), (z,)), False),
        (lambda asks, z, w: torch.func.jvp(lambda w: asks(z, w), (w,), (w,)), True),
        (lambda asks, z, w: torch.func.vmap(asks, in_dims=(0, None))(z[None], w), False),
        (lambda asks, z, w: torch.func.vmap(asks, in_dims=(None, 0))(z, w[None]), True),
    ],
    ids=["values", "requires-grad", "grad-z", "grad-weight", "jvp-z", "jvp-weight", "vmap-z", "vmap-weight"],
)
@pytest.mark.parametrize("backend", ["auto"], indirect=True)
def test_only_class_weights_with_derivatives_take_more_operations(transform, may):
    answers = []

    def asks(z, weight):
        answers.append(may_change(weight))
        return log_likelihood(z, torch.tensor([0, 2]), weight=weight)

    transform(asks, torch.randn(2, 3), torch.rand(3))

    assert answers == [may]
