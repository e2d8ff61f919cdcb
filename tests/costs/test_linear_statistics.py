"""The numbers of an output layer are those of its whole weighted inputs, with all derivatives."""

from functools import partial

import pytest
import torch
from heads import layer, scores
from torch.func import grad, jvp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ce_torch.costs.linear import blocks
from ce_torch.functional import linear_softmax_statistics, softmax_statistics

CLASSES = torch.tensor([0, 3, -100, 4, 6, 1, 1])
OUTPUTS = torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TEMPERATURES = torch.linspace(0.5, 2, 7, dtype=torch.float64)
OPTIONS = [{}, {"softcap": 2.0}, {"temperature": TEMPERATURES}, {"softcap": 1.5, "temperature": TEMPERATURES}]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "softcap", "temperature", "both"])
both_targets = pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])


@pytest.fixture(autouse=True, params=["whole", "blocks"])
def backend(request, monkeypatch):
    """Compute all classes at once, or a few of them at a time."""
    if request.param == "blocks":
        monkeypatch.setattr(blocks, "FEWEST_ROWS", 1)
        monkeypatch.setattr(blocks, "FEWEST_CLASSES", 1)
        monkeypatch.setattr(blocks, "FEWEST_ELEMENTS", 20)


def formula(x, weight, bias, y, **options):
    ln_a = (s := scores(F.linear(x, weight, bias), **options)).log_softmax(-1)
    counts = torch.ones(len(x), dtype=bool) if y.is_floating_point() else y != -100
    t = y if y.is_floating_point() else F.one_hot(y.clamp(min=0), 9)
    return tuple(number * counts for number in ((t * ln_a).sum(-1), s.logsumexp(-1), -(ln_a.exp() * ln_a).sum(-1)))


def ours(x, weight, bias, y, **options):
    return linear_softmax_statistics(x, weight, y, bias, entropy=True, **options)[:3]


@both_targets
@every_option
@pytest.mark.parametrize("upstream", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -2, 3)])
def test_numbers_and_two_derivatives_are_those_of_the_formula(y, options, upstream):
    inputs = layer()
    found = [numbers(*inputs, y, **options) for numbers in (ours, formula)]
    torch.testing.assert_close(*found)
    total = [sum(g * number.square().sum() for g, number in zip(upstream, one, strict=True)) for one in found]
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs, retain_graph=True) for C in total))
    first = [torch.autograd.grad(C, inputs, create_graph=True) for C in total]
    second = [torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs) for slopes in first]
    torch.testing.assert_close(*second)


@both_targets
@every_option
def test_numbers_have_forward_mode_and_vmap(y, options):
    x, *parameters = (tensor.detach() for tensor in layer())
    changes = []
    for numbers in (ours, formula):
        change = partial(lambda numbers, x: jvp(lambda x: numbers(x, *parameters, y, **options), (x,), (x,)), numbers)
        changes.append((change(x), vmap(change)(torch.stack([x, 2 * x]))))
    torch.testing.assert_close(*changes)


def test_predictions_are_the_classes_of_the_largest_outputs():
    x, weight, bias = layer()
    largest = F.linear(x, weight, bias).argmax(-1)
    found = linear_softmax_statistics(x, weight, CLASSES, bias)
    torch.testing.assert_close(found.prediction, torch.where(CLASSES == -100, -100, largest))
    assert found.correct.equal(largest == CLASSES)
    assert found.entropy is None


def test_without_desired_outputs_there_is_no_log_probability():
    x, weight, bias = layer()
    found = linear_softmax_statistics(x, weight, bias=bias)
    assert found.log_prob is None
    assert found.correct is None
    torch.testing.assert_close(found.logsumexp, F.linear(x, weight, bias).logsumexp(-1))
    assert found.prediction.equal(F.linear(x, weight, bias).argmax(-1))


def of_whole_z(x, weight, bias, y, **options):
    return softmax_statistics(F.linear(x, weight, bias), y, entropy=True, **options)[:3]


both_functions = pytest.mark.parametrize("numbers", [ours, of_whole_z], ids=["linear", "whole"])


@both_functions
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "temperature": 0.5}], ids=["plain", "softcap"])
def test_autocast_leaves_numbers_in_float32(numbers, options):
    inputs = layer(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = numbers(*inputs, CLASSES, **options)
    assert all(number.dtype == torch.float32 for number in found)
    right = formula(*inputs, CLASSES, **options)
    torch.testing.assert_close(found, right, rtol=0.05, atol=0.05)
    gradients = [torch.autograd.grad(sum(number.sum() for number in one), inputs) for one in (found, right)]
    for one, gradient in zip(*gradients, strict=True):
        assert one.dtype == torch.float32
        assert (one - gradient).norm() < 0.05 * gradient.norm()


@both_functions
@both_targets
def test_activation_checkpointing_computes_the_same_again(numbers, y):
    inputs = layer()
    found = checkpoint(numbers, *inputs, y, use_reentrant=False)
    right = numbers(*inputs, y)
    torch.testing.assert_close(found, right, rtol=0, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(sum(number.square().sum() for number in one), inputs) for one in (found, right))
    )


class Numbers(torch.nn.Module):
    """A network that ends in the numbers of its output layer."""

    def __init__(self, numbers, **options):
        super().__init__()
        self.numbers, self.options, (_, weight, bias) = numbers, options, layer()
        self.weight, self.bias = torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach())

    def forward(self, x, y):
        return self.numbers(x, self.weight, self.bias, y, **self.options)


@both_functions
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "temperature": 0.5}], ids=["plain", "softcap"])
def test_an_exported_network_that_ends_in_numbers_takes_any_batch_size(numbers, options):
    network, batch = Numbers(numbers, **options), torch.export.Dim("batch", min=2)
    inputs = layer()[0].detach(), CLASSES
    program = torch.export.export(network, inputs, dynamic_shapes=({0: batch}, {0: batch}))
    x, y = layer(N=11)[0].detach(), torch.arange(11) % 9
    torch.testing.assert_close(program.module()(x, y), network(x, y))


@pytest.mark.slow
@both_functions
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "temperature": 0.5}], ids=["plain", "softcap"])
def test_compiled_numbers_have_second_derivatives(numbers, options):
    torch.compiler.reset()
    x, weight, bias = (tensor.detach() for tensor in layer())

    def change(numbers, x):
        gradient = grad(lambda x: sum(number.square().sum() for number in numbers(x, weight, bias, CLASSES, **options)))
        return jvp(gradient, (x,), (x.cos(),))

    compiled = torch.compile(partial(change, numbers), fullgraph=True)
    torch.testing.assert_close(compiled(x), change(formula, x))


def test_the_most_memory_beyond_inputs_and_gradients_is_a_small_part_of_z(peak_memory):
    inputs, y = layer(1024, 8, 20_000, torch.float32), torch.arange(1024)

    def step():
        found = linear_softmax_statistics(inputs[0], inputs[1], y, inputs[2], entropy=True)
        return torch.autograd.grad(sum(number.sum() for number in found[:3]), inputs)

    assert peak_memory(step) - sum(tensor.nbytes for tensor in inputs) < 0.06 * 1024 * 20_000 * 4
