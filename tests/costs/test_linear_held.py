"""Several forward passes before a backward pass hold one gradient of the weight in advance, not one each."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from heads import fused, layer, unfused

from ce_torch.costs.linear import operators
from ce_torch.costs.linear.held import held_gradients

COUNT = 8


@pytest.fixture(autouse=True)
def backend():
    """Use blocks as users have them."""


def batches(dtype=torch.float32):
    _, weight, bias = layer(1, 64, 8000, dtype)
    return [layer(32, 64, 8000, dtype)[0] for _ in range(COUNT)], weight, bias, torch.arange(32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("together", [True, False], ids=["sum", "one-by-one"])
@pytest.mark.parametrize("view", [False, True], ids=["weight", "view"])
def test_eight_forward_passes_hold_one_gradient_of_the_weight(view, together, dtype, peak_memory):
    xs, weight, bias, y = batches(dtype)
    fused(xs[0][:16], weight, bias, y[:16])  # compiles the kernels

    def step():
        costs = [fused(x, weight.view(8000, 64) if view else weight, bias, y) for x in xs]
        if together:
            sum(costs).backward()
        for C in () if together else costs:
            C.backward()

    # In float32 there is a block of z. One gradient comes while others are summed, and views add one.
    block = 32 * 8000 * 4 * (1 if dtype == torch.float32 else 0)
    assert peak_memory(step) < 4.5 * weight.nbytes + block


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1}, {"softcap": 2.0}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_that_are_left_to_the_backward_pass_are_the_same(reduction, options):
    inputs, y = layer(), torch.tensor([0, 3, -100, 4, 6, 1, 1])
    costs = [fused(*inputs, y, reduction=reduction, **options) for _ in range(2)]
    first, second = (torch.autograd.grad(C, inputs) for C in costs)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(costs[0], costs[1], rtol=0, atol=0)
    right = torch.autograd.grad(unfused(*inputs, y, reduction=reduction, **options), inputs)
    torch.testing.assert_close(second, right)


def test_gradients_that_can_be_differentiated_are_those_held_and_later_ones_find_the_statistics_once(monkeypatch):
    inputs, calls, numbers = layer(), [], operators.numbers
    monkeypatch.setattr(operators, "numbers", lambda *arguments: calls.append(arguments) or numbers(*arguments))
    C = fused(*inputs, torch.arange(7))
    for count in (0, 1):
        torch.autograd.grad(C, inputs, create_graph=True)
        assert len(calls) == count


def test_a_graph_that_is_dropped_or_used_holds_nothing():
    inputs, y = layer(), torch.arange(7)
    C = fused(*inputs, y)
    assert len(held_gradients) == 1
    C.backward(retain_graph=True)
    assert len(held_gradients) == 0
    C = fused(*inputs, y)
    assert len(held_gradients) == 1
    del C
    gc.collect()
    assert len(held_gradients) == 0


def test_weights_of_their_own_hold_gradients_of_their_own():
    y = torch.arange(7)
    costs = [fused(*layer(), y) for _ in range(3)]
    assert len(held_gradients) == len(costs)


def test_a_frozen_weight_has_no_gradient_to_hold():
    x, weight, bias = layer()
    costs = [fused(x, weight.detach(), bias, torch.arange(7)) for _ in range(3)]
    assert len(held_gradients) == 0
    torch.testing.assert_close(*(torch.autograd.grad(C, x) for C in costs[:2]), rtol=0, atol=0)


def test_of_threads_that_share_a_weight_one_holds_its_gradient():
    _, weight, bias, y = batches()
    xs = [layer(32, 64, 8000, torch.float32)[0] for _ in range(COUNT)]
    with ThreadPoolExecutor(4) as pool:
        costs = [*pool.map(lambda x: fused(x, weight, bias, y), xs)]
        assert len(held_gradients) == 1
        found = [*pool.map(lambda pair: torch.autograd.grad(pair[0], (pair[1], weight)), zip(costs, xs, strict=True))]
    for x, gradients in zip(xs, found, strict=True):
        torch.testing.assert_close(gradients, torch.autograd.grad(fused(x, weight, bias, y), (x, weight)))
