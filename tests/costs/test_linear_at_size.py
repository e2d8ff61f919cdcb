"""The output layer and its cost as one, at sizes where its memory and its precision matter."""

import pytest
import torch
from heads import compute_both, fused, layer, unfused

from ce_torch.costs.kernels import products
from ce_torch.costs.linear import blocks as layer_blocks
from ce_torch.costs.linear import cpu_blocks, example_blocks


@pytest.fixture(autouse=True)
def backend():
    """Use blocks as users have them."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_in_half_precision_no_error_is_larger_than_that_of_the_layer_and_then_the_cost(dtype, reduction):
    inputs = layer(300, 32, 200, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y = torch.arange(300) % 200
    right = torch.autograd.grad(unfused(*exact, y, reduction=reduction).mean(), exact)
    errors = [
        [(found - exact).norm() for found, exact in zip(torch.autograd.grad(C.mean(), inputs), right, strict=True)]
        for C in compute_both(*inputs, y=y, reduction=reduction)
    ]
    assert all(error <= 1.01 * theirs for error, theirs in zip(*errors, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_of_300000_classes_every_gradient_is_float64s_to_six_digits(reduction):
    inputs = layer(24, 16, 300_000, torch.float32, bias=False)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y = torch.arange(24) * 12_000
    right = torch.autograd.grad(unfused(*exact, None, y), exact)
    gradients = torch.autograd.grad(fused(*inputs, None, y, reduction=reduction).mean(), inputs)
    for found, gradient in zip(gradients, right, strict=True):
        assert (found - gradient).norm() < 1e-6 * gradient.norm()


@pytest.mark.parametrize(
    ("order", "reduction"), [(1, "mean"), (1, "none"), (2, "mean"), pytest.param(2, "none", marks=pytest.mark.slow)]
)
def test_the_most_memory_beyond_inputs_and_gradients_is_a_small_part_of_z(reduction, order, peak_memory):
    inputs, y = layer(1024, 8, 20_000, torch.float32), torch.arange(1024)

    def step():
        C = fused(*inputs, y, reduction=reduction).sum()
        slopes = torch.autograd.grad(C, inputs, create_graph=order > 1)
        return slopes if order == 1 else torch.autograd.grad(slopes[1].sum(), inputs)

    gradient_memory = order * sum(tensor.nbytes for tensor in inputs)
    assert peak_memory(step) - gradient_memory < 0.06 * 1024 * 20_000 * 4


def test_forward_mode_takes_a_small_part_of_z(peak_memory):
    (x, weight, bias), y = layer(1024, 8, 20_000, torch.float32), torch.arange(1024)

    def step():
        return torch.func.jvp(lambda x: fused(x, weight.detach(), bias.detach(), y), (x.detach(),), (x.detach(),))

    assert peak_memory(step) < 0.06 * 1024 * 20_000 * 4


KEPT = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "softcap": {"softcap": 2.0, "z_loss": 0.1},
    "softcap and smoothing": {"softcap": 2.0, "label_smoothing": 0.1},
}


@pytest.fixture
def blocks(monkeypatch):
    """Take blocks of examples, and return the list of those that were taken."""
    taken, compute = [], example_blocks.transposed_block
    monkeypatch.setattr(example_blocks, "FEWEST_EXAMPLES", 0)
    monkeypatch.setattr(layer_blocks, "FEWEST_ELEMENTS", 1)
    monkeypatch.setattr(
        example_blocks, "transposed_block", lambda g, block, *rest: taken.append(block) or compute(g, block, *rest)
    )
    return taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
def test_z_that_waits_in_the_memory_of_the_weights_gradient_gives_float64s_gradients(options, bias, dtype, blocks):
    inputs, y = layer(100, 56, 6000, dtype, bias=bias, scale=0.3), torch.arange(100)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    C, right = (head(*t, *([] if bias else [None]), y, **options) for head, t in ((fused, inputs), (unfused, exact)))
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    assert abs(C - right) <= tolerance * right
    for found, gradient in zip(torch.autograd.grad(C, inputs), torch.autograd.grad(right, exact), strict=True):
        assert (found - gradient).norm() <= tolerance * gradient.norm()
    assert blocks == [slice(0, 48), slice(48, 64), slice(64, 80), slice(80, 96), slice(96, 100)]


def test_a_limit_of_memory_and_a_frozen_weight_leave_z_no_such_place(blocks):
    (x, weight), y = layer(100, 56, 6000, torch.float32, bias=False), torch.arange(100)
    fused(x, weight.detach(), None, y)
    fused(x, weight, None, y, block_rows=16)
    fused(x, weight, None, y, max_memory="2 MB")
    assert all(block.stop - block.start <= 16 for block in blocks)


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("N", [1, 13, 77, 100])
@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
def test_any_number_of_examples_goes_by_the_kernels_products(options, N, monkeypatch):
    inputs, y = layer(N, 64, 3000, torch.float32, scale=0.3), torch.arange(N)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = torch.autograd.grad(unfused(*exact, y, **options), exact)
    taken, supports = [], products.supports
    monkeypatch.setattr(products, "supports", lambda *matrices: taken.append(supports(*matrices)) or taken[-1])
    for found, gradient in zip(torch.autograd.grad(fused(*inputs, y, **options), inputs), right, strict=True):
        assert (found - gradient).norm() <= 2e-6 * gradient.norm()
    assert taken
    assert all(taken)


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize(("D", "are_tiled"), [(64, False), (16, True)])
def test_blocks_of_few_examples_give_way_to_tiles_unless_the_gradient_has_room_for_half(D, are_tiled, monkeypatch):
    calls, numbers = [], cpu_blocks.numbers
    monkeypatch.setattr(cpu_blocks, "numbers", lambda *arguments: calls.append(arguments) or numbers(*arguments))
    x, weight = layer(60, D, 70_000, torch.float32, bias=False)
    fused(x, weight, None, torch.arange(60)).backward()
    assert bool(calls) == are_tiled
