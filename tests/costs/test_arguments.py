"""Bad arguments are refused before any work: an error names the argument, what it was, what is expected, what to do."""

import re
import warnings

import pytest
import torch
from torch.nn import functional as F

from ce_torch import CrossEntropyCost, LogLikelihoodCost, QuadraticCost
from ce_torch.costs._registry import COSTS
from ce_torch.functional import cross_entropy, linear_log_likelihood, log_likelihood, quadratic

MODULES = [cost() for cost in COSTS.values()]

z = torch.zeros(4, 3)
indices = torch.zeros(4, dtype=torch.int64)
one_hot = torch.eye(3, dtype=torch.int64)[indices]

REFUSED = [
    (indices, indices, TypeError, r"z must be floating point \(.*\), got torch.int64; pass z.float\(\)"),
    (z.to(torch.complex64), indices, TypeError, r"z must be floating point .*, got torch.complex64; pass z.real"),
    (z.to(torch.float8_e5m2), indices, TypeError, r"z must be floating point .*, got torch.float8_e5m2; pass z.float"),
    (torch.tensor(0.0), torch.tensor(0), ValueError, r"z must have shape \(..., K\), the classes last, got a scalar"),
    ([[0.0, 1.0]], torch.tensor([0]), TypeError, r"z must be a tensor, got list; pass torch.as_tensor\(z\)"),
    (z.numpy(), indices, TypeError, r"z must be a tensor, got ndarray; pass torch.as_tensor\(z\)"),
    (z, [0, 1, 2, 0], TypeError, r"y must be a tensor, got list; pass torch.as_tensor\(y\)"),
    (z, indices.numpy(), TypeError, r"y must be a tensor, got ndarray; pass torch.as_tensor\(y\)"),
    (z.to_sparse(), indices, TypeError, r"z must be a dense tensor, got torch.sparse_coo; pass z.to_dense\(\)"),
    (z, z.to_sparse(), TypeError, r"y must be a dense tensor, got torch.sparse_coo; pass y.to_dense\(\)"),
    (z, indices.int(), TypeError, r"y must be .* int64 \(class indices\), got torch.int32; .*pass y.long\(\)"),
    (z, indices.to(torch.int8), TypeError, r"got torch.int8; .*pass y.long\(\)"),
    (z, indices.bool(), TypeError, r"got torch.bool; .*pass y.long\(\)"),
    (z, one_hot.bool(), TypeError, r"got torch.bool; if these are desired outputs.* pass y.float\(\)"),
    (z, one_hot.int(), TypeError, r"got torch.int32; if these are desired outputs.* pass y.float\(\)"),
    (z, one_hot, ValueError, r"got torch.int64 of shape \(4, 3\); if these are desired outputs.* pass y.float\(\)"),
    (z, one_hot.to(torch.uint8), ValueError, r"got torch.uint8 of shape \(4, 3\); .*pass y.float\(\)"),
    (z, z.to(torch.complex64), TypeError, r"got torch.complex64; .*pass y.real"),
    (
        z,
        torch.zeros(4),
        ValueError,
        r"y must have shape \(4, 3\) .* or \(4,\) .*got torch.float32 of shape \(4,\); .*pass y.long\(\)",
    ),
    (z, indices.unsqueeze(-1), ValueError, r"got torch.int64 of shape \(4, 1\); .*pass y.squeeze\(-1\)"),
    (z, torch.zeros(4, 1), ValueError, r"got torch.float32 of shape \(4, 1\); .*pass y.squeeze\(-1\).long\(\)"),
    (z[:, :1], torch.zeros(4), ValueError, r"got torch.float32 of shape \(4,\); pass y.unsqueeze\(-1\)"),
    (
        z[:, 0],
        indices,
        ValueError,
        r"z of one dimension is one example of 4 neurons; for 4 .* pass z.unsqueeze\(-1\) and",
    ),
    (z[:, 0], indices.bool(), TypeError, r"z of one dimension is one example of 4 neurons"),
    (z[:, 0], torch.zeros(4, 1), ValueError, r"z of one dimension is one example of 4 neurons; .* and y$"),
    (
        z[:, :1],
        torch.tensor([0, 1, 1, 0]),
        ValueError,
        r"class indices from 0 to 0.*, got 1; if these are desired outputs of one neuron, pass y.unsqueeze\(-1\).float",
    ),
    (
        torch.zeros(4, 3, 5),
        torch.zeros(4, 5).long(),
        ValueError,
        r"if the classes come second in z, as in F.cross_entropy, pass dim=1",
    ),
]


