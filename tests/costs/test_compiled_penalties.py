"""A compiled cost has no second derivatives outside of what is compiled; what asks for them gets an error.

AOTAutograd would drop them silently.
"""

import inspect

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ce_torch import use_backend
from ce_torch.costs.linear import small as small_layers
from ce_torch.functional import (
    cross_entropy,
    focal,
    linear_distillation,
    linear_distillation_top_k,
    linear_log_likelihood,
    linear_softmax_statistics,
    log_likelihood,
    quadratic,
    softmax_statistics,
)


def penalty(cost, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a cost and the squares of its gradients."""
    C = cost(*inputs)
    moved = [tensor for tensor in inputs if tensor.requires_grad]
    gradients = torch.autograd.grad(C, moved, create_graph=True)
    return torch.autograd.grad(C + sum(gradient.square().sum() for gradient in gradients), moved)


def assert_right_or_an_error(cost, *inputs: Tensor, compiler: str = "aot_eager") -> None:
    try:
        found = penalty(torch.compile(cost, backend=compiler, fullgraph=True), *inputs)
    except RuntimeError as error:
        found = str(error)
    if isinstance(found, str):
        assert "does not currently support double backward" in found
    else:
        assert_close(found, penalty(cost, *inputs))


@pytest.mark.usefixtures("formulas_and_operators")
def test_a_penalty_of_a_compiled_cost_is_right_or_an_error(whole_case):
    z, y = whole_case.examples(6, 3)
    z.requires_grad_()
    assert_close(penalty(torch.compile(whole_case, backend="eager"), z, y), penalty(whole_case, z, y))
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        penalty(torch.compile(whole_case, backend="aot_eager"), z, y)


@pytest.mark.usefixtures("needs_a_compiler")
@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: cross_entropy(z, y, weight=y, reduction="none").sum(),
        lambda z, y: quadratic(z, y),
        lambda z, y: focal(z, y),
        lambda z, y: log_likelihood(z, y, weight=torch.ones(3), temperature=2.0),
        lambda z, y: (softmax_statistics(z, y, entropy=True).entropy * y.sum(-1)).sum(),
        lambda z, y: softmax_statistics(z, y).log_prob.sum(),
    ],
)
@pytest.mark.parametrize("moved", ["z", "y", "z and y"])
@pytest.mark.parametrize(
    ("compiler", "backend"), [("aot_eager", "auto"), ("aot_eager", "formulas"), ("inductor", "auto")]
)
def test_so_is_one_of_any_gradient(loss, moved, compiler, backend):
    torch.compiler.reset()
    z, y = torch.rand(4, 3), torch.rand(4, 3)
    z.requires_grad_("z" in moved)
    y.requires_grad_("y" in moved)
    with use_backend(backend):
        assert_right_or_an_error(loss, z, y, compiler=compiler)


CLASSES = torch.tensor([0, 3, -100, 4, 6, 1, 1])
WEIGHT = torch.linspace(-2, 1, 45).reshape(9, 5).cos()
INPUTS = {
    "z": torch.linspace(-2, 2, 63).reshape(7, 9).cos(),
    "x": torch.linspace(-1, 2, 35).reshape(7, 5).sin(),
    "weight": WEIGHT,
    "bias": torch.linspace(-1, 1, 9),
    "temperature": torch.tensor(0.5),
    "temperatures": torch.linspace(0.5, 2, 7),
    "class_weight": torch.linspace(0.5, 2, 9),
    "token_weight": torch.linspace(1, 2, 7),
    "denominator": torch.tensor(3.0),
    "A": torch.linspace(-1, 1, 10).reshape(2, 5),
    "B": torch.linspace(-1, 2, 18).reshape(9, 2),
    "teacher_x": torch.linspace(-2, 2, 21).reshape(7, 3).cos(),
    "teacher_weight": torch.linspace(-1, 1, 27).reshape(9, 3),
    "log_prob": torch.full((7, 1), 0.3).log(),
}


def of_z(z, temperature):
    return log_likelihood(z, CLASSES, temperature=temperature)


def statistics_of_z(z, temperatures):
    return softmax_statistics(z, entropy=True, temperature=temperatures).entropy.sum()


def with_class_weights_of_z(z, class_weight):
    return log_likelihood(z, CLASSES, weight=class_weight)


def under_autocast(x, weight):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return linear_log_likelihood(x, weight, CLASSES)


def plain(x, weight, bias):
    return linear_log_likelihood(x, weight, CLASSES, bias)


def of_each_example(x, weight):
    return linear_log_likelihood(x, weight, CLASSES, reduction="none").square().sum()


def with_temperature(x, weight, temperature):
    return linear_log_likelihood(x, weight, CLASSES, temperature=temperature, softcap=2.0)


def with_weights(x, class_weight, token_weight):
    return linear_log_likelihood(x, WEIGHT, CLASSES, class_weight=class_weight, token_weight=token_weight)


def with_denominator(x, denominator):
    return linear_log_likelihood(x, WEIGHT, CLASSES, label_smoothing=0.1, denominator=denominator)


def with_adapter(x, A, B):
    return linear_log_likelihood(x, WEIGHT, CLASSES, adapter=(A, B))


def statistics(x, weight, temperature):
    numbers = linear_softmax_statistics(x, weight, CLASSES, entropy=True, temperature=temperature)
    return sum(number.sum() for number in numbers[:3])


def distillation(x, weight, teacher_x, teacher_weight, token_weight):
    return linear_distillation(x, weight, teacher_x, teacher_weight, token_weight=token_weight)


def distillation_of_a_class(x, weight, log_prob):
    return linear_distillation_top_k(x, weight, log_prob, torch.ones(7, 1, dtype=torch.int64))


CASES = (
    of_z,
    statistics_of_z,
    with_class_weights_of_z,
    under_autocast,
    plain,
    of_each_example,
    with_temperature,
    with_weights,
    with_denominator,
    with_adapter,
    statistics,
    distillation,
    distillation_of_a_class,
)


def names(cost) -> list[str]:
    return [*inspect.signature(cost).parameters]


@pytest.mark.parametrize(
    ("cost", "moved"),
    [pytest.param(cost, name, id=f"{cost.__name__}-{name}") for cost in CASES for name in names(cost)],
)
@pytest.mark.parametrize("small", [True, False], ids=["small", "large"])
def test_a_penalty_by_any_input_of_a_compiled_cost_is_right_or_an_error(cost, moved, small, monkeypatch):
    monkeypatch.setattr(small_layers, "MOST_ELEMENTS", 1 << 17 if small else 0)
    torch.compiler.reset()
    inputs = [INPUTS[name].clone().requires_grad_(name == moved) for name in names(cost)]
    assert_right_or_an_error(cost, *inputs)
