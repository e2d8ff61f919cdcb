"""Bad arguments are refused before any work: the sentence names the argument, what it was, what is expected."""

import pytest
import torch

from ce_torch import CrossEntropyCost, LogLikelihoodCost, QuadraticCost
from ce_torch.functional import linear_log_likelihood

z = torch.zeros(4, 3)
indices = torch.zeros(4, dtype=torch.int64)

REFUSED = [
    ([[0.0]], indices, TypeError, "z must be a tensor, got list"),
    (z, [0, 1], TypeError, "y must be a tensor, got list"),
    (indices, indices, TypeError, r"z must be floating point \(weighted inputs, not classes\), got torch.int64"),
    (torch.tensor(0.0), torch.tensor(0), ValueError, r"z must have shape \(..., C\), the classes last, got a scalar"),
    (z, indices.int(), TypeError, r"y must be floating point .* or int64 \(class indices\), got torch.int32"),
    (z, indices.bool(), TypeError, r"y must be floating point .* or int64 \(class indices\), got torch.bool"),
    (z, torch.zeros(4), ValueError, r"y must have shape \(4, 3\) .* or \(4,\) .*got torch.float32 of shape \(4,\)"),
    (z, torch.zeros(4, 3).long(), ValueError, r"y must have shape .* got torch.int64 of shape \(4, 3\)"),
    (z, torch.zeros(1, 3), ValueError, r"y must have shape .* got torch.float32 of shape \(1, 3\)"),
    (z, indices.to("meta"), ValueError, "y must be on z's device, cpu, got meta"),
]


@pytest.mark.parametrize(("z", "y", "error", "text"), REFUSED)
@pytest.mark.parametrize("call", ["forward", "delta"])
@pytest.mark.parametrize("cost", [QuadraticCost(), CrossEntropyCost(), LogLikelihoodCost()], ids=str)
def test_z_and_y_are_refused_by_name(cost, call, z, y, error, text):
    with pytest.raises(error, match=text):
        getattr(cost, call)(z, y)


@pytest.mark.parametrize("cost", [QuadraticCost, CrossEntropyCost, LogLikelihoodCost])
def test_an_unknown_reduction_is_refused(cost):
    with pytest.raises(ValueError, match='reduction must be "mean", "sum" or "none", got \'avg\''):
        cost(reduction="avg")(z, indices)


@pytest.mark.parametrize("cost", [QuadraticCost(), CrossEntropyCost()], ids=str)
@pytest.mark.parametrize("wrong", [-1, 3, -100])
def test_an_index_that_names_no_class_is_refused(cost, wrong):
    with pytest.raises(ValueError, match=f"y must hold class indices from 0 to 2, got {wrong}"):
        cost(z, torch.tensor([0, 1, 2, wrong]))


@pytest.mark.parametrize(
    ("cost", "option"), [(CrossEntropyCost, "weight"), (CrossEntropyCost, "pos_weight"), (LogLikelihoodCost, "weight")]
)
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ([1.0, 1.0, 1.0], TypeError, "must be a floating point tensor or None, got list"),
        (torch.ones(3).long(), TypeError, "must be a floating point tensor or None, got torch.int64"),
        (torch.ones(3, device="meta"), ValueError, "must be on z's device, cpu, got meta"),
    ],
)
def test_weights_are_refused_by_name(cost, option, value, error, text):
    with pytest.raises(error, match=f"{option} {text}"):
        cost(**{option: value})(z, indices)


def test_a_module_names_the_options_it_has():
    with pytest.raises(TypeError, match="CrossEntropyCost has no option 'wieght'; its options are weight, pos_weight"):
        CrossEntropyCost(wieght=torch.ones(3))


def test_a_module_shows_its_options():
    assert str(LogLikelihoodCost(temperature=2.0)).startswith("LogLikelihoodCost(temperature=2.0, ignore_index=-100")


def test_weights_move_and_are_saved_with_the_module():
    cost = CrossEntropyCost(pos_weight=torch.ones(3)).double()
    assert cost.state_dict()["pos_weight"].dtype == torch.float64


x, weight, bias = torch.zeros(4, 2), torch.zeros(3, 2), torch.zeros(3)
OF_A_LAYER = [
    ({"x": [[0.0]]}, TypeError, "x must be a tensor, got list"),
    ({"x": indices}, TypeError, "x must be floating point, got torch.int64"),
    ({"x": torch.tensor(0.0)}, ValueError, r"x must have shape \(..., D\), .* got a scalar"),
    ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
    ({"weight": weight.double()}, TypeError, "weight must be of x's dtype, torch.float32, got torch.float64"),
    ({"weight": weight.T}, ValueError, r"weight must have shape \(C, 2\).* for x of shape \(4, 2\), got \(2, 3\)"),
    ({"weight": torch.zeros(0, 2)}, ValueError, r"weight must have shape \(C, 2\), a row for each class"),
    ({"weight": weight.to("meta")}, ValueError, "weight must be on x's device, cpu, got meta"),
    ({"bias": torch.zeros(2)}, ValueError, r"bias must have shape \(3,\), one for each class, got \(2,\)"),
    ({"y": [0]}, TypeError, "y must be a tensor, got list"),
    ({"y": indices.int()}, TypeError, r"y must be floating point .* or int64 \(class indices\), got torch.int32"),
    (
        {"y": torch.zeros(4)},
        ValueError,
        r"y must have shape \(4, 3\) .* or \(4,\) .* for x of shape \(4, 2\), got torch.float32 of shape \(4,\)",
    ),
    ({"y": torch.zeros(2).long()}, ValueError, r"y must have shape .* or \(4,\) .* got torch.int64 of shape \(2,\)"),
    (
        {"y": torch.tensor([0, 1, 2, 3])},
        ValueError,
        "y must hold class indices from 0 to 2, or ignore_index=-100, got 3",
    ),
    (
        {"class_weight": torch.ones(2)},
        ValueError,
        r"class_weight must have shape \(3,\), one factor a class, got \(2,\)",
    ),
    ({"temperature": 0}, ValueError, "temperature must be a finite number of at least 1e-38, got 0"),
    ({"label_smoothing": 2}, ValueError, "label_smoothing must be a number from 0 to 1, got 2"),
    ({"reduction": "avg"}, ValueError, 'reduction must be "mean", "sum" or "none", got \'avg\''),
    ({"block_rows": 0}, ValueError, "block_rows must be a number of examples, at least 1, or None, got 0"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), OF_A_LAYER)
def test_arguments_of_a_layer_are_refused_by_name(wrong, error, text):
    with pytest.raises(error, match=text):
        linear_log_likelihood(**{"x": x, "weight": weight, "y": indices, "bias": bias} | wrong)
