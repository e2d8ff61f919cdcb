"""A layer of few classes and examples is computed as the layer and then the cost, and keeps the same promises."""

import pytest
import torch
from heads import fused, layer, unfused
from torch.autograd import forward_ad
from torch.nn import functional as F

from ce_torch import explain
from ce_torch.costs.linear import small
from ce_torch.functional import linear_log_likelihood, linear_softmax_statistics, log_likelihood, softmax_statistics

Y = torch.tensor([0, 3, 8, 4, 6, 1, 1])


@pytest.fixture(autouse=True)
def large_layers():
    """Let small layers be small."""


@pytest.fixture
def calls(monkeypatch):
    """Return the list of the shapes of all z that are computed."""
    shapes, linear = [], small.linear
    monkeypatch.setattr(small, "linear", lambda *tensors: shapes.append((z := linear(*tensors)).shape) or z)
    return shapes


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_gradients_are_float64s(dtype, reduction, calls):
    inputs = layer(dtype=dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found = fused(*inputs, Y, reduction=reduction, label_smoothing=0.1, temperature=0.7, out_dtype=torch.float32)
    right = unfused(*exact, Y, reduction=reduction, label_smoothing=0.1, temperature=0.7)
    torch.testing.assert_close(found, right.float(), rtol=2e-6, atol=1e-6)
    gradients = [torch.autograd.grad(C.sum(), tensors) for C, tensors in ((found, inputs), (right, exact))]
    torch.testing.assert_close(gradients[0], tuple(gradient.to(dtype) for gradient in gradients[1]))
    assert calls == [(7, 9)]


def test_no_block_is_taken(calls):
    x, weight, bias = layer(dtype=torch.float32)
    found = explain(linear_log_likelihood, x, weight, Y, bias)
    assert found == explain(log_likelihood, F.linear(x, weight, bias), Y)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 3.0},
        {"z_loss": 0.1},
        {"token_weight": torch.ones(7)},
        {"class_weight": torch.ones(9)},
        {"denominator": 2.0},
        {"temperature": torch.ones(7)},
    ],
    ids=lambda options: ", ".join(options),
)
def test_no_block_is_taken_with_options_either(options, calls):
    fused(*layer(dtype=torch.float32), Y, **options)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 3.0, "label_smoothing": 0.1},
        {"softcap": 3.0, "temperature": torch.ones(7)},
        {"block_rows": 2},
        {"max_memory": "64 MB"},
        {"adapter": (torch.ones(2, 5), torch.ones(9, 2))},
    ],
    ids=lambda options: ", ".join(options),
)
def test_other_options_take_the_usual_way(options, calls):
    fused(*layer(dtype=torch.float32), Y, **options)
    assert not calls


@pytest.mark.parametrize("numbers", [(300, 10, 600), (500, 3000, 10), (10, 2000, 500)])
def test_a_layer_with_much_to_copy_is_not_small(numbers, calls):
    N, D, K = numbers
    fused(*layer(N, D, K, torch.bfloat16), torch.zeros(N, dtype=torch.int64))
    assert not calls


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize("options", [{}, {"token_weight": torch.tensor([1, 2, 0, 1, 1, 1, 1.0]).double()}], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_does_not_count_may_hold_anything(value, options, is_compiled):
    x, weight, bias = layer()
    y = Y if options else Y.masked_fill(Y == 8, -100)

    def cost(x, weight, bias):
        return fused(x, weight, bias, y, **options)

    right = torch.autograd.grad(cost(x, weight, bias), (x, weight, bias))
    with torch.no_grad():
        x[2] = value
    torch.compiler.reset()
    cost = torch.compile(cost, fullgraph=True, backend="aot_eager") if is_compiled else cost
    torch.testing.assert_close(torch.autograd.grad(cost(x, weight, bias), (x, weight, bias)), right)


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1}, {"softcap": 2.0}, {"reduction": "none"}], ids=str)
def test_a_weight_of_0_has_its_gradient(options):
    inputs = layer()
    token_weight = torch.linspace(0, 2, 7, dtype=torch.float64, requires_grad=True)
    costs = [head(*inputs, Y, token_weight=token_weight, **options) for head in (fused, unfused)]
    torch.testing.assert_close(*(torch.autograd.grad(C.sum(), [*inputs, token_weight]) for C in costs))
    assert_tangents_agree(lambda head, weight: head(*inputs, Y, token_weight=weight, **options), token_weight.detach())


