"""A layer with an adapter of low rank has the cost and the derivatives of the layer whose weight is W + B A."""

import itertools
from functools import partial

import pytest
import torch
from heads import layer, unfused
from torch import nn
from torch.func import jvp, vmap
from torch.nn import functional as F

from ce_torch import LinearLogLikelihoodCost, explain
from ce_torch.costs.linear import blocks
from ce_torch.functional import linear_log_likelihood, linear_softmax_statistics

CLASSES = torch.tensor([0, 3, -100, 4, 6, 1, 1])
OUTPUTS = torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TOKENS = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.5, 0.2], dtype=torch.float64)
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1, "class_weight": WEIGHTS, "temperature": 0.5},
    "z-loss": {"z_loss": 0.1, "token_weight": TOKENS},
    "softcap": {"softcap": 2.0, "label_smoothing": 0.1},
    "temperatures": {"temperature": torch.linspace(0.5, 2, 7, dtype=torch.float64)},
}
both_targets = pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture(autouse=True, params=["whole", "blocks"])
def backend(request, monkeypatch):
    """Compute all classes and examples at once, or a few of them at a time."""
    if request.param == "blocks":
        monkeypatch.setattr(blocks, "FEWEST_ROWS", 1)
        monkeypatch.setattr(blocks, "FEWEST_CLASSES", 1)
        monkeypatch.setattr(blocks, "FEWEST_ELEMENTS", 20)


def adapted_layer(N=7, D=5, K=9, rank=2, dtype=torch.float64):
    """Return x, weight, bias, A and B, which require gradients."""
    generator = torch.Generator().manual_seed(3)
    pair = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in ((rank, D), (K, rank))]
    return [*layer(N, D, K, dtype), *(tensor.requires_grad_() for tensor in pair)]


def adapted(x, weight, bias, A, B, y, **options):
    return linear_log_likelihood(x, weight, y, bias, adapter=(A, B), **options)


def merged(x, weight, bias, A, B, y, **options):
    return unfused(x, weight + B @ A, bias, y, **options)


@both_targets
@every_option
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "frozen",
    [
        pytest.param((), id="all"),
        pytest.param((1,), id="weight-frozen", marks=pytest.mark.slow),
        pytest.param((0, 1, 2), id="adapter-alone", marks=pytest.mark.slow),
    ],
)
def test_two_derivatives_are_those_of_the_merged_weight(frozen, reduction, options, y):
    inputs = adapted_layer()
    for i in frozen:
        inputs[i].requires_grad_(False)
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    found = [cost(*inputs, y, reduction=reduction, **options) for cost in (adapted, merged)]
    torch.testing.assert_close(*found)
    plain = [torch.autograd.grad(C.square().sum(), needed, retain_graph=True) for C in found]
    torch.testing.assert_close(*plain)
    first = [torch.autograd.grad(C.square().sum(), needed, create_graph=True) for C in found]
    second = [torch.autograd.grad(sum(slope.square().sum() for slope in slopes), needed) for slopes in first]
    torch.testing.assert_close(*second)


@both_targets
@every_option
def test_forward_mode_and_vmap_are_those_of_the_merged_weight(options, y):
    inputs = tuple(tensor.detach() for tensor in adapted_layer())
    changes = []
    for cost in (adapted, merged):
        change = partial(
            lambda cost, B: jvp(lambda *inputs: cost(*inputs, y, **options), (*inputs[:4], B), inputs), cost
        )
        changes.append((change(inputs[4]), vmap(change)(torch.stack([inputs[4], 2 * inputs[4]]))))
    torch.testing.assert_close(*changes)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_statistics_are_those_of_the_merged_weight(softcap):
    x, weight, bias, A, B = inputs = adapted_layer()
    options = {"softcap": softcap, "entropy": True}
    found = linear_softmax_statistics(x, weight, CLASSES, bias, adapter=(A, B), **options)
    right = linear_softmax_statistics(x, weight + B @ A, CLASSES, bias, **options)
    torch.testing.assert_close(found, right)
    totals = [sum(number.square().sum() for number in numbers[:3]) for numbers in (found, right)]
    torch.testing.assert_close(*(torch.autograd.grad(total, inputs) for total in totals))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_a_frozen_weight_no_tensor_of_its_size_is_made(dtype, reduction, peak_memory):
    x, weight, _, A, B = adapted_layer(16, 256, 4000, 4, dtype)
    needed, y = [x, A, B], torch.arange(16)
    weight.requires_grad_(False)

    def step():
        C = linear_log_likelihood(x, weight, y, adapter=(A, B), reduction=reduction, block_rows=2)
        return torch.autograd.grad(C.sum(), needed)

    step()
    assert peak_memory(step) < weight.nbytes / 2