def refusal(cost, call, z, y, error):
    with pytest.raises(error) as refused:
        getattr(cost, call)(z, y)
    return str(refused.value)


@pytest.mark.parametrize(("z", "y", "error", "text"), REFUSED)
@pytest.mark.parametrize("call", ["forward", "delta"])
@pytest.mark.parametrize("cost", MODULES, ids=str)
def test_z_and_y_are_refused_by_name(cost, call, z, y, error, text):
    assert re.search(text, refusal(cost, call, z, y, error))


@pytest.mark.parametrize(("z", "y", "error", "text"), REFUSED[1:3] + REFUSED[4:])
def test_what_the_error_says_to_do_mends_z_and_y(z, y, error, text):
    arguments = {"z": z, "y": y}
    expressions = r"(?:pass|and) ((?:torch|z|y)\b(?:[\w.]|\([^)]*\))*)"
    message = refusal(CrossEntropyCost(), "forward", z, y, error)
    for expression in re.findall(expressions, message):
        name = re.search(r"\b[zy]\b", expression)[0]
        arguments[name] = eval(expression, {"torch": torch, **arguments})
    dim = 1 if "pass dim=1" in message else -1
    assert CrossEntropyCost(dim=dim)(**arguments).isfinite()


@pytest.mark.parametrize("cost", MODULES, ids=str)
def test_y_on_another_device_is_refused(cost):
    with pytest.raises(ValueError, match=r"y must be on z's device, cpu, got meta; pass y.to\(z.device\)"):
        cost(z, indices.to("meta"))


@pytest.mark.parametrize("cost", MODULES, ids=str)
def test_z_of_another_shape_than_y_is_refused(cost):
    with pytest.raises(ValueError, match=r"y must have shape .* got torch.float32 of shape \(1, 3\)"):
        cost(z, torch.zeros(1, 3))


@pytest.mark.parametrize("cost", MODULES, ids=str)
def test_class_indices_need_classes(cost):
    with pytest.raises(ValueError, match="got class indices: z has no classes, its last dimension is 0"):
        cost(torch.zeros(4, 0), indices)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("cost", MODULES, ids=str)
def test_nested_tensors_are_refused(cost, layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's: its nested tensors may change
        nested = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=layout)
    with pytest.raises(TypeError, match=r"z must not be a nested tensor; pass its rows, torch.cat\(z.unbind\(\)\)"):
        cost(nested, nested)
    assert torch.cat(nested.unbind()).shape == (3, 3)


@pytest.mark.parametrize("cost", [quadratic, cross_entropy, log_likelihood])
def test_classes_may_be_uint8_as_in_f_cross_entropy(cost):
    y = torch.tensor([0, 2, 1, 2])
    assert cost(z + torch.arange(3), y.to(torch.uint8)) == cost(z + torch.arange(3), y)


def test_an_ignored_class_may_be_uint8():
    y = torch.tensor([0, 255, 1, 2], dtype=torch.uint8)
    z = torch.arange(12.0).view(4, 3)
    torch.testing.assert_close(log_likelihood(z, y, ignore_index=255), F.cross_entropy(z, y, ignore_index=255))


@pytest.mark.parametrize("cost", [QuadraticCost(), CrossEntropyCost()], ids=str)
@pytest.mark.parametrize("wrong", [-1, 3, -100])
def test_an_index_that_names_no_class_is_refused(cost, wrong):
    with pytest.raises(ValueError, match=f"y must hold class indices from 0 to 2, got {wrong}"):
        cost(z, torch.tensor([0, 1, 2, wrong]))


