"""The output layer and its cost as one at sizes where it matters: what memory it takes, and how exact it is."""

import pytest
import torch
from heads import both, layer, ours, unfused
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def backend():
    """Blocks are as they come."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_in_half_precision_no_error_is_larger_than_that_of_the_layer_and_then_the_cost(dtype, reduction):
    inputs = layer(300, 32, 200, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y = torch.arange(300) % 200
    right = torch.autograd.grad(unfused(*exact, y, reduction=reduction).mean(), exact)
    errors = [
        [(slope - at).norm() for slope, at in zip(torch.autograd.grad(C.mean(), inputs), right, strict=True)]
        for C in both(*inputs, y=y, reduction=reduction)
    ]
    assert all(error <= 1.01 * theirs for error, theirs in zip(*errors, strict=True))


def test_of_300000_classes_no_gradient_is_further_from_float64_than_pytorchs():
    inputs = layer(24, 16, 300_000, torch.float32, bias=False)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y = torch.arange(24) * 12_000
    right = torch.autograd.grad(unfused(*exact, None, y), exact)
    for reduction in ("mean", "none"):
        errors = [
            [(slope - at).norm() for slope, at in zip(torch.autograd.grad(C.mean(), inputs), right, strict=True)]
            for C in (ours(*inputs, None, y, reduction=reduction), F.cross_entropy(F.linear(*inputs), y))
        ]
        assert all(error <= theirs for error, theirs in zip(*errors, strict=True))


@pytest.mark.parametrize(
    ("order", "reduction"), [(1, "mean"), (1, "none"), (2, "mean"), pytest.param(2, "none", marks=pytest.mark.slow)]
)
def test_the_most_memory_beyond_inputs_and_gradients_is_a_small_part_of_z(reduction, order, peak_memory):
    inputs, y = layer(1024, 8, 20_000, torch.float32), torch.arange(1024)

    def step():
        C = ours(*inputs, y, reduction=reduction).sum()
        slopes = torch.autograd.grad(C, inputs, create_graph=order > 1)
        return slopes if order == 1 else torch.autograd.grad(slopes[1].sum(), inputs)

    of_gradients = order * sum(tensor.nbytes for tensor in inputs)
    assert peak_memory(step) - of_gradients < 0.06 * 1024 * 20_000 * 4


def test_forward_mode_takes_a_small_part_of_z(peak_memory):
    (x, weight, bias), y = layer(1024, 8, 20_000, torch.float32), torch.arange(1024)

    def step():
        return torch.func.jvp(lambda x: ours(x, weight.detach(), bias.detach(), y), (x.detach(),), (x.detach(),))

    assert peak_memory(step) < 0.06 * 1024 * 20_000 * 4
