"""The mask of elements that count, of the costs that are sums over neurons."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from ce_torch import CrossEntropyCost, FocalCost, LogLikelihoodCost, QuadraticCost
from ce_torch.functional import cross_entropy, focal, quadratic

pytestmark = pytest.mark.every_backend


def focal_loss(z, y):
    a = torch.sigmoid(z)
    m, alpha = a * (1 - y) + (1 - a) * y, 0.25 * y + 0.75 * (1 - y)
    return alpha * m.square() * F.binary_cross_entropy_with_logits(z, y, reduction="none")


# Each cost, and the formula of its elements.
COSTS = {
    "cross-entropy": (cross_entropy, partial(F.binary_cross_entropy_with_logits, reduction="none")),
    "quadratic": (quadratic, lambda z, y: (torch.sigmoid(z) - y).square() / 2),
    "linear": (partial(quadratic, activation="linear"), lambda z, y: (z - y).square() / 2),
    "focal": (focal, focal_loss),
}
MODULES = {
    "cross-entropy": CrossEntropyCost(),
    "quadratic": QuadraticCost(),
    "linear": QuadraticCost(activation="linear"),
    "focal": FocalCost(),
}
SHAPES = [(6, 5), (6, 1), (5,), (1, 5), ()]
of_each_cost = pytest.mark.parametrize(("cost", "elements"), COSTS.values(), ids=COSTS)


@pytest.fixture
def examples(case_dtype):
    generator = torch.Generator().manual_seed(0)
    z, y = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return z.to(case_dtype).requires_grad_(), torch.sigmoid(y).to(case_dtype)


def mask_of(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask.view(-1)[0] = True
    return mask


def expected_costs(C, mask):
    """Return C by each reduction, from the cost of each element."""
    counts = mask.expand(6, 5)
    of_examples = torch.where(counts, C, 0).sum(-1)
    return {
        "none": of_examples,
        "sum": of_examples.sum(),
        "mean": of_examples.sum() / counts.any(-1).sum(),
        "element_mean": of_examples.sum() / counts.sum(),
    }


@of_each_cost
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "element_mean"])
def test_only_what_it_lets_count_costs_something_and_is_counted(cost, elements, shape, reduction, examples):
    (z, y), mask = examples, mask_of(shape)
    ours = cost(z, y, mask=mask, reduction=reduction)
    theirs = expected_costs(elements(z, y), mask)[reduction]
    assert_close(ours, theirs)
    upstream = torch.arange(1.0, 7, dtype=z.dtype) if reduction == "none" else torch.tensor(3.0, dtype=z.dtype)
    assert_close(torch.autograd.grad(ours, z, upstream), torch.autograd.grad(theirs, z, upstream))


@of_each_cost
@pytest.mark.parametrize("reduction", ["mean", "element_mean"])
def test_z_whose_neurons_are_second_has_a_mask_whose_neurons_are_second(cost, elements, reduction, case_dtype):
    z, y = torch.randn(2, 5, 3, 4, dtype=case_dtype), torch.rand(2, 5, 3, 4, dtype=case_dtype)
    for shape in ((2, 1, 3, 4), (5, 1, 1), (3, 1), (2, 5, 3, 4)):
        mask = mask_of(shape)
        counts = mask.expand_as(z)
        count = counts.sum() if reduction == "element_mean" else counts.any(1).sum()
        ours = cost(z, y, mask=mask, dim=1, reduction=reduction)
        assert_close(ours, torch.where(counts, elements(z, y), 0).sum() / count)


@of_each_cost
def test_a_masked_element_adds_nothing_whatever_its_z_and_y(cost, elements, case_dtype):
    z, y = torch.zeros(2, 2, dtype=case_dtype, requires_grad=True), torch.zeros(2, 2, dtype=case_dtype)
    with torch.no_grad():
        z[0, 1], y[0, 1] = math.nan, math.inf
    mask = torch.tensor([[True, False], [True, True]])
    C = cost(z, y, mask=mask, reduction="sum")
    assert_close(C, 3 * elements(z[1, 0], y[1, 0]))
    (delta,) = torch.autograd.grad(C, z, create_graph=True)
    assert delta[0, 1] == 0
    assert torch.autograd.grad(delta.sum(), z)[0][0, 1] == 0


@of_each_cost
@pytest.mark.parametrize("reduction", ["mean", "element_mean"])
def test_where_nothing_counts_the_mean_is_nan_and_has_no_gradient(cost, elements, reduction, examples):
    z, y = examples
    C = cost(z, y, mask=torch.zeros(6, 5, dtype=torch.bool), reduction=reduction)
    C.backward()
    assert C.isnan()
    assert z.grad.eq(0).all()


@of_each_cost
@pytest.mark.parametrize("shape", [(0, 5), (6, 0)])
def test_of_no_elements_the_mean_is_nan(cost, elements, shape, case_dtype):
    z = torch.zeros(shape, dtype=case_dtype)
    for mask in (torch.ones(shape, dtype=torch.bool), torch.tensor(True)):
        assert cost(z, z, mask=mask, reduction="element_mean").isnan()


@of_each_cost
def test_class_indices_have_a_mask_too(cost, elements, examples):
    z, classes, mask = examples[0], torch.tensor([0, 1, 2, 3, 4, 0]), mask_of((6, 5))
    outputs = F.one_hot(classes, 5).to(z.dtype)
    assert_close(cost(z, classes, mask=mask), cost(z, outputs, mask=mask))


@of_each_cost
def test_its_second_derivatives_are_those_of_the_formula(cost, elements, examples):
    (z, y), mask = examples, mask_of((6, 5))
    z, y = z.detach().double().requires_grad_(), y.double().requires_grad_()

    def derivatives(C):
        first = torch.autograd.grad(C, (z, y), create_graph=True)
        return first, torch.autograd.grad(sum(gradient.square().sum() for gradient in first), (z, y))

    assert_close(derivatives(cost(z, y, mask=mask)), derivatives(expected_costs(elements(z, y), mask)["mean"]))


@of_each_cost
def test_each_example_can_have_a_mask_of_its_own_under_vmap(cost, elements, examples):
    (z, y), mask = examples, mask_of((6, 5))
    mask[:, 0] = True
    found = torch.func.vmap(torch.func.grad(lambda z, y, mask: cost(z, y, mask=mask, reduction="element_mean")))(
        z.detach(), y, mask
    )
    C = (torch.where(mask, elements(z, y), 0).sum(-1) / mask.sum(-1)).sum()
    assert_close(found, torch.autograd.grad(C, z)[0])


@pytest.mark.parametrize(("name", "cost"), MODULES.items(), ids=MODULES)
def test_delta_takes_the_mask_of_a_batch(name, cost, examples):
    (z, y), mask = examples, mask_of((6, 5))
    elements = COSTS[name][1]
    (expected,) = torch.autograd.grad(torch.where(mask, elements(z, y), 0).sum(), z)
    assert_close(cost.delta(z.detach(), y, mask=mask), expected)
    assert cost.mask is None


def test_delta_takes_other_options_of_one_call_too_and_refuses_what_is_none():
    cost, z, y = LogLikelihoodCost(), torch.randn(3, 4), torch.tensor([0, 1, 3])
    assert_close(cost.delta(z, y, temperature=2), LogLikelihoodCost(temperature=2).delta(z, y))
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'masc'; its options are temperature, weight"):
        cost.delta(z, y, masc=None)
    with pytest.raises(TypeError, match="mask must be bool, True for what counts"):
        QuadraticCost().delta(z, z, mask=z)


@of_each_cost
@pytest.mark.parametrize("shape", [(4,), (6, 4), (1, 6, 5), (7, 1)])
def test_one_that_does_not_broadcast_is_refused(cost, elements, shape):
    with pytest.raises(
        ValueError, match=rf"mask must have a shape that broadcasts to z's, \(6, 5\), got \({shape[0]},"
    ):
        cost(torch.zeros(6, 5), torch.zeros(6, 5), mask=torch.ones(shape) > 0)


@of_each_cost
@pytest.mark.parametrize("reduction", ["mean", "element_mean"])
def test_it_is_counted_without_memory_of_the_size_of_z(cost, elements, reduction, peak_memory, case_dtype):
    z, y = torch.zeros(400, 500, dtype=case_dtype, requires_grad=True), torch.zeros(400, 500, dtype=case_dtype)
    mask = torch.arange(500) < 3
    by_sum, by_mean = (
        peak_memory(lambda reduction=reduction: cost(z, y, mask=mask, reduction=reduction).backward())
        for reduction in ("sum", reduction)
    )
    assert by_mean < by_sum + 10_000
