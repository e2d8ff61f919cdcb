"""A learned temperature: a tensor whose first and second derivatives are right."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ce_torch import LinearLogLikelihoodCost, LogLikelihoodCost
from ce_torch.functional import linear_log_likelihood, log_likelihood

pytestmark = pytest.mark.every_backend

generator = torch.Generator().manual_seed(0)
X, W, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(5, 4), (3, 4), (3,)])
T = torch.tensor(0.7, dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 1, 1, 0])
OUTPUTS = torch.rand(5, 3, generator=generator, dtype=torch.float64)
OPTIONS = [
    {},
    {"label_smoothing": 0.2},
    {"weight": torch.tensor([0.5, 1.0, 2.0])},
    {"label_smoothing": 0.2, "weight": torch.tensor([0.5, 1.0, 2.0]), "reduction": "sum"},
]
EVERY = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "plain")
EITHER = pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])


def formula(temperature, y, options):
    """Return the cost by PyTorch's own operations, which autograd differentiates."""
    options = options | {"weight": options["weight"].double()} if "weight" in options else options
    return F.cross_entropy((X @ W.T + b) / temperature, y, **options)


def ours(temperature, y, options):
    return log_likelihood(X @ W.T + b, y, temperature=temperature, **options)


def ours_with_the_layer(temperature, y, options):
    options = {"class_weight" if name == "weight" else name: value for name, value in options.items()}
    return linear_log_likelihood(X, W, y, b, temperature=temperature, **options)


def value_and_derivatives(cost, y, options):
    temperature = T.clone().requires_grad_()
    C = cost(temperature, y, options)
    (first,) = torch.autograd.grad(C, temperature, create_graph=True)
    (second,) = torch.autograd.grad(first, temperature)
    return C, first, second


@EVERY
@EITHER
@pytest.mark.parametrize("cost", [ours, ours_with_the_layer])
def test_value_and_two_derivatives_by_the_temperature_are_autograds_of_the_formula(cost, y, options):
    torch.testing.assert_close(value_and_derivatives(cost, y, options), value_and_derivatives(formula, y, options))


@EITHER
@pytest.mark.parametrize("cost", [ours, ours_with_the_layer])
def test_forward_mode_by_the_temperature(cost, y):
    derivatives = (torch.func.jacfwd(lambda t, cost=cost: cost(t, y, {}))(T) for cost in (cost, formula))
    torch.testing.assert_close(*derivatives)


@EITHER
@pytest.mark.parametrize("cost", [ours, ours_with_the_layer])
def test_a_temperature_is_mapped_over(cost, y):
    temperatures = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    mapped = torch.vmap(lambda t: cost(t, y, {}))(temperatures)
    torch.testing.assert_close(mapped, torch.stack([formula(t, y, {}) for t in temperatures]))


@EVERY
@EITHER
@pytest.mark.parametrize("cost", [ours, ours_with_the_layer])
def test_it_compiles_as_one_graph(cost, y, options):
    torch.compiler.reset()
    temperature = T.clone().requires_grad_()
    C = torch.compile(cost, backend="aot_eager", fullgraph=True)(temperature, y, options)
    (gradient,) = torch.autograd.grad(C, temperature)
    torch.testing.assert_close((C, gradient), value_and_derivatives(formula, y, options)[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_temperature_of_any_precision_goes_with_z_of_any(dtype, temperature_dtype):
    z = (X @ W.T + b).to(dtype).requires_grad_()
    temperature = torch.tensor(2.0, dtype=temperature_dtype, requires_grad=True)
    C = log_likelihood(z, CLASSES, temperature=temperature)
    C.backward()
    exact, T = z.detach().double(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(exact / T, CLASSES).backward()
    assert (C.dtype, z.grad.dtype, temperature.grad.dtype) == (dtype, dtype, temperature_dtype)
    torch.testing.assert_close(C, F.cross_entropy(exact / T, CLASSES).to(dtype))
    torch.testing.assert_close(temperature.grad, T.grad.to(temperature_dtype))


def test_a_class_that_is_ruled_out_adds_nothing_to_the_gradient_by_the_temperature():
    temperature, expected = (T.clone().requires_grad_() for _ in range(2))
    z = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, -torch.inf, 0.1]], dtype=torch.float64)
    y = torch.tensor([0, 2])
    log_likelihood(z, y, temperature=temperature).backward()
    log_likelihood(z[z.isfinite()].view(2, 2), torch.tensor([0, 1]), temperature=expected).backward()
    torch.testing.assert_close(temperature.grad, expected.grad)


def test_delta_and_activation_are_those_of_the_number():
    z = X @ W.T + b
    learned, fixed = (LogLikelihoodCost(temperature=temperature) for temperature in (T, T.item()))
    torch.testing.assert_close(learned.delta(z, CLASSES), fixed.delta(z, CLASSES))
    torch.testing.assert_close(learned.activation(z), fixed.activation(z))


@pytest.mark.parametrize("cost", [LogLikelihoodCost, lambda **options: LinearLogLikelihoodCost(3, 3, **options)])
def test_an_optimizer_finds_and_learns_a_temperature(cost):
    cost = cost(temperature=nn.Parameter(torch.tensor(1.0)))
    z = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    if hasattr(cost, "layer"):
        cost.layer.requires_grad_(False)
        nn.init.eye_(cost.layer.weight)
        nn.init.zeros_(cost.layer.bias)
    optimizer = torch.optim.SGD([p for p in cost.parameters() if p.requires_grad], lr=0.1)
    cost(z, torch.tensor([0, 1])).backward()
    optimizer.step()
    assert 0 < cost.temperature.item() < 1  # surer is better, since z is right
    assert "temperature" in cost.state_dict()


def test_a_temperature_that_was_learned_away_is_refused():
    cost = LogLikelihoodCost(temperature=nn.Parameter(torch.tensor(1.0)))
    with torch.no_grad():
        cost.temperature.sub_(2)
    with pytest.raises(ValueError, match=r"temperature must be a finite number of at least 1e-38, got -1.0"):
        cost(X.float() @ W.T.float(), CLASSES)


def test_where_classes_are_shared_out_a_temperature_is_a_number():
    with pytest.raises(ValueError, match="temperature must be a number where classes are shared out among processes"):
        linear_log_likelihood(X, W, CLASSES, temperature=T, group=object())


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_gradient_by_an_infinite_weighted_input_is_divided_by_the_temperature_too(temperature):
    z = torch.tensor([[torch.inf, 1.0, torch.inf]], dtype=torch.float64, requires_grad=True)
    by_number, by_tensor = (
        torch.autograd.grad(log_likelihood(z, torch.tensor([0]), temperature=T), z)[0]
        for T in (temperature, torch.tensor(temperature))
    )
    torch.testing.assert_close(by_tensor, by_number)
