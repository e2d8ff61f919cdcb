"""The costs inside PyTorch's other tools: compiled, exported, on tensors without data, and in several processes."""

import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.pool import Pool
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ce_torch.costs.fast import blocks, cpu

Spread = Callable[[nn.Module], nn.Module]


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


def replicated(network: nn.Module) -> nn.Module:
    return DistributedDataParallel(network)


def sharded(network: nn.Module) -> nn.Module:
    # By default the mesh is of GPUs where there are any.
    return fully_shard(network, mesh=init_device_mesh("cpu", (2,)))


def gradients_of_half(
    rank: int, rendezvous: str, way: tuple[int, bool], spread: Spread, network: nn.Module, x: Tensor, y: Tensor
) -> list[Tensor]:
    # The fixture `way` patches the tests' own process alone.
    elements, has_kernels = way
    blocks.ELEMENTS = elements
    cpu.has_kernels = lambda: has_kernels
    distributed.init_process_group("gloo", rendezvous, timedelta(seconds=30), world_size=2, rank=rank)
    try:
        network = spread(network)
        network(x[rank::2], y[rank::2]).backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.requires_grad]
        return [gradient.full_tensor() for gradient in gradients] if spread is sharded else gradients
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes() -> Iterator[Pool]:
    # Autograd's threads don't survive a fork.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


@pytest.mark.parametrize("spread", [replicated, sharded])
def test_two_processes_with_half_of_the_batch_each_get_the_gradients_of_the_whole(
    case, processes: Pool, spread: Spread, tmp_path: Path
) -> None:
    network = EndsInACost(case).to(case.dtype)
    _, y = case.examples(12, 3)
    x = torch.randn(12, 4, dtype=case.dtype)
    of_the_whole = torch.autograd.grad(case.by_textbook(network.layer(x), y), list(network.layer.parameters()))
    way = blocks.ELEMENTS, cpu.has_kernels()
    task = f"file://{tmp_path / 'rendezvous'}", way, spread, network, x, y
    results = processes.starmap_async(gradients_of_half, [(0, *task), (1, *task)], chunksize=1)
    for gradients in results.get(timeout=60):
        torch.testing.assert_close(gradients, list(of_the_whole))