@pytest.mark.parametrize(
    ("cost", "option"), [(CrossEntropyCost, "weight"), (CrossEntropyCost, "pos_weight"), (LogLikelihoodCost, "weight")]
)
@pytest.mark.parametrize("call", ["forward", "delta"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.ones(3, device="meta"), r"must be on z's device, cpu, got meta; pass \w+.to\(z.device\)"),
        (torch.ones(4), r"must have shape \(3,\)|must have a shape that broadcasts to z's, \(4, 3\), got \(4,\)"),
        (torch.ones(5, 4, 3), r"must have shape \(3,\)|must have a shape that broadcasts to z's"),
    ],
)
def test_weights_that_do_not_go_with_z_are_refused_by_name(cost, option, call, value, text):
    with pytest.raises(ValueError, match=f"{option} ({text})"):
        getattr(cost(**{option: value}), call)(z, indices)


@pytest.mark.parametrize("option", ["weight", "pos_weight"])
def test_a_weight_for_each_example_of_sigmoid_neurons_is_a_column(option):
    with pytest.raises(ValueError, match=rf"; for a factor of each example pass {option}.unsqueeze\(-1\)"):
        cross_entropy(z, indices, **{option: torch.ones(4)})


def test_a_weight_for_each_example_of_a_softmax_is_a_factor_of_its_cost():
    with pytest.raises(
        ValueError, match='for a factor of each example multiply the costs of reduction="none" by weight'
    ):
        log_likelihood(z, indices, weight=torch.ones(4))


x, weight, bias = torch.zeros(4, 2), torch.zeros(3, 2), torch.zeros(3)
OF_A_LAYER = [
    ({"x": [[0.0]]}, TypeError, r"x must be a tensor, got list; pass torch.as_tensor\(x\)"),
    ({"x": indices}, TypeError, r"x must be floating point .*, got torch.int64; pass x.float\(\)"),
    ({"x": x.to_sparse()}, TypeError, r"x must be a dense tensor, got torch.sparse_coo; pass x.to_dense\(\)"),
    ({"x": torch.tensor(0.0)}, ValueError, r"x must have shape \(..., D\), .* got a scalar"),
    ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
    (
        {"weight": weight.double()},
        TypeError,
        r"weight must be of x's dtype, torch.float32, got .*; pass weight.to\(x.dty",
    ),
    ({"weight": weight.T}, ValueError, r"weight must have shape \(K, 2\).* for x of shape \(4, 2\), got \(2, 3\)"),
    ({"weight": torch.zeros(0, 2)}, ValueError, r"weight must have shape \(K, 2\), a row for each class"),
    (
        {"weight": weight.to("meta")},
        ValueError,
        r"weight must be on x's device, cpu, got meta; pass weight.to\(x.device\)",
    ),
    ({"bias": torch.zeros(2)}, ValueError, r"bias must have shape \(3,\), one for each class, got \(2,\)"),
    ({"bias": 0.0}, TypeError, r"bias must be a tensor, got float; pass torch.tensor\(0.0\)"),
    ({"y": [0]}, TypeError, r"y must be a tensor, got list; pass torch.as_tensor\(y\)"),
    ({"y": indices.int()}, TypeError, r"y must be .* int64 \(class indices\), got torch.int32; .*pass y.long\(\)"),
    ({"y": one_hot}, ValueError, r"for x of shape \(4, 2\), got torch.int64 of shape \(4, 3\); .*pass y.float\(\)"),
    ({"y": indices.unsqueeze(-1)}, ValueError, r"got torch.int64 of shape \(4, 1\); .*pass y.squeeze\(-1\)"),
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
    ({"class_weight": torch.ones(4)}, ValueError, 'multiply the costs of reduction="none" by class_weight'),
]


@pytest.mark.parametrize(("wrong", "error", "text"), OF_A_LAYER)
def test_arguments_of_a_layer_are_refused_by_name(wrong, error, text):
    with pytest.raises(error, match=text):
        linear_log_likelihood(**{"x": x, "weight": weight, "y": indices, "bias": bias} | wrong)


def test_the_classes_of_a_layer_may_be_uint8():
    y = torch.tensor([0, 2, 1, 2])
    assert linear_log_likelihood(x, weight, y.to(torch.uint8)) == linear_log_likelihood(x, weight, y)
