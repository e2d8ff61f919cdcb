"""Large z on the CPU: the formulas compute it in blocks, which take little memory."""

import pytest
import torch
from switches import turn_kernels_off

from ce_torch.costs.kernels import blocks
from ce_torch.functional import cross_entropy, log_likelihood, quadratic

COSTS = {"quadratic": quadratic, "cross-entropy": cross_entropy, "log-likelihood": log_likelihood}


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in blocks, as where there is no compiler."""
    turn_kernels_off(monkeypatch)


@pytest.mark.parametrize("shape", [(7, 3), (5, 2, 3), (2, 3, 4, 3), (3, 100), (1, 1)], ids=str)
def test_the_parts_hold_every_element_once(shape, monkeypatch):
    monkeypatch.setattr(blocks, "ELEMENTS", 8)
    seen = torch.zeros(shape)
    for part in blocks.cut(shape):
        blocks.narrow(seen, part).add_(1)
    assert seen.eq(1).all()


@pytest.mark.parametrize("shape", [(7, 3), (5, 2, 3), (2, 3, 4, 3)], ids=str)
def test_a_part_is_no_larger_than_a_block_where_a_row_is_not(shape, monkeypatch):
    monkeypatch.setattr(blocks, "ELEMENTS", 8)
    assert max(blocks.narrow(torch.zeros(shape), part).numel() for part in blocks.cut(shape)) <= 8


@pytest.fixture(params=COSTS)
def cost_and_large_examples(request):
    rows = 8 * blocks.ELEMENTS // 1000
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, 1000, generator=generator, requires_grad=True)
    y = torch.randint(1000, (rows,), generator=generator)
    return COSTS[request.param], z, y if request.param == "log-likelihood" else torch.rand(z.shape, generator=generator)


def test_large_z_costs_what_its_formula_says(cost_and_large_examples, monkeypatch):
    cost, z, y = cost_and_large_examples
    by_blocks = cost(z, y), *torch.autograd.grad(cost(z, y), z)
    monkeypatch.setattr(blocks, "ELEMENTS", 1 << 40)
    torch.testing.assert_close(by_blocks, (cost(z, y), *torch.autograd.grad(cost(z, y), z)))


def test_large_z_takes_a_few_blocks_of_memory_beyond_its_gradient(cost_and_large_examples, peak_memory):
    cost, z, y = cost_and_large_examples
    peak = peak_memory(lambda: torch.autograd.grad(cost(z, y), z))
    block, row_costs = blocks.ELEMENTS * z.itemsize, len(z) * z.itemsize
    assert peak - z.nbytes <= 8 * block + 8 * row_costs


@pytest.mark.parametrize("largest", [1e2, 1e4, 1e30])
def test_rows_of_large_weighted_inputs_neither_overflow_nor_vanish(largest, monkeypatch):
    monkeypatch.setattr(blocks, "ELEMENTS", 8)
    generator = torch.Generator().manual_seed(0)
    z = (largest * torch.randn(9, 5, generator=generator)).requires_grad_()
    y = torch.randint(5, (9,), generator=generator)
    z[::3].data.fill_(-largest)
    ours = log_likelihood(z, y, reduction="sum")
    theirs = torch.nn.functional.cross_entropy(z, y, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z))
