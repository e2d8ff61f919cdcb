"""The costs inside PyTorch's other tools: compiled and exported programs, tensors without data, half precision."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode


class EndsInACost(nn.Module):
    """A network whose output is its cost."""

    def __init__(self, case) -> None:
        super().__init__()
        self.layer, self.cost = nn.Linear(4, 3), case.cost()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.cost(self.layer(x), y)


def test_ten_batch_sizes_recompile_a_cost_at_most_once(case) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(case, backend=counter, fullgraph=True)
    for batch_size in range(2, 12):
        z, y = case.examples(batch_size, 3)
        compiled(z.requires_grad_(), y).backward()
    assert counter.frame_count <= 2


def test_an_exported_network_that_ends_in_a_cost_takes_any_batch_size(case) -> None:
    network = EndsInACost(case)
    _, y = case.examples(6, 3, dtype=torch.float32)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(network, (torch.randn(6, 4), y), dynamic_shapes=({0: batch}, {0: batch}))
    _, y = case.examples(9, 3, dtype=torch.float32)
    x = torch.randn(9, 4)
    torch.testing.assert_close(program.module()(x, y), network(x, y))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_meta_tensors_give_costs_and_deltas_their_shapes(case, reduction: str) -> None:
    z, y = case.examples(6, 3)
    expected = case(z, y, reduction=reduction)
    case = dataclasses.replace(case, options={k: on_meta(v) for k, v in case.options.items()})
    z = z.to("meta").requires_grad_()
    C = case(z, y.to("meta"), reduction=reduction)
    (delta,) = torch.autograd.grad(C.sum(), z)
    assert (C.shape, C.dtype, delta.shape, delta.dtype) == (expected.shape, expected.dtype, z.shape, z.dtype)


def on_meta(value: object) -> object:
    return value.to("meta") if isinstance(value, Tensor) else value


def test_fake_tensors_go_forward_and_backward(case) -> None:
    z, y = case.examples(6, 3, dtype=torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        z = mode.from_tensor(z).requires_grad_()
        (delta,) = torch.autograd.grad(case(z, mode.from_tensor(y)), z)
    assert delta.shape == (6, 3)