def assert_tangents_agree(cost, moved):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(moved, moved.cos())
        torch.testing.assert_close(*(forward_ad.unpack_dual(cost(head, dual)).tangent for head in (fused, unfused)))


@pytest.mark.parametrize("y", [Y.masked_fill(Y == 8, -100), None], ids=["classes", "none"])
@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "eager"])
def test_statistics_are_those_of_z(y, is_compiled, calls):
    x, weight, bias = layer()
    options = {"temperature": 0.7, "softcap": 3.0, "entropy": True}
    statistics = linear_softmax_statistics
    if is_compiled:
        torch.compiler.reset()
        statistics = torch.compile(statistics, fullgraph=True, backend="aot_eager")
    found = statistics(x, weight, y, bias, **options)
    right = softmax_statistics(F.linear(x, weight, bias), y, **options)
    torch.testing.assert_close(found, right)
    totals = (sum(number.sum() for number in numbers[:3] if number is not None) for numbers in (found, right))
    torch.testing.assert_close(*(torch.autograd.grad(total, (x, weight, bias)) for total in totals))
    assert is_compiled or len(calls) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": torch.zeros(1)}, r"bias must have shape \(9,\)"),
        ({"bias": torch.zeros(9).double()}, "bias must be of x's dtype"),
        ({"weight": torch.zeros(5)}, "weight must have shape"),
        ({"weight": torch.zeros(9, 4)}, "weight must have shape"),
        ({"y": Y + 1}, "9"),
        ({"y": Y[:1]}, "y must have shape"),
        ({"reduction": "all"}, "reduction"),
        ({"class_weight": torch.ones(3)}, "class_weight must have shape"),
        ({"token_weight": torch.ones(3)}, "token_weight must have shape"),
        ({"temperature": torch.ones(3)}, "temperature must be a number or a tensor"),
        ({"denominator": 2.0, "reduction": "sum"}, "denominator goes with"),
        ({"y": torch.ones(7, 9), "ignore_index": 3}, "ignore_index=3 goes with class indices"),
    ],
    ids=str,
)
def test_errors_are_those_of_any_layer(change, message):
    x, weight, bias = layer(dtype=torch.float32)
    arguments = {"x": x, "weight": weight, "y": Y, "bias": bias} | change
    with pytest.raises((TypeError, ValueError), match=message):
        linear_log_likelihood(**arguments)


@pytest.mark.parametrize("name", ["x", "weight", "y"])
def test_none_in_place_of_a_tensor_is_named(name):
    x, weight, _ = layer(dtype=torch.float32)
    with pytest.raises(TypeError, match=f"{name} must be a tensor, got NoneType"):
        linear_log_likelihood(**{"x": x, "weight": weight, "y": Y} | {name: None})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_examples_cost_nothing(dtype):
    x, weight, bias = layer(dtype=dtype)
    assert fused(x[:0], weight, bias, Y[:0], reduction="sum") == 0
    assert linear_softmax_statistics(x[:0], weight, Y[:0]).log_prob.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_weight": torch.ones(3)}, "token_weight must have shape"),
        ({"class_weight": torch.tensor(1.0)}, "class_weight must have shape"),
        ({"weight": torch.ones(9, 5, device="meta")}, "weight must be on"),
        ({"y": [0] * 7}, "y must be a tensor"),
    ],
    ids=str,
)
def test_errors_name_the_argument_in_what_is_compiled_too(change, message):
    x, weight, _ = layer(dtype=torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(linear_log_likelihood, backend="aot_eager")
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        compiled(**{"x": x, "weight": weight, "y": Y} | change)
