"""Options are checked when a module is built, when one is set later, and when a cost is called."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn

from ce_torch import CrossEntropyCost, LinearLogLikelihoodCost, LogLikelihoodCost, QuadraticCost
from ce_torch.costs._arguments import OPTIONS
from ce_torch.costs._registry import COSTS
from ce_torch.functional import (
    cross_entropy,
    linear_distillation,
    linear_distillation_top_k,
    linear_log_likelihood,
    linear_softmax_statistics,
    log_likelihood,
    quadratic,
    softmax_statistics,
)

MODULES = {cost: cost.function for cost in (*COSTS.values(), LinearLogLikelihoodCost)}

z, y = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), torch.tensor([0, 2])

WRONG = {
    "temperature": [
        (True, TypeError, "a finite number of at least 1e-38, got True"),
        ("hot", TypeError, "a finite number of at least 1e-38, got 'hot'"),
        (None, TypeError, "a finite number of at least 1e-38, got None"),
        (np.ones(1), TypeError, r"a finite number of at least 1e-38, got array\(\[1.\]\)"),
        (0, ValueError, "a finite number of at least 1e-38, got 0"),
        (-1.0, ValueError, "a finite number of at least 1e-38, got -1.0"),
        (float("inf"), ValueError, "a finite number of at least 1e-38, got inf"),
        (np.float32("nan"), ValueError, "a finite number of at least 1e-38, got .*nan"),
        (torch.tensor(1), TypeError, r"floating point .* got torch.int64; pass temperature.float\(\)"),
        (torch.tensor(0.0), ValueError, "a finite number of at least 1e-38, got 0.0"),
    ],
    "label_smoothing": [
        (False, TypeError, "a number from 0 to 1, got False"),
        ("x", TypeError, "a number from 0 to 1, got 'x'"),
        (torch.tensor(0.1), TypeError, r"a number from 0 to 1, got a tensor .*; pass label_smoothing.item\(\)"),
        (1.5, ValueError, "a number from 0 to 1, got 1.5"),
        (-0.1, ValueError, "a number from 0 to 1, got -0.1"),
        (float("nan"), ValueError, "a number from 0 to 1, got nan"),
    ],
    "ignore_index": [
        (1.5, TypeError, "an integer, got 1.5"),
        (np.float64(1), TypeError, "an integer, got .*1.0"),
        (True, TypeError, "an integer, got True"),
        (None, TypeError, "an integer, got None; leave it out: its default, -100, is no class"),
    ],
    "softcap": [
        (0, ValueError, "a finite number of at least 1e-38, or None, got 0"),
        ("hot", TypeError, "a finite number of at least 1e-38, or None, got 'hot'"),
    ],
    "z_loss": [
        (-1e-4, ValueError, "a finite number of at least 0, got -0.0001"),
        (float("nan"), ValueError, "a finite number of at least 0, got nan"),
        (None, TypeError, "a finite number of at least 0, got None"),
    ],
    "max_memory": [
        (0, ValueError, r"a number of bytes, at least 1, a text such as \"64 MB\", or None, got 0"),
        ("64", ValueError, r"a number of bytes, .*, or None, got '64'; units are B, kB, .* and GiB"),
        (1.5, TypeError, r"a number of bytes, .*, got 1.5"),
    ],
    "adapter": [
        (torch.ones(3, 3), TypeError, r"a pair of tensors, A \(r, D\) and B \(K, r\), or None, got a tensor"),
        ((torch.ones(1, 3),), TypeError, r"a pair of tensors, A \(r, D\) and B \(K, r\), or None, got \("),
        (5, TypeError, r"a pair of tensors, .*, got 5"),
    ],
    "block_rows": [
        (0, ValueError, "a number of examples, at least 1, or None, got 0"),
        (1.5, TypeError, "a number of examples, at least 1, or None, got 1.5"),
        (True, TypeError, "a number of examples, at least 1, or None, got True"),
    ],
    "reduction": [
        ("men", ValueError, '"mean", .*"sum" or "none", got \'men\''),
        (None, ValueError, '"mean", .*"sum" or "none", got None'),
        (["mean"], ValueError, r"\"mean\", .*\"sum\" or \"none\", got \['mean'\]"),
    ],
    "out_dtype": [
        (torch.int64, TypeError, "torch.float64, .* or None for that of z, got torch.int64"),
        ("float32", TypeError, "torch.float64, .* or None for that of z, got 'float32'"),
        (float, TypeError, "torch.float64, .* or None for that of z, got <class 'float'>"),
    ],
    "mask": [
        (True, TypeError, r"a tensor, got bool; pass torch.tensor\(True\)"),
        ([True, False, True], TypeError, r"a tensor, got list; pass torch.as_tensor\(mask\)"),
        (torch.ones(3), TypeError, r"bool, True for what counts, got torch.float32; pass mask.bool\(\)"),
        (torch.ones(3).to_sparse(), TypeError, r"a dense tensor, got torch.sparse_coo; pass mask.to_dense\(\)"),
    ],
    "denominator": [
        (0, ValueError, r"a finite number greater than 0, a tensor of shape \(\), or None, got 0"),
        ("all", TypeError, r"a finite number greater than 0, a tensor of shape \(\), or None, got 'all'"),
        (torch.ones(1), TypeError, r"a finite number greater than 0, .*, got a tensor of shape \(1,\)"),
    ],
    "alpha": [
        (-1, ValueError, "a number from 0 to 1, or None, got -1"),
        ("x", TypeError, "a number from 0 to 1, or None, got 'x'"),
    ],
    "gamma": [
        (-0.5, ValueError, "a finite number of at least 0, got -0.5"),
        (None, TypeError, "a finite number of at least 0, got None"),
    ],
    "dim": [
        (True, TypeError, "an integer, or None, got True"),
        (1.0, TypeError, "an integer, or None, got 1.0"),
    ],
    "activation": [("relu", ValueError, '"sigmoid" or "linear", got \'relu\'')],
}
OF_WEIGHTS = [
    (3.0, TypeError, r"a tensor, got float; pass torch.tensor\(3.0\)"),
    (3, TypeError, r"a tensor, got int; pass torch.tensor\(3.0\)"),
    ([1.0, 2.0, 3.0], TypeError, r"a tensor, got list; pass torch.as_tensor\(NAME\)"),
    (np.ones(3), TypeError, r"a tensor, got ndarray; pass torch.as_tensor\(NAME\)"),
    (torch.ones(3).long(), TypeError, r"floating point .*, got torch.int64; pass NAME.float\(\)"),
    (torch.ones(3).bool(), TypeError, r"floating point .*, got torch.bool; pass NAME.float\(\)"),
    (torch.ones(3).to_sparse(), TypeError, r"a dense tensor, got torch.sparse_coo; pass NAME.to_dense\(\)"),
]
WRONG |= {
    name: [(value, error, text.replace("NAME", name)) for value, error, text in OF_WEIGHTS]
    for name in ("weight", "pos_weight", "class_weight", "token_weight")
}


def built(module, **options):
    return module(3, 3, **options) if module is LinearLogLikelihoodCost else module(**options)


def called(module, **options):
    if module is LinearLogLikelihoodCost:
        return linear_log_likelihood(z, torch.eye(3), y, **options)
    return MODULES[module](z, y, **options)


def keywords(function):
    return {p.name: p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


EVERY_OPTION = [(module, name) for module, function in MODULES.items() for name in keywords(function)]
EVERY_WRONG = [(module, name, *wrong) for module, name in EVERY_OPTION for wrong in WRONG.get(name, [])]


def test_every_option_has_its_check():
    of_modules = {name for _, name in EVERY_OPTION} - {"group"}
    others = softmax_statistics, linear_softmax_statistics, linear_distillation, linear_distillation_top_k
    assert of_modules == set(WRONG)
    assert of_modules <= set(OPTIONS) <= of_modules.union(*map(keywords, others))


@pytest.mark.parametrize(("module", "name", "value", "error", "text"), EVERY_WRONG)
def test_a_wrong_option_is_refused_when_a_module_is_built_and_set_and_when_a_cost_is_called(
    module, name, value, error, text
):
    match = f"{name} must be {text}"
    with pytest.raises(error, match=match):
        built(module, **{name: value})
    with pytest.raises(error, match=match):
        called(module, **{name: value})
    if name != "activation":
        cost = built(module)
        with pytest.raises(error, match=match):
            setattr(cost, name, value)
        assert cost.options == built(module).options


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_the_options_of_its_function(module):
    options = keywords(module)
    options = {name: options[name] for name in options if name not in ("device", "dtype")}
    assert options == keywords(MODULES[module])


@pytest.mark.parametrize("module", MODULES)
def test_a_misspelt_option_is_refused(module):
    with pytest.raises(TypeError, match="unexpected keyword argument 'reducton'"):
        built(module, reducton="sum")
    with pytest.raises(TypeError, match="unexpected keyword argument 'reducton'"):
        called(module, reducton="sum")


OTHERS = {
    "temperature": 2.0,
    "weight": torch.tensor([0.5, 1.0, 2.0]),
    "pos_weight": torch.tensor([3.0, 0.1, 1.0]),
    "class_weight": torch.tensor([0.5, 1.0, 2.0]),
    "alpha": 0.5,
    "gamma": 1.0,
    "ignore_index": 2,
    "label_smoothing": 0.5,
    "mask": torch.tensor([True, False, True]),
    "reduction": "none",
    "softcap": 2.0,
    "z_loss": 0.1,
    "block_rows": 1,
    "max_memory": 10**6,
    "out_dtype": torch.float64,
}


@pytest.mark.parametrize(("module", "name"), [pair for pair in EVERY_OPTION if pair[1] in OTHERS])
def test_an_option_that_is_set_later_counts_as_if_built_so(module, name):
    cost, expected = built(module), built(module, **{name: OTHERS[name]})
    expected.load_state_dict(cost.state_dict(), strict=False)
    cost(z, y)
    setattr(cost, name, OTHERS[name])
    torch.testing.assert_close(cost(z, y), expected(z, y), rtol=0, atol=0)
    torch.testing.assert_close(cost.delta(z, y), expected.delta(z, y), rtol=0, atol=0)
    assert str(cost) == str(expected)


@pytest.mark.parametrize("module", MODULES)
def test_an_option_of_one_call_is_for_that_call_alone(module):
    cost = built(module)
    torch.testing.assert_close(cost(z, y, reduction="none").mean(), cost(z, y))
    with pytest.raises(ValueError, match="reduction must be"):
        cost(z, y, reduction="men")
    assert cost.reduction == "mean"


def test_the_activation_of_a_cost_is_its_method_and_is_not_set():
    cost = QuadraticCost()
    with pytest.raises(
        AttributeError, match=r"activation is a method .*; build another QuadraticCost\(activation=...\)"
    ):
        cost.activation = "linear"
    assert cost.activation(torch.zeros(1)) == 0.5


def test_a_compiled_cost_sees_an_option_that_is_set_later():
    cost = LogLikelihoodCost()
    compiled = torch.compile(cost, backend="eager", fullgraph=True)
    compiled(z, y)
    cost.label_smoothing, cost.weight = 0.5, OTHERS["weight"]
    torch.testing.assert_close(compiled(z, y), log_likelihood(z, y, label_smoothing=0.5, weight=OTHERS["weight"]))


def test_a_compiled_cost_refuses_a_wrong_option():
    compiled = torch.compile(log_likelihood, backend="eager", dynamic=True)
    for temperature in (1.5, 2.5):  # the second turns it into a symbol
        compiled(z, y, temperature=temperature)
    with pytest.raises(ValueError, match=r"temperature must be a finite number of at least 1e-38, got -1\.0"):
        compiled(z, y, temperature=-1.0)


def test_weights_move_and_are_saved_with_the_module_whenever_they_are_set():
    cost = CrossEntropyCost(pos_weight=torch.ones(3))
    cost.weight = torch.full((3,), 2.0)
    assert set(cost.state_dict()) == {"weight", "pos_weight"}
    assert {value.dtype for value in cost.double().state_dict().values()} == {torch.float64}
    cost.weight = None
    assert set(cost.state_dict()) == {"pos_weight"}
    other = CrossEntropyCost(pos_weight=torch.zeros(3))
    other.load_state_dict(cost.float().state_dict())
    assert other.pos_weight.equal(torch.ones(3))


def test_a_weight_may_be_a_parameter_and_stop_being_one():
    cost = LogLikelihoodCost(weight=nn.Parameter(torch.ones(3)))
    assert [name for name, _ in cost.named_parameters()] == ["weight"]
    cost.weight = torch.ones(3)
    assert [*cost.named_parameters()] == []
    assert [name for name, _ in cost.named_buffers()] == ["weight"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cost: pickle.loads(pickle.dumps(cost))])
def test_a_copy_has_the_options_that_were_set(copied):
    cost = LogLikelihoodCost()
    cost.label_smoothing, cost.temperature, cost.weight = 0.5, nn.Parameter(torch.tensor(2.0)), OTHERS["weight"]
    twin = copied(cost)
    torch.testing.assert_close(twin(z, y), cost(z, y), rtol=0, atol=0)
    twin.label_smoothing = 0.0
    assert cost.label_smoothing == 0.5


@pytest.mark.parametrize("number", [np.float64, np.float32, np.float16, np.int64, np.array, int])
def test_numpys_numbers_are_numbers(number):
    cost = LogLikelihoodCost(temperature=number(2), label_smoothing=number(0))
    assert cost(z, y) == log_likelihood(z, y, temperature=number(2)) == log_likelihood(z, y, temperature=2.0)
    assert type(cost.temperature) in (int, float)


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8, np.array])
def test_numpys_integers_are_integers(number):
    cost = LogLikelihoodCost(ignore_index=number(2))
    assert cost(z, y) == log_likelihood(z, y, ignore_index=number(2)) == log_likelihood(z[:1], y[:1])
    assert type(cost.ignore_index) is int


POSITIONAL = [
    (log_likelihood, 1, "log_likelihood takes 2 arguments by position, got 3; its options are keywords: weight=..."),
    (log_likelihood, 3, "keywords: weight=..., reduction=..., ignore_index=..."),
    (cross_entropy, 1, "cross_entropy takes 2 arguments by position, got 3; its options are keywords: weight=..."),
    (quadratic, 1, "quadratic takes 2 arguments by position, got 3; its options are keywords: reduction=..."),
    (log_likelihood, 20, "keywords: weight=..., reduction=..., ignore_index=..., label_smoothing=..."),
]


@pytest.mark.parametrize(("cost", "more", "text"), POSITIONAL)
def test_options_by_position_are_refused_by_the_names_that_they_have_in_pytorchs_loss(cost, more, text):
    with pytest.raises(TypeError, match=f"{re.escape(text)}$"):
        cost(z, y, *[None] * more)


def test_options_of_a_layer_by_position_are_refused():
    with pytest.raises(TypeError, match=r"takes 4 arguments by position, got 5; .* keywords: temperature=..., class_w"):
        linear_log_likelihood(z, torch.eye(3), y, torch.zeros(3), 2.0)