@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_half_precision_takes_an_adapter_of_its_own_dtype_or_of_float32(adapter_dtype):
    inputs = adapted_layer(32, 16, 40, dtype=torch.bfloat16)
    inputs[3:] = [tensor.detach().to(adapter_dtype).requires_grad_() for tensor in inputs[3:]]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y = torch.arange(32)
    found = adapted(*inputs, y, out_dtype=torch.float32), merged(*exact, y)
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-2, atol=1e-2)
    gradients = [torch.autograd.grad(C, tensors) for C, tensors in zip(found, (inputs, exact), strict=True)]
    for one, right, tensor in zip(*gradients, inputs, strict=True):
        assert one.dtype == tensor.dtype
        assert (one - right).norm() < 0.02 * right.norm()


def test_explain_tells_why_an_adapter_in_half_precision_has_its_gradients_later():
    x, weight, _, A, B = adapted_layer(32, 16, 40, dtype=torch.bfloat16)
    chosen = explain(linear_log_likelihood, x, weight, torch.arange(32), adapter=(A, B))
    assert chosen.name == "blocks"
    assert "in half precision the gradient by weight would need a sum of its size in float32" in chosen.reason


def test_under_autocast_an_adapter_goes_in_its_dtype():
    inputs = adapted_layer(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        C = adapted(*inputs, CLASSES)
    torch.testing.assert_close(C, merged(*inputs, CLASSES), rtol=0.05, atol=0.05)
    assert all(gradient.dtype == torch.float32 for gradient in torch.autograd.grad(C, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_an_adapter_compiles(reduction):
    torch.compiler.reset()
    inputs = adapted_layer()
    compiled = torch.compile(adapted, fullgraph=True, backend="aot_eager")
    found = [cost(*inputs, CLASSES, reduction=reduction).sum() for cost in (compiled, merged)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs) for C in found))


def test_parameters_of_an_adapter_become_those_of_the_module():
    x, weight, bias, A, B = adapted_layer()
    pair = nn.Parameter(A.detach()), nn.Parameter(B.detach())
    cost = LinearLogLikelihoodCost(5, 9, adapter=pair, dtype=torch.float64)
    cost.layer.weight, cost.layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    assert len([*cost.parameters()]) == 4
    torch.testing.assert_close(cost(x, CLASSES), merged(x, weight, bias, A, B, CLASSES))
    a = F.linear(x, weight + B @ A, bias).softmax(-1)
    torch.testing.assert_close(cost.activation(x), a)
    torch.testing.assert_close(cost.delta(x, CLASSES)[0], a[0] - F.one_hot(CLASSES[0], 9))
    cost.adapter = None
    torch.testing.assert_close(cost(x, CLASSES), unfused(x, weight, bias, CLASSES))
    cost.adapter = (2 * A, B)
    torch.testing.assert_close(cost(x, CLASSES), merged(x, weight, bias, 2 * A, B, CLASSES))


@pytest.mark.parametrize(
    ("A", "B", "text"),
    [
        ((2, 4), (9, 2), r"adapter must be A of shape \(r, 5\) and B of shape \(9, r\), .* got \(2, 4\) and \(9, 2\)"),
        ((2, 5), (9, 3), r"got \(2, 5\) and \(9, 3\)"),
        ((9, 2), (2, 5), "B comes second"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(A, B, text):
    x, weight, bias = layer()
    for cost in (linear_log_likelihood, linear_softmax_statistics):
        with pytest.raises(ValueError, match=text):
            cost(x, weight, CLASSES, bias, adapter=(torch.ones(A), torch.ones(B)))


def test_an_adapter_goes_with_every_pair_of_other_options():
    inputs = adapted_layer()
    more = itertools.product((None, 2.0), (0.0, 0.1), (0.0, 0.1), (None, WEIGHTS), (None, TOKENS), ("sum", "none"))
    for softcap, smoothing, z_loss, class_weight, token_weight, reduction in more:
        options = {"softcap": softcap, "label_smoothing": smoothing, "z_loss": z_loss, "class_weight": class_weight}
        options |= {"token_weight": token_weight, "reduction": reduction}
        found = [cost(*inputs, CLASSES, **options).sum() for cost in (adapted, merged)]
        torch.testing.assert_close(*(torch.autograd.grad(C, inputs) for C in found))
