"""`explain` names the backend that computes a call, and says why."""

import pytest
import torch
from heads import layer

from ce_torch import LogLikelihoodCost, explain, use_backend
from ce_torch.costs.kernels import blocks, cpp
from ce_torch.functional import cross_entropy, linear_log_likelihood, log_likelihood, quadratic

Z, Y, T = torch.linspace(-2, 2, 12).view(4, 3), torch.tensor([0, 1, 2, 0]), torch.full((4, 3), 0.5)


@pytest.fixture(autouse=True)
def backend(needs_kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the kernels; z of more than 64 elements is larger than a block."""
    monkeypatch.setattr(blocks, "ELEMENTS", 64)


LARGE = Z.repeat(10, 1).t().contiguous().t()
TAKEN = "it comes first"


def without_kernels(cost, z, y):
    with use_backend("blocks"):
        return explain(cost, z, y)


CALLS = {
    "class": (lambda: explain(log_likelihood, Z, Y), "cpp", TAKEN),
    "float64": (lambda: explain(quadratic, Z.double(), Y), "cpp", TAKEN),
    "class weights": (lambda: explain(log_likelihood, Z, Y, weight=T[0], label_smoothing=0.1), "cpp", TAKEN),
    "ignored": (lambda: explain(log_likelihood, Z, Y.masked_fill(Y == 1, -100)), "cpp", TAKEN),
    "weights": (lambda: explain(cross_entropy, Z, T, weight=T[:, :1], pos_weight=T[0]), "cpp", TAKEN),
    "module": (lambda: explain(LogLikelihoodCost(), Z, Y), "cpp", TAKEN),
    "vmap": (lambda: explain(torch.vmap(quadratic), Z, T), "cpp", TAKEN),
    "strides": (lambda: explain(quadratic, Z.t(), T.t()), "cpp", TAKEN),
    "large": (lambda: without_kernels(quadratic, LARGE, LARGE), "blocks", TAKEN),
    "small": (lambda: without_kernels(quadratic, Z, T), "formulas", "blocks: z is no larger than a block"),
    "no batch": (lambda: without_kernels(quadratic, LARGE[0], LARGE[0]), "formulas", "blocks: z is a single example"),
    "another device": (lambda: explain(quadratic, Z.to("meta"), T.to("meta")), "formulas", "cpp: z is not on the CPU"),
    "empty": (lambda: explain(quadratic, Z[:0], T[:0]), "formulas", "cpp: z or y has no memory"),
    "negated": (lambda: explain(quadratic, torch._neg_view(Z), T), "formulas", "cpp: an input is no plain tensor"),
    "weights of strides": (
        lambda: explain(cross_entropy, Z.view(2, 2, 3), T.view(2, 2, 3), weight=T[:2, None, :1]),
        "cpp",
        TAKEN,
    ),
    "gradient by y": (lambda: explain(quadratic, Z, T.clone().requires_grad_()), "cpp", TAKEN),
    "torch.func": (lambda: explain(torch.func.grad(quadratic), Z, T), "cpp", TAKEN),
}


@pytest.mark.parametrize(("call", "name", "reason"), CALLS.values(), ids=CALLS)
def test_explain_names_what_runs(call, name, reason, monkeypatch):
    ran, kernel = [], cpp.kernel
    monkeypatch.setattr(cpp, "kernel", lambda *names: ran.append(names) or kernel(*names))
    backend = call()
    assert backend.name == name
    assert reason in backend.reason
    assert bool(ran) == (name == "cpp")


def test_explain_names_a_tracer_that_sees_the_call():
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        assert "a dispatch mode is active" in explain(log_likelihood, Z, Y).reason


def test_explain_says_why_there_are_no_kernels(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "cpp: there is no C++ compiler no-such-compiler" in explain(log_likelihood, Z, Y).reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "the gradients are worked out with the cost"),
        ({"reduction": "none"}, 'not worked out with the cost: reduction is "none"'),
        ({"label_smoothing": 0.1}, "the gradients are worked out with the cost"),
        ({"class_weight": torch.ones(7).requires_grad_()}, "not worked out with the cost: class_weight requires grad"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_explain_says_when_a_cost_with_its_layer_computes_its_gradients(options, reason):
    x, weight, bias = layer(4, 5, 7, torch.float32)
    backend = explain(linear_log_likelihood, x, weight, Y, bias, **options)
    assert backend.name == "blocks"
    assert backend.reason.endswith(reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y: (x.detach(), y), "no gradient is asked for"),
        (lambda x, y: (x, torch.full((4, 7), 1 / 7)), "y holds desired outputs"),
        (lambda x, y: (x.half(), y), "without the loss scale, which the backward pass brings"),
    ],
    ids=["no gradient", "desired outputs", "half precision"],
)
def test_explain_names_inputs_of_a_layer_that_delay_its_gradients(change, reason):
    x, y = change(torch.ones(4, 5, requires_grad=True), Y)
    weight = torch.ones(7, 5, dtype=x.dtype)
    assert explain(linear_log_likelihood, x, weight, y).reason.endswith(reason)


def test_explain_raises_what_the_call_raises():
    with pytest.raises(ValueError, match="y must hold class indices"):
        explain(log_likelihood, Z, Y + 1)


@pytest.mark.parametrize("function", [torch.nn.functional.cross_entropy, torch.compile(log_likelihood)])
def test_a_call_that_computes_no_cost_is_refused(function):
    with pytest.raises(ValueError, match="cost must be a function or module that computes a cost of ce_torch"):
        explain(function, Z, Y)
